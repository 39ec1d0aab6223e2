"""Images with the files that a set of bash tasks runs on, made from a list of them: a recipe, tagged by content."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from codecraft_async.intercode.git_view import IGNORED
from codecraft_curriculum import TaskFileError
from codecraft_curriculum.fields import Table, as_table, read_bounded
from codecraft_pool import DockerDaemon, DockerfileRecipe, ImageProgress, Images
from codecraft_pool.recipes import builtin_recipes

__all__ = ["FileTree"]

_FIELDS: Final = ("path", "type", "mode", "mtime", "uid", "gid", "content_b64", "target", "mtime_set")
_MADE_S: Final = 1_685_000_000
# What an installation of Ubuntu's packages leaves in /var/log.
_LOGS: Final = (
    *("alternatives.log", "apt/eipp.log.xz", "apt/history.log", "apt/term.log", "bootstrap.log", "btmp", "dpkg.log"),
    *("faillog", "fontconfig.log", "lastlog", "wtmp"),
)
_EMPTY_LOGS: Final = ("btmp", "faillog", "lastlog", "wtmp")
_TYPES: Final = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}


@dataclass(frozen=True, slots=True)
class FileTree:
    """A recipe: the image *base* with the files of an archive unpacked at its root, owners and times as they are there.

    Give it as `image_name`: the image is made when it is first needed, and used from then on.
    """

    archive: bytes = field(repr=False)
    base: str = "codecraft/nl2bash"
    base_digest: str = ""
    """That of the recipe of *base*, if it has one: another base makes another image."""

    @classmethod
    def read(cls, path: Path | str, *, base: str = "codecraft/nl2bash", compat: bool = False) -> FileTree:
        """Return the recipe of a file of entries (blocking): a JSON list, parents before children, of objects with
        ``path``, ``type`` (dir, file or symlink), ``mode`` (octal text), ``mtime``, ``uid``, ``gid``, and
        ``content_b64`` or ``target``.

        With *compat* it is the tree that InterCode's resets leave, as old as in its recordings: without empty
        directories; with what its image has besides, at the root ``.git``, ``.gitignore`` and the set-up script of a
        file named ``..._N.json``, and the logs of its packages; all made in May 2023, but for times with ``mtime_set``.

        Raises:
            TaskFileError: The file cannot be read, or an entry cannot be used; names the file, the entry and the field.
        """
        file = Path(path)
        try:
            content: object = json.loads(read_bounded(file))
        except (json.JSONDecodeError, RecursionError) as error:
            raise TaskFileError(file, f"not valid JSON: {error}") from None
        if not isinstance(content, list):
            raise TaskFileError(file, "expected a list of entries")
        entries: list[object] = content
        members = [_member(file, number, entry) for number, entry in enumerate(entries)]
        if compat:
            members = [*_without_empty_directories(members), *_of_intercode(file.stem)]
            for each in members:
                each.info.mtime = each.info.mtime if each.keeps_time else _MADE_S
        recipe = builtin_recipes().get(base)
        return cls(_tar(members), base, "" if recipe is None else recipe.digest())

    @property
    def name(self) -> str:
        """The image's name, which says what is in it."""
        return f"{self.base}-files-{self.digest()}"

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with the files."""
        return hashlib.sha256(f"{self.base}\0{self.base_digest}\0".encode() + self.archive).hexdigest()[:12]

    async def build(self, daemon: DockerDaemon, *, progress: ImageProgress) -> None:
        """`name:digest` exists at the daemon, whole; so does *base*. See `Recipe.build`."""
        images = Images(daemon)
        await (images.build if self.base_digest else images.ensure)(self.base, progress=progress)
        # A builder does not unpack an archive in which nothing is.
        lines = f"FROM {self.base}\n" + ("ADD files.tar /\n" if self.archive.strip(b"\0") else "")
        whole = DockerfileRecipe(self.name, lines, {"files.tar": self.archive}, network="none")
        image = await images.make(whole, progress=progress)
        what = f"name image {self.name}"
        await daemon.call(None, lambda: daemon.client.images.tag(image, self.name, tag=self.digest()), what=what)


@dataclass(frozen=True, slots=True)
class _Member:
    info: tarfile.TarInfo
    data: bytes = b""
    keeps_time: bool = False


def _member(file: Path, number: int, value: object) -> _Member:
    where = f"entry {number}"
    values = as_table(value)
    if values is None:
        raise TaskFileError(file, f"{where}: expected an object with the fields {', '.join(_FIELDS)}")
    table = Table(values, file=file, where=where, allowed=_FIELDS)
    path = table.text("path")
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or "\0" in path or path == "/":
        raise table.error("path", f"{path[:100]!r} is no absolute path without '..'")
    info = tarfile.TarInfo(path[1:])
    info.type = _TYPES[table.choice("type", _TYPES)]
    info.mtime, info.uid, info.gid = table.whole("mtime"), table.whole("uid", 0), table.whole("gid", 0)
    mode = table.text("mode")
    if not re.fullmatch("0?[0-7]{3,4}", mode):
        raise table.error("mode", f"{mode[:20]!r} is no octal number such as '0644'")
    info.mode = int(mode, 8)
    data = b""
    if info.isreg():
        try:
            data = base64.b64decode(table.text("content_b64"), validate=True)
        except binascii.Error as error:
            raise table.error("content_b64", f"is no base64: {error}") from None
        info.size = len(data)
    elif info.issym():
        info.linkname = table.text("target")
    return _Member(info, data, keeps_time=table.truth("mtime_set", False))


def _without_empty_directories(members: list[_Member]) -> list[_Member]:
    held = {
        str(parent) for each in members if not each.info.isdir() for parent in PurePosixPath(each.info.name).parents
    }
    return [each for each in members if not each.info.isdir() or each.info.name in held]


def _of_intercode(stem: str) -> list[_Member]:
    """Return what lies in InterCode's images besides the tasks' files."""
    number = re.search(r"_(\d+)$", stem)
    ignored = "".join(f"{name}\n" for name in sorted(IGNORED)).encode()
    files: Mapping[str, bytes] = {".gitignore": ignored, ".git/HEAD": b"ref: refs/heads/master\n"}
    if number is not None:
        files = {**files, f"setup_nl2b_fs_{number[1]}.sh": b"#!/bin/bash\n"}
    logs = [f"var/log/{name}" for name in _LOGS]
    folders = [_folder("var/log"), _folder("var/log/apt")]
    return [*(_Member(_plain(name, data), data) for name, data in files.items()), *folders, *map(_log, logs)]


def _log(name: str) -> _Member:
    """Return a log of the packages' installation; what is in it is nobody's task."""
    data = b"" if name.endswith(_EMPTY_LOGS) else f"{name}: installed\n".encode()
    return _Member(_plain(name, data), data)


def _folder(name: str) -> _Member:
    info = _plain(name, b"")
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return _Member(info)


def _plain(name: str, data: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o755 if name.endswith(".sh") else 0o644, _MADE_S
    return info


def _tar(members: list[_Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each in members:
            archive.addfile(each.info, io.BytesIO(each.data) if each.info.isreg() else None)
    return buffer.getvalue()
