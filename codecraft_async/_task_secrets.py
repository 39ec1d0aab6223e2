"""The texts of a task that no agent may read: its solution, and what its grader expects."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, cast

from codecraft_curriculum import AllOf, AnyOf, GitRepository, Task, Workspace

_LEAST_BYTES = 24  # shorter ones, such as a name or a number, are found everywhere
_HEREDOC = re.compile(r"<<-?\s*'?\"?(\w+)'?\"?[^\n]*\n(.*?)\n\1\b", re.DOTALL)
_TASK_FILE = b"codecraft_curriculum/tasks/"
# Fields that say where, and not what; and the commits that a history is compared with, which are in the workspace.
_OPEN = frozenset(
    {"path", "directory", "command", "query", "cwd", "env", "at", "base", "contains", "same_tree", "author"}
)


def secrets_of(task: Task, *, passed: Set[str]) -> dict[str, bytes]:
    """Return the texts that must not be readable, by what they are.

    The checks in `passed` have a full score before anything was done: what they expect is what the agent is given.
    """
    secrets: dict[str, bytes] = {}
    for number, action in enumerate(task.expert, 1):
        texts = [action, *(found[2] for found in _HEREDOC.finditer(action))]
        secrets |= {f"step {number} of the expert ({place})": text.encode() for place, text in enumerate(texts)}
    checks: Mapping[str, object] = {"grader": task.grader}
    if isinstance(task.grader, AllOf | AnyOf):
        checks = task.grader.graders
    for name, grader in checks.items():
        if name not in passed:
            secrets |= {f"check {name} ({place})": text for place, text in enumerate(_walk(grader), 1)}
    allowed = [task.instruction.encode(), *(text.encode() for text in task.public)]
    stripped = {what: text.strip() for what, text in secrets.items()}
    return {
        what: text
        for what, text in stripped.items()
        if len(text) >= _LEAST_BYTES and not any(text in public for public in allowed)
    }


def leaks_in(seen: bytes, task: Task, *, passed: Set[str]) -> Iterator[str]:
    """Yield one line for each secret of the task that is in what an agent sees."""
    for what, text in secrets_of(task, passed=passed).items():
        if text in seen:
            yield f"{what} can be read in the sandbox: {text[:60].decode(errors='replace')!r}"
    if _TASK_FILE in seen:
        yield "task files can be read in the sandbox: install this package where sandboxes do not see it, not in /usr"


def _walk(value: object) -> Iterator[bytes]:
    """Yield all texts in a tree of plain values, but those that say where something is."""
    if isinstance(value, str):
        yield value.encode()
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, Workspace | GitRepository):
        return
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            if each.name not in _OPEN:
                yield from _walk(getattr(value, each.name))
    elif isinstance(value, Mapping):
        yield from _walk_all(cast(Mapping[Any, object], value).values())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from _walk_all(cast(Iterable[object], value))


def _walk_all(values: Iterable[object]) -> Iterator[bytes]:
    for value in values:
        yield from _walk(value)


__all__ = ["leaks_in", "secrets_of"]
