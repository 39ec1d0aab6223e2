"""The elementary graders: a command's exit status, its output, a file, the answers in a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.matching import Match
from codecraft_curriculum.sandbox import WORKSPACE_PATH, CommandOutcome, GradingSandbox, is_agents_fault

__all__ = ["Answer", "AnswersGrader", "CommandSpec", "ExitStatusGrader", "FileGrader", "OutputGrader", "read_or_grade"]

GRADING_ENV: Mapping[str, str] = FrozenMapping(
    {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/nonexistent",  # so that no ~/.local, ~/.gitconfig or ~/.pythonrc of the agent's has a say
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
)
"""The environment of every command that a grader runs; a check may add to it."""

_ANSWERS_MAX_BYTES = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """A command of the task author's and its limits; text is run as ``sh -c``, a tuple as it is."""

    command: str | tuple[str, ...]
    cwd: str = WORKSPACE_PATH
    env: Mapping[str, str] = field(default_factory=FrozenMapping[str, str])
    stdin: bytes = b""
    limit_s: float = 10.0
    max_output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", FrozenMapping(self.env))
        if not self.command or (not isinstance(self.command, str) and not self.command[0]):
            raise ValueError("command is empty: give text for sh -c, or a list of words")
        if not 0 < self.limit_s <= 3600:
            raise ValueError(f"limit_s is {self.limit_s}: give seconds above 0, at most 3600")
        if not 0 < self.max_output_bytes <= 64 << 20:
            raise ValueError(f"max_output_bytes is {self.max_output_bytes}: give 1 to {64 << 20}")
        if not self.cwd.startswith("/"):
            raise ValueError(f"cwd {self.cwd!r} is relative: give an absolute path like {WORKSPACE_PATH}/src")

    async def run(
        self, sandbox: GradingSandbox, *, arguments: tuple[str, ...] = (), stdin: bytes | None = None
    ) -> CommandOutcome | Grade:
        """Return the outcome, or a failing grade if it did not end by itself within its limits."""
        if isinstance(self.command, str):
            words = ("sh", "-c", self.command, "sh", *arguments)
        else:
            words = (*self.command, *arguments)
        try:
            outcome = await sandbox.run(
                words,
                cwd=self.cwd,
                env={**GRADING_ENV, **self.env},
                stdin=self.stdin if stdin is None else stdin,
                limit_s=self.limit_s,
                max_output_bytes=self.max_output_bytes,
            )
        except OSError as error:
            if not is_agents_fault(error):
                raise
            return Grade.failure(f"{self} cannot be started: {_why(error)}")
        if outcome.timed_out:
            return Grade.failure(f"{self} did not end within {self.limit_s:g} s")
        if outcome.truncated:
            return Grade.failure(f"{self} printed over {self.max_output_bytes} bytes")
        return outcome

    def __str__(self) -> str:
        return excerpt(self.command if isinstance(self.command, str) else " ".join(self.command), 40)


@dataclass(frozen=True, slots=True)
class ExitStatusGrader:
    """Passes if a command ends with the expected exit status.

    The command must not run the agent's code: a process that does can end with any status it likes. For that, compare
    what a program computes (`ProgramGrader`).
    """

    command: CommandSpec
    expected: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.expected <= 255:
            raise ValueError(f"exit_status is {self.expected}: give 0 to 255")

    @property
    def runs_agent_code(self) -> bool:
        """It must not."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Run the command and compare its exit status."""
        outcome = await self.command.run(sandbox)
        if isinstance(outcome, Grade):
            return outcome
        if outcome.exit_code == self.expected:
            return Grade.success(f"exit status {self.expected}")
        return Grade.failure(f"{self.command}: expected exit status {self.expected}, got {describe_end(outcome)}")


@dataclass(frozen=True, slots=True)
class OutputGrader:
    """Passes if the standard output of a command fits, and (unless None) its exit status too."""

    command: CommandSpec
    match: Match
    exit_status: int | None = 0

    @property
    def runs_agent_code(self) -> bool:
        """It usually does; the output is compared with what the host knows."""
        return True

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Run the command and compare what it printed."""
        outcome = await self.command.run(sandbox)
        if isinstance(outcome, Grade):
            return outcome
        problem = output_problem(outcome, self.match, self.exit_status)
        if problem is None:
            return Grade.success("the output is as expected")
        return Grade.failure(f"{self.command}: {problem}")


@dataclass(frozen=True, slots=True)
class FileGrader:
    """Passes if a regular file of the workspace has the expected content; links are not followed out of it."""

    path: str
    match: Match
    max_bytes: int = 1 << 20

    @property
    def runs_agent_code(self) -> bool:
        """Nothing is run."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Read the file and compare its content."""
        data = await read_or_grade(sandbox, self.path, max_bytes=self.max_bytes)
        if isinstance(data, Grade):
            return data
        problem = self.match.mismatch(data)
        return (
            Grade.success(f"{self.path} is as expected")
            if problem is None
            else Grade.failure(f"{self.path}: {problem}")
        )


