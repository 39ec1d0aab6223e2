"""An immutable file tree that a workspace is restored from, named by its content."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from codecraft_pool.errors import SnapshotError

EPOCH_S: Final = 1_700_000_000
"""Modification time of entries that name none: fixed, so that equal trees have equal names."""
_MAX_PATH_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (`data`), a directory, or a symbolic link (`data` is its target). `mtime_s` in seconds since the epoch."""

    kind: Literal["file", "dir", "link"]
    data: bytes = b""
    mode: int = 0o644
    mtime_s: int = EPOCH_S


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file tree; `id` is the SHA-256 of its paths, types, modes, times and contents."""

    entries: Mapping[str, Entry]
    id: str = field(init=False)

    def __post_init__(self) -> None:
        for path, entry in self.entries.items():
            _check_entry(path, entry)
        ordered = dict(sorted(_with_parents(self.entries).items()))
        object.__setattr__(self, "entries", ordered)
        object.__setattr__(self, "id", _digest(ordered))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes | str | Entry]) -> Snapshot:
        """Return a snapshot of files given as content (mode 644) or as `Entry`.

        Raises:
            SnapshotError: A path is absolute, empty, leaves the tree or runs through a file.
        """
        entries: dict[str, Entry] = {}
        for path, content in files.items():
            if isinstance(content, Entry):
                entries[path] = content
            else:
                entries[path] = Entry("file", content.encode() if isinstance(content, str) else content)
        return cls(entries)

    @classmethod
    def from_directory(cls, root: Path | str) -> Snapshot:
        """Return a snapshot of a directory of this machine, with modes and times. Reads every file: blocking.

        Raises:
            SnapshotError: It is no directory, or holds something that is no file, directory or link.
            OSError: Some of it cannot be read.
        """
        base = Path(root)
        if not base.is_dir():
            raise SnapshotError(f"{base} is no directory; a snapshot is made from one")
        entries: dict[str, Entry] = {}
        for folder, subfolders, files in os.walk(base, followlinks=False, onerror=_raise):
            for name in subfolders + files:
                path = Path(folder) / name
                entries[path.relative_to(base).as_posix()] = _entry_of(path)
        return cls(entries)

    def tar(self, prefix: str = "") -> bytes:
        """Return the tree as a tar archive below *prefix*, everything owned by root."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, entry in {"": Entry("dir", mode=0o755), **self.entries}.items():
                info = tarfile.TarInfo(str(PurePosixPath(prefix, path)))
                info.mode, info.mtime = entry.mode, entry.mtime_s
                info.type = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[entry.kind]
                if entry.kind == "link":
                    info.linkname = os.fsdecode(entry.data)
                if entry.kind == "file":
                    info.size = len(entry.data)
                archive.addfile(info, io.BytesIO(entry.data) if entry.kind == "file" else None)
        return buffer.getvalue()

    def __repr__(self) -> str:
        size = sum(len(entry.data) for entry in self.entries.values())
        return f"<Snapshot {self.id[:12]}: {len(self.entries)} entries, {size} bytes>"


def unpack(snapshot: Snapshot, folder: Path) -> None:
    """Write *snapshot* under its id; atomic, so that a second writer does no harm."""
    target = folder / snapshot.id
    if target.exists():
        return
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder))
    partial.chmod(0o755)
    for path, entry in snapshot.entries.items():
        place = partial / path
        if entry.kind == "dir":
            place.mkdir(mode=0o700)
        elif entry.kind == "link":
            os.symlink(entry.data, os.fsencode(place))
        else:
            place.write_bytes(entry.data)
    entries = list(snapshot.entries.items())
    for path, entry in reversed(entries):  # children before parents, whose times they would change
        if entry.kind != "link":
            (partial / path).chmod(entry.mode)
        os.utime(partial / path, (entry.mtime_s, entry.mtime_s), follow_symlinks=False)
    os.utime(partial, (EPOCH_S, EPOCH_S))
    with suppress(OSError):
        partial.rename(target)
    remove_tree(partial)


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, as far as that can be done; a snapshot may hold closed directories."""
    for folder, _, _ in os.walk(path):  # top down: a directory is opened before it is listed
        with suppress(OSError):  # somebody else may be removing it
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _entry_of(path: Path) -> Entry:
    info = path.lstat()
    mode, mtime_s = stat.S_IMODE(info.st_mode) & 0o777, int(info.st_mtime)  # set-id bits are not for sandboxes
    if stat.S_ISLNK(info.st_mode):
        return Entry("link", os.fsencode(path.readlink()), 0o777, mtime_s)
    if stat.S_ISDIR(info.st_mode):
        return Entry("dir", b"", mode, mtime_s)
    if stat.S_ISREG(info.st_mode):
        return Entry("file", path.read_bytes(), mode, mtime_s)
    raise SnapshotError(f"{path} is neither file nor directory nor symbolic link; a snapshot cannot hold it")


def _raise(error: OSError) -> None:
    raise error


def _check_entry(path: str, entry: Entry) -> None:
    """See that the entry can be made on any Linux file system; what cannot would only fail in the sandbox."""
    problem = ""
    if entry.kind not in ("file", "dir", "link"):
        problem = f"is of kind {entry.kind!r}, which is neither file nor dir nor link"
    elif not 0 <= entry.mode <= 0o777:
        problem = f"has mode {entry.mode:#o}, which is not within 0 and 0o777"
    elif not 0 <= entry.mtime_s < 1 << 33:
        problem = f"has modification time {entry.mtime_s}, which is not within 0 and {1 << 33} seconds"
    elif entry.kind == "dir" and entry.data:
        problem = "is a directory with data"
    elif entry.kind == "link" and (not 0 < len(entry.data) < _MAX_PATH_BYTES or b"\0" in entry.data):
        problem = f"is a link whose target is empty, holds a NUL or has {_MAX_PATH_BYTES} bytes or more"
    if problem:
        raise SnapshotError(f"snapshot entry {path!r} {problem}")


def _is_plain(path: str) -> bool:
    pure = PurePosixPath(path)
    if str(pure) != path or pure.is_absolute() or ".." in pure.parts or path == "." or "\0" in path:
        return False
    try:
        names = [os.fsencode(name) for name in pure.parts]
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return sum(map(len, names)) + len(names) < _MAX_PATH_BYTES - 256 and all(len(name) < 256 for name in names)


def _with_parents(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Check every path, and add the directories that are only implied."""
    complete = dict(entries)
    for path in entries:
        if not _is_plain(path):
            raise SnapshotError(f"snapshot path {path[:300]!r} is not a plain path relative to the tree's root")
        for parent in list(PurePosixPath(path).parents)[:-1]:
            if complete.setdefault(str(parent), Entry("dir", mode=0o755)).kind != "dir":
                raise SnapshotError(f"snapshot path {path!r} runs through {str(parent)!r}, which is no directory")
    return complete


def _digest(entries: Mapping[str, Entry]) -> str:
    digest = hashlib.sha256()
    for path, entry in entries.items():
        name = os.fsencode(path)
        head = f"{entry.kind} {entry.mode:o} {entry.mtime_s} {len(name)} {len(entry.data)}\n"
        digest.update(head.encode() + name + entry.data)
    return digest.hexdigest()
