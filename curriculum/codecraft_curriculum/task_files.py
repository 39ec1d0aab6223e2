"""Our own task format: a directory with ``task.toml`` and, if wanted, a ``workspace`` directory beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from codecraft_curriculum.case_sources import BUILTIN_CASE_SOURCES
from codecraft_curriculum.check_fields import CheckContext
from codecraft_curriculum.checks import read_grader
from codecraft_curriculum.errors import TaskFileError, WorkspaceError
from codecraft_curriculum.fields import Table, read_bounded
from codecraft_curriculum.file_tables import read_files
from codecraft_curriculum.git_repository import Commit, GitRepository
from codecraft_curriculum.grade import Grader, Ungraded
from codecraft_curriculum.program import CaseSource
from codecraft_curriculum.task import (
    DIFFICULTIES,
    NETWORKS,
    RESET_MODES,
    USERS,
    Network,
    PartialSolution,
    ResetMode,
    Task,
    TaskLimits,
    User,
)
from codecraft_curriculum.workspace import Workspace, check_path

__all__ = ["TASK_FILE", "load_task", "read_toml"]

TASK_FILE = "task.toml"
_FIELDS = (
    "id title category difficulty estimated_minutes instruction image shell user setup max_steps network reset "
    "notes limits workspace grader proof"
).split()


def load_task(
    path: Path | str, *, case_sources: Mapping[str, CaseSource] | None = None, trust_code: bool = False
) -> Task:
    """Return the task of a ``task.toml``, or of a directory that holds one.

    `case_sources` are the caller's own, by the name that checks of type ``program`` use, beside the built-in ones. With
    `trust_code`, a check may name Python files beside the task file, whose functions are run in this process.

    Raises:
        TaskFileError: one line that names the file, the field, and what is allowed.
    """
    file = Path(path)
    if file.is_dir():
        file = file / TASK_FILE
    table = Table(read_toml(file), file=file, allowed=_FIELDS)
    try:
        return _read_task(table, {**BUILTIN_CASE_SOURCES, **(case_sources or {})}, trust_code=trust_code)
    except TaskFileError:
        raise
    except ValueError as error:
        raise TaskFileError(file, str(error)) from None


def _read_task(table: Table, case_sources: Mapping[str, CaseSource], *, trust_code: bool) -> Task:
    task_id = table.text("id", table.file.absolute().parent.name)
    workspace, repositories = _read_workspace(table)
    context = CheckContext(table.file, repositories, case_sources, trust_code)
    grader: Grader = read_grader(table.table("grader"), context) if "grader" in table else Ungraded(str(table.file))
    allowed = ("expert", "failures", "cheats", "partial", "public")
    proof = Table(table.table("proof"), file=table.file, where="proof", allowed=allowed)
    return Task(
        id=task_id,
        title=table.text("title", ""),
        category=table.text("category", "general"),
        difficulty=table.choice("difficulty", DIFFICULTIES) if "difficulty" in table else "",
        estimated_minutes=table.number("estimated_minutes", 0.0),
        instruction=table.text("instruction").strip(),
        image=table.text("image", "codecraft/base"),
        shell=table.text("shell", "/bin/sh"),
        user=cast(User, table.choice("user", USERS, "agent")),
        workspace=workspace,
        setup=table.texts("setup", ()),
        max_steps=table.whole("max_steps", 30),
        limits=_read_limits(table),
        network=cast(Network, table.choice("network", NETWORKS, "none")),
        reset=cast(ResetMode, table.choice("reset", RESET_MODES, "restore")),
        grader=grader,
        expert=proof.texts("expert", ()),
        failures=_read_scripts(proof, "failures"),
        cheats=_read_scripts(proof, "cheats"),
        partial=_read_partial(proof),
        public=proof.texts("public", ()),
        notes=table.texts_by_name("notes"),
    )


def _read_scripts(proof: Table, field: str) -> dict[str, tuple[str, ...]]:
    """Return the lists of actions of a table of the proof, by name."""
    scripts = proof.table(field)
    table = Table(scripts, file=proof.file, where=proof.path(field), allowed=scripts)
    return {name: table.texts(name) for name in scripts}


def _read_partial(proof: Table) -> dict[str, PartialSolution]:
    """Return the solutions of a part: each is a table of a score and actions."""
    scripts = proof.table("partial")
    table = Table(scripts, file=proof.file, where="proof.partial", allowed=scripts)
    solutions: dict[str, PartialSolution] = {}
    for name in scripts:
        where = table.path(name)
        each = Table(table.table(name), file=proof.file, where=where, allowed=("score", "actions"))
        try:
            solutions[name] = PartialSolution(each.number("score"), each.texts("actions"))
        except TaskFileError:
            raise
        except ValueError as error:
            raise TaskFileError(proof.file, f"{where}: {error}") from None
    return solutions


def _read_limits(table: Table) -> TaskLimits:
    names = ("command_limit_s", "max_output_bytes", "memory_bytes", "max_processes")
    limits = Table(table.table("limits"), file=table.file, where="limits", allowed=names)
    usual = TaskLimits()
    try:
        return TaskLimits(
            command_limit_s=limits.number("command_limit_s", usual.command_limit_s),
            max_output_bytes=limits.whole("max_output_bytes", usual.max_output_bytes),
            memory_bytes=limits.whole("memory_bytes", usual.memory_bytes),
            max_processes=limits.whole("max_processes", usual.max_processes),
        )
    except TaskFileError:
        raise
    except ValueError as error:
        raise TaskFileError(table.file, f"limits: {error}") from None


def _read_workspace(table: Table) -> tuple[Workspace, dict[str, GitRepository]]:
    """Return the tree made of the directory, the inline files and the repositories, and the latter by path."""
    inline = Table(
        table.table("workspace"), file=table.file, where="workspace", allowed=("directory", "files", "repositories")
    )
    name = inline.text("directory", "")
    root = table.file.parent / (check_path(name) if name else "workspace")
    if name and not root.is_dir():
        raise inline.error("directory", f"there is no directory {root}")
    try:
        workspace = Workspace.from_directory(root) if root.is_dir() else Workspace()
        repositories: dict[str, GitRepository] = {}
        entries = read_files(inline, "files")
        for number, values in enumerate(inline.tables("repositories")):
            path, repository = _read_repository(values, table.file, f"workspace.repositories[{number}]")
            repositories[path] = repository
            entries.update(repository.bare(path))
        return workspace.merged(entries), repositories
    except WorkspaceError as error:
        raise TaskFileError(table.file, f"workspace: {error}") from None
    except OSError as error:
        raise TaskFileError(table.file, f"workspace: cannot read {root}: {error}") from None


def _read_repository(values: Mapping[str, object], file: Path, where: str) -> tuple[str, GitRepository]:
    table = Table(values, file=file, where=where, allowed=("path", "branch", "author", "commits"))
    commits: list[Commit] = []
    try:
        for number, inner in enumerate(table.tables("commits")):
            place = f"{where}.commits[{number}]"
            commit = Table(inner, file=file, where=place, allowed=("message", "files", "remove", "branch", "tag"))
            commits.append(
                Commit(
                    commit.text("message"),
                    read_files(commit, "files"),
                    commit.texts("remove", ()),
                    branch=commit.text("branch", ""),
                    tag=commit.text("tag", ""),
                )
            )
        author = table.text("author", "Codecraft <codecraft@example.org>")
        repository = GitRepository(tuple(commits), branch=table.text("branch", "main"), author=author)
    except TaskFileError:
        raise
    except ValueError as error:
        raise TaskFileError(file, f"{where}: {error}") from None
    return check_path(table.text("path")), repository


def read_toml(file: Path) -> dict[str, object]:
    """Return the content of a TOML file.

    Raises:
        TaskFileError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_bounded(file))
    except tomllib.TOMLDecodeError as error:
        raise TaskFileError(file, f"not valid TOML: {error}") from None
