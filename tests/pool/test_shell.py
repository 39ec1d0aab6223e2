"""Persistent shells as users see them: on every launcher, and the object's own rules on a fake one."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from codecraft_pool import (
    FakeAnswer,
    FakeFiles,
    FakeLauncher,
    PathMissing,
    RequestRefused,
    Sandbox,
    SandboxLost,
    SandboxPool,
    SandboxSpec,
    Snapshot,
)
from codecraft_pool.shell import MAX_SHELLS
from tests.pool.launchers import BACKENDS, SPEC, open_backend, open_pool, outcome, processes, until_alone

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", name="pool", params=BACKENDS)
async def make_pool(request: pytest.FixtureRequest) -> AsyncGenerator[SandboxPool]:
    async with open_pool(request, warm=1) as pool:
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    async with pool.lease(SPEC) as sandbox:
        yield sandbox


async def test_state_stays(sandbox: Sandbox) -> None:
    """What a command changes in its shell the next one finds; outside of the shell nobody does."""
    async with sandbox.shell(env={"ADDED": "1"}) as shell:
        assert b"/workspace 1 /home/agent\n" == (await shell.run("echo $PWD $ADDED $HOME")).stdout
        result = await shell.run("cd /usr/bin && export WORD=kept; greet() { echo hello $1; }; false")
        assert (1, 0, False, False) == outcome(result)
        assert not (result.shell_ended or result.shell_restarted)
        result = await shell.run(
            "echo $? $WORD $(greet you); pwd; echo problem >&2; exit_code() { return 7; }; exit_code"
        )
        assert (7, b"1 kept hello you\n/usr/bin\n", b"problem\n") == (result.exit_code, result.stdout, result.stderr)
        assert b"\n" == (await sandbox.run("echo $WORD")).stdout
        async with sandbox.shell(merge_stderr=True) as other:
            assert b"[]\n1\n2\n" == (await other.run("echo [$WORD]; echo 1 >&2; echo 2")).stdout


async def test_an_ended_shell_is_replaced_and_said_to_be(sandbox: Sandbox) -> None:
    """A command may end its shell; the next one has a new one, in the first one's directory, and says so."""
    async with sandbox.shell(cwd="/usr") as shell:
        await shell.run("cd /; x=1")
        result = await shell.run("echo bye; exit 4")
        assert (4, b"bye\n", True, False) == (
            result.exit_code,
            result.stdout,
            result.shell_ended,
            result.shell_restarted,
        )
        assert shell.ended
        result = await shell.run("echo [$x] $PWD")
        assert (b"[] /usr\n", False, True) == (result.stdout, result.shell_ended, result.shell_restarted)
        assert not shell.ended
        assert not (await shell.run("true")).shell_restarted
        assert (-1, 9, False, False) == outcome(await shell.run("kill -9 $$"))


async def test_limits(sandbox: Sandbox) -> None:
    """Each limit has its own mark in the result; the state survives."""
    async with sandbox.shell() as shell:
        await shell.run("x=kept")
        assert (await shell.run("sleep 60", limit_s=0.3)).timed_out
        result = await shell.run("yes", max_output_bytes=1000)
        assert (True, 1000) == (result.truncated, len(result.stdout))
        assert result.dropped_bytes > 0
        assert (await shell.run("while :; do :; done", cpu_limit_s=0.2)).cpu_limited
        result = await shell.run("echo $x")
        assert (b"kept\n", False) == (result.stdout, result.shell_restarted)
        await until_alone_but(sandbox, 1)


async def until_alone_but(sandbox: Sandbox, count: int) -> None:
    """Return when so many processes are left."""
    async with asyncio.timeout(5):
        while len(await processes(sandbox)) != count:  # noqa: ASYNC110  # a guest tells nobody
            await asyncio.sleep(0.02)


