"""The lives of a launcher's containers: each has a name and a user before it is created, and is buried at its end.

A container goes by itself when its channel ends, and by force if it does not; its user is free for another once the
daemon has it no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Final

from codecraft_pool._aio import finish
from codecraft_pool.agent_users import Uids
from codecraft_pool.channel import Channel
from codecraft_pool.containers import Containers
from codecraft_pool.errors import DaemonUnavailable, LaunchError
from codecraft_pool.fates import Fates, Record
from codecraft_pool.owner import Owner

GONE_LIMIT_S = 10.0
_POLL_S: Final = 0.05
_SLOW_POLL_S: Final = 0.5
# A daemon that did not answer may do all the same what it was asked, once it goes on.
_DOUBT_S: Final = 60.0
_CLOSING_DOUBT_S: Final = 5.0  # the same when the launcher closes; the next start removes what comes later still
# How long the error of a lost sandbox may wait for the daemon to say why.
_FATE_LIMIT_S: Final = 1.0
# For all launchers of this process, whose containers must share neither names nor users.
_NUMBERS: Final = count()
_UIDS: Final = Uids()


@dataclass(slots=True)
class Life:
    """One container's: its name, its user's number, what the daemon tells of it, and the channel to its guest."""

    name: str
    user: int
    record: Record
    channel: Channel | None = None
    doubtful_until: float = 0.0


class ContainerLives:
    """Owns every container of one launcher from its name to its end. `aclose` ends them all."""

    def __init__(self, containers: Containers, owner: Owner, fates: Fates, *, on_gone: Callable[[str], None]) -> None:
        self._containers = containers
        self._owner = owner
        self._fates = fates
        self._on_gone = on_gone
        self._starting: dict[str, asyncio.Future[None]] = {}
        self._living: dict[str, Life] = {}
        self._dying: dict[str, float] = {}
        self._burial: asyncio.Task[None] | None = None
        self._inquiries: set[asyncio.Task[None]] = set()
        self._patience_until = float("inf")
        self.closing = asyncio.Event()

    def check_open(self) -> None:
        """Raise a `LaunchError` once the launcher is closed."""
        if self.closing.is_set():
            raise LaunchError("the Docker launcher is closed")

    @asynccontextmanager
    async def begin(self, image: str) -> AsyncGenerator[Life]:
        """The life of a container to be started in the block; when that fails, the container is removed."""
        self.check_open()
        name = f"codecraft-{self._owner}-{next(_NUMBERS)}"
        ended = self._starting[name] = asyncio.get_running_loop().create_future()
        try:
            life = self._living[name] = Life(name, _UIDS.take(), self._fates.watch(name))
            await self._fates.listening()
            yield life
        except BaseException as exc:
            await finish(self._give_up(name, exc))
            if isinstance(exc, OSError) and not isinstance(exc, LaunchError):  # what the guest refuses, or its death
                raise LaunchError(f"a container of {image} could not become a sandbox: {exc}") from exc
            raise
        finally:
            del self._starting[name]
            ended.set_result(None)

    async def _give_up(self, name: str, error: BaseException) -> None:
        """A start has failed: remove its container, now or when the daemon does what it is asked."""
        life = self._living.get(name)
        if life is not None and isinstance(error, DaemonUnavailable):
            life.doubtful_until = asyncio.get_running_loop().time() + _DOUBT_S
            if life.channel is not None:
                life.channel.close()
            self._ends(name)
            return
        with suppress(LaunchError):  # the first error says more, and the burial tries again
            await self.remove(name)

    async def remove(self, name: str) -> None:
        """Remove a container by force, however far it came."""
        life = self._living.get(name)
        if life is not None and life.channel is not None:
            life.channel.close()
        try:
            await self._containers.remove(name)
        finally:
            self._ends(name)

    def stream_ended(self, life: Life, channel: Channel) -> None:
        """The stream of a channel has ended. Nobody wanted that if the channel knows of no error: ask why."""
        if life.channel not in (None, channel):  # one that was given up for a better one
            return
        if channel.error is None:
            inquiry = asyncio.get_running_loop().create_task(self._inquire(life.record, channel))
            self._inquiries.add(inquiry)
            inquiry.add_done_callback(self._inquiries.discard)
        self._ends(life.name)

    async def _inquire(self, record: Record, channel: Channel) -> None:
        fate = await self._fates.of(record, limit_s=_FATE_LIMIT_S)
        channel.eof(fate.why, fate.kind)

    async def aclose(self) -> None:
        """End every container and wait until the daemon has removed them. Idempotent."""
        if not self.closing.is_set():
            self._patience_until = asyncio.get_running_loop().time() + _CLOSING_DOUBT_S
        self.closing.set()
        for life in list(self._living.values()):
            if life.channel is not None:
                life.channel.close()
                self._ends(life.name)
        await finish(self._wait_until_gone())

    # --- the end ---

    def _ends(self, name: str) -> None:
        """The channel of a container has ended: see to it that the container is gone soon."""
        loop = asyncio.get_running_loop()
        if name in self._living:
            self._dying.setdefault(name, loop.time() + GONE_LIMIT_S)
        if self._dying and (self._burial is None or self._burial.done()):
            self._burial = loop.create_task(self._bury())

    async def _bury(self) -> None:
        while self._dying and not self.closing.is_set():
            try:
                await self._bury_all()
            except LaunchError:  # what is left is tried again
                await asyncio.sleep(_SLOW_POLL_S)

    async def _bury_all(self) -> None:
        """Return when every dying container is gone."""
        while self._dying:
            await asyncio.sleep(_SLOW_POLL_S if all(map(self._is_doubtful, self._dying)) else _POLL_S)
            # Those that end from here on may not be in the answer, and are not to be taken for gone.
            asked = list(self._dying.items())
            here = await self._containers.owned(str(self._owner))
            for name, deadline in asked:
                late = asyncio.get_running_loop().time() > deadline
                life = self._living.get(name)
                if name in here and (late or life is None or life.channel is None):  # it will not go by itself
                    await self._containers.remove(name)
                    if life is not None:
                        life.doubtful_until = 0.0
                if late if name in here else not self._is_doubtful(name):
                    self._gone(name)

    def _is_doubtful(self, name: str) -> bool:
        """Say whether the daemon may still make a container that was given up."""
        if name not in self._living:
            return False
        return asyncio.get_running_loop().time() < min(self._living[name].doubtful_until, self._patience_until)

    def _gone(self, name: str) -> None:
        self._dying.pop(name, None)
        life = self._living.pop(name, None)
        if life is not None:
            self._fates.forget(name)
            self._on_gone(name)
            _UIDS.give_back(life.user)

    async def _wait_until_gone(self) -> None:
        """Every guest has been told to end; wait for the daemon to follow, and for starts to notice."""
        if self._starting:
            await asyncio.wait(self._starting.values(), timeout=GONE_LIMIT_S)
        for inquiry in self._inquiries:
            inquiry.cancel()
        try:
            if self._burial is not None:
                await self._burial
            # Without its daemon a guest ends all the same, and the daemon removes its container when it is back.
            with suppress(DaemonUnavailable):
                await self._bury_all()
        finally:
            await self._fates.aclose()
