"""What containers are given, as the programs in them see it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

import pytest

from codecraft_pool import DockerLauncher, Sandbox, connect_daemon
from tests.pool.launchers import SPEC, python

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

# The side that closes first, here the server, is the one whose port would be kept.
SERVER: Final = """
import socket
server = socket.socket()
server.bind(("127.0.0.1", 8099))
server.listen()
client = socket.create_connection(("127.0.0.1", 8099))
connection, _ = server.accept()
connection.close()
assert b"" == client.recv(1)
client.close()
print([line.split()[3] for line in open("/proc/net/tcp").readlines()[1:] if line.split()[3] == "06"])
"""


@pytest.fixture(name="sandbox")
async def start(base_image: str) -> AsyncGenerator[Sandbox]:
    async with await connect_daemon() as daemon, DockerLauncher(daemon) as launcher:
        yield await launcher.start(SPEC)


async def test_ports_are_free_in_the_next_episode(sandbox: Sandbox) -> None:
    """No connection of one episode keeps a port from the next, whatever options its sockets had."""
    for _ in range(3):
        assert "[]\n" == await python(sandbox, SERVER)
        await sandbox.restore()
