"""An immutable file tree that a workspace is restored from, named by its content."""

from __future__ import annotations

import errno
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
_MAX_ATTRIBUTE_BYTES: Final = 1 << 16
_BLOCK_BYTES: Final = 4096
_TAR_TYPES: Final = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (`data`), a directory, a symbolic link (`data` is its target), or one more name of a file.

    Of a "hardlink", `data` is the path of the file from the tree's root; mode, time and attributes are that file's.
    `mtime_s` in seconds since the epoch. `attributes` are users' extended attributes (``user.NAME``) of a file or
    directory, sorted by name.
    """

    kind: Literal["file", "dir", "link", "hardlink"]
    data: bytes = b""
    mode: int = 0o644
    mtime_s: int = EPOCH_S
    attributes: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file tree; `id` is the SHA-256 of its paths, types, modes, times and contents."""

    entries: Mapping[str, Entry]
    id: str = field(init=False)

    def __post_init__(self) -> None:
        for path, entry in self.entries.items():
            _check_entry(path, entry)
        ordered = dict(sorted(_with_parents(self.entries).items()))
        _check_hard_links(ordered)
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
        paths: list[Path] = []
        for folder, subfolders, files in os.walk(base, followlinks=False, onerror=_raise):
            paths += [Path(folder) / name for name in subfolders + files]
        entries: dict[str, Entry] = {}
        first_names: dict[tuple[int, int], str] = {}
        for path in sorted(paths):
            name, info = path.relative_to(base).as_posix(), path.lstat()
            first = name
            if stat.S_ISREG(info.st_mode) and info.st_nlink > 1:
                first = first_names.setdefault((info.st_dev, info.st_ino), name)
            entries[name] = _entry_of(path, info) if first == name else Entry("hardlink", os.fsencode(first))
        return cls(entries)

    def contents(self) -> dict[str, bytes]:
        """Return the bytes of every file, under each of its names."""
        files: dict[str, bytes] = {}
        for path, entry in self.entries.items():
            if entry.kind == "file":
                files[path] = entry.data
            elif entry.kind == "hardlink":
                files[path] = self.entries[os.fsdecode(entry.data)].data
        return files

    def tar(self, prefix: str = "") -> bytes:
        """Return the tree as a tar archive below *prefix*, everything owned by root."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            entries = {"": Entry("dir", mode=0o755), **self.entries}
            later = {path: entry for path, entry in entries.items() if entry.kind == "hardlink"}
            for path, entry in [
                *((path, entry) for path, entry in entries.items() if path not in later),
                *later.items(),
            ]:
                info = self._tar_info(path, entry, prefix)
                archive.addfile(info, io.BytesIO(entry.data) if entry.kind == "file" else None)
        return buffer.getvalue()

    def _tar_info(self, path: str, entry: Entry, prefix: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(str(PurePosixPath(prefix, path)))
        info.type = _TAR_TYPES[entry.kind]
        if entry.kind == "hardlink":  # some unpackers give mode and time of each name to the file
            info.linkname = str(PurePosixPath(prefix, os.fsdecode(entry.data)))
            entry = self.entries[os.fsdecode(entry.data)]
        elif entry.kind == "link":
            info.linkname = os.fsdecode(entry.data)
        else:
            info.size = len(entry.data)
        info.mode, info.mtime = entry.mode, entry.mtime_s
        if info.type != tarfile.LNKTYPE:
            info.pax_headers = {
                f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape") for name, value in entry.attributes
            }
        return info

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
    entries = list(snapshot.entries.items())
    for path, entry in entries:
        place = partial / path
        if entry.kind == "dir":
            place.mkdir(mode=0o700)
        elif entry.kind == "link":
            os.symlink(entry.data, os.fsencode(place))
        elif entry.kind == "file":
            _write_file(place, entry.data)
        for name, value in entry.attributes:
            os.setxattr(place, name, value)
    for path, entry in entries:
        if entry.kind == "hardlink":
            os.link(partial / os.fsdecode(entry.data), partial / path)
    for path, entry in reversed(entries):  # children before parents, whose times they would change
        if entry.kind in ("file", "dir"):
            (partial / path).chmod(entry.mode)
        if entry.kind != "hardlink":
            os.utime(partial / path, (entry.mtime_s, entry.mtime_s), follow_symlinks=False)
    os.utime(partial, (EPOCH_S, EPOCH_S))
    with suppress(OSError):
        partial.rename(target)
    remove_tree(partial)


def _write_file(place: Path, data: bytes) -> None:
    """Blocks of zeros become holes, which sandboxes keep."""
    nothing = bytes(_BLOCK_BYTES)
    with place.open("wb") as file:
        if len(data) < 16 * _BLOCK_BYTES:
            file.write(data)
            return
        for at in range(0, len(data), _BLOCK_BYTES):
            block = data[at : at + _BLOCK_BYTES]
            if block == nothing:
                file.seek(at + _BLOCK_BYTES)
            else:
                file.write(block)
        file.truncate(len(data))


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, as far as that can be done; a snapshot may hold closed directories."""
    for folder, _, _ in os.walk(path):  # top down: a directory is opened before it is listed
        with suppress(OSError):  # somebody else may be removing it
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _entry_of(path: Path, info: os.stat_result) -> Entry:
    mode, mtime_s = stat.S_IMODE(info.st_mode) & 0o777, int(info.st_mtime)  # set-id bits are not for sandboxes
    if stat.S_ISLNK(info.st_mode):
        return Entry("link", os.fsencode(path.readlink()), 0o777, mtime_s)
    if stat.S_ISDIR(info.st_mode):
        return Entry("dir", b"", mode, mtime_s, _attributes_of(path))
    if stat.S_ISREG(info.st_mode):
        return Entry("file", path.read_bytes(), mode, mtime_s, _attributes_of(path))
    raise SnapshotError(f"{path} is neither file nor directory nor symbolic link; a snapshot cannot hold it")


