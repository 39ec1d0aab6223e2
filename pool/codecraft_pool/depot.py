"""The container that owns the volume with the guest and the snapshots, which every sandbox mounts from it."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar

from codecraft_pool.agent_users import Accounts, accounts_archive
from codecraft_pool.channel import Channel
from codecraft_pool.containers import Containers
from codecraft_pool.errors import LaunchError, SandboxLost
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import HOSTS, STORE

KeyT = TypeVar("KeyT", bound=Hashable)
_UIDS_AT_ONCE: Final = 64


class Depot:
    """The container that owns the volume; puts snapshots into it."""

    def __init__(self, containers: Containers, name: str, image: str, channel: Channel, folder: str) -> None:
        self.name = name
        self.image = image
        self.channel = channel
        self.folder = folder
        self._containers = containers
        self._placing: dict[str, asyncio.Task[None]] = {}
        self._accounts: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def place(self, snapshot: Snapshot) -> str:
        """Put *snapshot* into the volume, once however many ask.

        Raises:
            SandboxLost: The depot has died; sandboxes that mount its volume can get no new snapshot.
        """
        if self.channel.error is not None:
            raise SandboxLost(self.name, self.channel.error.reason)
        await _once(self._placing, snapshot.id, lambda: self._put(snapshot))
        return f"{STORE}/snapshots/{snapshot.id}"

    async def accounts(self, image: str, number: int, first_uid: int, read: Callable[[], Awaitable[Accounts]]) -> str:
        """Return where, on the daemon's machine, the account files for the uid *first_uid* + *number* are.

        They are made for many uids in one go, out of those of the image, which *read* returns.

        Raises:
            LaunchError: The daemon would not have them.
        """
        block = number // _UIDS_AT_ONCE
        uids = range(first_uid + block * _UIDS_AT_ONCE, first_uid + (block + 1) * _UIDS_AT_ONCE)
        folder = image.rpartition(":")[2]

        async def put() -> None:
            archive = accounts_archive(await read(), folder, uids)
            await self._containers.put_archive(self.name, f"{STORE}/users", archive)

        await _once(self._accounts, (image, block), put)
        return f"{self.folder}/users/{folder}/{first_uid + number}"

    async def settle(self) -> None:
        """Give up what is still being put into the volume, and return when that has ended."""
        tasks = [*self._placing.values(), *self._accounts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _put(self, snapshot: Snapshot) -> None:
        archive = await asyncio.to_thread(snapshot.tar, snapshot.id)
        try:
            await self._containers.put_archive(self.name, f"{STORE}/snapshots", archive)
        except LaunchError as exc:
            raise SandboxLost(self.name, f"snapshot {snapshot.id[:12]} could not be placed: {exc}") from exc


async def _once(
    tasks: dict[KeyT, asyncio.Task[None]], key: KeyT, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Have *work* done once however many ask, and again where it failed; a cancelled asker does not stop it."""
    task = tasks.get(key)
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        task = tasks[key] = asyncio.create_task(work())
        task.add_done_callback(_hear)  # its askers may all have left
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if task.cancelled() and current is not None and not current.cancelling():
            raise LaunchError("the Docker launcher is closed") from None
        raise


def _hear(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def store_archive(guest: bytes) -> bytes:
    """Return what the volume holds at first: the guest, a hosts file, and folders that only root may enter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode, content in (("guest", 0o755, guest), ("hosts", 0o644, HOSTS)):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
        for name in ("snapshots", "users", "root", "roots"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(folder)
    return buffer.getvalue()
