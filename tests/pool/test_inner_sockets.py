"""Connections to sockets inside of a sandbox; here the guest is this very process, whose root is the machine's."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from codecraft_pool import FakeLauncher, RequestRefused, SandboxSpec
from codecraft_pool.inner_sockets import connect_inside, peer_of


@pytest.fixture(name="listener")
def make_listener(tmp_path: Path) -> Generator[Path]:
    """The path of a socket that somebody listens at, with a link and a file beside it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        (tmp_path / "link").symlink_to(tmp_path / "socket")
        (tmp_path / "folder").symlink_to(tmp_path)
        (tmp_path / "file").touch()
        yield tmp_path


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


def test_a_socket(listener: Path) -> None:
    """The connection leads to who listens, and nothing else stays open."""
    before = descriptors()
    with connect_inside("box", os.getpid(), str(listener / "socket")) as connection:
        assert (os.getpid(), os.getuid()) == peer_of(connection)
        assert 0.0 == connection.gettimeout()
        assert before + 1 == descriptors()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("link", errno.ENOTSOCK),  # could lead out of the sandbox
        ("folder/socket", errno.ENOTDIR),
        ("file", errno.ENOTSOCK),
        ("nothing", errno.ENOENT),
    ],
)
def test_what_is_no_socket(listener: Path, name: str, code: int) -> None:
    """It is refused, with the reason, and nothing stays open."""
    before = descriptors()
    with pytest.raises(RequestRefused, match="box") as caught:
        connect_inside("box", os.getpid(), str(listener / name))
    assert (code, before) == (caught.value.errno, descriptors())


@pytest.mark.parametrize("path", ["tmp/socket", "", "/../socket", "/tmp/../../socket"])
def test_paths_that_could_lead_out(path: str) -> None:
    """Above the sandbox's root is the machine."""
    with pytest.raises(ValueError, match=r"box.*absolute and without"):
        connect_inside("box", os.getpid(), path)


def test_whoever_listens_is_in_the_sandbox(listener: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket of another sandbox, or of the machine, is none."""
    groups = {os.getpid(): "1:cpu:/", 7: "1:cpu:/docker/a"}
    monkeypatch.setattr("codecraft_pool.inner_sockets._groups", groups.__getitem__)
    monkeypatch.setattr("codecraft_pool.inner_sockets.peer_of", lambda _: (7, 0))
    with pytest.raises(RequestRefused) as caught:
        connect_inside("box", os.getpid(), str(listener / "socket"))
    assert errno.ENOTSUP == caught.value.errno


@pytest.mark.anyio
async def test_sandboxes_without_such_a_way() -> None:
    """They say so, for their users to go another way."""
    async with FakeLauncher() as launcher:
        sandbox = await launcher.start(SandboxSpec())
        with pytest.raises(RequestRefused) as caught:
            sandbox.connect("/tmp/socket")
        assert errno.ENOTSUP == caught.value.errno
