"""The pool over a launcher whose daemon goes away and comes back: it waits, says why, and fills up again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from codecraft_pool import AcquireTimeout, DaemonUnavailable, PoolClosed, SandboxPool, SandboxSpec
from codecraft_pool.pool_kind import Pauses
from tests.outage import OutageLauncher

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec()
TARGET = 2


@pytest.fixture(name="launcher")
async def make_launcher() -> AsyncGenerator[OutageLauncher]:
    launcher = OutageLauncher()
    async with launcher:
        yield launcher


@pytest.fixture(name="pool")
async def make_pool(launcher: OutageLauncher, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[SandboxPool]:
    monkeypatch.setattr(Pauses, "fail", shortened(Pauses.fail))
    async with SandboxPool(launcher, max_sandboxes=3) as pool:
        await pool.prewarm(SPEC, TARGET)
        yield pool


def shortened(fail: Callable[[Pauses, float, float], None]) -> Callable[[Pauses, float, float], None]:
    def fail_briefly(pauses: Pauses, began_at: float, now: float) -> None:
        pauses.first_s, pauses.longest_s = 0.01, 0.02
        fail(pauses, began_at, now)

    return fail_briefly


def break_down(launcher: OutageLauncher) -> None:
    """The daemon goes, and its sandboxes with it."""
    launcher.is_out = True
    for sandbox in launcher.sandboxes:
        sandbox.close()


async def until_tried(pool: SandboxPool, times: int) -> None:
    async with asyncio.timeout(10):
        while pool.stats().failed_starts < times:  # noqa: ASYNC110  # a pool tells nobody
            await asyncio.sleep(0.001)


async def test_it_fills_up_again_without_being_asked(launcher: OutageLauncher, pool: SandboxPool) -> None:
    """However long the daemon was away."""
    break_down(launcher)
    await until_tried(pool, 10)
    launcher.is_out = False
    async with asyncio.timeout(10):
        while pool.stats().idle < TARGET:  # noqa: ASYNC110  # a pool tells nobody
            await asyncio.sleep(0.001)
    assert (TARGET, 0) == (pool.stats().idle, pool.stats().starting)


async def test_who_waits_waits_on(launcher: OutageLauncher, pool: SandboxPool) -> None:
    """No failed start is told to a waiter, who gets a sandbox when there is one."""
    break_down(launcher)
    waiting = [asyncio.create_task(pool.acquire(SPEC)) for _ in range(3)]
    await until_tried(pool, 6)
    assert not any(task.done() for task in waiting)
    launcher.is_out = False
    async with asyncio.timeout(10):
        for lease in await asyncio.gather(*waiting):
            lease.release()


async def test_a_limit_that_passes_says_what_happened(launcher: OutageLauncher, pool: SandboxPool) -> None:
    """The error of whoever waited in vain has the daemon's; that of one who waits for a busy pool has not."""
    break_down(launcher)
    with pytest.raises(AcquireTimeout, match="starts failed: cannot create container 7: nobody answers"):
        await pool.acquire(SPEC, limit_s=0.1)
    launcher.is_out = False
    leases = [await pool.acquire(SPEC) for _ in range(3)]
    with pytest.raises(AcquireTimeout) as caught:
        await pool.acquire(SPEC, limit_s=0.05)
    assert "starts failed" not in str(caught.value)
    for lease in leases:
        lease.release()


async def test_a_daemon_that_never_worked_is_told_at_once() -> None:
    """The first who asks need not wait out his limit to learn that there is none."""
    launcher = OutageLauncher()
    launcher.is_out = True
    async with launcher, SandboxPool(launcher) as pool:
        with pytest.raises(DaemonUnavailable):
            await pool.acquire(SPEC)
        with pytest.raises(DaemonUnavailable):
            await pool.prewarm(SPEC, 1)


async def test_a_prewarm_does_not_wait_for_it(launcher: OutageLauncher, pool: SandboxPool) -> None:
    """It fails with the daemon's error; its target stays, and is met later."""
    launcher.is_out = True
    with pytest.raises(DaemonUnavailable):
        await pool.prewarm(SPEC, TARGET + 1)
    launcher.is_out = False
    async with asyncio.timeout(10):
        while pool.stats().idle < TARGET + 1:  # noqa: ASYNC110  # a pool tells nobody
            await asyncio.sleep(0.001)


async def test_closed_in_the_middle(launcher: OutageLauncher, pool: SandboxPool) -> None:
    """A pool that waits for its daemon closes at once, and tries nothing afterwards."""
    break_down(launcher)
    waiting = asyncio.create_task(pool.acquire(SPEC))
    await until_tried(pool, 2)
    await pool.aclose()
    with pytest.raises(PoolClosed):
        await waiting
    tried = pool.stats().failed_starts
    await asyncio.sleep(0.05)
    assert tried == pool.stats().failed_starts
