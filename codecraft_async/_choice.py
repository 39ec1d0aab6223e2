"""Which tasks an environment gives, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codecraft_curriculum import (
    Curriculum,
    RandomSource,
    Sampler,
    Task,
    load_curriculum,
)


def choose_tasks(curriculum: str | Curriculum, task: str | None) -> Curriculum:
    """Return the curriculum that is meant, reduced to *task* if that is given."""
    whole = curriculum if isinstance(curriculum, Curriculum) else load_curriculum(curriculum)
    return whole if task is None else Curriculum([whole[task]], name=whole.name)


def next_task(curriculum: Curriculum, sampler: Sampler, rng: RandomSource, options: Mapping[str, Any]) -> Task:
    """Return the task that the *options* of a reset name, or the sampler's next.

    Raises:
        UnknownTask: The curriculum has no such task.
        ValueError, TypeError: An option is not known, or of the wrong type.
    """
    unknown = set(options) - {"task"}
    if unknown:
        raise ValueError(f"unknown reset option {sorted(unknown)[0]!r}; the one that is known is 'task'")
    task = options.get("task")
    if task is None:
        return sampler.next(rng)
    if not isinstance(task, str):
        raise TypeError(
            f"the reset option 'task' is {task!r}; it must be one task's id (a sampler gives different tasks to "
            "different environments)"
        )
    return curriculum[task]


__all__ = ["choose_tasks", "next_task"]
