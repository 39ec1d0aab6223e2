"""What the daemon's events say of a container's end."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiohttp import web

from codecraft_pool import (
    CallRefused,
    ChannelBroken,
    OutOfMemory,
    PoolError,
    RequestRefused,
    SandboxKilled,
    SandboxLost,
)
from codecraft_pool.fates import Fates, Record
from tests.pool.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("events", "kind", "words"),
    [
        ([("kill", {"signal": "9"}), ("die", {"exitCode": "137"})], SandboxKilled, "somebody killed its container"),
        ([("oom", {}), ("die", {"exitCode": "137"})], OutOfMemory, "over its memory limit"),
        ([("die", {"exitCode": "137"})], SandboxKilled, r"its guest was killed \(signal 9\)"),
        ([("oom", {}), ("die", {"exitCode": "0"})], SandboxLost, "its guest ended with status 0"),
        ([("die", {"exitCode": "1"})], SandboxLost, "its guest ended with status 1"),
        ([("die", {"exitCode": "rubbish"})], SandboxLost, "status -1"),
        ([("die", {})], SandboxLost, "status -1"),
    ],
)
async def test_fate(events: list[tuple[str, Mapping[str, str]]], kind: type[SandboxLost], words: str) -> None:
    """Killed, out of memory and ended by itself are told apart."""
    record = Record()
    for action, attributes in events:
        assert not record.ended.is_set()
        record.note(action, attributes)
    assert record.ended.is_set()
    fate = record.fate()
    assert kind is fate.kind
    with pytest.raises(kind, match=words):
        raise fate.kind("box", fate.why)


def event(action: str, name: str, at: int = 1_000_000_001, **attributes: str) -> bytes:
    """One line of the stream."""
    actor = {"Attributes": {"name": name, **attributes}}
    return json.dumps({"Action": action, "Actor": actor, "timeNano": at}).encode() + b"\n"


class TellingEngine(FakeEngine):
    """Tells the events of `lines`, one list for each time it is asked, and then breaks the stream."""

    def __init__(self, *lines: list[bytes]) -> None:
        super().__init__()
        self.lines = list(lines)
        self.since: list[str | None] = []
        self.go = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/events"):
            return await super().answer(request)
        self.since.append(request.query.get("since"))
        response = web.StreamResponse()
        await response.prepare(request)
        await self.go.wait()
        if not self.lines:
            await asyncio.sleep(60)
        for line in self.lines.pop(0):
            await response.write(line)
        return response


async def test_a_broken_stream_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    """What happened meanwhile is asked for; events of others are passed over."""
    engine = TellingEngine([event("kill", "a", signal="9"), event("die", "other")], [event("die", "a", exitCode="137")])
    async with engine.daemon(tmp_path) as daemon:
        fates = Fates(daemon, "owner")
        record = fates.watch("a")
        await fates.listening()
        engine.go.set()
        fate = await fates.of(record, limit_s=10)
        await fates.aclose()
        await fates.aclose()
    assert SandboxKilled is fate.kind
    assert [None, "1.000000001"] == engine.since[:2]


async def test_a_daemon_that_tells_nothing(tmp_path: Path) -> None:
    """Nobody waits longer than the limit, and the error says that nothing is known."""
    engine = TellingEngine()
    engine.go.set()
    async with engine.daemon(tmp_path) as daemon:
        fates = Fates(daemon, "owner")
        fate = await fates.of(fates.watch("a"), limit_s=0.05)
        await fates.aclose()
    assert (ChannelBroken, True) == (fate.kind, "tells of no end" in fate.why)


@pytest.mark.parametrize(
    "error",
    [
        CallRefused("start it", 500, "no\nspace"),
        SandboxKilled("box", "it was killed"),
        RequestRefused("box", "read 'x'", 13, "not yours"),
        PoolError("plain"),
    ],
)
def test_errors_can_be_copied_and_pickled(error: PoolError) -> None:
    """Each who waits gets an error of its own, and one of another process can be raised in this one."""
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert other is not error
        assert (type(error), str(error), vars(error)) == (type(other), str(other), vars(other))
        if isinstance(error, OSError):
            assert isinstance(other, OSError) and error.errno == other.errno
