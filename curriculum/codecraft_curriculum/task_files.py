"""Our own task format: a directory with ``task.toml`` and, if wanted, a ``workspace`` directory beside it."""

from __future__ import annotations

import base64
import binascii
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from codecraft_curriculum.case_sources import BUILTIN_CASE_SOURCES
from codecraft_curriculum.checks import CheckContext, read_grader
from codecraft_curriculum.errors import TaskFileError, WorkspaceError
from codecraft_curriculum.fields import Table, as_table
from codecraft_curriculum.git_repository import Commit, GitRepository
from codecraft_curriculum.grade import Grader, Ungraded
from codecraft_curriculum.program import CaseSource
from codecraft_curriculum.task import NETWORKS, RESET_MODES, USERS, Network, ResetMode, Task, TaskLimits, User
from codecraft_curriculum.workspace import Workspace, WorkspaceFile, check_path

__all__ = ["TASK_FILE", "load_task", "read_bounded", "read_toml"]

TASK_FILE = "task.toml"
_MAX_FILE_BYTES = 16 << 20
_FIELDS = (
    "id title category difficulty instruction image shell user setup max_steps network reset "
    "notes limits workspace grader proof"
).split()


def load_task(path: Path | str, *, case_sources: Mapping[str, CaseSource] | None = None) -> Task:
    """Return the task of a ``task.toml``, or of a directory that holds one.

    `case_sources` are the caller's own, by the name that checks of type ``program`` use, beside the built-in ones.

    Raises:
        TaskFileError: one line that names the file, the field, and what is allowed.
    """
    file = Path(path)
    if file.is_dir():
        file = file / TASK_FILE
    table = Table(read_toml(file), file=file, allowed=_FIELDS)
    try:
        return _read_task(table, {**BUILTIN_CASE_SOURCES, **(case_sources or {})})
    except TaskFileError:
        raise
    except ValueError as error:
        raise TaskFileError(file, str(error)) from None


def _read_task(table: Table, case_sources: Mapping[str, CaseSource]) -> Task:
    task_id = table.text("id", table.file.absolute().parent.name)
    workspace, repositories = _read_workspace(table)
    context = CheckContext(table.file, repositories, case_sources)
    grader: Grader = read_grader(table.table("grader"), context) if "grader" in table else Ungraded(str(table.file))
    proof = Table(table.table("proof"), file=table.file, where="proof", allowed=("expert", "failures"))
    wrong = proof.table("failures")
    failures = Table(wrong, file=table.file, where="proof.failures", allowed=wrong)
    return Task(
        id=task_id,
        title=table.text("title", ""),
        category=table.text("category", "general"),
        difficulty=table.text("difficulty", ""),
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
        failures={name: failures.texts(name) for name in wrong},
        notes=table.texts_by_name("notes"),
    )


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
        entries = _read_files(inline, "files")
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
            commit = Table(inner, file=file, where=place, allowed=("message", "files", "remove"))
            commits.append(Commit(commit.text("message"), _read_files(commit, "files"), commit.texts("remove", ())))
        author = table.text("author", "Codecraft <codecraft@example.org>")
        repository = GitRepository(tuple(commits), branch=table.text("branch", "main"), author=author)
    except TaskFileError:
        raise
    except ValueError as error:
        raise TaskFileError(file, f"{where}: {error}") from None
    return check_path(table.text("path")), repository


def _read_files(table: Table, name: str) -> dict[str, WorkspaceFile]:
    """Return the entries of a table of files: each is text, or a table with text, base64, symlink or directory."""
    entries: dict[str, WorkspaceFile] = {}
    for path, value in table.table(name).items():
        where = f"{table.path(name)}.{path!r}"
        values = as_table(value)
        if isinstance(value, str):
            entries[path] = WorkspaceFile(value.encode())
        elif values is not None:
            allowed = ("text", "base64", "symlink", "directory", "mode")
            entries[path] = _read_entry(Table(values, file=table.file, where=where, allowed=allowed))
        else:
            raise TaskFileError(table.file, f"{where}: expected text or a table, got {type(value).__name__}")
    return entries


def _read_entry(entry: Table) -> WorkspaceFile:
    kinds = [kind for kind in ("text", "base64", "symlink", "directory") if kind in entry]
    if len(kinds) != 1:
        raise TaskFileError(entry.file, f"{entry.where}: give exactly one of text, base64, symlink, directory")
    mode = entry.text("mode", "755" if kinds == ["directory"] else "644")
    if not (1 <= len(mode) <= 3 and set(mode) <= set("01234567")):
        raise entry.error("mode", f"{mode!r} is not allowed: write octal digits as text, like '755'")
    if kinds == ["symlink"]:
        return WorkspaceFile.symlink(entry.text("symlink"))
    if kinds == ["directory"]:
        if entry.raw("directory") is not True:
            raise entry.error("directory", "expected true")
        return WorkspaceFile.directory(int(mode, 8))
    if kinds == ["text"]:
        return WorkspaceFile(entry.text("text").encode(), int(mode, 8))
    try:
        return WorkspaceFile(base64.b64decode(entry.text("base64"), validate=True), int(mode, 8))
    except binascii.Error as error:
        raise entry.error("base64", f"is not valid: {error}") from None


def read_toml(file: Path) -> dict[str, object]:
    """Return the content of a TOML file.

    Raises:
        TaskFileError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_bounded(file))
    except tomllib.TOMLDecodeError as error:
        raise TaskFileError(file, f"not valid TOML: {error}") from None


def read_bounded(file: Path) -> str:
    """Return the text of a file of at most 16 MiB.

    Raises:
        TaskFileError: it is missing, no file, too large, or not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TaskFileError(file, f"cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise TaskFileError(file, f"holds over {_MAX_FILE_BYTES} bytes: put large files into the workspace directory")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TaskFileError(file, f"is not UTF-8 text (byte {error.start})") from None
