"""The host's end of a channel: who waits for which request id, over any byte stream.

A `Channel` is fed bytes by a transport (`feed`, `lost`) and writes through the transport it was given; it owns neither
a task nor a socket.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Protocol

from codecraft_pool.errors import (
    ChannelBroken,
    GuestSilent,
    PathMissing,
    PoolError,
    ProtocolError,
    RequestRefused,
    SandboxLost,
)
from codecraft_pool.protocol import PROTOCOL_VERSION, Data, Decoder, Done, Error, Exit, Hello, Output, Pong, Reply
from codecraft_pool.requests import encode_cancel

_LAST_WORDS_BYTES = 2048


class Transport(Protocol):
    """What a channel needs of the stream below it."""

    def write(self, data: bytes) -> None:
        """Send bytes, in order; never blocks."""

    def close(self) -> None:
        """Drop the stream at once; the guest ends."""


class RunReply:
    """What a RUN has sent so far."""

    __slots__ = ("exit", "stderr", "stdout")

    def __init__(self) -> None:
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] = []
        self.exit: Exit | None = None


Answer = RunReply | Done | Data | Pong


class _Waiting:
    """One request that has no final answer yet; `future` is None once its caller has gone."""

    __slots__ = ("deadline", "future", "limit_s", "reply", "what")

    def __init__(
        self, what: str, future: asyncio.Future[Answer], reply: RunReply | None, limit_s: float, deadline: float
    ) -> None:
        self.what = what
        self.limit_s = limit_s
        self.deadline = deadline
        self.future: asyncio.Future[Answer] | None = future
        self.reply = reply


def _retrieve(future: asyncio.Future[Answer]) -> None:
    """Whoever waits sees an exception; nobody has to."""
    if not future.cancelled():
        future.exception()


class Channel:
    """Matches replies to requests. Every method is synchronous but `request` and `hello`."""

    def __init__(self, sandbox: str, transport: Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._sandbox = sandbox
        self._transport = transport
        self._decoder = Decoder()
        self._waiting: dict[int, _Waiting] = {}
        self._next_id = 0
        self._watch: asyncio.TimerHandle | None = None
        self._hello: asyncio.Future[Hello] = self._loop.create_future()
        self._last_words = b""
        self.error: SandboxLost | None = None
        self.on_lost: Callable[[], None] | None = None
        self.guest_process = 0
        """The guest as it is numbered on this machine; 0 where the transport cannot tell."""

    # --- the transport's side ---

    def feed(self, data: bytes) -> None:
        """Take bytes that the guest sent. Bytes that break the protocol end the channel."""
        if self.error is not None:
            return
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except ProtocolError as exc:
            self.lost(f"its guest broke the protocol: {exc}")

    def feed_stderr(self, data: bytes) -> None:
        """Keep the end of what the guest says outside of the protocol, for the error that follows."""
        self._last_words = (self._last_words + data)[-_LAST_WORDS_BYTES:]

    def lost(self, reason: str, kind: type[SandboxLost] = SandboxLost) -> None:
        """End the channel: every request fails with that kind of `SandboxLost`. Only the first reason counts."""
        if self.error is not None:
            return
        words = self._last_words.decode("utf-8", "replace").strip()
        self.error = kind(self._sandbox, f"{reason} ({words})" if words else reason)
        self._transport.close()
        if self._watch is not None:
            self._watch.cancel()
        waiting, self._waiting = self._waiting, {}
        for entry in waiting.values():
            if entry.future is not None and not entry.future.done():
                entry.future.set_exception(
                    kind(self._sandbox, f"{self.error.reason}, while it was asked to {entry.what}")
                )
        if not self._hello.done():
            self._hello.set_exception(self.error)
            self._hello.exception()  # whoever waits sees it; nobody has to
        if self.on_lost is not None:
            self.on_lost()

    def eof(self, why: str = "", kind: type[SandboxLost] = ChannelBroken) -> None:
        """The guest's side of the stream has ended; *why* where that is known."""
        cut = self._decoder.pending_bytes
        reason = f"its channel was cut {cut} bytes into a frame" if cut else "its channel closed"
        self.lost(f"{reason}: {why}" if why else reason, kind)

    def _take(self, frame: Reply) -> None:
        if isinstance(frame, Hello):
            self._greet(frame)
            return
        entry = self._waiting.get(frame.id)
        if entry is None:
            if isinstance(frame, Error) and frame.id == 0:
                if not self._hello.done():
                    self.lost(f"its guest cannot start: {frame.message}")
                    return
                raise ProtocolError(f"the guest refused the stream: {frame.message}")
            raise ProtocolError(f"a {type(frame).__name__} answers request {frame.id}, which nobody made")
        if isinstance(frame, Output):
            if entry.reply is None:
                raise ProtocolError(f"request {frame.id} ({entry.what}) was answered by output")
            (entry.reply.stdout if frame.stream == 1 else entry.reply.stderr).append(frame.data)
            return
        if not isinstance(frame, Error) and isinstance(frame, Exit) != (entry.reply is not None):
            raise ProtocolError(f"request {frame.id} ({entry.what}) was answered by {type(frame).__name__}")
        del self._waiting[frame.id]
        self._answer(entry, frame)

    def _answer(self, entry: _Waiting, frame: Exit | Done | Data | Pong | Error) -> None:
        future = entry.future
        if future is None or future.done():
            return
        if isinstance(frame, Error):
            kind = PathMissing if frame.errno == errno.ENOENT else RequestRefused
            future.set_exception(kind(self._sandbox, entry.what, frame.errno, frame.message))
        elif isinstance(frame, Exit):
            assert entry.reply is not None
            entry.reply.exit = frame
            future.set_result(entry.reply)
        else:
            future.set_result(frame)

    def _greet(self, frame: Hello) -> None:
        if self._hello.done():
            raise ProtocolError("the guest said hello twice")
        if frame.version != PROTOCOL_VERSION:
            raise ProtocolError(f"the guest speaks protocol {frame.version}, this side {PROTOCOL_VERSION}")
        self._hello.set_result(frame)

    # --- the caller's side ---

    async def hello(self, *, limit_s: float) -> Hello:
        """Return the guest's first frame.

        Raises:
            SandboxLost: The channel ended first, or *limit_s* passed.
        """
        await asyncio.wait([self._hello], timeout=limit_s)
        if not self._hello.done():
            self.lost(f"its guest said nothing within {limit_s:g} s", GuestSilent)
        return await self._hello

    def next_id(self) -> int:
        """Return an id that no open request has."""
        self._next_id = request_id = (self._next_id % 0xFFFF_FFFF) + 1
        if request_id in self._waiting:
            raise PoolError(f"sandbox {self._sandbox}: request ids ran out")
        return request_id

    async def request(
        self, request_id: int, frame: bytes, *, what: str, limit_s: float, is_run: bool = False
    ) -> Answer:
        """Send *frame* and return its final answer.

        Cancellation: a RUN is cancelled in the guest too, and what still comes for it is dropped; other requests run
        on.

        Raises:
            RequestRefused: The guest could not do it.
            SandboxLost: The channel ended, or the guest gave no answer within *limit_s* (it is then dropped).
        """
        if self.error is not None:
            raise type(self.error)(self._sandbox, self.error.reason)
        future: asyncio.Future[Answer] = self._loop.create_future()
        deadline = self._loop.time() + limit_s
        entry = _Waiting(what, future, RunReply() if is_run else None, limit_s, deadline)
        self._waiting[request_id] = entry
        if self._watch is None or deadline < self._watch.when():
            self._look_again_at(deadline)
        self._transport.write(frame)
        try:
            return await future
        except asyncio.CancelledError:
            entry.future = None
            if is_run and request_id in self._waiting:
                self._transport.write(encode_cancel(request_id))
            raise

    def notify(self, frame: bytes) -> None:
        """Send a frame that has no answer of its own; nothing happens on a channel that has ended."""
        if self.error is None:
            self._transport.write(frame)

    def follow(self, request_id: int) -> asyncio.Future[Answer] | None:
        """Return what will hold the answer to a request whose caller was cancelled; None if that has come already."""
        entry = self._waiting.get(request_id)
        if entry is None:
            return None
        entry.future = self._loop.create_future()
        entry.future.add_done_callback(_retrieve)
        return entry.future

    def _look_again_at(self, when: float) -> None:
        """One timer watches all deadlines, and outlives most requests: making one for each would cost every step."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_at(when, self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        first = min(self._waiting.values(), key=lambda entry: entry.deadline)
        if first.deadline <= self._loop.time():
            self.lost(f"its guest did not {first.what} within {first.limit_s:g} s", GuestSilent)
        else:
            self._look_again_at(first.deadline)

    def close(self) -> None:
        """End the channel and with it the guest."""
        self.lost("it was closed")
