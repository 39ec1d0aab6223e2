"""The server of a sandbox that is used, and the one that is to take its place."""

from __future__ import annotations

import asyncio

from codecraft_async.intercode.sql_mariadb_server import SLOTS, Server
from codecraft_pool import Sandbox
from codecraft_pool._aio import finish

__all__ = ["Servers"]


class Servers:
    """At most two servers in *sandbox*. `aclose` is owed."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.current: Server | None = None
        self._spare: asyncio.Task[Server] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def have(self) -> tuple[Server, bool]:
        """Return the server, and whether it is a new one in the place of one that was lost.

        Raises:
            ServerUnavailable: None starts.
            SandboxLost: The sandbox died.
        """
        if self.current is not None and not self.current.is_lost:
            return self.current, False
        was_lost = self.current is not None
        return await self.replace(), was_lost

    async def replace(self) -> Server:
        """Return a fresh server, which takes the place of the used one. Raises: as `have`."""
        fresh = await self.have_spare()
        self._spare = None
        old, self.current = self.current, fresh
        if old is not None:
            old.end()
            self._sweeping = asyncio.create_task(old.remove())
            self._sweeping.add_done_callback(_note_failure)
        return fresh

    async def have_spare(self) -> Server:
        """Return a server with all databases as loaded, beside the one that is used. Raises: as `have`."""
        return await asyncio.shield(self.prepare_spare())

    def prepare_spare(self) -> asyncio.Task[Server]:
        """Begin to start one in the slot that the used one leaves free, if there is none."""
        spare = self._spare
        if spare is None or (spare.done() and _is_useless(spare)):
            slot = next(slot for slot in SLOTS if self.current is None or self.current.slot != slot)
            self._spare = spare = asyncio.create_task(self._start(slot))
            spare.add_done_callback(_note_failure)
        return spare

    async def _start(self, slot: str) -> Server:
        if self._sweeping is not None:  # what is being removed may be there
            await asyncio.wait([self._sweeping])
        return await Server.start(self._sandbox, slot)

    async def aclose(self) -> None:
        """End them. Idempotent."""
        spare, self._spare = self._spare, None
        current, self.current = self.current, None
        if current is not None:
            current.end()
        if self._sweeping is not None:
            self._sweeping.cancel()
        if spare is not None:
            await finish(_discard(spare))


def _is_useless(spare: asyncio.Task[Server]) -> bool:
    return spare.cancelled() or spare.exception() is not None or spare.result().is_lost


def _note_failure(task: asyncio.Task[Server] | asyncio.Task[None]) -> None:
    """Whoever needs what it was for sees why there is none; nobody may need it."""
    if not task.cancelled():
        task.exception()


async def _discard(spare: asyncio.Task[Server]) -> None:
    spare.cancel()
    await asyncio.wait([spare])
    if not spare.cancelled() and spare.exception() is None:
        spare.result().end()
