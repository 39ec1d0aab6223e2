"""The guest that is told to connect: over a socket of the host's if it can, else over its standard input and output."""

from __future__ import annotations

import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from codecraft_pool.protocol import Decoder, Error, Exit, Hello, Pong, Reply
from codecraft_pool.requests import encode_ping, encode_run
from tests.pool.guest_harness import BUILDS, CAPABILITIES, LIMIT_S, PATH, Guest, needs_root

pytestmark = needs_root

CONNECT = ["--connect", "/host/socket"]


@pytest.fixture(name="listener")
def make_listener(tmp_path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.settimeout(LIMIT_S)
        yield listener


def told_to_connect(folder: Path, build: str = "release", **options: object) -> Guest:
    """A guest that sees *folder*, read-only, and connects to the socket in it."""
    return Guest(build, args=CONNECT, mounts=["--ro-bind", str(folder), "/host"], **options)  # type: ignore[arg-type]


class Host:
    """The host's end of a connection."""

    def __init__(self, listener: socket.socket) -> None:
        self.socket, _ = listener.accept()
        self.socket.settimeout(LIMIT_S)
        self._decoder = Decoder()
        self._frames: list[Reply] = []

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def reply(self) -> Reply | None:
        """The next frame; None at the end."""
        while not self._frames:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)


@pytest.mark.parametrize("build", BUILDS)
def test_the_socket_is_the_channel(listener: socket.socket, tmp_path: Path, build: str) -> None:
    """Frames go over the socket, nothing over standard output; when the socket ends, the guest does."""
    guest = told_to_connect(tmp_path, build)
    guest.start()
    try:
        with Host(listener) as host:
            assert isinstance(host.reply(), Hello)
            host.socket.sendall(encode_ping(1, b"!") + encode_run(2, ["true"], env=[PATH]))
            assert Pong(1, b"!") == host.reply()
            assert isinstance(host.reply(), Exit)
        assert (0, "") == (guest.status(), guest.log())
    finally:
        guest.kill()


def test_commands_inherit_nothing_of_it(listener: socket.socket, tmp_path: Path) -> None:
    """A command has three descriptors, none of which is a socket."""
    guest = told_to_connect(tmp_path)
    guest.start()
    try:
        with Host(listener) as host:
            host.reply()
            host.socket.sendall(encode_run(1, ["sh", "-c", "readlink /proc/self/fd/* | grep socket"], env=[PATH]))
            end = host.reply()
            assert isinstance(end, Exit) and 1 == end.code
        assert 0 == guest.status()
    finally:
        guest.kill()


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("path", ["", "/host/nothing", "/host/" + "x" * 200, "/proc/self/exe", "/host"])
def test_where_nobody_listens_it_is_standard_input(tmp_path: Path, build: str, path: str) -> None:
    """No socket, a dead one or a path that is too long: the guest serves as if it had not been told."""
    with Guest(build, args=["--connect", path], mounts=["--ro-bind", str(tmp_path), "/host"]) as guest:
        assert 0 == guest.run("true").code


def test_a_socket_that_nobody_holds_any_more(listener: socket.socket, tmp_path: Path) -> None:
    """The host has died and left its socket: the guest does not wait for it."""
    listener.close()
    with told_to_connect(tmp_path) as guest:
        assert 0 == guest.run("true").code


def test_a_full_queue_does_not_hold_it(listener: socket.socket, tmp_path: Path) -> None:
    """A host that accepts nobody is as good as none."""
    listener.listen(0)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / "socket"))
        with told_to_connect(tmp_path) as guest:
            assert 0 == guest.run("true").code


@pytest.mark.parametrize("build", BUILDS)
def test_why_it_cannot_start_is_said_over_the_socket(listener: socket.socket, tmp_path: Path, build: str) -> None:
    """Where it was told to connect nobody may read its stderr, so the reason is a fatal ERROR."""
    few = [name for name in CAPABILITIES if name != "KILL"]
    guest = told_to_connect(tmp_path, build, capabilities=few)
    guest.start()
    try:
        with Host(listener) as host:
            reply = host.reply()
            assert isinstance(reply, Error)
            assert (0, True) == (reply.id, "needs CAP_KILL" in reply.message)
            assert host.reply() is None
        assert (1, True) == (guest.status(), "needs CAP_KILL" in guest.log())
    finally:
        guest.kill()
