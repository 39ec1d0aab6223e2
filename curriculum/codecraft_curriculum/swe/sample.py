"""A repository that was made for a task: its history, the bug in it, and the fix and the tests that came later."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.git_repository import Commit, GitRepository
from codecraft_curriculum.workspace import Workspace, WorkspaceFile

__all__ = ["Sample", "commit"]


def commit(message: str, files: Mapping[str, str]) -> Commit:
    """Return a commit that adds or changes files, given as texts that may begin with a line end."""
    return Commit(message, {path: WorkspaceFile(text.removeprefix("\n").encode()) for path, text in files.items()})


@dataclass(frozen=True, slots=True)
class Sample:
    """A repository whose commits are `history`, up to the base commit, then the fix and its tests, then `later`.

    `fix` and `tests` are whole files, as they are after the fix. `test_cmd` is how the tests are run.
    """

    name: str
    problem: str
    history: tuple[Commit, ...]
    fix: Mapping[str, str]
    tests: Mapping[str, str]
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    test_cmd: str
    later: tuple[Commit, ...] = ()
    repository: GitRepository = field(init=False, repr=False)
    base_commit: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fix", FrozenMapping(self.fix))
        object.__setattr__(self, "tests", FrozenMapping(self.tests))
        mended = commit("Fix it, with tests", {**self.fix, **self.tests})
        repository = GitRepository((*self.history, mended, *self.later))
        object.__setattr__(self, "repository", repository)
        object.__setattr__(self, "base_commit", repository.resolve(f"main~{len(self.later) + 1}"))

    def row(self) -> dict[str, Any]:
        """Return the row of a dataset that it is."""
        return {
            "repo": f"codecraft/{self.name}",
            "instance_id": f"codecraft__{self.name}-1",
            "base_commit": self.base_commit,
            "problem_statement": self.problem.strip() + "\n",
            "patch": self._patch(self.fix),
            "test_patch": self._patch(self.tests),
            "FAIL_TO_PASS": list(self.fail_to_pass),
            "PASS_TO_PASS": list(self.pass_to_pass),
            "test_cmd": self.test_cmd,
        }

    def write_to(self, directory: Path) -> None:
        """Write the bare repository (blocking); *directory* is made, and named as the repository is.

        Raises:
            OSError: It cannot be written, or is there already.
        """
        Workspace(self.repository.bare(directory.name)).write_to(directory.parent)

    def _patch(self, files: Mapping[str, str]) -> str:
        before = GitRepository(self.history).files
        return "".join(
            _difference(path, before[path].data.decode() if path in before else None, text.removeprefix("\n"))
            for path, text in sorted(files.items())
        )


def _difference(path: str, old: str | None, new: str) -> str:
    """Return a change of one text file as ``git apply`` takes it."""
    head = f"diff --git a/{path} b/{path}\n" + ("new file mode 100644\n" if old is None else "")
    lines = difflib.unified_diff(
        (old or "").splitlines(keepends=True),
        new.splitlines(keepends=True),
        "/dev/null" if old is None else f"a/{path}",
        f"b/{path}",
    )
    return head + "".join(lines)
