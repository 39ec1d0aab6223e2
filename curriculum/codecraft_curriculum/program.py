"""Grading programs by what they compute.

The agent's program runs in a process of its own, on inputs that were drawn a moment ago, and prints data. The expected
values never enter the sandbox, and the comparison happens on the host. So there is nothing to forge: ``os._exit(0)``,
patched test frameworks and printed verdicts are just wrong output, and a hard-coded table does not know the inputs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.graders import CommandSpec, describe_end, output_problem, read_or_grade
from codecraft_curriculum.matching import Match
from codecraft_curriculum.sandbox import CommandOutcome, GradingSandbox
from codecraft_curriculum.staging import Expected, Left, archive, as_entry, files_problem, run_staged
from codecraft_curriculum.workspace import WorkspaceFile, check_path

__all__ = ["Case", "CaseSource", "FixedCases", "ProgramGrader", "UnitTestsGrader"]

_SOURCE_MAX_BYTES = 256 << 10

_STAGE = """
set -e
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
tar -xf - -C "$scratch"
cd "$scratch"
"$@" </dev/null
"""
# Standard input carries the staged files; the tests get an empty one.


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a program: what it is given, and what it must print and leave.

    With `files` or `expected_files` it runs in a scratch directory that holds `files` (text, bytes, or entries with a
    mode or a link; `mtimes` are their times of change, in seconds since 1970), and must leave there what
    `expected_files` says, and no other file: None stands for whatever. `expected` None: what it prints does not count.
    `exit_status` overrules that of the check.
    """

    expected: Match | None
    arguments: tuple[str, ...] = ()
    stdin: bytes = b""
    files: Mapping[str, Expected] = field(default_factory=FrozenMapping[str, Expected])
    expected_files: Mapping[str, Expected] | None = None
    mtimes: Mapping[str, int] = field(default_factory=FrozenMapping[str, int])
    exit_status: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", FrozenMapping(self.files))
        object.__setattr__(self, "mtimes", FrozenMapping(self.mtimes))
        if self.expected_files is not None:
            object.__setattr__(self, "expected_files", FrozenMapping(self.expected_files))
        for path in (*self.files, *(self.expected_files or {})):
            check_path(path)

    @property
    def is_staged(self) -> bool:
        """Whether it runs in a scratch directory."""
        return bool(self.files) or self.expected_files is not None


class CaseSource(Protocol):
    """Draws the cases of one grading, on the host."""

    def __call__(self, rng: random.Random, /) -> Sequence[Case]:
        """Return at least one case; different ones for each state of `rng`."""
        ...


@dataclass(frozen=True, slots=True)
class FixedCases:
    """The same cases each time: a program can hard-code them once they are known."""

    cases: tuple[Case, ...]

    def __call__(self, rng: random.Random, /) -> Sequence[Case]:
        """Return the cases."""
        del rng
        return self.cases