AnswerKind = Literal["text", "list", "number", "regex"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The right value of one ``Name: value`` line.

    ``text`` ignores case and spacing, ``list`` compares sets of comma-separated words, ``number`` is within 1e-6,
    ``regex`` must fit the whole value.
    """

    expected: str
    kind: AnswerKind = "text"

    def __post_init__(self) -> None:
        if self.kind not in get_args(AnswerKind):
            raise ValueError(f"match {self.kind!r} is not known: use one of {', '.join(get_args(AnswerKind))}")
        if self.kind == "regex":
            Match(self.expected, "regex")

    def accepts(self, value: str) -> bool:
        """Return whether `value`, a bounded line of text, is right."""
        if self.kind == "number":
            return Match(self.expected, "numbers", tolerance=1e-6).mismatch(value.encode()) is None
        if self.kind == "list":
            return _words(value) == _words(self.expected)
        if self.kind == "regex":
            return re.fullmatch(self.expected, value) is not None
        return value.casefold().split() == self.expected.casefold().split()


@dataclass(frozen=True, slots=True)
class AnswersGrader:
    """Passes if a file of the workspace holds each answer, right, in exactly one ``Name: value`` line.

    A second line of the same name fails, so an answer that lists all guesses does not pass. Markdown bullets, bold
    names and back-quotes around values are allowed. With `partial` the score is the share of right answers.
    """

    path: str
    answers: Mapping[str, Answer]
    partial: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", FrozenMapping(self.answers))
        if not self.answers:
            raise ValueError("answers is empty: give at least one")

    @property
    def runs_agent_code(self) -> bool:
        """Nothing is run."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Read the file and compare every answer; the parts are the answers."""
        data = await read_or_grade(sandbox, self.path, max_bytes=_ANSWERS_MAX_BYTES)
        if isinstance(data, Grade):
            return data
        try:
            given = _answers(data.decode())
        except UnicodeDecodeError:
            return Grade.failure(f"{self.path}: expected UTF-8 text, got {excerpt(data)}")
        problems = {name: self._problem(name, given.get(name.casefold(), [])) for name in self.answers}
        parts = {name: 1.0 if problem is None else 0.0 for name, problem in problems.items()}
        first = next((problem for problem in problems.values() if problem is not None), None)
        if first is not None:
            share = sum(parts.values()) / len(parts) if self.partial else 0.0
            return Grade(share, parts, f"{self.path}: {first}")
        return Grade(1.0, parts, f"all {len(parts)} answers are right")

    def _problem(self, name: str, values: list[str]) -> str | None:
        if len(values) != 1:
            return f"expected exactly one line '{name}: ...', found {len(values)}"
        answer = self.answers[name]
        return None if answer.accepts(values[0]) else f"wrong answer to '{name}': {excerpt(values[0])}"


def _why(error: OSError) -> str:
    """The system's words for an error, without the sandbox's name: a reason reads the same in every sandbox."""
    return os.strerror(error.errno) if error.errno else str(error)


async def read_or_grade(sandbox: GradingSandbox, path: str, *, max_bytes: int = 1 << 20) -> bytes | Grade:
    """Return a file's content, or a failing grade if what the agent left there is no readable regular file."""
    try:
        data = await sandbox.read_file(path, max_bytes=max_bytes)
    except FileNotFoundError:
        return Grade.failure(f"{path} is missing")
    except OSError as error:
        if not is_agents_fault(error):
            raise
        return Grade.failure(f"{path} is no readable regular file of at most {max_bytes} bytes: {_why(error)}")
    if len(data) > max_bytes:
        return Grade.failure(f"{path} holds over {max_bytes} bytes")
    return data


def output_problem(outcome: CommandOutcome, match: Match | None, exit_status: int | None) -> str | None:
    """Return what is wrong with an outcome, or None; without a `match`, what it printed does not count."""
    if exit_status is not None and outcome.exit_code != exit_status:
        said = f", standard error {excerpt(outcome.stderr[-200:])}" if outcome.stderr else ""
        return f"expected exit status {exit_status}, got {describe_end(outcome)}{said}"
    return None if match is None else match.mismatch(outcome.stdout)


def describe_end(outcome: CommandOutcome) -> str:
    """Return how a command ended, in words."""
    return f"signal {outcome.signal}" if outcome.signal else f"exit status {outcome.exit_code}"


def _answers(text: str) -> dict[str, list[str]]:
    """Return the values of all ``Name: value`` lines, by case-folded name."""
    given: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, colon, value = line.strip().lstrip("-*# ").partition(":")
        if colon:
            given.setdefault(name.strip("*_` ").casefold(), []).append(value.strip("*` ").rstrip("."))
    return given


def _words(value: str) -> set[str]:
    words = (word.strip().strip("`*").removesuffix("()") for word in value.split(","))
    return {word for word in words if word}
