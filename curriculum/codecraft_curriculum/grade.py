"""What a grader returns, and the contract of graders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.sandbox import GradingSandbox

__all__ = ["Grade", "Grader", "Ungraded", "excerpt", "one_line"]

_EXCERPT_CHARS = 80
_REASON_CHARS = 600


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict: the score in [0, 1], the scores of its parts by name, and one line that says why."""

    score: float
    parts: Mapping[str, float] = field(default_factory=FrozenMapping[str, float])
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", FrozenMapping(self.parts))
        object.__setattr__(self, "reason", one_line(self.reason))
        for name, value in {"score": self.score, **self.parts}.items():
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise ValueError(f"grade: {name} is {value}, which is not in [0, 1]")

    @property
    def passed(self) -> bool:
        """Whether the score is full."""
        return self.score == 1.0

    @classmethod
    def success(cls, reason: str) -> Grade:
        """Return a full score."""
        return cls(1.0, reason=reason)

    @classmethod
    def failure(cls, reason: str) -> Grade:
        """Return a score of zero."""
        return cls(0.0, reason=reason)


class Grader(Protocol):
    """Turns the end state of an episode into a grade."""

    @property
    def runs_agent_code(self) -> bool:
        """Whether grading may start programs that the agent wrote; such graders go last."""
        ...

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Return the grade of what the agent left; whatever it left is a grade, never an exception.

        Raises:
            Exception: the sandbox or the task is at fault; the episode has no valid reward.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ungraded:
    """Scores 0 because the task comes without an automatic check."""

    source: str = "this task"

    @property
    def runs_agent_code(self) -> bool:
        """Nothing is run."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Return 0 and say what to do about it."""
        del sandbox
        return Grade.failure(
            f"{self.source} has no automatic grader: pass one to load_curriculum(..., graders={{task_id: grader}})"
        )


def excerpt(data: bytes | str, max_chars: int = _EXCERPT_CHARS) -> str:
    """Return a quoted, printable, bounded piece of `data`, on one line."""
    text = data[: max_chars * 4 + 4].decode(errors="backslashreplace") if isinstance(data, bytes) else data
    if len(text) > max_chars:
        return f"{text[:max_chars]!r}... ({len(data)} {'bytes' if isinstance(data, bytes) else 'characters'})"
    return repr(text)


def one_line(text: str) -> str:
    """Return `text` on one line, without control characters, and not much longer than a screen is wide."""
    line = "".join(char if char.isprintable() else " " for char in text[: _REASON_CHARS + 1])
    return line if len(line) <= _REASON_CHARS else f"{line[: _REASON_CHARS - 3]}..."
