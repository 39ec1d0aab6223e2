"""Why containers ended, from the daemon's stream of events.

A container that ends is removed by the daemon at once, so that asking about it afterwards comes too late. The events
come in order, over one connection for all containers of a launcher, and outlast a container.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from codecraft_pool._aio import first_of
from codecraft_pool.containers import OWNER_LABEL
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import ChannelBroken, LaunchError, OutOfMemory, SandboxKilled, SandboxLost

_CONNECT_LIMIT_S: Final = 5.0
_RETRY_S: Final = (0.1, 0.3, 1.0, 3.0)
_SIGKILL: Final = 9
_LATE_REASON_S: Final = 0.5  # seen: "die" told before "oom" of the same container, on a busy machine
_BY_SIGNAL: Final = 128  # a container killed by signal n has the exit code 128 + n


@dataclass(frozen=True, slots=True)
class Fate:
    """How a container ended, and the kind of error that this is for whoever used it."""

    kind: type[SandboxLost]
    why: str


@dataclass(slots=True)
class Record:
    """What the events have said of one container."""

    killed_by: int | None = None
    out_of_memory: bool = False
    exit_code: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    explained: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once there is nothing more to hear: of a kill that nobody asked for the daemon may tell the reason later."""

    def note(self, action: str, attributes: Mapping[str, str]) -> None:
        """Take one event in."""
        if action == "oom":
            self.out_of_memory = True
            self.explained.set()
        elif action == "kill":
            self.killed_by = _number(attributes.get("signal"))
        elif action == "die":
            self.exit_code = _number(attributes.get("exitCode"))
            self.ended.set()
            if self.exit_code != _BY_SIGNAL + _SIGKILL or self.killed_by is not None or self.out_of_memory:
                self.explained.set()

    def fate(self) -> Fate:
        """Return what follows from it."""
        if self.killed_by is not None:
            return Fate(SandboxKilled, f"somebody killed its container (signal {self.killed_by})")
        if self.exit_code != _BY_SIGNAL + _SIGKILL:
            return Fate(SandboxLost, f"its guest ended with status {self.exit_code}")
        if self.out_of_memory:
            return Fate(OutOfMemory, "it was over its memory limit, and the kernel killed its guest")
        return Fate(SandboxKilled, "its guest was killed (signal 9) from outside, or memory ran out unseen")


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else -1


class Fates:
    """Follows the events of one owner's containers. `aclose` ends it."""

    def __init__(self, daemon: DockerDaemon, owner: str) -> None:
        self._daemon = daemon
        self._owner = owner
        self._records: dict[str, Record] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_open = asyncio.Event()
        self._trouble = ""
        self._is_new = True
        self._last_ns = 0

    def watch(self, name: str) -> Record:
        """Follow what becomes of a container, from before it is created; ended by `forget`."""
        record = self._records[name] = Record()
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
        return record

    async def listening(self) -> None:
        """Return when the stream of events is open: nothing of what is created afterwards is missed."""
        if self._is_new:  # a daemon that tells no events is no obstacle
            await first_of(self._is_open.wait(), limit_s=_CONNECT_LIMIT_S)
            self._is_new = False

    def forget(self, name: str) -> None:
        """Say that nobody will ask about it any more."""
        self._records.pop(name, None)

    async def of(self, record: Record, *, limit_s: float) -> Fate:
        """Return why a container has ended, as far as the daemon tells within *limit_s* seconds."""
        await first_of(record.ended.wait(), limit_s=limit_s)
        if record.ended.is_set():
            await first_of(record.explained.wait(), limit_s=_LATE_REASON_S)
        if record.ended.is_set():
            return record.fate()
        where = f"the container daemon {self._daemon.info.address}"
        if self._trouble:
            return Fate(ChannelBroken, f"{where} went away with it, stopped or restarted ({self._trouble})")
        return Fate(ChannelBroken, f"{where} tells of no end of its container")

    async def aclose(self) -> None:
        """Stop following. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        attempts = 0
        while True:
            try:
                await self._read()
                self._trouble = "it ended the stream of events"
            except LaunchError as exc:
                self._trouble = str(exc)
            attempts = 0 if self._is_open.is_set() else attempts + 1
            self._is_open.clear()
            await asyncio.sleep(_RETRY_S[min(attempts, len(_RETRY_S) - 1)])

    async def _read(self) -> None:
        filters = {
            "type": ["container"],
            "label": [f"{OWNER_LABEL}={self._owner}"],
            "event": ["die", "kill", "oom"],
        }
        params = [("filters", json.dumps(filters))]
        if self._last_ns:  # what happened while the stream was broken
            params.append(("since", f"{self._last_ns // 10**9}.{self._last_ns % 10**9:09d}"))
        async with self._daemon.messages("events", what="follow events", method="GET", params=params) as messages:
            self._trouble = ""
            self._is_open.set()
            async for message in messages:
                self._take(message)

    def _take(self, message: Mapping[str, Any]) -> None:
        self._last_ns = int(message.get("timeNano") or self._last_ns)
        attributes = cast(Mapping[str, str], (message.get("Actor") or {}).get("Attributes") or {})
        record = self._records.get(attributes.get("name", ""))
        if record is not None:
            record.note(str(message.get("Action")), attributes)
