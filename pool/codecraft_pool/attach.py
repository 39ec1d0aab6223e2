"""A channel over Docker's attach stream.

aiodocker's own `Stream` hands each message through a queue to a task, and parses by copying; a step pays for that
twice. Here the connection, once upgraded, gets a protocol of its own, which feeds the channel directly.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final

import aiohttp

from codecraft_pool.channel import Channel
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused, ProtocolError

# Engine API, "Attach to a container", stream format: type (0 stdin, 1 stdout, 2 stderr), three zeros, big-endian
# length.
_HEADER: Final = struct.Struct(">BxxxI")
# The daemon passes on what it reads, at most 32 KiB at a time; a length far beyond that is not a header.
_MAX_PART_BYTES: Final = 1 << 26


class Demultiplexer:
    """Cuts the daemon's stream into the parts of stdout and stderr; knows no socket."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return (stream, bytes) for every part that *data* completes.

        Raises:
            ProtocolError: That is no stream of the daemon's.
        """
        buffer = self._buffer
        buffer += data
        parts: list[tuple[int, bytes]] = []
        start, have = 0, len(buffer)
        while have - start >= _HEADER.size:
            stream, length = _HEADER.unpack_from(buffer, start)
            if stream > 2 or length > _MAX_PART_BYTES:
                raise ProtocolError(f"the daemon sent a part of stream {stream} with {length} bytes")
            end = start + _HEADER.size + length
            if end > have:
                break
            parts.append((stream, bytes(buffer[start + _HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return parts


class _AttachProtocol(asyncio.Protocol):
    """The upgraded connection; owns it, and feeds the channel."""

    def __init__(
        self, response: aiohttp.ClientResponse, transport: asyncio.Transport, on_end: Callable[[Channel], None]
    ) -> None:
        self._response = response
        self._transport = transport
        self._on_end = on_end
        self._parts = Demultiplexer()
        self.channel: Channel | None = None

    def data_received(self, data: bytes) -> None:
        channel = self.channel
        assert channel is not None
        try:
            parts = self._parts.feed(data)
        except ProtocolError as exc:
            channel.lost(str(exc))
            return
        for stream, part in parts:
            if stream == 2:
                channel.feed_stderr(part)
            else:
                channel.feed(part)

    def connection_lost(self, exc: Exception | None) -> None:
        self._response.close()
        if self.channel is not None:
            self._on_end(self.channel)

    def write(self, data: bytes) -> None:
        """Send bytes to the guest."""
        self._transport.write(data)

    def close(self) -> None:
        """Drop the connection: the daemon closes the guest's standard input."""
        self._transport.abort()


async def attach(daemon: DockerDaemon, container: str, on_end: Callable[[Channel], None]) -> Channel:
    """Return a channel over the attach stream of *container*, which must not have been started yet.

    *on_end* is called with the channel when the stream has ended, whoever ended it; it is for that to tell the channel.

    Raises:
        CallRefused: The daemon would not give the stream.
        DaemonUnavailable: It did not answer.
    """
    what = f"attach to container {container}"
    client = daemon.client
    with daemon.explained(what, limit_s=daemon.call_limit_s):
        async with asyncio.timeout(daemon.call_limit_s):
            response = await client.session.post(
                f"{client.docker_host}/{client.api_version}/containers/{container}/attach",
                params={"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"},
                headers={"Connection": "Upgrade", "Upgrade": "tcp"},
                timeout=aiohttp.ClientTimeout(total=None),
            )
    connection = response.connection
    if response.status != 101 or connection is None or connection.transport is None:
        response.close()
        raise CallRefused(what, response.status, "it did not upgrade the connection")
    transport = connection.transport
    protocol = _AttachProtocol(response, transport, on_end)
    channel = protocol.channel = Channel(container, protocol)
    transport.set_protocol(protocol)
    return channel
