"""The fields of the checks of git repositories in a task file."""

from __future__ import annotations

from collections.abc import Mapping

from codecraft_curriculum.fields import Table, as_table
from codecraft_curriculum.git_branch import CommitRule, GitBranchGrader
from codecraft_curriculum.git_repository import GitRepository
from codecraft_curriculum.matching import Match, MatchKind
from codecraft_curriculum.workspace import check_path

__all__ = ["GIT_BRANCH_FIELDS", "read_git_branch"]

GIT_BRANCH_FIELDS = tuple("git_dir reference repository history base at contains same_tree_as without".split())
_RULE_FIELDS = tuple("subject subject_regex author parents changed files absent".split())
_EMPTY_BASE = "nothing"


def read_git_branch(table: Table, repositories: Mapping[str, GitRepository]) -> GitBranchGrader:
    """Return the grader of a ``git-branch`` table; its revisions are those of the repository of the workspace.

    Raises:
        TaskFileError: naming the field.
        ValueError: a revision is not there.
    """
    repository = repositories[table.choice("repository", repositories)]
    base = table.text("base", "")
    same_tree = table.text("same_tree_as", "")
    at = table.text("at", "")
    return GitBranchGrader(
        git_dir=check_path(table.text("git_dir")),
        reference=f"refs/{check_path(table.text('reference'))}",
        history=tuple(_read_rule(table, number, values) for number, values in enumerate(table.tables("history"))),
        base=None if not base else "" if base == _EMPTY_BASE else repository.resolve(base),
        at=repository.resolve(at) if at else "",
        contains=tuple(map(repository.resolve, table.texts("contains", ()))),
        same_tree=repository.tree(same_tree) if same_tree else "",
        without=table.texts("without", ()),
    )


def _read_rule(table: Table, number: int, values: Mapping[str, object]) -> CommitRule:
    rule = Table(values, file=table.file, where=f"{table.path('history')}[{number}]", allowed=_RULE_FIELDS)
    subject = None
    if "subject" in rule:
        subject = Match(rule.text("subject"), "exact")
    elif "subject_regex" in rule:
        subject = Match(rule.text("subject_regex"), "regex")
    return CommitRule(
        subject=subject,
        author=rule.text("author", ""),
        parents=rule.whole("parents") if "parents" in rule else None,
        changed=rule.texts("changed") if "changed" in rule else None,
        files={path: _read_content(rule, path, value) for path, value in rule.table("files").items()},
        absent=rule.texts("absent", ()),
    )


def _read_content(rule: Table, path: str, value: object) -> Match:
    """Return the rule of a file's content: text, or a table with expected and match."""
    if isinstance(value, str):
        return Match(value)
    values = as_table(value)
    if values is None:
        raise rule.error(f"files.{path}", "expected text, or a table with expected and match")
    table = Table(values, file=rule.file, where=rule.path(f"files.{path}"), allowed=("expected", "match"))
    kinds: dict[str, MatchKind] = {"stripped": "stripped", "exact": "exact", "regex": "regex", "sha256": "sha256"}
    return Match(table.text("expected"), kinds[table.choice("match", kinds, "stripped")])
