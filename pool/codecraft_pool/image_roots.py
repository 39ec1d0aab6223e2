"""Copies of images' root file systems in the depot's volume, for daemons on whose storage opening a file is slow.

On fuse-overlayfs each program that starts costs dozens of requests to a process of the host; commands run at a third of
the speed that a plain file system gives. A copy is made once per image, by a container of it, while the first sandboxes
run already; they take it up at their next restore.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import LaunchError
from codecraft_pool.spec import ROOTS, SandboxSpec, root_options

RootsChoice = Literal["auto", "image", "volume"]
_SLOW_DRIVERS: Final = ("fuse-overlayfs",)
_MAX_IMAGE_BYTES: Final = 2 << 30  # a copy of more takes longer and more space than most runs get back
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Copy:
    path: str
    done: asyncio.Task[None]


class ImageRoots:
    """Says which root file system the sandboxes of an image get, and has copies made.

    Args:
        choice: "auto": a copy where the storage driver is slow and the image not too large. "image": never. "volume":
            always, and no sandbox starts without.
        daemon: Where the images are.
        copy: Has a container of an image copy its root file system to a path in the volume of the depot (image id,
            depot's name, path).
    """

    def __init__(
        self, choice: RootsChoice, daemon: DockerDaemon, copy: Callable[[str, str, str], Awaitable[None]]
    ) -> None:
        if choice not in ("auto", "image", "volume"):
            raise ValueError(f"roots is {choice!r}; it must be 'auto', 'image' or 'volume'")
        self._choice = choice
        self._daemon = daemon
        self._copy = copy
        self._copies: dict[tuple[str, str], _Copy | None] = {}
        self._deciding = asyncio.Lock()
        self._wanted = choice == "volume" or (choice == "auto" and daemon.info.storage_driver in _SLOW_DRIVERS)
        self._why = ""

    @property
    def description(self) -> str:
        """Where root file systems are read from."""
        if self._wanted:
            return "roots copied to a volume"
        return f"roots from the image{f' ({self._why})' if self._why else ''}"

    @property
    def state(self) -> str:
        """ "image", "copying" while a copy is being made, or "volume"."""
        copies = [copy for copy in self._copies.values() if copy is not None]
        if not self._wanted or not copies:
            return "image"
        return "volume" if all(copy.done.done() for copy in copies) else "copying"

    @property
    def depot_options(self) -> list[str]:
        """The guest's words for the depot, which so proves that guests may mount here; none if no copies are wanted."""
        return root_options(SandboxSpec(), "/") if self._wanted else []

    def give_up(self, why: LaunchError) -> None:
        """Use the images' own from now on, for guests cannot mount here.

        Raises:
            LaunchError: *why*, if copies were asked for.
        """
        if self._choice == "volume":
            raise why
        self._wanted, self._why = False, "guests may not mount here"
        _log.info("root file systems are read from the image: %s", why)

    async def options(self, spec: SandboxSpec, image_id: str, depot: str) -> list[str]:
        """Return the guest's words about the root of a new sandbox; none if it is the image's own.

        Raises:
            LaunchError: The copy that was asked for cannot be made.
        """
        if not self._wanted:
            return []
        key = (image_id, depot)
        async with self._deciding:  # all sandboxes of an image get the same, also those who ask while we look
            if key not in self._copies:
                self._copies[key] = await self._begin(image_id, depot)
        copy = self._copies[key]
        if copy is None:
            return []
        if self._choice == "volume":
            await asyncio.shield(copy.done)
            return root_options(spec, copy.path)
        return root_options(spec, "/", copy.path)

    async def _begin(self, image_id: str, depot: str) -> _Copy | None:
        if self._choice != "volume" and await self._size(image_id) > _MAX_IMAGE_BYTES:
            return None
        path = f"{ROOTS}/{image_id.removeprefix('sha256:')[:32]}"
        return _Copy(path, asyncio.create_task(self._make(image_id, depot, path)))

    async def _size(self, image_id: str) -> int:
        facts: dict[str, Any] = await self._daemon.get_json(f"images/{image_id}/json")
        return int(facts["Size"])

    async def _make(self, image_id: str, depot: str, path: str) -> None:
        try:
            await self._copy(image_id, depot, path)
        except OSError as exc:
            if self._choice == "volume":
                raise
            _log.warning("root file systems of %s are read from the image: %s", image_id[:19], exc)

    async def settle(self) -> None:
        """Return when no copy is under way, whatever came of it."""
        copies = [copy.done for copy in self._copies.values() if copy is not None]
        await asyncio.gather(*copies, return_exceptions=True)
