"""What is played: rows of a dataset or tasks of a curriculum, each as often as was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from codecraft_curriculum import Curriculum, Dataset

__all__ = ["EvalTask", "chosen", "tasks_of"]

_HARDNESS: Final = ("hardness", "difficulty")
_MOST: Final = 1_000_000  # of one range: more is a slip of the finger, and takes gigabytes


@dataclass(frozen=True, slots=True)
class EvalTask:
    """A task that is to be played once; `sample` tells apart the times that the same one is played."""

    id: int | str
    """The row in the data, from 0, or the id in a curriculum."""
    query: str
    gold: Any = ""
    hardness: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sample: int = 0

    @property
    def name(self) -> str:
        """What the episode is called in the log."""
        return f"{self.id}/{self.sample}" if self.sample else str(self.id)

    @property
    def options(self) -> dict[str, Any]:
        """The options of a reset to this task."""
        return {"index": self.id} if isinstance(self.id, int) else {"task": self.id}

    def row(self) -> dict[str, Any]:
        """Return the row as its file has it."""
        return {"query": self.query, "gold": self.gold, **self.extras}


def tasks_of(source: Dataset | Curriculum, indices: Sequence[int] | None = None, *, samples: int = 1) -> list[EvalTask]:
    """Return the tasks at *indices* (all by default) in their order, and then all of them again for further samples.

    Raises:
        IndexError: There is no such task; says how many there are.
        ValueError: *samples* is less than 1.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; it must be at least 1")
    if indices is not None and (wrong := [index for index in indices if not 0 <= index < len(source)]):
        raise IndexError(f"there is no task {wrong[0]}: {source.name} has the tasks 0 to {len(source) - 1}")
    if isinstance(source, Dataset):
        every = [
            EvalTask(record.index, record.query, record.gold, _hardness(record.extras), record.extras)
            for record in source
        ]
    else:
        every = [EvalTask(task.id, task.instruction, "", task.difficulty) for task in source.values()]
    some = every if indices is None else [every[index] for index in indices]
    return [
        EvalTask(task.id, task.query, task.gold, task.hardness, task.extras, sample)
        for sample in range(samples)
        for task in some
    ]


def chosen(text: str) -> list[int]:
    """Return the indices that a text such as ``0-99,120`` means, each once, in that order.

    Raises:
        ValueError: It means nothing.
    """
    indices: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,8})(?:\s*-\s*(\d{1,8}))?\s*", part)
        if match is None:
            raise ValueError(f"{part!r} is no number or range of tasks: write 7 or 0-99, and commas between them")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f"{part!r} ends before it begins")
        if last - first >= _MOST:
            raise ValueError(f"{part!r} means more than {_MOST} tasks")
        indices.update(dict.fromkeys(range(first, last + 1)))
    return list(indices)


def _hardness(extras: Mapping[str, Any]) -> str:
    return next((str(extras[name]) for name in _HARDNESS if name in extras), "")
