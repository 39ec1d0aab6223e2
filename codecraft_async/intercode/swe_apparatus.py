"""The files by which a repository's tests are run: whatever an agent makes of them does not count."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from codecraft_async.intercode.swe_changes import Files, parents
from codecraft_async.intercode.swe_rows import TestName
from codecraft_pool import Entry

__all__ = ["Apparatus"]

# What pytest or Python load, or are told by, before any test.
_CONFIGURATION: Final = frozenset(
    ("conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg")
) | {"pyproject.toml", "sitecustomize.py", "usercustomize.py"}
_TEST_DIRECTORIES: Final = frozenset(("test", "tests"))


@dataclass(frozen=True, slots=True)
class Apparatus:
    """What belongs to the tests: files of the test patch, files that hold listed tests, what else is in a directory
    ``test`` or ``tests`` with these, and configuration of pytest and Python anywhere.

    `files` are those that are not as in the base commit. Of a directory of tests, what the gold changes is excepted: it
    may be what the issue is about.
    """

    files: Files = field(repr=False)
    modules: frozenset[str]
    folders: frozenset[str]
    excepted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tests: Iterable[TestName], test_files: Files, gold_files: Files) -> Apparatus:
        """Return the apparatus of *tests*: *test_files* is what the test patch changes, *gold_files* what the gold
        does.
        """
        modules = frozenset(test.module for test in tests)
        found = [
            next((each for each in parents(module) if each.rpartition("/")[2] in _TEST_DIRECTORIES), "")
            for module in modules
        ]
        own = cls(test_files, modules, frozenset(filter(None, found)), frozenset(gold_files))
        # A test file or a configuration that the gold changes as well is as the gold has it.
        return own.with_files({path: entry for path, entry in gold_files.items() if own.owns(path)})

    def owns(self, path: str) -> bool:
        """Whether a file belongs to it, be it there or not."""
        if path in self.files or path in self.modules:
            return True
        if path.rpartition("/")[2] in _CONFIGURATION or path.endswith(".pth"):
            return True
        return path not in self.excepted and any(folder in self.folders for folder in parents(path))

    def with_files(self, files: Mapping[str, Entry | None]) -> Apparatus:
        """Return an apparatus in which *files* are as they are given."""
        return Apparatus({**self.files, **files}, self.modules, self.folders, self.excepted)

    def owned(self, paths: Collection[str]) -> list[str]:
        """Return those of *paths* that belong to it."""
        return sorted(path for path in paths if self.owns(path))
