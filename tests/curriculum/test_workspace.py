"""Workspaces are immutable trees that cannot reach out of their directory."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecraft_curriculum import (
    WORKSPACE_MTIME_S,
    Commit,
    CurriculumError,
    GitRepository,
    Workspace,
    WorkspaceError,
    WorkspaceFile,
)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../b",
        "a/..",
        "./a",
        "a//b",
        "a/",
        "a\0b",
        "\udc80",
        "n" * 256,
        "d/" * 999,
    ],
)
def test_bad_path(path: str) -> None:
    """A path that is not plainly inside of the workspace is refused, on one line."""
    with pytest.raises(WorkspaceError, match=r"^[^\n]+$") as caught:
        Workspace.from_files({path: b""})
    assert isinstance(caught.value, CurriculumError)


@given(st.text(alphabet="ab./\0é", max_size=12))
def test_any_path(path: str) -> None:
    """Whatever path is accepted stays inside when the file system resolves it."""
    try:
        Workspace.from_files({path: b""})
    except WorkspaceError:
        return
    resolved = os.path.normpath(f"/w/{path}")
    assert f"/w/{path}" == resolved
    assert resolved.startswith("/w/")


@pytest.mark.parametrize(
    ("path", "target"),
    [("a", ".."), ("a", "/etc"), ("d/a", "../../x"), ("a", "b/../.."), ("a", "b/../c"), ("a", "x\0")],
)
def test_bad_link(path: str, target: str) -> None:
    """A link that could leave the workspace is refused."""
    with pytest.raises(WorkspaceError, match="leads out"):
        Workspace.from_files({path: WorkspaceFile.symlink(target)})


@pytest.mark.parametrize(("path", "target"), [("a", "b"), ("a", "."), ("d/a", ".."), ("d/a", "../b")])
def test_good_link(path: str, target: str) -> None:
    """A link that stays inside is kept as it is."""
    assert target == Workspace.from_files({path: WorkspaceFile.symlink(target)}).files[path].target


def test_entry_below_a_file() -> None:
    """A path below a file or a link is refused; below a directory it is not."""
    with pytest.raises(WorkspaceError, match=r"'a/b' lies below 'a', which is a file"):
        Workspace.from_files({"a": b"", "a/b": b""})
    with pytest.raises(WorkspaceError, match="symlink"):
        Workspace.from_files({"a": WorkspaceFile.symlink("b"), "a/b": b""})
    assert 2 == len(Workspace.from_files({"a": WorkspaceFile.directory(), "a/b": b""}).files)


def test_bad_entries() -> None:
    """Set-uid bits, a link without target and a directory with content are refused."""
    with pytest.raises(WorkspaceError, match="mode 4755"):
        WorkspaceFile(b"", mode=0o4755)
    with pytest.raises(WorkspaceError, match="symlink needs a target"):
        WorkspaceFile(kind="symlink")
    with pytest.raises(WorkspaceError, match="no content"):
        WorkspaceFile(b"x", kind="directory")


def test_digest() -> None:
    """The digest tells apart trees that differ in anything, and only those."""
    base = {"a": WorkspaceFile(b"1"), "b": WorkspaceFile(b"2")}
    same = Workspace(dict(reversed(base.items())))
    assert Workspace(base).digest == same.digest
    variants: list[dict[str, WorkspaceFile]] = [
        {**base, "a": WorkspaceFile(b"2")},
        {**base, "a": WorkspaceFile(b"1", mode=0o755)},
        {**base, "a": WorkspaceFile.symlink("b")},
        {**base, "a": WorkspaceFile.directory()},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"]},
    ]
    assert 7 == len({Workspace(files).digest for files in [base, *variants]})


def test_immutable_and_picklable() -> None:
    """A workspace cannot be changed, not even through the mapping it was made from, and survives pickling."""
    source = {"a": WorkspaceFile(b"1")}
    workspace = Workspace(source)
    source["b"] = WorkspaceFile(b"2")
    assert ["a"] == list(workspace.files)
    with pytest.raises(TypeError):
        workspace.files["c"] = source["b"]  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    copy: Workspace = pickle.loads(pickle.dumps(workspace))
    assert workspace == copy
    assert hash(workspace) == hash(copy)


def test_round_trip(tmp_path: Path) -> None:
    """What is written to a directory is read back, links and empty directories too; the times are fixed."""
    files = {
        "run.sh": WorkspaceFile(b"#!/bin/sh\n", mode=0o755),
        "d/é.bin": WorkspaceFile(bytes(range(256))),
        "d/up": WorkspaceFile.symlink("../run.sh"),
        "here": WorkspaceFile.symlink("d"),
        "empty": WorkspaceFile.directory(),
    }
    workspace = Workspace(files)
    workspace.write_to(tmp_path / "w")
    assert workspace == Workspace.from_directory(tmp_path / "w")
    assert {WORKSPACE_MTIME_S} == {int(path.lstat().st_mtime) for path in (tmp_path / "w").rglob("*")}


def test_directory_with_a_pipe(tmp_path: Path) -> None:
    """A directory that holds something special cannot be a workspace."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WorkspaceError, match="neither a file"):
        Workspace.from_directory(tmp_path)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_reads_what_we_build(tmp_path: Path) -> None:
    """git finds no fault in a built repository, checks out its files, and agrees on the commit."""
    big = bytes(range(256)) * 600  # over one stored block of 65,535 bytes
    link = WorkspaceFile.symlink("a.txt")
    first = {"a.txt": WorkspaceFile(b"1\n"), "a/run": WorkspaceFile(big, mode=0o755), "link": link}
    repository = GitRepository(
        (Commit("First", first), Commit("Second\n\nWith a body.", {"b": WorkspaceFile(b"2")}, remove=("link",)))
    )
    Workspace(repository.bare("r.git")).write_to(tmp_path)

    def git(*words: str) -> str:
        command = ["git", "-c", "safe.directory=*", "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    git("--git-dir=r.git", "fsck", "--full", "--strict")
    git("clone", "-q", "r.git", "copy")
    assert repository.head == git("-C", "copy", "rev-parse", "HEAD").strip()
    assert ["Second", "First"] == git("-C", "copy", "log", "--format=%s").split()
    assert big == (tmp_path / "copy/a/run").read_bytes()
    assert not (tmp_path / "copy/link").exists()


def test_bad_repositories() -> None:
    """A repository without commits, with a .git path or a removed stranger is refused."""
    with pytest.raises(ValueError, match="at least one commit"):
        GitRepository(())
    with pytest.raises(ValueError, match=r"component '\.git'"):
        Commit("x", {".git/config": WorkspaceFile(b"")})
    with pytest.raises(ValueError, match="not there"):
        GitRepository((Commit("x", {}, remove=("a",)),))
