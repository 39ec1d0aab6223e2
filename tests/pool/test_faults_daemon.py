"""Faults of the container engine, with an engine of the test's own: stopped, killed, restarted and frozen."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from typing import Final

import pytest

from codecraft_pool import (
    AcquireTimeout,
    DaemonHung,
    DaemonUnavailable,
    DockerDaemon,
    DockerLauncher,
    Sandbox,
    SandboxLost,
    SandboxPool,
    SandboxSpec,
    connect_daemon,
)
from codecraft_pool.docker_launcher import Transport
from codecraft_pool.owner import Owner
from tests.pool.launchers import MIB, containers_of, shell
from tests.pool.own_engine import IMAGE, OwnEngine, own_engine

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

TINY: Final = SandboxSpec(image=IMAGE, memory_bytes=128 * MIB, max_processes=32, tree_bytes=8 * MIB)
BACK_LIMIT_S: Final = 60.0
TARGET: Final = 2


@pytest.fixture(scope="module", name="engine")
async def make_engine() -> AsyncGenerator[OwnEngine]:
    async with own_engine() as engine:
        yield engine


@pytest.fixture(name="transport", params=["unix", "attach"])
def choose_transport(request: pytest.FixtureRequest) -> Transport:
    transport: Transport = request.param
    return transport


@pytest.fixture(name="daemon")
async def open_daemon(engine: OwnEngine) -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon(address=engine.address, call_limit_s=3.0) as daemon:
        yield daemon


@pytest.fixture(name="pool")
async def make_pool(daemon: DockerDaemon, transport: Transport) -> AsyncGenerator[SandboxPool]:
    """A warm pool on the test's engine, and nothing of it left in the end."""
    async with DockerLauncher(daemon, transport=transport) as launcher:
        async with SandboxPool(launcher, max_sandboxes=4) as pool:
            await pool.prewarm(TINY, TARGET)
            assert transport == launcher.stats().transport
            yield pool
    assert [] == await containers_of(daemon, Owner.current())


async def until(condition: Callable[[], bool], what: str, *, limit_s: float = BACK_LIMIT_S) -> None:
    """Return when the condition holds."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110  # a pool tells nobody
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {limit_s:g} s: {what}")


async def is_well(pool: SandboxPool) -> None:
    """The pool has as many idle sandboxes as it should, and they work."""
    await until(lambda: pool.stats().idle >= TARGET, f"{TARGET} idle sandboxes: {pool!r}")
    leases = [await pool.acquire(TINY) for _ in range(TARGET)]
    for lease in leases:
        assert "on\n" == await shell(lease.sandbox, "echo on")
        lease.release()
    await until(lambda: pool.stats().idle >= TARGET, f"{TARGET} restored sandboxes: {pool!r}")


async def loss_of(sandbox: Sandbox) -> SandboxLost:
    """The error of a command that the sandbox's end cuts short."""
    with pytest.raises(SandboxLost) as caught:
        await sandbox.run("sleep 1001", limit_s=60)
    assert sandbox.id in str(caught.value)
    return caught.value


async def test_stopped_and_started_again(engine: OwnEngine, pool: SandboxPool) -> None:
    """Its sandboxes are lost, which says why; who waits meanwhile is served when it is back, and the pool is full."""
    lease = await pool.acquire(TINY)
    loss = asyncio.create_task(loss_of(lease.sandbox))
    await asyncio.sleep(0)
    await engine.stop()
    assert "its channel closed: " in str(await loss)
    lease.release()
    waiting = [asyncio.create_task(pool.acquire(TINY)) for _ in range(3)]
    await until(lambda: pool.stats().failed_starts > 0, "a start that failed")
    await engine.start()
    async with asyncio.timeout(BACK_LIMIT_S):
        leases = await asyncio.gather(*waiting)
    for each in leases:
        assert "on\n" == await shell(each.sandbox, "echo on")
        each.release()
    await is_well(pool)


async def test_gone_for_long(engine: OwnEngine, pool: SandboxPool) -> None:
    """Who waits for a sandbox in vain is told what is the matter with the engine."""
    await engine.stop()
    try:
        await until(lambda: pool.stats().idle == 0, "all sandboxes lost")
        with pytest.raises(AcquireTimeout, match=r"starts failed: cannot .* container daemon .* failed"):
            await pool.acquire(TINY, limit_s=1.0)
        with pytest.raises(DaemonUnavailable):
            await pool.launcher.start(TINY)
    finally:
        await engine.start()
    await is_well(pool)


async def test_killed_and_started_again(engine: OwnEngine, pool: SandboxPool, transport: Transport) -> None:
    """Without a daemon its containers run on, and over a socket they are as good as before; a new daemon ends them."""
    lease = await pool.acquire(TINY)
    await engine.stop(signal.SIGKILL)
    if transport == "unix":
        assert "on\n" == await shell(lease.sandbox, "echo on")
        await lease.sandbox.restore()
    loss = asyncio.create_task(loss_of(lease.sandbox))
    await engine.start()
    await loss
    lease.release()
    await is_well(pool)


async def test_frozen(
    engine: OwnEngine, daemon: DockerDaemon, pool: SandboxPool, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls to it end at their limit with an error that says so; sandboxes with a socket work on; it recovers."""
    lease = await pool.acquire(TINY)
    engine.freeze()
    monkeypatch.setattr(daemon, "call_limit_s", 0.5)  # of an engine that answers nothing, as good as long ones
    try:
        if transport == "unix":
            assert "on\n" == await shell(lease.sandbox, "echo on")
            await lease.sandbox.restore()
        with pytest.raises(DaemonHung, match=r"cannot .* did not answer within 0\.5 s"):
            await pool.launcher.start(TINY)
        others = [await pool.acquire(TINY)]
        with pytest.raises(AcquireTimeout, match=r"starts failed: cannot .* did not answer within 0\.5 s"):
            await pool.acquire(TINY, limit_s=2.0)
    finally:
        monkeypatch.undo()
        engine.thaw()
    for each in (lease, *others):
        each.release()
    await is_well(pool)