async def test_interrupt(sandbox: Sandbox) -> None:
    """It ends the command and keeps the state; between commands it does nothing."""
    async with sandbox.shell() as shell:
        await shell.run("x=kept")
        await shell.interrupt()
        running = asyncio.ensure_future(shell.run("sleep 60; echo not this", limit_s=30))
        while not running.done():
            await asyncio.sleep(0.05)
            await shell.interrupt()
        assert (130, b"") == ((await running).exit_code, (await running).stdout)
        result = await shell.run("echo $x")
        assert (b"kept\n", False) == (result.stdout, result.shell_restarted)


async def test_cancellation(sandbox: Sandbox) -> None:
    """What a cancelled command started is gone, and the shell takes the next one, state and all."""
    async with sandbox.shell() as shell:
        await shell.run("x=kept")
        running = asyncio.create_task(shell.run("touch /tmp/begun; sleep 60; echo not this"))
        assert 0 == (await sandbox.run("until [ -e /tmp/begun ]; do sleep 0.01; done")).exit_code
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        result = await shell.run("echo $x")
        assert (b"kept\n", False) == (result.stdout, result.shell_restarted)
        await until_alone_but(sandbox, 1)


async def test_leaving_ends_the_shells_processes(sandbox: Sandbox) -> None:
    """Background processes go with it, also when the block is left by an exception."""
    shell = sandbox.shell()
    with pytest.raises(ZeroDivisionError):
        async with shell:
            await shell.run("sleep 60 & setsid sleep 60 &")
            raise ZeroDivisionError
    await until_alone(sandbox)
    with pytest.raises(RuntimeError, match="is closed"):
        await shell.run("true")


async def test_a_restore_ends_shells(sandbox: Sandbox) -> None:
    """The object knows, opens a new shell for the next command, and says that it did."""
    async with sandbox.shell() as shell:
        await shell.run("x=1; echo data > file")
        await sandbox.restore(Snapshot.from_files({"a": "1"}))
        assert shell.ended
        result = await shell.run("echo [$x] *")
        assert (b"[] a\n", True) == (result.stdout, result.shell_restarted)


async def test_many_shells(sandbox: Sandbox) -> None:
    """Sixteen at once work side by side, one more is refused, and a closed one makes room."""
    shells = [sandbox.shell() for _ in range(MAX_SHELLS)]
    await asyncio.gather(*(shell.__aenter__() for shell in shells))
    results = await asyncio.gather(*(shell.run(f"x={i}; sleep 0.1; echo $x") for i, shell in enumerate(shells)))
    assert [f"{i}\n".encode() for i in range(MAX_SHELLS)] == [result.stdout for result in results]
    with pytest.raises(RequestRefused) as refused:
        async with sandbox.shell():
            pass
    assert errno.EMFILE == refused.value.errno
    await shells[3].aclose()
    async with sandbox.shell() as another:
        assert b"room\n" == (await another.run("echo room")).stdout
    await asyncio.gather(*(shell.aclose() for shell in shells))
    await until_alone(sandbox)


async def test_shells_that_cannot_be(sandbox: Sandbox) -> None:
    """A program that is not there, one that is no shell, and texts that no shell can be given."""
    with pytest.raises(PathMissing, match="/no/such/shell"):
        async with sandbox.shell(shell="/no/such/shell"):
            pass
    with pytest.raises(PathMissing, match="/no/where"):
        async with sandbox.shell(cwd="/no/where"):
            pass
    async with sandbox.shell(shell="/bin/true") as shell:
        for _ in range(3):  # whether it is gone before or after it is asked is a matter of luck
            try:
                assert (await shell.run("echo x")).shell_ended
            except RequestRefused as exc:
                assert "is it a POSIX shell" in str(exc)
    async with sandbox.shell() as shell:
        refused: list[dict[str, Any]] = [{"text": "a\0"}, {"text": "a", "limit_s": 0}, {"text": "a", "cpu_limit_s": 0}]
        for bad in refused:
            with pytest.raises(ValueError, match=r"NUL|must be more than 0"):
                await shell.run(**bad)


