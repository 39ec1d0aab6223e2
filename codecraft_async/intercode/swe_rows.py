"""Rows of SWE-bench: a repository at a commit, what is wrong with it, and the tests that tell whether it was mended."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal, NoReturn, cast

from codecraft_async._episode import EpisodeError
from codecraft_curriculum import Record

__all__ = ["DEFAULT_COMMAND", "SWE_NAMES", "SweTask", "TestCommand", "TestName"]

SWE_NAMES: Final[Mapping[str, str]] = {"problem_statement": "query", "patch": "gold"}
"""What SWE-bench calls the fields that all data have."""
DEFAULT_COMMAND: Final = "python3 -m pytest"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_REPO: Final = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)*")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.S)
_OPERATORS: Final = re.compile(r"[;&|<>$`\n]")
_IN_BRACKETS: Final = re.compile(r"(\w+) \(([\w.]+)\)")

Runner = Literal["pytest", "unittest", "other"]


@dataclass(frozen=True, slots=True)
class TestCommand:
    """How a repository's tests are run: ``PYTHONPATH=src python3 -m pytest -q``, or any other command (`text`)."""

    __test__ = False  # it is no test, whatever its name

    text: str
    runner: Runner = "other"
    python: str = "python3"
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> TestCommand:
        """Return the command that *text* is; what is no plain call of pytest or unittest is any other."""
        if _OPERATORS.search(text):
            return cls(text)
        words = shlex.split(text)
        environment: list[tuple[str, str]] = []
        while words and (found := _ASSIGNMENT.fullmatch(words[0])):
            environment.append((found[1], found[2]))
            del words[0]
        python = "python3"
        if len(words) > 2 and PurePosixPath(words[0]).name.startswith("python") and words[1] == "-m":
            python, words = words[0], words[2:]
        elif words and words[0] == "unittest":
            return cls(text)
        name = PurePosixPath(words[0]).name if words else ""
        runners: Mapping[str, Runner] = {"pytest": "pytest", "py.test": "pytest", "unittest": "unittest"}
        if name not in runners or (runners[name] == "unittest" and set(words[1:]) - {"-v", "-q", "--verbose"}):
            return cls(text)
        return cls(text, runners[name], python, tuple(words[1:]), tuple(environment))

    @property
    def paths(self) -> tuple[str, ...]:
        """Where modules are looked for, relative to the repository: ``PYTHONPATH``, then its root."""
        given = dict(self.environment).get("PYTHONPATH", "").split(":")
        return (*(path.strip("/") for path in given if path not in ("", ".")), "")


@dataclass(frozen=True, slots=True)
class TestName:
    """A test: the file that it is in ("" if there is none), class and function, and pytest's ``[parameters]``.

    `id` is what the row calls it.
    """

    __test__ = False

    id: str
    module: str
    inner: tuple[str, ...]
    parameters: str = ""

    @classmethod
    def of(cls, test: str, runner: Runner, exists: Callable[[str], bool], paths: Sequence[str]) -> TestName:
        """Return the parts of the id *test*, as SWE-bench writes it; *exists* tells the repository's files."""
        if runner != "unittest":
            place, bracket, parameters = test.partition("[")
            file, *inner = place.split("::")
            return cls(test, file, tuple(inner), bracket + parameters)
        dotted = test
        if found := _IN_BRACKETS.fullmatch(test):  # as unittest prints it: before Python 3.11 without the function
            dotted = found[2] if found[2].endswith(f".{found[1]}") else f"{found[2]}.{found[1]}"
        parts = dotted.split(".")
        for end in range(len(parts) - 1, 0, -1):
            stem = "/".join(parts[:end])
            for path in (f"{root}/{stem}".lstrip("/") for root in paths):
                for file in (f"{path}.py", f"{path}/__init__.py"):
                    if exists(file):
                        return cls(test, file, tuple(parts[end:]))
        return cls(test, "", tuple(parts))


@dataclass(frozen=True, slots=True)
class SweTask:
    """What a row says. Patches are texts as of ``git diff``; tests are named as their runner names them.

    `setup` are commands that make a checkout ready, run once in each sandbox before anything else. `log_parser` names
    the function that reads what a command prints that is neither pytest nor unittest.
    """

    id: str
    repo: str
    base_commit: str
    gold: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    command: TestCommand
    setup: tuple[str, ...] = ()
    log_parser: str = ""

    @classmethod
    def from_record(cls, record: Record, test_cmd: str | Mapping[str, str] = DEFAULT_COMMAND) -> SweTask:
        """Return the task of a row; *test_cmd* is for rows that have none, by the name of the repository or for all.

        Raises:
            EpisodeError: A field is missing or wrong; says which.
        """
        row = _Row(record)
        repo = row.matching("repo", _REPO, "the name of a repository such as owner/name")
        default = test_cmd if isinstance(test_cmd, str) else test_cmd.get(repo, DEFAULT_COMMAND)
        task = cls(
            id=row.text("instance_id", str(record.index)),
            repo=repo,
            base_commit=row.matching("base_commit", _COMMIT, "a whole commit name, 40 hexadecimal digits"),
            gold=record.gold if isinstance(record.gold, str) else row.wrong("patch", "is no text"),
            test_patch=row.text("test_patch", ""),
            fail_to_pass=row.texts("FAIL_TO_PASS"),
            pass_to_pass=row.texts("PASS_TO_PASS"),
            command=TestCommand.parse(row.text("test_cmd", default)),
            setup=row.texts("setup", plain=True),
            log_parser=row.text("log_parser", ""),
        )
        return task if task.fail_to_pass else row.wrong("FAIL_TO_PASS", "names no test")


class _Row:
    """Reads fields, and says of wrong ones where they are."""

    def __init__(self, record: Record) -> None:
        self._index = record.index
        self._values = record.extras

    def wrong(self, name: str, problem: str) -> NoReturn:
        raise EpisodeError(f"row {self._index}: {name} {problem}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._values.get(name, default)
        return value if isinstance(value, str) else self.wrong(name, "is missing" if value is None else "is no text")

    def matching(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        text = self.text(name)
        is_right = pattern.fullmatch(text) and ".." not in text
        return text if is_right else self.wrong(name, f"is {text[:80]!r}; it must be {what}")

    def texts(self, name: str, *, plain: bool = False) -> tuple[str, ...]:
        """Return a list of texts, or one that is the text of a JSON list; if *plain*, also a text alone."""
        value: object = self._values.get(name, ())
        if isinstance(value, str):
            if plain:
                return (value,)
            try:
                value = json.loads(value)
            except ValueError:
                return self.wrong(name, "is a text that is no list in JSON")
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in cast(list[Any], value)):
            return self.wrong(name, "is no list of texts")
        return tuple(dict.fromkeys(cast(list[str], value)))