def _attributes_of(path: Path) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path)
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return ()
        raise
    return tuple((name, os.getxattr(path, name)) for name in sorted(names) if name.startswith("user."))


def _raise(error: OSError) -> None:
    raise error


def _check_entry(path: str, entry: Entry) -> None:
    """See that the entry can be made on any Linux file system; what cannot would only fail in the sandbox."""
    problem = ""
    if entry.kind not in _TAR_TYPES:
        problem = f"is of kind {entry.kind!r}, which is neither file nor dir nor link nor hardlink"
    elif not 0 <= entry.mode <= 0o777:
        problem = f"has mode {entry.mode:#o}, which is not within 0 and 0o777"
    elif not 0 <= entry.mtime_s < 1 << 33:
        problem = f"has modification time {entry.mtime_s}, which is not within 0 and {1 << 33} seconds"
    elif entry.kind == "dir" and entry.data:
        problem = "is a directory with data"
    elif entry.kind == "link" and (not 0 < len(entry.data) < _MAX_PATH_BYTES or b"\0" in entry.data):
        problem = f"is a link whose target is empty, holds a NUL or has {_MAX_PATH_BYTES} bytes or more"
    elif entry.attributes and entry.kind not in ("file", "dir"):
        problem = "has attributes, which only files and directories can have"
    elif list(entry.attributes) != sorted(dict(entry.attributes).items()):
        problem = "has attributes that are not sorted by name, or one of them twice"
    elif bad := [name for name, value in entry.attributes if not _is_attribute(name, value)]:
        problem = f"has an attribute {bad[0]!r}, which is no user.NAME of at most 255 bytes, or over 64 KiB"
    if problem:
        raise SnapshotError(f"snapshot entry {path!r} {problem}")


def _is_attribute(name: str, value: bytes) -> bool:
    size = len(os.fsencode(name))
    return name.startswith("user.") and 5 < size < 256 and "\0" not in name and len(value) <= _MAX_ATTRIBUTE_BYTES


def _check_hard_links(entries: Mapping[str, Entry]) -> None:
    for path, entry in entries.items():
        if entry.kind == "hardlink":
            file = entries.get(os.fsdecode(entry.data))
            if file is None or file.kind != "file":
                raise SnapshotError(
                    f"snapshot entry {path!r} is another name of {entry.data!r}, which is no file of it"
                )


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
        for attribute, value in entry.attributes:
            key = os.fsencode(attribute)
            digest.update(f"attribute {len(key)} {len(value)}\n".encode() + key + value)
    return digest.hexdigest()
