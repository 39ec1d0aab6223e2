"""Connections to a MariaDB server: over a socket where there can be one, else through a relay."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Final, Protocol, cast

from codecraft_async.intercode.sql_mariadb_wire import Handshake, ProtocolBroken, Reader, greet

__all__ = ["Link", "LinkLost", "SocketLink"]

GREETING_LIMIT_S: Final = 10.0


class LinkLost(Exception):
    """A connection to a server has ended: so has the server, as a rule."""


class Link(Protocol):
    """One session of a server. Answers come in the order of the questions."""

    @property
    def thread(self) -> int:
        """The number by which another session can end this one's statements."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether it has ended."""
        ...

    def ask(self, packets: bytes, *readers: Reader) -> asyncio.Future[None]:
        """Send questions, with a reader for each answer; return what is done when the last reader is.

        It raises `LinkLost` where the connection ends before.
        """
        ...

    def close(self) -> None:
        """End the session at once; what it has not committed is undone. Idempotent."""
        ...


class SocketLink(asyncio.Protocol):
    """A session over a connected socket."""

    def __init__(self, user: str, password: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._handshake: Handshake | None = Handshake(user, password)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[Reader, asyncio.Future[None] | None]] = deque()
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._open = self._loop.create_future()
        self.thread = 0
        self.is_lost = False

    @classmethod
    async def connect(cls, connection: socket.socket, user: str, password: str) -> SocketLink:
        """Return a session over a connected socket, which it then owns.

        Raises:
            LinkLost: The server did not let the user in.
        """
        link = cls(user, password)
        try:
            await link._loop.create_connection(lambda: link, sock=connection)
        except BaseException:
            connection.close()
            raise
        try:
            async with asyncio.timeout(GREETING_LIMIT_S):
                await link._open
        except TimeoutError as exc:
            raise LinkLost(f"the server did not greet within {GREETING_LIMIT_S:g} s") from exc
        finally:
            if not link._open.done() or link._open.cancelled() or link._open.exception() is not None:
                link.close()
        return link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who wait."""
        self._lose(f"the connection to the server has ended: {exc}" if exc else "the server has closed the connection")

    def data_received(self, data: bytes) -> None:
        """Take what the server sent."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:  # of a large packet; what there is of it is not to be copied again each time
                return
            data = b"".join(self._parts)
            self._parts = []
        try:
            at = self._take(data)
        except ProtocolBroken as exc:
            self._lose(str(exc))
            return
        if at < len(data):
            rest = data[at:]
            self._parts, self._have = [rest], len(rest)
            self._need = 4 + int.from_bytes(rest[:3], "little") if len(rest) >= 4 else 4

    def _take(self, data: bytes) -> int:
        at = 0
        if self._handshake is not None:
            return self._greet(self._handshake, data)
        waiting = self._waiting
        while at < len(data):
            if not waiting:
                raise ProtocolBroken("the server sent what nobody asked for")
            reader, future = waiting[0]
            at = reader.take(data, at)
            if not reader.done:
                break
            waiting.popleft()
            if future is not None and not future.done():
                future.set_result(None)
        return at

    def _greet(self, handshake: Handshake, data: bytes) -> int:
        at = 0
        while (found := greet(data[at:])) is not None and not handshake.done:
            packet, number, size = found
            at += size
            answer = handshake.take(packet, number)
            if answer and self._transport is not None:
                self._transport.write(answer)
        if handshake.done:
            self._handshake, self.thread = None, handshake.thread
            if not self._open.done():
                self._open.set_result(None)
        return at

    def ask(self, packets: bytes, *readers: Reader) -> asyncio.Future[None]:
        """Send questions; see `Link.ask`."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self.is_lost or self._transport is None:
            _fail(future, "the connection to the server has ended")
            return future
        for reader in readers[:-1]:
            self._waiting.append((reader, None))
        self._waiting.append((readers[-1], future))
        self._transport.write(packets)
        return future

    def close(self) -> None:
        """End the session at once."""
        self._lose("the connection was closed")

    def _lose(self, why: str) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self._transport is not None:
            self._transport.abort()
        if not self._open.done():
            self._open.set_exception(LinkLost(why))
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            if future is not None and not future.done():
                _fail(future, why)


def _fail(future: asyncio.Future[None], why: str) -> None:
    future.set_exception(LinkLost(why))
    future.exception()  # whoever waits sees it; nobody has to
