"""A channel over a unix socket in a directory that is shared with one container.

Each container has a directory of its own in the launcher's run directory, mounted read-only into it and closed to
everybody but root. The guest connects before it runs anything; the host accepts once, and the socket is gone before the
first command.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

from codecraft_pool._aio import first_of
from codecraft_pool.channel import Channel
from codecraft_pool.inner_sockets import peer_of
from codecraft_pool.owner import RUN_PREFIX, Owner
from codecraft_pool.spec import STORE

CHANNEL_FOLDER: Final = f"{STORE}/channel"
"""Where a container has its directory."""

CHANNEL_SOCKET: Final = f"{CHANNEL_FOLDER}/socket"
_BACKLOG: Final = 4
_LOOK_S: Final = 1.0


class RunDirectory:
    """This launcher's directory on this machine; made when first used, and named so that the reaper knows its owner."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._path: Path | None = None

    def doorway(self, name: str) -> Doorway:
        """Return a new socket, in a directory of its own for the container with that name.

        Raises:
            OSError: It cannot be made.
        """
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{self._owner}-"))
        return Doorway(self._path / name.rpartition("-")[2])  # short: a socket's path has at most 107 bytes

    def forget(self, name: str) -> None:
        """Remove what is there of a container, which is gone."""
        if self._path is not None:
            with suppress(FileNotFoundError):
                (self._path / name.rpartition("-")[2]).rmdir()

    def remove(self) -> None:
        """Remove it. Idempotent."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None


class Doorway:
    """A socket at which one guest connects once. `close` is owed, whatever became of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._connection: socket.socket | None = None
        try:
            folder.mkdir(mode=0o700)
            _bind(self._listener, folder)
            self._listener.listen(_BACKLOG)
        except BaseException:
            self.close()
            raise

    @property
    def is_closed(self) -> bool:
        """Say whether nobody can come any more."""
        return self._listener.fileno() < 0

    async def answer(self, container: str) -> None:
        """Return when the guest of the container with that id has connected; whoever else does is sent away.

        Has no deadline of its own.
        """
        while self._connection is None:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                await self._knock()
                continue
            connection.setblocking(False)
            if is_guest(connection, container):
                self._connection = connection
            else:
                connection.close()

    async def _knock(self) -> None:
        """Wait until somebody has come, or a moment has passed: an event loop that watches hundreds of descriptors,
        whose numbers are used again at once, is not to decide alone."""
        loop, knocked, number = asyncio.get_running_loop(), asyncio.Event(), self._listener.fileno()
        loop.add_reader(number, knocked.set)
        try:
            await first_of(knocked.wait(), limit_s=_LOOK_S)
        finally:
            loop.remove_reader(number)

    def take(self) -> socket.socket | None:
        """Return the connection, for the caller to own; None if nobody has connected."""
        connection, self._connection = self._connection, None
        return connection

    def close(self) -> None:
        """Remove the socket, and close a connection that nobody took. Idempotent.

        The directory stays for `RunDirectory` to remove: a daemon that copies files into a container looks for the
        sources of all its mounts.
        """
        self._listener.close()
        (self.folder / "socket").unlink(missing_ok=True)
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _bind(listener: socket.socket, folder: Path) -> None:
    """Bind to the folder's "socket", by a name that tells nothing: the kernel shows it to whoever is in the sandbox."""
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/socket")
    finally:
        os.close(directory)


def is_guest(connection: socket.socket, container: str) -> bool:
    """Say whether root, in that container as far as can be seen from here, is at the other end."""
    pid, uid = peer_of(connection)
    # A rootless daemon's root is the user who runs it.
    if uid not in (0, os.geteuid()):
        return False
    with suppress(OSError):  # not to be seen: it runs where our /proc does not show it
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        return container in groups or "/docker" not in groups
    return True


class _SocketProtocol(asyncio.Protocol):
    """The accepted connection; owns it, and feeds the channel."""

    def __init__(self, on_end: Callable[[Channel], None]) -> None:
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self.channel: Channel | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        assert self.channel is not None
        self.channel.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.channel is not None
        self._on_end(self.channel)

    def write(self, data: bytes) -> None:
        """Send bytes to the guest."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Drop the connection: the guest ends."""
        if self._transport is not None:
            self._transport.abort()


async def socket_channel(connection: socket.socket, sandbox: str, on_end: Callable[[Channel], None]) -> Channel:
    """Return a channel over an accepted connection, which it then owns.

    *on_end* is called with the channel when the connection has ended, whoever ended it; it is for that to tell the
    channel.
    """
    protocol = _SocketProtocol(on_end)
    protocol.channel = Channel(sandbox, protocol)
    protocol.channel.guest_process = peer_of(connection)[0]
    try:
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=connection)
    except BaseException:
        connection.close()
        raise
    return protocol.channel
