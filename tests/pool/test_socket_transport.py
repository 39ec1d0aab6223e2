"""The unix socket between host and container: when it is used, who may come to it, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codecraft_pool import DockerDaemon, DockerLauncher, LaunchError, SandboxSpec, connect_daemon
from codecraft_pool.container_config import connect_to
from codecraft_pool.docker_launcher import Transport
from codecraft_pool.owner import Owner
from codecraft_pool.socket_transport import Doorway, RunDirectory
from tests.pool.launchers import IS_ROOT, SPEC, containers_of, shell

pytestmark = pytest.mark.anyio

FIND_SOCKETS = "find / -xdev -type s 2>/dev/null; find /.codecraft /dev /tmp -type s 2>/dev/null; true"


@pytest.fixture(scope="module", name="daemon")
async def open_daemon(base_image: str) -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon() as daemon:
        yield daemon


def run_directories() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"codecraft-run-{Owner.current()}-*"))


# --- the doorway ------------------------------------------------------------------------------------------------------


@pytest.fixture(name="doorway")
def make_doorway() -> Generator[Doorway]:
    with tempfile.TemporaryDirectory() as folder:
        doorway = Doorway(Path(folder) / "1")
        yield doorway
        doorway.close()


async def test_the_first_who_may_is_taken(doorway: Doorway) -> None:
    """Root, or whoever runs this, is let in; once."""
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(doorway.folder / "socket"))
        await doorway.answer("of no container")
        connection = doorway.take()
        assert connection is not None
        with connection:
            guest.send(b"!")
            assert b"!" == await asyncio.get_running_loop().sock_recv(connection, 1)
    assert doorway.take() is None


@pytest.mark.skipif(not IS_ROOT, reason="only root can be somebody else")
async def test_others_are_sent_away(doorway: Doorway) -> None:
    """A user who is neither root nor who runs this gets nothing but the end, should he ever reach the socket."""
    path = doorway.folder / "socket"
    for each in (path, path.parent, path.parent.parent):
        each.chmod(0o777)
    become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    program = f"{become}; import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); print(s.recv(1))"
    answering = asyncio.create_task(doorway.answer("of no container"))
    stranger = await asyncio.create_subprocess_exec(
        "/usr/bin/python3", "-I", "-c", program, stdout=subprocess.PIPE, cwd="/"
    )
    async with asyncio.timeout(20):
        assert b"b''\n" == (await stranger.communicate())[0]
    assert not answering.done()
    answering.cancel()
    await asyncio.wait([answering])
    vars(stranger)["_transport"].close()


def test_it_is_closed_to_others(doorway: Doorway) -> None:
    """The directory is its owner's alone."""
    assert 0o700 == stat.S_IMODE(doorway.folder.stat().st_mode)


@pytest.fixture(name="short_path")
def make_short_path() -> Generator[Path]:
    """A temporary directory: pytest's own may be too deep for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="codecraft-") as folder:
        yield Path(folder)


def test_what_it_leaves(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed doorway has no socket, a forgotten one no directory, a removed run directory nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    directory = RunDirectory(Owner.current())
    first, second = directory.doorway("a-1"), directory.doorway("a-2")
    first.close()
    first.close()
    assert [] == list(first.folder.iterdir())
    directory.forget("a-1")
    directory.forget("a-1")
    assert not first.folder.exists() and second.folder.exists()
    directory.remove()
    second.close()
    directory.remove()
    assert [] == list(short_path.iterdir())


async def test_its_name_tells_nothing(doorway: Doorway) -> None:
    """The kernel shows it to whoever is in the sandbox: it does not tell where on this machine it is."""
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(doorway.folder / "socket"))
        assert re.fullmatch(r"/proc/self/fd/\d+/socket", guest.getpeername())


def test_a_socket_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Nothing stays open, and the caller can do without. How long the path is does not matter."""
    folder = tmp_path / ("x" * 120)
    doorway = Doorway(folder)
    with pytest.raises(FileExistsError):
        Doorway(folder)
    doorway.close()


# --- the choice -------------------------------------------------------------------------------------------------------


