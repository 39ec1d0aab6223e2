"""The immutable file tree that an episode starts from.

A `Workspace` is data: it is checked once, when it is made, and no entry of it can reach outside of the directory it is
later written to. Its digest depends on paths, kinds, permission bits and contents only, so equal trees have equal
digests on every machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.errors import WorkspaceError

__all__ = ["WORKSPACE_MTIME_S", "Workspace", "WorkspaceFile", "check_path"]

WORKSPACE_MTIME_S = 1_700_000_000
"""The modification time of every entry, in seconds since 1970: the same at each reset and on each machine."""

_MAX_COMPONENT_BYTES = 255  # NAME_MAX of Linux
_MAX_PATH_BYTES = 2048  # half of PATH_MAX, which leaves room for the directory that the tree is written to
_MAX_TREE_BYTES = 64 << 20
_MAX_ENTRIES = 100_000

Kind = Literal["file", "directory", "symlink"]


@dataclass(frozen=True, slots=True)
class WorkspaceFile:
    """One entry of a workspace: a regular file, an empty directory, or a symbolic link (whose target is `target`)."""

    data: bytes = b""
    mode: int = 0o644
    kind: Kind = "file"
    target: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.mode <= 0o777:
            raise WorkspaceError(f"mode {self.mode:o} is not allowed: give permission bits from 0 to 777 (octal)")
        if self.kind != "file" and self.data:
            raise WorkspaceError(f"a {self.kind} has no content: leave data empty")
        if (self.kind == "symlink") != bool(self.target):
            raise WorkspaceError("a symlink needs a target, and nothing else has one")

    @classmethod
    def directory(cls, mode: int = 0o755) -> WorkspaceFile:
        """Return an empty directory."""
        return cls(mode=mode, kind="directory")

    @classmethod
    def symlink(cls, target: str) -> WorkspaceFile:
        """Return a symbolic link to `target`, which is relative and stays in the workspace."""
        return cls(mode=0o777, kind="symlink", target=target)


@dataclass(frozen=True, slots=True)
class Workspace:
    """An immutable file tree: relative POSIX paths to entries, in sorted order, and the digest of it all.

    Directories that hold something need no entry. Raises `WorkspaceError` if a path or a link leaves the tree, if an
    entry lies below something that is no directory, or if the tree holds over 64 MiB or 100,000 entries.
    """

    files: Mapping[str, WorkspaceFile] = field(default_factory=FrozenMapping[str, WorkspaceFile], repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        files = FrozenMapping({path: self.files[path] for path in sorted(self.files)})
        _check_tree(files)
        object.__setattr__(self, "files", files)
        object.__setattr__(self, "digest", _digest(files))

    @classmethod
    def from_files(cls, files: Mapping[str, WorkspaceFile | bytes | str]) -> Workspace:
        """Return the workspace with these entries; bytes and text (as UTF-8) become files of mode 644."""
        return cls({path: _as_file(entry) for path, entry in files.items()})

    @classmethod
    def from_directory(cls, directory: Path | str) -> Workspace:
        """Return the tree below `directory`; a file's mode becomes 755 if its owner may execute it, else 644.

        Only that one bit is kept because checkouts and installed packages keep no other.

        Raises:
            WorkspaceError: something there is neither file, directory nor link, leaves the tree, or is too much.
            OSError: something cannot be read.
        """
        root = Path(directory)
        files: dict[str, WorkspaceFile] = {}
        spare_bytes = _MAX_TREE_BYTES
        pending = [root]
        while pending:
            children = sorted(pending.pop().iterdir())
            for child in children:
                path = child.relative_to(root).as_posix()
                info = child.lstat()
                if stat.S_ISDIR(info.st_mode):
                    pending.append(child)
                    files[path] = WorkspaceFile.directory()
                    continue
                spare_bytes -= info.st_size
                if spare_bytes < 0 or len(files) > _MAX_ENTRIES:
                    raise WorkspaceError(f"{root} holds over {_MAX_TREE_BYTES} bytes or {_MAX_ENTRIES} entries")
                files[path] = _read_entry(child, info.st_mode)
        parents = {parent for path in files for parent in _parents(path)}
        return cls({path: entry for path, entry in files.items() if path not in parents})

    def merged(self, files: Mapping[str, WorkspaceFile]) -> Workspace:
        """Return a workspace with these entries added or replaced."""
        return Workspace({**self.files, **files})

    def write_to(self, directory: Path | str) -> None:
        """Write the tree into `directory`, which is made if missing and should be empty (blocking).

        Raises:
            OSError: something cannot be written, or is there already.
        """
        root = Path(directory)
        root.mkdir(parents=True, exist_ok=True)
        for path, entry in self.files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "directory":
                target.mkdir()
                target.chmod(entry.mode)
            elif entry.kind == "symlink":
                target.symlink_to(entry.target)
            else:
                with target.open("xb") as stream:
                    stream.write(entry.data)
                target.chmod(entry.mode)
        _set_times(root)


def check_path(path: str) -> str:
    """Return `path` if it is a plain relative POSIX path; raise `WorkspaceError` that says why it is not."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise WorkspaceError(f"path {path!r} is not valid Unicode") from None
    parts = path.split("/")
    problem = ""
    if not path:
        problem = "is empty"
    elif path.startswith("/"):
        problem = "is absolute"
    elif "\0" in path:
        problem = "holds a NUL character"
    elif ".." in parts:
        problem = "holds '..'"
    elif "" in parts or "." in parts:
        problem = "holds an empty or '.' component"
    elif len(encoded) > _MAX_PATH_BYTES or any(len(part.encode()) > _MAX_COMPONENT_BYTES for part in parts):
        problem = f"is too long (at most {_MAX_PATH_BYTES} bytes, {_MAX_COMPONENT_BYTES} per component)"
    if problem:
        raise WorkspaceError(f"path {path[:80]!r} {problem}: give a path relative to the workspace, like 'src/main.py'")
    return path