async def test_limits_of_commands(sandbox: Sandbox) -> None:
    """CPU time, the size of files and the number of processes are limited for one command."""
    assert (await sandbox.run("while :; do :; done", cpu_limit_s=0.3)).cpu_limited
    result = await sandbox.run("exec head -c 9999 /dev/zero > big", max_file_bytes=100)
    assert (-1, 25) == (result.exit_code, result.signal)
    assert b"9\n" == (await sandbox.run(["bash", "-c", "ulimit -u"], max_processes=9)).stdout
    refused: list[dict[str, Any]] = [{"cpu_limit_s": 0.0}, {"max_file_bytes": 0}, {"max_processes": -1}]
    for bad in refused:
        with pytest.raises(ValueError, match=next(iter(bad))):
            await sandbox.run("true", **bad)


@pytest.mark.docker
async def test_out_of_memory_is_said(base_image: str) -> None:
    """A command whose process the kernel ended for lack of memory says so; the sandbox lives."""
    spec = SandboxSpec(memory_bytes=64 << 20, max_processes=64)
    async with open_backend("docker") as launcher, SandboxPool(launcher, max_sandboxes=1) as pool:
        async with pool.lease(spec) as sandbox:
            assert not (await sandbox.run("sleep 0.05")).out_of_memory
            result = await sandbox.run(["python3", "-c", "x = bytearray(200 << 20)"])
            assert (True, 9) == (result.out_of_memory, result.signal)
            async with sandbox.shell() as shell:
                result = await shell.run("python3 -c 'x = bytearray(200 << 20)'; echo survived")
                assert (True, b"survived\n") == (result.out_of_memory, result.stdout)
            assert not (await sandbox.run("sleep 0.05")).out_of_memory


# --- the object's own rules, on a fake sandbox ------------------------------------------------------------------------


async def echo(files: FakeFiles, argv: list[str]) -> FakeAnswer:
    """Print the command; "wait" never ends."""
    if argv[-1] == "wait":
        await asyncio.Event().wait()
    return FakeAnswer(" ".join(argv).encode())


async def test_one_command_at_a_time() -> None:
    """A second command at once is the caller's mistake, and does not disturb the first."""
    async with FakeLauncher(echo) as launcher:
        sandbox = await launcher.start(SandboxSpec())
        async with sandbox.shell(shell="/bin/ash") as shell:
            running = asyncio.create_task(shell.run("wait"))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one command at a time"):
                await shell.run("second")
            assert "running" in repr(shell)
            running.cancel()
            await asyncio.wait([running])
            assert b"/bin/ash -c third" == (await shell.run("third")).stdout
        assert "closed" in repr(shell)
        await shell.aclose()


async def test_a_lost_sandbox_ends_its_shells() -> None:
    """Whoever runs a command is told of the loss; leaving the block is no second error."""
    async with FakeLauncher(echo) as launcher:
        sandbox = await launcher.start(SandboxSpec())
        async with sandbox.shell() as shell:
            running = asyncio.create_task(shell.run("wait"))
            await asyncio.sleep(0)
            sandbox.close()
            with pytest.raises(SandboxLost):
                await running
            with pytest.raises(SandboxLost):
                await shell.run("true")


async def test_cancelled_opening_leaves_no_number_taken() -> None:
    """However often an opening is cancelled, there is room for the next."""
    async with FakeLauncher(echo) as launcher:
        sandbox = await launcher.start(SandboxSpec())
        for _ in range(2 * MAX_SHELLS):
            opening = asyncio.create_task(sandbox.shell().__aenter__())
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            assert opening.cancelled()
        async with sandbox.shell() as shell:
            assert 0 == (await shell.run("true")).exit_code


async def test_a_cancelled_reopening_can_be_repeated() -> None:
    """A command that is cancelled while its ended shell is opened again does not leave a shell that nobody can use."""
    async with FakeLauncher(echo) as launcher:
        sandbox = await launcher.start(SandboxSpec())
        async with sandbox.shell() as shell:
            await sandbox.restore()
            assert shell.ended
            running = asyncio.create_task(shell.run("first"))
            await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
            assert (True, False) == (running.cancelled(), shell.ended)
            assert b"/bin/sh -c second" == (await shell.run("second")).stdout
