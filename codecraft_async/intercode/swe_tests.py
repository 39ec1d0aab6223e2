"""Running the tests of a repository in a sandbox, and what each of them came to."""

from __future__ import annotations

import json
import os
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

from codecraft_async._episode import EpisodeError
from codecraft_async._observation import decode
from codecraft_async.intercode.swe_rows import SweTask, TestName
from codecraft_pool import WORKSPACE, CommandResult, Sandbox

__all__ = ["LogParser", "TestRun", "run_tests"]

LogParser = Callable[[str], Mapping[str, bool]]
"""Reads what a test command prints: for each test that it names, whether it passed."""

PASSED: Final = "passed"
MISSING: Final = "missing"
_MAX_OUTPUT_BYTES: Final = 32 << 20
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class TestRun:
    """What tests came to, by their ids: "passed", "failed", "skipped" or "missing"; and, where one failed, why.

    `decoys` are those of tests that must fail, by their place in the list that was given. `problem` is what went wrong
    with the run as a whole ("" if it came to its end); then no outcome counts.
    """

    __test__ = False

    outcomes: Mapping[str, str]
    why: Mapping[str, str] = field(default_factory=dict[str, str])
    decoys: tuple[str, ...] = ()
    problem: str = ""

    def passed(self, test: str) -> bool:
        """Whether *test* has passed."""
        return not self.problem and self.outcomes.get(test) == PASSED


async def run_tests(
    sandbox: Sandbox,
    task: SweTask,
    tests: Sequence[TestName],
    decoys: Sequence[TestName],
    *,
    limit_s: float,
    parsers: Mapping[str, LogParser],
) -> TestRun:
    """Run the tests of *task* in a sandbox that holds its repository.

    Raises:
        EpisodeError: The image has no such test runner, or nobody can read what the command prints.
        SandboxLost: The sandbox died.
    """
    environment = dict(task.command.environment)
    if task.command.runner == "other":
        return await _run_command(sandbox, task, tests, limit_s=limit_s, parsers=parsers)
    if "PYTHONPATH" in environment:  # of what the tests start; the tests themselves are given it as paths
        environment["PYTHONPATH"] = ":".join(map(_absolute, task.command.paths))
    key, command = secrets.token_hex(16), [task.command.python, "-I", "-c", _program()]
    asked = {
        "key": key,
        "runner": task.command.runner,
        "root": WORKSPACE,
        "paths": [*map(_absolute, task.command.paths)],
        "arguments": list(task.command.arguments),
        "files": sorted({test.module for test in (*tests, *decoys)}),
        # Decoys are among the others: whoever finds this list does not know which they are.
        "tests": [_asked(test, task) for test in _mixed(tests, decoys)],
    }
    result = await sandbox.run(
        command, env=environment, stdin=json.dumps(asked).encode(), limit_s=limit_s, max_output_bytes=_MAX_OUTPUT_BYTES
    )
    return _read(result, key, task, tests, decoys)


@cache
def _program() -> str:
    return files(f"{__package__}.inside").joinpath("run_tests.py").read_text(encoding="utf-8")


def _mixed(tests: Sequence[TestName], decoys: Sequence[TestName]) -> list[TestName]:
    """Return the tests in their order, with the decoys in the middle of those of their file.

    Tests may depend on those before, so places are the same each time; where they are is drawn with the decoys' names.
    """
    mixed, rng = list(tests), random.Random(" ".join(decoy.inner[-1] for decoy in decoys))
    for decoy in decoys:
        places = [place for place, test in enumerate(mixed) if test.module == decoy.module]
        mixed.insert(rng.choice(places) + 1 if places else len(mixed), decoy)
    return mixed


def _absolute(path: str) -> str:
    return os.path.join(WORKSPACE, path).rstrip("/")


def _asked(test: TestName, task: SweTask) -> str:
    """Return a test as the program inside is asked for it, and as it tells of it."""
    if task.command.runner == "pytest":
        return "::".join((test.module, *test.inner)) + test.parameters
    module = test.module.removesuffix(".py").removesuffix("/__init__")
    roots = [path for path in task.command.paths if module.startswith(f"{path}/")] or [""]
    return ".".join((*filter(None, module.removeprefix(roots[0]).split("/")), *test.inner))


def _read(
    result: CommandResult, key: str, task: SweTask, tests: Sequence[TestName], decoys: Sequence[TestName]
) -> TestRun:
    found: dict[str, tuple[str, str]] = {}
    has_ended, trouble = False, ""
    for line in result.stdout.split(b"\n"):
        record = _record(line, key.encode())
        has_ended = has_ended or record.get("end") is True
        trouble = str(record.get("trouble", trouble))
        if "id" in record:  # the first word counts: what comes after it may be a copy of the process
            found.setdefault(str(record["id"]), (str(record.get("outcome")), str(record.get("why", ""))))
    if trouble or (result.exit_code == 127 and not found):
        why = trouble or decode(result.stderr)[-_SHOWN:]
        raise EpisodeError(
            f"{task.id}: its tests cannot be run by {task.command.text!r}: {why}; choose an image that has what they "
            "need, such as codecraft/swe"
        )
    problem = ""
    if result.timed_out:
        problem = f"the tests took longer than {result.wall_s:.0f} s"
    elif not has_ended:
        problem = "the tests ended their own process" if result.exit_code in (0, -1) else "the test process crashed"
    names = {test.id: _asked(test, task) for test in tests}
    outcomes = {test: found.get(name, (MISSING, ""))[0] for test, name in names.items()}
    others = [why for name, (outcome, why) in found.items() if outcome == "failed" and name not in names.values()]
    # What is missing is so because of something else, such as a file that cannot be imported.
    hint = ("", others[0] if others else "")
    reasons = {
        test: found.get(name, hint)[1].partition("\n")[0] for test, name in names.items() if outcomes[test] != PASSED
    }
    return TestRun(
        outcomes, reasons, tuple(found.get(_asked(each, task), (MISSING, ""))[0] for each in decoys), problem
    )


def _record(line: bytes, key: bytes) -> Mapping[str, Any]:
    if not line.startswith(key):
        return {}
    try:
        record: object = json.loads(line[len(key) :])
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}  # pyright: ignore[reportUnknownVariableType]


async def _run_command(
    sandbox: Sandbox,
    task: SweTask,
    tests: Sequence[TestName],
    *,
    limit_s: float,
    parsers: Mapping[str, LogParser],
) -> TestRun:
    parse = parsers.get(task.log_parser)
    if parse is None:
        known = ", ".join(map(repr, parsers)) or "none"
        raise EpisodeError(
            f"{task.id}: test_cmd {task.command.text!r} is no plain call of pytest or unittest, and its log_parser is "
            f"{task.log_parser!r}; parsers: {known}"
        )
    result = await sandbox.run(
        task.command.text,
        shell="/bin/bash",
        limit_s=limit_s,
        max_output_bytes=_MAX_OUTPUT_BYTES,
        merge_stderr=True,
    )
    verdicts = parse(decode(result.stdout))
    problem = ""
    if result.timed_out or result.truncated:
        problem = "the tests took too long" if result.timed_out else "the tests printed too much"
    names = [test.id for test in tests]
    outcomes = {name: (PASSED if verdicts[name] else "failed") if name in verdicts else MISSING for name in names}
    return TestRun(outcomes, {}, (), problem)
