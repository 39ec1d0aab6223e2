"""Every exception of the curriculum, as a tree.

::

    CurriculumError
    ├── SamplerStateError (also ValueError) a saved state that is not this sampler's
    ├── TaskFileError (also ValueError)    a task or curriculum file that cannot be used, and why
    ├── UnknownTask (also KeyError)        no task has this id
    └── WorkspaceError (also ValueError)   a file tree that would leave its workspace, or is too large

A mistake in the arguments of a constructor of this package is a plain ``ValueError``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["CurriculumError", "SamplerStateError", "TaskFileError", "UnknownTask", "WorkspaceError"]

_SHOWN_IDS = 20


class CurriculumError(Exception):
    """The root of this package's exceptions."""


class TaskFileError(CurriculumError, ValueError):
    """A task or curriculum file cannot be used; the message is one line that names file, field and remedy."""

    def __init__(self, file: Path | str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = str(file)
        self.problem = problem

    def __reduce__(self) -> tuple[type[TaskFileError], tuple[str, str]]:
        return type(self), (self.file, self.problem)


class UnknownTask(CurriculumError, KeyError):
    """A curriculum has no task of this id; the message lists the nearest ids and (briefly) all of them."""

    def __init__(self, task_id: str, known: Iterable[str], *, curriculum: str = "curriculum") -> None:
        self.task_id = task_id
        self.known = tuple(known)
        self.curriculum = curriculum
        super().__init__(f"no task {task_id!r} in {curriculum}{did_you_mean(task_id, self.known)}; {self._all_ids()}")

    def _all_ids(self) -> str:
        if not self.known:
            return "it has no tasks"
        spare = len(self.known) - _SHOWN_IDS
        more = f", ... ({spare} more)" if spare > 0 else ""
        return f"its tasks: {', '.join(self.known[:_SHOWN_IDS])}{more}"

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _unknown_task, (self.task_id, self.known, self.curriculum)


class SamplerStateError(CurriculumError, ValueError):
    """A state cannot be loaded into a sampler; the message says what it is of."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"this state is not for this sampler: {problem}")
        self.problem = problem

    def __reduce__(self) -> tuple[type[SamplerStateError], tuple[str]]:
        return type(self), (self.problem,)


class WorkspaceError(CurriculumError, ValueError):
    """A file tree cannot be a workspace: a path leaves it, two entries collide, or it is too large."""


def _unknown_task(task_id: str, known: tuple[str, ...], curriculum: str) -> UnknownTask:
    return UnknownTask(task_id, known, curriculum=curriculum)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a' or 'b'?"``, or an empty string if nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
