"""Which tasks an environment gives, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codecraft_curriculum import (
    FIRST_TASKS,
    Curriculum,
    CurriculumError,
    RandomSource,
    Sampler,
    Task,
    UnknownTask,
    load_curriculum,
)
from codecraft_curriculum.loading import BUILTIN


def choose_tasks(curriculum: str | Curriculum, task: str | None) -> Curriculum:
    """Return the curriculum that is meant, reduced to *task* if that is given."""
    whole = curriculum if isinstance(curriculum, Curriculum) else load_curriculum(curriculum)
    return whole if task is None else Curriculum([whole[task]], name=whole.name)


def choose_played(curriculum: str, names: Sequence[str], category: str | None) -> Curriculum:
    """Return what a demo plays: the tasks that are chosen; of the built-in ones, if none are, the first few.

    Raises:
        CurriculumError: The curriculum, a task or the category cannot be had.
    """
    whole = load_curriculum(curriculum)
    if curriculum == BUILTIN and not names and category is None:
        return whole.subset(FIRST_TASKS)
    return whole.subset(chosen_ids(whole, names, category, where=whole.name))


def chosen_ids(tasks: Mapping[str, Task], names: Sequence[str], category: str | None, *, where: str) -> list[str]:
    """Return the ids of the tasks that are named, else of all those of the *category*, else of all.

    Raises:
        CurriculumError: There is no such task or category; says which there are.
    """
    of_category = [task_id for task_id, task in tasks.items() if category in (None, task.category)]
    if not of_category:
        known = ", ".join(sorted({task.category for task in tasks.values()}))
        raise CurriculumError(f"{where} has no category {category!r}; its categories: {known}")
    for name in names:
        if name not in of_category:
            raise UnknownTask(name, of_category, curriculum=where if category is None else f"{where}, {category}")
    return list(names or of_category)


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


__all__ = ["choose_played", "choose_tasks", "chosen_ids", "next_task"]
