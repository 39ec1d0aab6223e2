"""Grading what an agent did to a history: which commits a reference has now, and what is in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.git_objects import GitHistory, read_history, read_reference
from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.matching import Match
from codecraft_curriculum.sandbox import GradingSandbox

__all__ = ["CommitRule", "GitBranchGrader"]


@dataclass(frozen=True, slots=True)
class CommitRule:
    """What one commit must be; what is None or empty may be anything."""

    subject: Match | None = None
    author: str = ""
    parents: int | None = None
    changed: tuple[str, ...] | None = None
    files: Mapping[str, Match] = field(default_factory=FrozenMapping[str, Match])
    absent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", FrozenMapping(self.files))

    def problem(self, history: GitHistory, name: str) -> str | None:
        """Return what is wrong with a commit of the history, or None."""
        commit = history.commit(name)
        wrong = self.subject.mismatch(commit.subject.encode()) if self.subject else None
        if wrong is not None:
            return f"subject: {wrong}"
        if self.author and commit.author != self.author:
            return f"its author is {excerpt(commit.author)}, expected {self.author!r}"
        if self.parents is not None and len(commit.parents) != self.parents:
            return f"it has {len(commit.parents)} parents, expected {self.parents}"
        return self._changed_problem(history, name) or self._files_problem(history, name)

    def _changed_problem(self, history: GitHistory, name: str) -> str | None:
        if self.changed is None:
            return None
        after, parents = history.files(name), history.commit(name).parents
        before = history.files(parents[0]) if parents else {}
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        others = sorted(changed ^ set(self.changed))
        if not others:
            return None
        return f"it {'changes' if others[0] in changed else 'does not change'} {excerpt(others[0])}"

    def _files_problem(self, history: GitHistory, name: str) -> str | None:
        if not self.files and not self.absent:
            return None
        files = history.files(name)
        for path, match in self.files.items():
            if path not in files or files[path][0] not in ("100644", "100755"):
                return f"it has no file {path}"
            wrong = match.mismatch(history.content(files[path][1]))
            if wrong is not None:
                return f"{path}: {wrong}"
        found = next((path for path in self.absent if path in files), None)
        return f"{found} is still in it" if found is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GitBranchGrader:
    """Passes if a reference of a repository of the agent's names the expected commits.

    `history` are the rules of the tip, its first parent, and so on; with `base`, the next first parent must be that
    commit ("" for none: the history begins there). `at` is the commit it must name, `contains` are commits it must
    reach, `same_tree` is a tree it must have, and `without` are texts in no object that it reaches.
    """

    git_dir: str
    reference: str
    history: tuple[CommitRule, ...] = ()
    base: str | None = None
    at: str = ""
    contains: tuple[str, ...] = ()
    same_tree: str = ""
    without: tuple[str, ...] = ()

    @property
    def runs_agent_code(self) -> bool:
        """No hook and no configuration of the repository is used."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Read the reference and all it reaches, and check one thing after the other, until one is wrong."""
        tip = await read_reference(sandbox, self.git_dir, self.reference)
        if isinstance(tip, Grade):
            return tip
        if not tip:
            return Grade.failure(f"{self.git_dir} has no {self.reference}")
        history = await read_history(sandbox, self.git_dir, tip)
        if isinstance(history, Grade):
            return history
        checks: tuple[Callable[[GitHistory], str | None], ...] = (self._places, self._rules, self._texts)
        try:
            problem = next((wrong for check in checks if (wrong := check(history)) is not None), None)
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            return Grade.failure(f"{self.reference} of {self.git_dir}: {problem}")
        return Grade.success(f"{self.reference} of {self.git_dir} is as expected")

    def _places(self, history: GitHistory) -> str | None:
        if self.at and history.tip != self.at:
            return f"is at {history.tip[:12]}, expected {self.at[:12]}"
        missing = next((name for name in self.contains if name not in history.objects), None)
        if missing is not None:
            return f"does not contain the commit {missing[:12]}"
        if self.same_tree and history.commit(history.tip).tree != self.same_tree:
            return "its files are not the expected ones"
        return None

    def _rules(self, history: GitHistory) -> str | None:
        names = history.first_parents()
        for number, rule in enumerate(self.history):
            if number >= len(names):
                return f"has {len(names)} commits, expected at least {len(self.history)}"
            wrong = rule.problem(history, names[number])
            if wrong is not None:
                return f"commit {number + 1} from the tip ({names[number][:12]}): {wrong}"
        if self.base is None:
            return None
        following = names[len(self.history)] if len(names) > len(self.history) else ""
        if following != self.base:
            expected, found = self.base[:12] or "nothing", following[:12] or "nothing"
            return f"below its newest {len(self.history)} commits is {found}, expected {expected}"
        return None

    def _texts(self, history: GitHistory) -> str | None:
        for text in self.without:
            if any(text.encode() in item.data for item in history.objects.values()):
                return f"{excerpt(text)} is still in its history"
        return None