@dataclass(frozen=True, slots=True)
class ProgramGrader:
    """Passes if a program answers every case; `seed` None draws new cases from the system's randomness.

    With `partial` the score is the share of the cases that are right; else it stops at the first that is wrong.
    """

    command: CommandSpec
    cases: CaseSource
    exit_status: int | None = 0
    seed: int | None = None
    partial: bool = False

    @property
    def runs_agent_code(self) -> bool:
        """That is its purpose."""
        return True

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Run the program on case after case, until one is wrong."""
        cases = self.cases(_source_of_chance(self.seed))
        if not cases:
            raise ValueError(f"the case source of {self.command} drew no cases: it must return at least one")
        wrong: list[str] = []
        for number, case in enumerate(cases, 1):
            problem = await self._problem(sandbox, case)
            if problem is not None:
                wrong.append(f"case {number} of {len(cases)}{problem}")
                if not self.partial:
                    break
        if not wrong:
            return Grade.success(f"all {len(cases)} cases are right")
        return Grade(1 - len(wrong) / len(cases) if self.partial else 0.0, reason=wrong[0])

    async def _problem(self, sandbox: GradingSandbox, case: Case) -> str | None:
        outcome = await self._run(sandbox, case)
        if isinstance(outcome, Grade):
            return f": {outcome.reason}"
        problem = output_problem(
            outcome, case.expected, self.exit_status if case.exit_status is None else case.exit_status
        )
        if problem is None and isinstance(outcome, Left) and case.expected_files is not None:
            problem = files_problem(case.expected_files, outcome.files)
        if problem is None:
            return None
        given = excerpt(" ".join(case.arguments) or case.stdin, 40)
        return f", input {given}: {problem}"

    async def _run(self, sandbox: GradingSandbox, case: Case) -> CommandOutcome | Left | Grade:
        if not case.is_staged:
            return await self.command.run(sandbox, arguments=case.arguments, stdin=case.stdin)
        return await run_staged(
            self.command,
            sandbox,
            arguments=case.arguments,
            stdin=case.stdin,
            files={path: as_entry(value) for path, value in case.files.items()},
            mtimes=case.mtimes,
        )


@dataclass(frozen=True, slots=True)
class UnitTestsGrader:
    """Passes if the agent's tests tell right implementations from wrong ones.

    The tests must pass with the agent's own module and with every one of `right`, and fail with every one of `wrong`.
    Each is put beside the tests under the name of the module, in a scratch directory, in an order drawn on the host.
    The exit status is the tests' *answer* to a question whose solution only the host knows, not a verdict: always
    saying "pass" (or "fail") is wrong for some. With r right and w wrong ones, a guess succeeds with a probability of
    at most 1 / binomial(r + w, r), by tests that count their runs in a file, so give several of each.
    """

    tests: str
    module: str
    command: CommandSpec
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.right or not self.wrong:
            raise ValueError("right or wrong is empty: give at least one implementation of each")
        if isinstance(self.command.command, str):
            raise ValueError("command is text: give a list of words, it is run in the scratch directory")
        for path in (self.tests, self.module):
            if "/" in path or not path:
                raise ValueError(f"path {path!r} is not allowed: give a file name at the top of the workspace")

    @property
    def runs_agent_code(self) -> bool:
        """It runs the agent's tests."""
        return True

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Run the tests with the agent's module, then with the others, until one is misjudged."""
        tests = await read_or_grade(sandbox, self.tests, max_bytes=_SOURCE_MAX_BYTES)
        if isinstance(tests, Grade):
            return tests
        own = await read_or_grade(sandbox, self.module, max_bytes=_SOURCE_MAX_BYTES)
        if isinstance(own, Grade):
            return own
        modules = [(text.encode(), True) for text in self.right] + [(text.encode(), False) for text in self.wrong]
        _source_of_chance(self.seed).shuffle(modules)
        outcome = await self._run(sandbox, tests, own)
        if isinstance(outcome, Grade) or outcome.exit_code != 0:
            return self._failure(f"do not pass with your own {self.module}", outcome)
        for module, is_right in modules:
            outcome = await self._run(sandbox, tests, module)
            if isinstance(outcome, Grade) or (outcome.exit_code == 0) != is_right:
                judged = "fail with a right" if is_right else "pass with a wrong"
                return self._failure(f"{judged} {self.module}", outcome)
        return Grade.success(f"{self.tests} tells {len(self.right)} right from {len(self.wrong)} wrong {self.module}")

    async def _run(self, sandbox: GradingSandbox, tests: bytes, module: bytes) -> CommandOutcome | Grade:
        staged = CommandSpec(
            command=("sh", "-c", _STAGE, "sh", *self.command.command),
            env=self.command.env,
            stdin=archive({self.tests: WorkspaceFile(tests), self.module: WorkspaceFile(module)}),
            limit_s=self.command.limit_s,
            max_output_bytes=self.command.max_output_bytes,
        )
        return await staged.run(sandbox)

    def _failure(self, problem: str, outcome: CommandOutcome | Grade) -> Grade:
        if isinstance(outcome, Grade):
            return Grade.failure(f"{self.tests}: {self.command} did not end within its limits of time and output")
        said = f", standard error ends in {excerpt(outcome.stderr[-80:])}" if outcome.stderr else ""
        return Grade.failure(f"the tests in {self.tests} {problem}: {describe_end(outcome)}{said}")


def _source_of_chance(seed: int | None) -> random.Random:
    return random.SystemRandom() if seed is None else random.Random(seed)
