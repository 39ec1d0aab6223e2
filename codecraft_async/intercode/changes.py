"""What commands have changed in a sandbox whose root file system is theirs, from the guest's word alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

from codecraft_pool import DigestEntry, Sandbox
from codecraft_pool.spec import writable_trees

__all__ = ["Changes", "Origin", "changes_of"]

Changes = Mapping[str, DigestEntry | None]
"""What is now at each path that was touched, None where it was removed. Directories that were merely written to, and
such as hold nothing new, may be in it."""
Borrow = Callable[[], AbstractAsyncContextManager[Sandbox]]

_TREES: Final = tuple(tree.tree for tree in writable_trees())
_MAX_KNOWN: Final = 100_000


class Origin:
    """What is at the beginning of an episode, looked up in a sandbox that is as good as new, and remembered.

    One for each image; shared by the environments of one event loop. *borrow* lends a sandbox for a look.
    """

    def __init__(self) -> None:
        self._entries: dict[str, DigestEntry | None] = {}
        self._trees: dict[str, Mapping[str, DigestEntry]] = {}
        self._top: tuple[str, ...] | None = None
        self._lock = asyncio.Lock()

    async def at(self, paths: Iterable[str], borrow: Borrow) -> Mapping[str, DigestEntry | None]:
        """Return what was at each path, None where nothing was."""
        wanted = list(paths)
        async with self._lock:
            unknown = [path for path in wanted if path not in self._entries]
            if unknown:
                if len(self._entries) > _MAX_KNOWN:
                    self._entries.clear()
                    unknown = wanted
                async with borrow() as sandbox:
                    found = await sandbox.look_at(unknown)
                self._entries.update({path: found.get(path) for path in unknown})
            return {path: self._entries[path] for path in wanted}

    async def everything(self, is_watched: Callable[[str], bool], borrow: Borrow) -> Mapping[str, DigestEntry]:
        """Return all that was in the watched of the root directory's entries, by path."""
        async with self._lock:
            if self._top is None:
                async with borrow() as sandbox:
                    # The image's own program, in a sandbox where nobody's commands have run.
                    listed = await sandbox.run(["ls", "-1A", "/"], cwd="/")
                    names = [f"/{name}" for name in listed.stdout.decode("utf-8", "surrogateescape").splitlines()]
                    self._top = tuple(name for name in names if name not in _TREES)
                    found = await sandbox.look_at([name for name in self._top if is_watched(name)])
                    for path, entry in found.items():
                        below = await sandbox.digest([path]) if entry.kind == "dir" else {path: entry}
                        self._trees[path] = dict(below)
            return {path: entry for tree in self._trees.values() for path, entry in tree.items()}


async def changes_of(sandbox: Sandbox, first: Mapping[str, DigestEntry]) -> Changes:
    """Return what was changed since its layer was *first*, in the layer and in the writable trees.

    Raises:
        RequestRefused: Too much was changed, or it changes all the time.
        SandboxLost: The sandbox died.
    """
    changes: dict[str, DigestEntry | None] = {}
    shadowing: list[str] = []
    for path, entry in (await sandbox.layer()).items():
        if entry == first.get(path):
            continue
        if entry.kind == "char" and entry.mode == 0:
            changes[path] = None
            continue
        if entry.kind == "dir" and entry.several:
            shadowing.append(path)
        changes[path] = entry
    for path in _outermost(shadowing):
        changes.update(await sandbox.digest([path]))
    trees = await sandbox.digest()
    changes.update({path: entry for path, entry in trees.items() if path not in _TREES})
    return {path: entry for path, entry in changes.items() if not path.startswith("/.codecraft")}


def _outermost(paths: list[str]) -> list[str]:
    """Return those that are below no other; an agent can make thousands."""
    found: list[str] = []
    for path in sorted(paths, key=lambda path: path.split("/")):  # each is behind what it is below
        if not (found and path.startswith(f"{found[-1]}/")):
            found.append(path)
    return found


def is_same(one: DigestEntry | None, other: DigestEntry | None) -> bool:
    """Whether two entries are the same but for times, and for numbers that say nothing of them."""
    if one is None or other is None:
        return one is other
    return _facts(one) == _facts(other)


def _facts(entry: DigestEntry) -> tuple[object, ...]:
    return entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.content, entry.target
