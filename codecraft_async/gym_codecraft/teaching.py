"""Who turns submitted work into a score: the `Teacher` protocol, and the teacher that asks a task's own grader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from codecraft_curriculum import Grade, Task
from codecraft_pool import Sandbox

__all__ = ["AutomaticTeacher", "Teacher", "Turn", "remark"]

_WELL_DONE: Final = "Good job!"
_SHOWN_PARTS: Final = 20


@dataclass(frozen=True, slots=True)
class Turn:
    """One action of the student's, what it was told, and what it earned."""

    action: str
    observation: str
    reward: float


class Teacher(Protocol):
    """Grades what a student left."""

    async def agrade(self, sandbox: Sandbox, task: Task, transcript: Sequence[Turn]) -> Grade:
        """Return the grade of the work in *sandbox*; its reason becomes the comments that the student reads.

        Every process of the student's has ended by then. *transcript* is what the student did since the task was
        started, oldest first, at most a few hundred turns of it. Files of the sandbox and texts of the transcript are
        the student's word, never evidence. Cancelled when it takes too long.

        Raises:
            SandboxLost: The sandbox died.
            Exception: The teacher failed: the episode has no valid reward.
        """
        ...


class AutomaticTeacher:
    """Asks the task's own grader; a task without one scores 0."""

    async def agrade(self, sandbox: Sandbox, task: Task, transcript: Sequence[Turn]) -> Grade:
        """As `Teacher.agrade`; the reason is for people, not for the student, for it may quote what was expected."""
        del transcript
        return await task.grader.grade(sandbox)


def remark(grade: Grade) -> str:
    """Return what a student may be told of an automatic grade: which checks fail, and nothing of what they expect."""
    if grade.passed:
        return _WELL_DONE
    failed = [name for name, score in grade.parts.items() if score < 1.0]
    if not failed:
        return "The work is not right yet"
    more = f" and {len(failed) - _SHOWN_PARTS} more" if len(failed) > _SHOWN_PARTS else ""
    return f"Not right yet: {', '.join(failed[:_SHOWN_PARTS])}{more}"
