"""What an agent changed in a repository, by the guest's word; and how changes get into another sandbox.

As in git, an entry is a file, which may be executable, or a symbolic link; directories, owners and times are nothing.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Mapping
from typing import Final

from codecraft_pool import WORKSPACE, Digest, Entry, RequestRefused, Sandbox

__all__ = ["ChangesTooLarge", "Files", "Marks", "changed_files", "lay", "marks_of", "normal", "parents"]

Files = Mapping[str, Entry | None]
"""What is at each path, relative to the repository; None: nothing."""
Mark = tuple[str, bool, str]
Marks = Mapping[str, Mark]
"""What tells the entries of a tree from others: kind, whether it is executable, content."""

MAX_FILES: Final = 5_000
MAX_BYTES: Final = 32 << 20
_LAY_LIMIT_S: Final = 60.0
_NEVER_TAKEN: Final = frozenset((".git", "__pycache__"))
_PLAIN: Final = 0o644
_EXECUTABLE: Final = 0o755
_REMOVE: Final = ("xargs", "-0", "-r", "rm", "-rf", "--")
_EXTRACT: Final = ("tar", "-xf", "-")


class ChangesTooLarge(Exception):
    """More was changed than is taken over into another sandbox."""


def marks_of(digest: Digest) -> Marks:
    """Return the marks of a tree at `WORKSPACE`, without repositories' own files and compiled modules."""
    marks: dict[str, Mark] = {}
    for path, entry in digest.items():
        name = path.removeprefix(f"{WORKSPACE}/")
        if entry.kind not in ("file", "link") or _NEVER_TAKEN & set(name.casefold().split("/")):
            continue
        content = entry.content if entry.kind == "file" else os.fsdecode(entry.target)
        marks[name] = (entry.kind, entry.kind == "file" and bool(entry.mode & 0o100), content)
    return marks


async def changed_files(sandbox: Sandbox, before: Marks) -> dict[str, Entry | None]:
    """Return what is not as it was *before*.

    Raises:
        ChangesTooLarge: It is more than 5,000 entries or 32 MiB.
        RequestRefused: It cannot be read.
        SandboxLost: The sandbox died.
    """
    digest = await sandbox.digest([WORKSPACE])
    now = marks_of(digest)
    changed = sorted(path for path in {*before, *now} if before.get(path) != now.get(path))
    size = sum(digest[f"{WORKSPACE}/{path}"].size for path in changed if path in now)
    if len(changed) > MAX_FILES or size > MAX_BYTES:
        raise ChangesTooLarge(
            f"{len(changed)} entries with {size} bytes were changed; at most {MAX_FILES} with {MAX_BYTES} are graded"
        )
    return {path: await _read(sandbox, path, digest) if path in now else None for path in changed}


async def _read(sandbox: Sandbox, path: str, digest: Digest) -> Entry | None:
    entry = digest[f"{WORKSPACE}/{path}"]
    if entry.kind == "link":
        return Entry("link", entry.target, 0o777)
    try:
        data = await sandbox.read_file(path, max_bytes=MAX_BYTES)
    except RequestRefused:
        if await sandbox.look_at([f"{WORKSPACE}/{path}"]):
            raise
        return None  # a process of the agent's has removed it a moment ago
    return normal(Entry("file", data, entry.mode & 0o777))


def normal(entry: Entry) -> Entry:
    """Return what git would keep of an entry."""
    if entry.kind == "link":
        return Entry("link", entry.data, 0o777)
    return Entry("file", entry.data, _EXECUTABLE if entry.mode & 0o100 else _PLAIN)


async def lay(sandbox: Sandbox, files: Files, *, remove: Iterable[str] = ()) -> str:
    """Bring *files* into the repository of a sandbox that nobody has used; return why that failed, or "".

    What is at their paths, and at those of *remove*, goes first, with all below it.
    """
    gone = [os.fsencode(path) for path in (*remove, *files)]
    if not gone:
        return ""
    result = await sandbox.run(_REMOVE, stdin=b"\0".join(gone), limit_s=_LAY_LIMIT_S)
    if result.exit_code == 0:
        result = await sandbox.run(_EXTRACT, stdin=_archive(files), limit_s=_LAY_LIMIT_S)
    return "" if result.exit_code == 0 else result.stderr.decode(errors="replace")[-300:] or "it took too long"


def _archive(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, entry in sorted(files.items()):
            if entry is None:
                continue
            info = tarfile.TarInfo(path)
            info.mode, info.mtime = entry.mode, entry.mtime_s
            if entry.kind == "link":
                info.type, info.linkname = tarfile.SYMTYPE, os.fsdecode(entry.data)
            else:
                info.size = len(entry.data)
            archive.addfile(info, io.BytesIO(entry.data) if entry.kind == "file" else None)
    return buffer.getvalue()


def parents(path: str) -> list[str]:
    """Return the directories above *path*, outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