async def transport_of(daemon: DockerDaemon, transport: Transport = "auto") -> tuple[str, str]:
    """The transport that a launcher finds, with a sandbox that works over it, and its reason."""
    async with DockerLauncher(daemon, transport=transport) as launcher:
        assert "" == launcher.stats().transport
        sandbox = await launcher.start(SPEC)
        assert "on\n" == await shell(sandbox, "echo on")
        stats = launcher.stats()
        assert f"transport {stats.transport}" in launcher.description
        assert stats.transport_reason in launcher.description
    assert [] == run_directories()
    assert [] == await containers_of(daemon, Owner.current())
    return stats.transport, stats.transport_reason


@pytest.mark.docker
async def test_a_local_daemon_is_spoken_to_over_sockets(daemon: DockerDaemon) -> None:
    """The quickest way is found without being asked for, and either can be asked for."""
    if not daemon.info.is_local:
        pytest.skip("the daemon is not on this machine")
    assert ("unix", "") == await transport_of(daemon)
    assert ("unix", "") == await transport_of(daemon, "unix")
    assert ("attach", "") == await transport_of(daemon, "attach")


@pytest.mark.docker
async def test_a_remote_daemon_is_not(daemon: DockerDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its containers cannot share a directory of this machine; asking for it is an error that says so."""
    monkeypatch.setattr(daemon, "info", replace(daemon.info, is_local=False))
    assert ("attach", "no unix socket: the daemon is not on this machine") == await transport_of(daemon)
    async with DockerLauncher(daemon, transport="unix") as launcher:
        with pytest.raises(LaunchError, match=r"not on this machine; transport='auto' would"):
            await launcher.start(SPEC)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("folder", "path", "reason"),
    [
        ("/nowhere/at/all", "/.codecraft/channel/socket", "the daemon cannot share a directory of this machine"),
        (None, "/.codecraft/channel/other", "the guest could not connect to a socket of this machine"),
    ],
)
async def test_a_daemon_that_sees_other_files(
    daemon: DockerDaemon, monkeypatch: pytest.MonkeyPatch, folder: str | None, path: str, reason: str
) -> None:
    """As from within a container that is given the daemon's socket: the way through the daemon is taken instead."""

    def astray(config: dict[str, Any], source: str, target: str, socket: str) -> None:
        connect_to(config, folder or source, target, path)

    monkeypatch.setattr("codecraft_pool.docker_launcher.connect_to", astray)
    found, why = await transport_of(daemon)
    assert "attach" == found
    assert reason in why
    async with DockerLauncher(daemon, transport="unix") as launcher:
        with pytest.raises(LaunchError, match=reason):
            await launcher.start(SPEC)
    assert [] == await containers_of(daemon, Owner.current())


def test_a_transport_that_is_none() -> None:
    """A wrong name is refused at once."""
    wrong: Any = "pigeon"
    nobody: Any = None
    with pytest.raises(ValueError, match="must be 'auto', 'unix' or 'attach'"):
        DockerLauncher(nobody, transport=wrong)


# --- from inside ------------------------------------------------------------------------------------------------------


@pytest.mark.docker
@pytest.mark.parametrize("user", ["agent", "root"])
async def test_no_socket_is_to_be_found_inside(daemon: DockerDaemon, user: Any) -> None:
    """Neither the sandbox's own nor another's; root finds an empty directory which nothing can be added to."""
    async with DockerLauncher(daemon) as launcher:
        sandbox, other = [await launcher.start(SandboxSpec(user=user)) for _ in range(2)]
        assert "" == await shell(sandbox, FIND_SOCKETS)
        listing = await sandbox.run("ls -A /.codecraft/channel; touch /.codecraft/channel/socket && echo made")
        assert b"" == listing.stdout
        environ = await sandbox.run("cat /proc/1/environ; ls -l /proc/1/fd /proc/self/fd")
        assert b"socket:" not in environ.stdout
        await other.ping()


@pytest.mark.docker
async def test_directories_go_with_their_containers(daemon: DockerDaemon) -> None:
    """What is left of a sandbox on this machine goes when it is gone, not when all are."""
    async with DockerLauncher(daemon, transport="unix") as launcher:
        kept, closed = await launcher.start(SPEC), await launcher.start(SPEC)
        (directory,) = run_directories()
        assert 3 == len(os.listdir(directory))
        closed.close()
        async with asyncio.timeout(20):
            while len(os.listdir(directory)) > 2:  # noqa: ASYNC110  # a daemon tells nobody
                await asyncio.sleep(0.02)
        await kept.ping()
    assert [] == run_directories()
