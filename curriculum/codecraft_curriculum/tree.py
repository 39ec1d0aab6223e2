"""Grading a directory as a whole: which entries there are, of which kind, with which content and permissions."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.graders import CommandSpec, read_or_grade
from codecraft_curriculum.matching import Match
from codecraft_curriculum.sandbox import GradingSandbox
from codecraft_curriculum.workspace import check_path

__all__ = ["TREE_KINDS", "TreeEntry", "TreeGrader", "TreeKind"]

TreeKind = Literal["file", "directory", "symlink", "missing"]
TREE_KINDS: tuple[str, ...] = get_args(TreeKind)

_LIST = """test -d "$1" && test ! -h "$1" && exec find "$1" -mindepth 1 -printf '%y %m %i %P\\0%l\\0'"""
_KINDS = {"f": "file", "d": "directory", "l": "symlink"}
_MAX_LISTING_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """What should be at one path; what is None does not count."""

    kind: TreeKind = "file"
    content: Match | None = None
    mode: int | None = None
    target: str | None = None
    same_file_as: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in TREE_KINDS:
            raise ValueError(f"kind {self.kind!r} is not known: use one of {', '.join(TREE_KINDS)}")
        if self.mode is not None and not 0 <= self.mode <= 0o7777:
            raise ValueError(f"mode {self.mode:o} is not allowed: give permission bits from 0 to 7777 (octal)")


@dataclass(frozen=True, slots=True)
class _Found:
    """What is at one path."""

    kind: str
    mode: int
    inode: int
    target: str


@dataclass(frozen=True, slots=True)
class TreeGrader:
    """Passes if the entries of a directory are as expected; with `partial` the score is the share that is.

    With `exact`, nothing else may be there but parents of entries and what `ignore` (shell patterns of whole paths)
    allows; a surplus makes the score 0. The listing is made by find, which runs nothing of the agent's, and links are
    not followed.
    """

    directory: str
    entries: Mapping[str, TreeEntry] = field(default_factory=FrozenMapping[str, TreeEntry])
    exact: bool = True
    ignore: tuple[str, ...] = ()
    partial: bool = False
    max_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", FrozenMapping(self.entries))
        if not self.entries and not self.exact:
            raise ValueError("entries is empty: give at least one, or exact = true for an empty directory")
        for path in self.entries:
            check_path(path)

    @property
    def runs_agent_code(self) -> bool:
        """Nothing of the agent's is run."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """List the directory once, then look at every entry."""
        found = await self._list(sandbox)
        if isinstance(found, Grade):
            return found
        surplus = self._surplus(found) if self.exact else None
        if surplus is not None:
            return Grade.failure(f"{self.directory or 'the workspace'} should not hold {excerpt(surplus)}")
        problems = [await self._problem(sandbox, path, found) for path in self.entries]
        wrong = [problem for problem in problems if problem is not None]
        if not wrong:
            return Grade.success(f"all {len(self.entries)} entries are as expected")
        share = 1 - len(wrong) / len(problems)
        return Grade(share if self.partial else 0.0, reason=wrong[0])

    async def _list(self, sandbox: GradingSandbox) -> dict[str, _Found] | Grade:
        command = CommandSpec(command=_LIST, max_output_bytes=_MAX_LISTING_BYTES)
        outcome = await command.run(sandbox, arguments=(f"./{self.directory}",))
        if isinstance(outcome, Grade):
            return Grade.failure(f"{self.directory or 'the workspace'} cannot be listed: {outcome.reason}")
        if outcome.exit_code != 0:
            return Grade.failure(f"{self.directory or 'the workspace'} is no directory that can be read throughout")
        words = outcome.stdout.decode(errors="surrogateescape").split("\0")
        found: dict[str, _Found] = {}
        for label, target in zip(words[0::2], words[1::2], strict=False):
            kind, mode, inode, path = label.split(" ", 3)
            found[path] = _Found(_KINDS.get(kind, "something else"), int(mode, 8), int(inode), target)
        return found

    def _surplus(self, found: Mapping[str, _Found]) -> str | None:
        wanted = {path for path, entry in self.entries.items() if entry.kind != "missing"}
        parents = {path[:place] for path in wanted for place, char in enumerate(path) if char == "/"}
        others = (
            path
            for path in sorted(found)
            if path not in wanted and path not in parents and not any(fnmatch.fnmatchcase(path, x) for x in self.ignore)
        )
        return next(others, None)

    async def _problem(self, sandbox: GradingSandbox, path: str, found: Mapping[str, _Found]) -> str | None:
        entry, here = self.entries[path], found.get(path)
        shown = f"{self.directory}/{path}" if self.directory else path
        if here is None:
            return None if entry.kind == "missing" else f"{shown} is missing"
        if here.kind != entry.kind:
            return f"{shown} should be {_ARTICLES[entry.kind]}, and is {_ARTICLES.get(here.kind, here.kind)}"
        if entry.mode is not None and here.mode != entry.mode:
            return f"{shown} should have mode {entry.mode:o}, and has {here.mode:o}"
        if entry.target is not None and here.target != entry.target:
            return f"{shown} should be a link to {entry.target}, and is one to {excerpt(here.target)}"
        if entry.same_file_as is not None:
            other = found.get(entry.same_file_as)
            if other is None or other.inode != here.inode:
                return f"{shown} should be the same file as {entry.same_file_as}"
        return await self._content_problem(sandbox, shown, entry.content)

    async def _content_problem(self, sandbox: GradingSandbox, path: str, content: Match | None) -> str | None:
        if content is None:
            return None
        data = await read_or_grade(sandbox, path, max_bytes=self.max_bytes)
        if isinstance(data, Grade):
            return data.reason
        problem = content.mismatch(data)
        return None if problem is None else f"{path}: {problem}"


_ARTICLES = {"file": "a file", "directory": "a directory", "symlink": "a symbolic link", "missing": "missing"}
