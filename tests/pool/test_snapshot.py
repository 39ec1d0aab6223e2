"""Snapshots: what may be in them, what names them, and the ways into and out of one."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecraft_pool import Entry, LocalLauncher, Snapshot, SnapshotError
from codecraft_pool.snapshot import EPOCH_S, unpack
from tests.pool.launchers import IS_ROOT, SPEC

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "/", "/a", "a/", "a//b", "./a", "a/.", "a/./b", "..", "../a", "a/..", "a/../b", "a\0b", "\ud800"),
        *("n" * 256, "/".join(["d" * 100] * 50)),
    ],
)
def test_bad_paths(path: str) -> None:
    """A path that is not plain and relative, or that no file system takes, is refused by name."""
    with pytest.raises(SnapshotError, match="is not a plain path"):
        Snapshot.from_files({path: "x"})


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (Entry("link", b""), "target is empty"),
        (Entry("link", b"a\0b"), "holds a NUL"),
        (Entry("link", b"x" * 4096), "4096 bytes or more"),
        (Entry("file", mode=0o4755), "has mode 0o4755"),
        (Entry("file", mode=-1), "has mode -0o1"),
        (Entry("file", mtime_s=-1), "modification time -1"),
        (Entry("file", mtime_s=1 << 40), "modification time"),
        (Entry("dir", b"x"), "directory with data"),
    ],
)
def test_bad_entries(entry: Entry, why: str) -> None:
    """What could not be made in a sandbox is refused when the snapshot is."""
    with pytest.raises(SnapshotError, match=why):
        Snapshot({"a": entry})


def test_unknown_kind() -> None:
    """There are files, directories and links."""
    kind: Any = "socket"
    with pytest.raises(SnapshotError, match="'socket'"):
        Snapshot({"a": Entry(kind)})


@pytest.mark.parametrize("first", [Entry("file"), Entry("link", b"b")])
def test_path_through_a_file(first: Entry) -> None:
    """Only directories have something in them, whatever the order."""
    for files in ({"a": first, "a/b": Entry("file")}, {"a/b": Entry("file"), "a": first}):
        with pytest.raises(SnapshotError, match="runs through 'a'"):
            Snapshot.from_files(files)


def test_implied_directories() -> None:
    """Directories that are only implied are there, and make the same snapshot as if they were named."""
    implied = Snapshot.from_files({"a/b/c": "x"})
    named = Snapshot.from_files({"a/b/c": "x", "a/b": Entry("dir", mode=0o755), "a": Entry("dir", mode=0o755)})
    assert ["a", "a/b", "a/b/c"] == list(implied.entries)
    assert (implied, implied.id) == (named, named.id)


def test_every_difference_counts() -> None:
    """Content, mode, time, kind and name each change the id; the order of naming does not."""
    variants = [
        {},
        {"a": Entry("file", b"x")},
        {"a": Entry("file", b"y")},
        {"a": Entry("file", b"x", 0o600)},
        {"a": Entry("file", b"x", 0o644, 1)},
        {"a": Entry("link", b"x")},
        {"ax": Entry("file")},
        {"a": Entry("dir")},
        {"b": Entry("file", b"x")},
        {"a": Entry("file", b"x"), "b": Entry("file", b"")},
    ]
    assert len(variants) == len({Snapshot(entries).id for entries in variants})
    two = {"a": Entry("file", b"x"), "b": Entry("file", b"y")}
    assert Snapshot(two).id == Snapshot(dict(reversed(two.items()))).id


def test_equal_snapshots_are_one_key() -> None:
    """The id alone tells snapshots apart, and the mapping given is copied."""
    files: dict[str, Entry] = {"a": Entry("file", b"x")}
    snapshot = Snapshot(files)
    files["b"] = Entry("file")
    assert ["a"] == list(snapshot.entries)
    assert "2 entries, 3 bytes" in repr(Snapshot.from_files({"a": "x", "b": b"yz"}))


@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map("/".join),
        st.builds(Entry, st.just("file"), st.binary(max_size=64), st.integers(0, 0o777), st.integers(0, 1 << 33)),
        max_size=6,
    )
)
def test_tar_round_trip(files: dict[str, Entry]) -> None:
    """The archive holds every entry with its mode, time and content, below the prefix, parents first."""
    try:
        snapshot = Snapshot.from_files(files)
    except SnapshotError:
        return
    with tarfile.open(fileobj=io.BytesIO(snapshot.tar("prefix"))) as archive:
        members = archive.getmembers()
        assert ["prefix", *(f"prefix/{path}" for path in snapshot.entries)] == [member.name for member in members]
        for member, entry in zip(members[1:], snapshot.entries.values(), strict=True):
            assert (entry.mode, entry.mtime_s, 0, 0) == (member.mode, member.mtime, member.uid, member.gid)
            file = archive.extractfile(member)
            assert entry.data == (file.read() if file else b"")


def test_from_directory(tmp_path: Path) -> None:
    """A directory comes in with modes, times and links as they are; the links are not followed."""
    (tmp_path / "d" / "empty").mkdir(parents=True)
    (tmp_path / "d" / "run").write_bytes(b"\0\xff")
    (tmp_path / "d" / "run").chmod(0o4751)
    os.symlink("/etc", tmp_path / "out")
    os.symlink("nowhere", tmp_path / "d" / "dangling")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_text("name")
    for path in [*tmp_path.rglob("*"), tmp_path]:
        os.utime(path, (1_600_000_000.9, 1_600_000_000.9), follow_symlinks=False)
    expected = {
        "d": Entry("dir", b"", 0o755, 1_600_000_000),
        "d/dangling": Entry("link", b"nowhere", 0o777, 1_600_000_000),
        "d/empty": Entry("dir", b"", 0o755, 1_600_000_000),
        "d/run": Entry("file", b"\0\xff", 0o751, 1_600_000_000),
        "out": Entry("link", b"/etc", 0o777, 1_600_000_000),
        "\udcff": Entry("file", b"name", 0o644, 1_600_000_000),
    }
    assert expected == Snapshot.from_directory(tmp_path).entries
    with tarfile.open(fileobj=io.BytesIO(Snapshot.from_directory(tmp_path).tar())) as archive:
        assert "\udcff" in archive.getnames()


def test_bad_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no directory, holds more than files, or cannot be read whole is refused, never taken in part."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(SnapshotError, match="is no directory"):
        Snapshot.from_directory(tmp_path / "file")
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")
    with pytest.raises(SnapshotError, match="pipe is neither file nor directory"):
        Snapshot.from_directory(tmp_path)
    (tmp_path / "d" / "pipe").unlink()
    scandir = os.scandir

    def closed(path: str) -> Any:
        if str(path).endswith("/d"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError):
        Snapshot.from_directory(tmp_path)


@pytest.mark.anyio
async def test_closed_entries_in_a_sandbox() -> None:
    """Files and directories that nobody may read are restored, and removed again with the launcher."""
    if not IS_ROOT:
        pytest.skip("the guest of an unprivileged user can read no more than that user")
    snapshot = Snapshot.from_files(
        {"closed": Entry("dir", mode=0), "closed/file": Entry("file", b"x", 0), "read": Entry("dir", mode=0o555)}
    )
    async with LocalLauncher() as launcher:
        sandbox = await launcher.start(SPEC)
        await sandbox.restore(snapshot)
        assert b"x" == await sandbox.read_file("closed/file")
        listed = await sandbox.run("stat -c '%a %Y %n' closed read")
        assert f"0 {EPOCH_S} closed\n555 {EPOCH_S} read\n".encode() == listed.stdout


def test_several_names_holes_and_attributes(tmp_path: Path) -> None:
    """A directory's files with several names, holes and users' attributes are those of the unpacked snapshot."""
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    (source / "file").write_bytes(b"x" + bytes(1 << 20) + b"y")
    os.link(source / "file", source / "b" / "too")
    os.setxattr(source / "file", "user.note", b"\xff\0")
    snapshot = Snapshot.from_directory(source)
    assert ("file", "hardlink") == (snapshot.entries["b/too"].kind, snapshot.entries["file"].kind)
    assert (source / "file").read_bytes() == snapshot.contents()["file"]
    unpack(snapshot, tmp_path)
    made = tmp_path / snapshot.id
    assert (made / "file").samefile(made / "b" / "too")
    assert b"\xff\0" == os.getxattr(made / "file", "user.note")
    assert (made / "file").stat().st_blocks * 512 < 100_000
    assert snapshot.id == Snapshot.from_directory(made).id
    with tarfile.open(fileobj=io.BytesIO(snapshot.tar("p"))) as archive:
        assert "p/b/too" == archive.getmember("p/file").linkname
        assert "\udcff\0" == archive.getmember("p/b/too").pax_headers["SCHILY.xattr.user.note"]


@pytest.mark.parametrize(
    "entries",
    [
        {"a": Entry("hardlink", b"nowhere")},
        {"a": Entry("dir"), "b": Entry("hardlink", b"a")},
        {"a": Entry("hardlink", b"b"), "b": Entry("hardlink", b"a")},
        {"a": Entry("link", b"x", attributes=(("user.a", b""),))},
        {"a": Entry("file", attributes=(("security.capability", b""),))},
        {"a": Entry("file", attributes=(("user.", b""),))},
        {"a": Entry("file", attributes=(("user.b", b""), ("user.a", b"")))},
        {"a": Entry("file", attributes=(("user.a", bytes(1 << 17)),))},
    ],
)
def test_names_and_attributes_that_cannot_be(entries: dict[str, Entry]) -> None:
    """Another name is of a file of the tree, and attributes are users' own."""
    with pytest.raises(SnapshotError, match="snapshot entry"):
        Snapshot(entries)
