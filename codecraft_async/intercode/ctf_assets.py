"""The files of capture-the-flag tasks as archives: packed here, unpacked in a sandbox, or made into an image."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from codecraft_async.intercode.filesystems import FileTree
from codecraft_curriculum import WORKSPACE_MTIME_S, TaskFileError
from codecraft_curriculum.ctf import Assets
from codecraft_curriculum.workspace import WorkspaceFile
from codecraft_pool import Sandbox
from codecraft_pool.recipes import builtin_recipes

__all__ = ["HIDDEN", "ROOT", "assets_image", "pack_assets", "pack_directory", "unpack"]

ROOT: Final = "/ctf"
"""Where the directories of the tasks are, in a sandbox."""
HIDDEN: Final = "/srv/ctf"
"""Where files are that only root can read."""

_SOLUTIONS: Final = "solution"
_MAX_BYTES: Final = 128 << 20
_CHUNK_BYTES: Final = 8 << 20  # well below what one frame to the guest may hold
_STAGE: Final = "/.assets.tar"
_UNPACK_LIMIT_S: Final = 60.0
_TYPES: Final = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}

# In a sandbox of root's these are root's.
_AGENTS: Final = ("home/agent", "workspace")


def pack_directory(directory: Path, task_id: str) -> bytes:
    """Return the archive of a directory of this machine (blocking): its files, directories and links, with their modes
    and times, but for directories named ``solution``.

    Raises:
        TaskFileError: It cannot be read, is over 128 MiB, or holds something else; names the path.
    """
    archive, total = _Archive.of_task(task_id, stat.S_IMODE(directory.stat().st_mode)), 0
    for folder, names, files in os.walk(directory, onerror=_raise):
        names[:] = sorted(name for name in names if name != _SOLUTIONS)
        for name in [*names, *sorted(files)]:
            path = Path(folder, name)
            try:
                total += archive.copy(path, f"ctf/{task_id}/{path.relative_to(directory)}")
            except OSError as error:
                raise TaskFileError(path, f"cannot be read: {error.strerror}") from None
            if total > _MAX_BYTES:
                raise TaskFileError(directory, f"holds over {_MAX_BYTES >> 20} MiB, which is too much for each reset")
    return archive.end()


def pack_assets(assets: Assets, task_id: str) -> bytes:
    """Return the archive of assets that were made."""
    archive = _Archive.of_task(task_id, 0o755)
    archive.add_all(assets.files, f"ctf/{task_id}", owner="agent")
    if assets.hidden:
        archive.directory(HIDDEN[1:], 0o700, owner="root")
        archive.add_all(assets.hidden, HIDDEN[1:], owner="root")
    return archive.end()


def assets_image(assets_dir: Path | str, *, base: str = "codecraft/ctf") -> FileTree:
    """Return the recipe of an image that holds the directories in *assets_dir* (blocking), each as ``/ctf/{name}``.

    Environments that are given it as `image_name`, and no `assets_dir`, find the assets of their tasks in it.

    Raises:
        TaskFileError: One cannot be packed; see `pack_directory`.
    """
    root = Path(assets_dir)
    if not root.is_dir():
        raise TaskFileError(root, "is no directory: it holds one directory for each task")
    archive = _Archive()
    archive.directory("ctf", 0o755, owner="root")
    for path in sorted(root.iterdir()):
        if path.is_dir():
            archive.join(pack_directory(path, path.name))
    recipe = builtin_recipes().get(base)
    return FileTree(archive.end(), base, "" if recipe is None else recipe.digest())


async def unpack(sandbox: Sandbox, archive: bytes | None, task_id: str = "", *, owner: str) -> str:
    """Have the task's files in a sandbox, and the agent's directories be *owner*'s; return what was wrong, or "".

    Without an archive they are in the image already; without a task there are none.

    Raises:
        SandboxLost: The sandbox died.
    """
    # Owners are told by name, for the agent is another number in each sandbox.
    tar, data = ["tar", "-xp", "--no-same-owner" if owner == "root" else "--same-owner", "-C", "/", "-f"], b""
    if archive is None:
        argv = ["chown", "-hR", f"{owner}:", *(f"/{path}" for path in _AGENTS)]
        argv += [f"{ROOT}/{task_id}"] if task_id else []
    elif len(archive) <= _CHUNK_BYTES:
        argv, data = [*tar, "-"], archive
    else:
        for start in range(0, len(archive), _CHUNK_BYTES):
            chunk = archive[start : start + _CHUNK_BYTES]
            wrong = await _do(sandbox, ["/bin/sh", "-c", f"cat >> {_STAGE}"], chunk)
            if wrong:
                return wrong
        argv = ["/bin/sh", "-c", f'"$@" {_STAGE} && rm {_STAGE}', "sh", *tar]
    return await _do(sandbox, argv, data)


async def _do(sandbox: Sandbox, argv: list[str], data: bytes) -> str:
    result = await sandbox.run(argv, cwd="/", stdin=data, limit_s=_UNPACK_LIMIT_S, merge_stderr=True)
    if result.exit_code == 0:
        return ""
    said = result.stdout.decode(errors="replace").strip()
    return said or f"it took longer than {_UNPACK_LIMIT_S:g} s"


class _Archive:
    """A tar archive in memory, of entries that belong to the agent unless they are root's."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    @classmethod
    def of_task(cls, task_id: str, mode: int) -> _Archive:
        """Return one with the directory of a task, and those of the agent."""
        archive = cls()
        for name in _AGENTS:
            archive.directory(name, 0o755)
        archive.directory(f"ctf/{task_id}", mode)
        return archive

    def directory(self, name: str, mode: int, *, owner: str = "agent") -> None:
        self._add(name, WorkspaceFile.directory(mode & 0o777), WORKSPACE_MTIME_S, owner)

    def add_all(self, files: Mapping[str, WorkspaceFile], folder: str, *, owner: str) -> None:
        made: set[str] = set()
        for path, entry in files.items():
            for parent in [*Path(path).parents][-2::-1]:  # without one of its own it would be root's
                if str(parent) not in made:
                    made.add(str(parent))
                    self.directory(f"{folder}/{parent}", 0o755, owner=owner)
            self._add(f"{folder}/{path}", entry, WORKSPACE_MTIME_S, owner)

    def copy(self, path: Path, name: str) -> int:
        """Add what is at *path*; return how many bytes it has."""
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode) & 0o777
        if stat.S_ISLNK(status.st_mode):
            self._add(name, WorkspaceFile.symlink(os.readlink(path)), int(status.st_mtime), "agent")
            return 0
        if stat.S_ISDIR(status.st_mode):
            self._add(name, WorkspaceFile.directory(mode), int(status.st_mtime), "agent")
            return 0
        if not stat.S_ISREG(status.st_mode):
            raise TaskFileError(path, "is no file, directory or link: it cannot be an asset")
        if status.st_size > _MAX_BYTES:
            raise TaskFileError(path, f"has over {_MAX_BYTES >> 20} MiB, which is too much for each reset")
        data = path.read_bytes()
        self._add(name, WorkspaceFile(data, mode), int(status.st_mtime), "agent")
        return len(data)

    def join(self, archive: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(archive)) as other:
            for member in other:
                if member.name in _AGENTS:
                    continue
                self._tar.addfile(member, other.extractfile(member) if member.isreg() else None)

    def end(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()

    def _add(self, name: str, entry: WorkspaceFile, mtime_s: int, owner: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime = _TYPES[entry.kind], entry.mode, mtime_s
        info.uid = info.gid = 0 if owner == "root" else 1000
        info.uname = info.gname = owner
        info.linkname, info.size = entry.target, len(entry.data)
        self._tar.addfile(info, io.BytesIO(entry.data))


def _raise(error: OSError) -> None:
    raise TaskFileError(Path(str(error.filename)), f"cannot be read: {error.strerror}")
