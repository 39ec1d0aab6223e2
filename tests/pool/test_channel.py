"""The channel: every request gets its own answer or an error, whatever the guest does."""

from __future__ import annotations

import asyncio
import struct

import pytest

from codecraft_pool.channel import Answer, Channel, RunReply
from codecraft_pool.errors import RequestRefused, SandboxLost
from codecraft_pool.protocol import PROTOCOL_VERSION, Kind, Pong, encode_frame
from codecraft_pool.requests import encode_ping, encode_run

pytestmark = pytest.mark.anyio

EXIT_0 = struct.pack("<BBHiQQQQQ", *bytes(9))


class Wire:
    """A transport that only remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = 0

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed += 1


def make() -> tuple[Channel, Wire]:
    wire = Wire()
    return Channel("box", wire), wire


def ask(channel: Channel, *, run: bool = False, limit_s: float = 5.0) -> asyncio.Task[Answer]:
    """Send a request and return the task that waits for its answer."""
    number = channel.next_id()
    frame = encode_run(number, ["true"]) if run else encode_ping(number)
    return asyncio.create_task(channel.request(number, frame, what="do it", limit_s=limit_s, is_run=run))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_interleaved_answers_find_their_requests() -> None:
    """Replies in any order, with output in between, reach who asked."""
    channel, _ = make()
    ping, run = ask(channel), ask(channel, run=True)
    await settle()
    channel.feed(
        encode_frame(2, Kind.OUTPUT, b"\1out")
        + encode_frame(1, Kind.PONG, b"!")
        + encode_frame(2, Kind.OUTPUT, b"\2err")
        + encode_frame(2, Kind.EXIT, EXIT_0)
    )
    assert Pong(1, b"!") == await ping
    reply = await run
    assert isinstance(reply, RunReply)
    assert ([b"out"], [b"err"]) == (reply.stdout, reply.stderr)


async def test_a_refused_request_names_sandbox_request_and_reason() -> None:
    """An ERROR with an id becomes RequestRefused with its errno; the channel goes on."""
    channel, _ = make()
    task = ask(channel)
    await settle()
    channel.feed(encode_frame(1, Kind.ERROR, struct.pack("<i", 13) + b"no entry"))
    with pytest.raises(RequestRefused, match="sandbox box cannot do it: no entry") as caught:
        await task
    assert 13 == caught.value.errno
    assert channel.error is None


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (encode_frame(9, Kind.PONG, b""), "request 9, which nobody made"),
        (encode_frame(1, Kind.OUTPUT, b"\1x"), "answered by output"),
        (encode_frame(1, Kind.EXIT, EXIT_0), "answered by Exit"),
        (encode_frame(0, Kind.ERROR, struct.pack("<i", 22) + b"bad length"), "its guest cannot start: bad length"),
        (encode_frame(0, Kind.HELLO, struct.pack("<III", 99, 1, 1)), "speaks protocol 99"),
        (b"\xff" * 12, "over the limit"),
    ],
)
async def test_a_guest_that_breaks_the_protocol_is_dropped(frame: bytes, words: str) -> None:
    """A wrong frame fails every open request with SandboxLost that says what was wrong, and closes the stream once."""
    channel, wire = make()
    tasks = [ask(channel), ask(channel, run=True)]
    await settle()
    channel.feed(frame)
    channel.feed(frame)
    for task in tasks:
        with pytest.raises(SandboxLost, match=words):
            await task
    assert 1 == wire.closed
    with pytest.raises(SandboxLost, match=words):
        await ask(channel)


async def test_a_stream_cut_in_mid_frame_says_so() -> None:
    """The end of the stream inside of a frame is told apart from an orderly end."""
    channel, _ = make()
    task = ask(channel)
    await settle()
    channel.feed(encode_frame(1, Kind.PONG, b"abc")[:13])
    channel.feed_stderr(b"Killed\n")
    channel.eof()
    with pytest.raises(SandboxLost, match=r"cut 13 bytes into a frame \(Killed\)"):
        await task


async def test_a_guest_that_does_not_answer_is_dropped_at_the_deadline() -> None:
    """No request waits for ever, and the error names the limit."""
    channel, wire = make()
    with pytest.raises(SandboxLost, match=r"did not do it within 0\.01 s"):
        await ask(channel, limit_s=0.01)
    assert 1 == wire.closed


async def test_the_earliest_deadline_counts_whichever_was_set_first() -> None:
    """A short limit after a long one is kept, and answered requests do not end the channel at theirs."""
    channel, _ = make()
    long, short = ask(channel, limit_s=60.0), ask(channel, limit_s=0.3)
    answered = ask(channel, limit_s=0.2)
    await settle()
    channel.feed(encode_frame(3, Kind.PONG, b""))
    assert Pong(3, b"") == await answered
    with pytest.raises(SandboxLost, match=r"did not do it within 0\.3 s"):
        await short
    with pytest.raises(SandboxLost, match=r"did not do it within 0\.3 s"):
        await long


async def test_a_cancelled_request_is_still_watched() -> None:
    """A guest that never ends a cancelled command is noticed all the same."""
    channel, wire = make()
    task = ask(channel, run=True, limit_s=0.01)
    await settle()
    task.cancel()
    await asyncio.wait([task])
    lost = asyncio.Event()
    channel.on_lost = lost.set
    await asyncio.wait_for(lost.wait(), 5)
    assert 1 == wire.closed


async def test_a_guest_that_says_nothing_is_dropped() -> None:
    """Waiting for the first frame has a deadline too."""
    channel, _ = make()
    with pytest.raises(SandboxLost, match=r"said nothing within 0\.01 s"):
        await channel.hello(limit_s=0.01)


async def test_a_cancelled_run_is_cancelled_in_the_guest_and_its_rest_is_dropped() -> None:
    """CANCEL goes out once; output and EXIT that still come disturb nobody."""
    channel, wire = make()
    task = ask(channel, run=True)
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert encode_frame(1, Kind.CANCEL, b"") == wire.sent[-1]
    channel.feed(encode_frame(1, Kind.OUTPUT, b"\1late") + encode_frame(1, Kind.EXIT, EXIT_0))
    assert channel.error is None
    ping = ask(channel)
    await settle()
    channel.feed(encode_frame(2, Kind.PONG, b""))
    assert Pong(2, b"") == await ping


async def test_the_greeting_is_returned() -> None:
    """The first frame says version and agent."""
    channel, _ = make()
    channel.feed(encode_frame(0, Kind.HELLO, struct.pack("<III", PROTOCOL_VERSION, 1000, 1001)))
    hello = await channel.hello(limit_s=1.0)
    assert (PROTOCOL_VERSION, 1000, 1001) == (hello.version, hello.uid, hello.gid)


async def test_loss_is_told_once() -> None:
    """Whoever watches hears of the end exactly once, with the first reason."""
    channel, _ = make()
    heard: list[str] = []
    channel.on_lost = lambda: heard.append(str(channel.error))
    channel.lost("first")
    channel.lost("second")
    channel.close()
    assert ["sandbox box is lost: first"] == heard