def _as_file(entry: WorkspaceFile | bytes | str) -> WorkspaceFile:
    if isinstance(entry, WorkspaceFile):
        return entry
    return WorkspaceFile(entry.encode() if isinstance(entry, str) else entry)


def _read_entry(path: Path, mode: int) -> WorkspaceFile:
    if stat.S_ISLNK(mode):
        return WorkspaceFile.symlink(os.readlink(path))
    if not stat.S_ISREG(mode):
        raise WorkspaceError(f"{path} is neither a file, a directory nor a symbolic link: remove it from the workspace")
    return WorkspaceFile(path.read_bytes(), mode=0o755 if mode & 0o100 else 0o644)


def _parents(path: str) -> list[str]:
    """Return the directories above `path`, the nearest first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _check_tree(files: Mapping[str, WorkspaceFile]) -> None:
    if len(files) > _MAX_ENTRIES or sum(len(entry.data) for entry in files.values()) > _MAX_TREE_BYTES:
        raise WorkspaceError(f"the workspace holds over {_MAX_TREE_BYTES} bytes or {_MAX_ENTRIES} entries")
    for path, entry in files.items():
        check_path(path)
        for parent in _parents(path):
            above = files.get(parent)
            if above is not None and above.kind != "directory":
                raise WorkspaceError(f"path {path!r} lies below {parent!r}, which is a {above.kind}")
        if entry.kind == "symlink":
            _check_link(path, entry.target)


def _check_link(path: str, target: str) -> None:
    """Refuse a link that could leave the tree.

    ``..`` is allowed at the start only: there it climbs real directories, which can be counted. After a name it would
    climb from wherever another link leads.
    """
    climbs = re.match(r"(?:\.\./)*(?:\.\.$)?", target)
    climb = climbs.group() if climbs else ""
    depth = path.count("/")
    rest = target[len(climb) :].split("/")
    if target.startswith("/") or "\0" in target or ".." in rest or climb.count("..") > depth:
        raise WorkspaceError(
            f"symlink {path!r} leads out of the workspace: {target!r} must be relative, '..' only first"
        )


def _digest(files: Mapping[str, WorkspaceFile]) -> str:
    total = hashlib.sha256(b"codecraft workspace 1\0")
    for path, entry in files.items():
        content = entry.target.encode(errors="surrogateescape") if entry.kind == "symlink" else entry.data
        for part in (path.encode(), entry.kind.encode(), b"%o" % entry.mode, content):
            total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()


def _set_times(root: Path) -> None:
    """Give every entry its fixed time, children before their directories."""
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            _set_time(Path(directory, name))
        for name in os.listdir(directory):
            if Path(directory, name).is_symlink():
                _set_time(Path(directory, name))
        _set_time(Path(directory))


def _set_time(path: Path) -> None:
    os.utime(path, (WORKSPACE_MTIME_S, WORKSPACE_MTIME_S), follow_symlinks=False)
