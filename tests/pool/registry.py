"""A real image registry on this machine, and what can go wrong on the way to it.

Daemons take 127.0.0.0/8 for registries without TLS, so that Debian's `docker-registry` on a loopback port will do.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused
from tests.pool.guest_harness import missing

LAYER_BYTES: Final = 3_000_000
USER, PASSWORD = "reader", "open sesame"
# `htpasswd -nbB` of the two above; made once, since that program comes with a web server.
_HTPASSWD: Final = "reader:$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n"
_CHUNK_BYTES: Final = 1 << 16


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Registry:
    """A registry process over a directory; it can be killed and started again."""

    def __init__(self, directory: Path, *, port: int | None = None, needs_login: bool = False) -> None:
        self.port = port or free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._directory = directory
        self._needs_login = needs_login
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It answers when this returns."""
        config = self._directory / f"config-{self.port}.yml"
        password_file = self._directory / "htpasswd"
        password_file.write_text(_HTPASSWD)
        auth = f"auth: {{htpasswd: {{realm: test, path: {password_file}}}}}\n" if self._needs_login else ""
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {self._directory}/data}}}}\n"
            f"http: {{addr: '{self.host}'}}\n{auth}"
        )
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen([_program(), "serve", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        self.kill()
        pytest.fail("the registry did not come up")

    def kill(self) -> None:
        """It has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def run_registry(directory: Path, *, needs_login: bool = False) -> Generator[Registry]:
    """A registry that answers for as long as the block lasts."""
    registry = Registry(directory, needs_login=needs_login)
    registry.start()
    try:
        yield registry
    finally:
        registry.kill()


def _program() -> str:
    if shutil.which("docker-registry") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", "docker-registry"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=300)
    program = shutil.which("docker-registry")
    if program is None:
        missing("docker-registry is not installed, and could not be")
    return program


async def publish(daemon: DockerDaemon, image: str, *, layer_bytes: int = LAYER_BYTES) -> None:
    """The registry has an image of one layer of noise, and the daemon does not have it."""
    repository, _, tag = image.rpartition(":")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("noise")
        member.size = layer_bytes
        archive.addfile(member, io.BytesIO(os.urandom(layer_bytes)))
    params = [("fromSrc", "-"), ("repo", repository), ("tag", tag)]
    async with daemon.messages("images/create", what="import", params=params, data=buffer.getvalue()) as messages:
        assert [message async for message in messages]
    images: Any = daemon.client.images
    await images.push(repository, tag=tag)
    await forget(daemon, image)


async def forget(daemon: DockerDaemon, *names: str) -> None:
    """The daemon does not have these images, whether it did or not."""
    images: Any = daemon.client.images

    async def remove(name: str) -> None:
        with suppress(CallRefused):
            await daemon.call(None, lambda: images.delete(name, force=True), what=f"remove {name}")

    for name in names:
        await remove(name)


class Proxy:
    """A way to a registry that is slow, breaks or goes nowhere. Counts what comes back through it."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.host = ""
        self.bytes_per_s: float | None = None
        self.cuts: list[int] = []
        """After so many bytes of one answer its connection is cut; each of these once."""
        self.silent = False
        """Connections are taken, and nothing is ever said on them."""
        self.passed = 0
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a daemon."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            with suppress(OSError, asyncio.CancelledError):
                await (reader.read() if self.silent else self._pass_on(reader, writer))
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target)
        ways = [
            asyncio.create_task(self._pump(reader, target_writer, counted=False)),
            asyncio.create_task(self._pump(target_reader, writer, counted=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            target_writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, counted: bool) -> None:
        seen = 0
        with suppress(OSError):
            while data := await source.read(_CHUNK_BYTES):
                if counted:
                    seen += len(data)
                    self.passed += len(data)
                    if self.bytes_per_s is not None:
                        await asyncio.sleep(len(data) / self.bytes_per_s)
                    if self.cuts and seen > self.cuts[0]:
                        self.cuts.pop(0)
                        return
                target.write(data)
                await target.drain()

    async def close(self) -> None:
        """No connection is left."""
        for task in list(self._tasks):
            task.cancel()
        async with asyncio.timeout(10):
            while self._tasks:  # noqa: ASYNC110  # each ends within a turn or two of the loop
                await asyncio.sleep(0.01)


@asynccontextmanager
async def run_proxy(port: int = 0) -> AsyncGenerator[Proxy]:
    """A proxy in front of the registry at that port of this machine."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
