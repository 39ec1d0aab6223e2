"""Faults of one sandbox, with real containers: each has its error, which says whose fault it is."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest

from codecraft_pool import (
    CommandResult,
    DockerDaemon,
    DockerLauncher,
    GuestSilent,
    OutOfMemory,
    RequestRefused,
    Sandbox,
    SandboxKilled,
    SandboxLost,
    SandboxPool,
    SandboxSpec,
    connect_daemon,
)
from codecraft_pool.docker_launcher import Transport
from tests.pool.launchers import MIB, shell

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

SMALL: Final = SandboxSpec(memory_bytes=24 * MIB, max_processes=32, tree_bytes=32 * MIB)
SOON_S: Final = 5.0


@pytest.fixture(scope="module", name="daemon")
async def open_daemon(base_image: str) -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module", name="pool", params=["unix", "attach"])
async def make_pool(request: pytest.FixtureRequest, daemon: DockerDaemon) -> AsyncGenerator[SandboxPool]:
    transport: Transport = request.param
    async with DockerLauncher(daemon, transport=transport) as launcher, SandboxPool(launcher, max_sandboxes=3) as pool:
        await pool.prewarm(SMALL, 1)
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    """A sandbox; whatever becomes of it, the pool lends a good one afterwards."""
    async with pool.lease(SMALL) as sandbox:
        yield sandbox
    async with pool.lease(SMALL) as other:
        assert "on\n" == await shell(other, "echo on")


async def guest_pid(daemon: DockerDaemon, sandbox: Sandbox) -> int:
    """The guest's process number on this machine."""
    facts: Any = await daemon.get_json(f"containers/{sandbox.id}/json")
    return int(facts["State"]["Pid"])


async def lost(running: asyncio.Task[CommandResult], sandbox: Sandbox) -> SandboxLost:
    """The error that a command ends with soon; it names the sandbox."""
    async with asyncio.timeout(SOON_S):
        with pytest.raises(SandboxLost) as caught:
            await running
    assert sandbox.id in str(caught.value)
    assert sandbox.lost is not None
    assert type(sandbox.lost) is type(caught.value)
    return caught.value


async def started(sandbox: Sandbox) -> asyncio.Task[CommandResult]:
    """A command that runs."""
    running = asyncio.create_task(sandbox.run("sleep 1001", limit_s=60))
    await sandbox.ping()
    return running


async def test_killed_container(daemon: DockerDaemon, sandbox: Sandbox) -> None:
    """`docker kill` is somebody's deed, not the sandbox's."""
    running = await started(sandbox)
    await daemon.client.containers.container(sandbox.id).kill()
    error = await lost(running, sandbox)
    assert isinstance(error, SandboxKilled)
    assert "somebody killed its container (signal 9)" in str(error)
    with pytest.raises(SandboxKilled):
        await sandbox.run("true")


async def test_removed_container(daemon: DockerDaemon, sandbox: Sandbox) -> None:
    """`docker rm -f` is no better."""
    running = await started(sandbox)
    await daemon.client.containers.container(sandbox.id).delete(force=True)
    assert isinstance(await lost(running, sandbox), SandboxKilled)


async def test_killed_guest(daemon: DockerDaemon, sandbox: Sandbox) -> None:
    """A guest killed on the machine is told apart from one that ended."""
    running = await started(sandbox)
    os.kill(await guest_pid(daemon, sandbox), signal.SIGKILL)
    error = await lost(running, sandbox)
    assert isinstance(error, SandboxKilled)
    assert "its guest was killed (signal 9)" in str(error)


async def test_frozen_guest(daemon: DockerDaemon, sandbox: Sandbox) -> None:
    """A guest that does not answer is lost at the deadline of what it was asked."""
    os.kill(await guest_pid(daemon, sandbox), signal.SIGSTOP)
    with pytest.raises(GuestSilent, match=r"did not answer a ping within 0\.2 s"):
        await sandbox.ping(limit_s=0.2)
    with pytest.raises(TimeoutError):
        await sandbox.run("true")


async def test_cut_in_the_middle_of_a_frame(daemon: DockerDaemon, sandbox: Sandbox) -> None:
    """A guest that dies while it sends leaves half a frame, which nobody takes for a whole one."""
    await sandbox.write_file("big", bytes(4 * MIB))
    pid = await guest_pid(daemon, sandbox)
    channel: Any = vars(sandbox)["_channel"]
    transport: Any = vars(vars(channel)["_transport"])["_transport"]
    transport.pause_reading()  # so that no more can be sent than what the buffers on the way hold
    reading = asyncio.create_task(sandbox.read_file("big", max_bytes=8 * MIB))
    async with asyncio.timeout(SOON_S):
        while not select.select([transport.get_extra_info("socket")], [], [], 0)[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    transport.resume_reading()
    async with asyncio.timeout(SOON_S):
        with pytest.raises(SandboxKilled, match=r"its channel was cut \d+ bytes into a frame: its guest was killed"):
            await reading


async def test_out_of_memory(sandbox: Sandbox) -> None:
    """What the writable trees hold counts; when only the guest is left to be killed, the error says so.

    An engine watches for that from outside, and where all is over at once it can miss it: the error then says so.
    """
    fill = await sandbox.run("cat /dev/zero > /workspace/fill", limit_s=30)
    assert 0 != fill.exit_code
    async with asyncio.timeout(30):
        with pytest.raises((OutOfMemory, SandboxKilled), match=r"over its memory limit|memory ran out"):
            while True:
                await sandbox.run(["true"], stdin=bytes(8 * MIB))


async def test_out_of_memory_in_a_command(sandbox: Sandbox) -> None:
    """A greedy command is killed and the sandbox lives."""
    result = await sandbox.run(["/usr/bin/python3", "-c", f"bytearray({SMALL.memory_bytes} * 2)"], limit_s=30)
    assert 0 != result.exit_code
    assert "on\n" == await shell(sandbox, "echo on")


async def test_full_disk(pool: SandboxPool) -> None:
    """A full tree is the command's error; the sandbox lives, and a restore makes room."""
    spec = SandboxSpec(memory_bytes=256 * MIB, tree_bytes=4 * MIB)
    async with pool.lease(spec) as sandbox:
        result = await sandbox.run("cat /dev/zero > fill")
        assert (1, True) == (result.exit_code, b"No space left on device" in result.stderr)
        with pytest.raises(RequestRefused) as caught:
            await sandbox.write_file("more", bytes(MIB))
        assert errno.ENOSPC == caught.value.errno
        await sandbox.restore()
        await sandbox.write_file("more", bytes(MIB))
        assert sandbox.lost is None
