"""Forks over fake sandboxes that can be copied: all or nothing, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from codecraft_pool import (
    AcquireTimeout,
    FakeLauncher,
    LaunchError,
    PoolClosed,
    PoolError,
    RestoreReport,
    Sandbox,
    SandboxLost,
    SandboxPool,
    SandboxSpec,
    Snapshot,
)
from tests.pool.settling import settle

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec()


class Copied:
    """What a sandbox held; `fail` are the sandboxes in which it cannot be restored."""

    def __init__(self, files: Snapshot, fail: set[str]) -> None:
        self.files = files
        self.fail = fail


class Copier:
    """Gives fake sandboxes the two methods that forks need."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail: set[str] = set()
        self.hang = False
        self.snapshots = 0
        restore = Sandbox.restore

        async def take(sandbox: Sandbox) -> Copied:
            self.snapshots += 1
            await asyncio.sleep(0)
            return Copied(Snapshot.from_files({"state": await sandbox.read_file("state")}), self.fail)

        async def bring(sandbox: Sandbox, snapshot: Any = None) -> RestoreReport:
            if not isinstance(snapshot, Copied):
                return await restore(sandbox, snapshot)
            if self.hang:
                await asyncio.sleep(999)
            if sandbox.id in snapshot.fail:
                raise SandboxLost(sandbox.id, "played")
            return await restore(sandbox, snapshot.files)

        monkeypatch.setattr(Sandbox, "snapshot", take, raising=False)
        monkeypatch.setattr(Sandbox, "restore", bring)


@pytest.fixture(name="copier")
def make_copier(monkeypatch: pytest.MonkeyPatch) -> Copier:
    return Copier(monkeypatch)


@pytest.fixture(name="pool")
async def make_pool(launcher: FakeLauncher) -> AsyncGenerator[SandboxPool]:
    async with SandboxPool(launcher, max_sandboxes=4) as pool:
        yield pool


async def test_copies_hold_what_the_original_holds(pool: SandboxPool, copier: Copier) -> None:
    """Each copy has the original's files and goes its own way; the original goes on."""
    original = await pool.acquire(SPEC)
    await original.sandbox.write_file("state", b"as far as it came")
    copies = await pool.fork(original, 3)
    await original.sandbox.write_file("state", b"further")
    assert [b"as far as it came"] * 3 == [await copy.sandbox.read_file("state") for copy in copies]
    assert (4, 3, 1) == (pool.stats().leased, pool.stats().forks, copier.snapshots)
    for lease in (original, *copies):
        lease.release()
    await settle()
    async with pool.lease(SPEC) as sandbox:
        with pytest.raises(FileNotFoundError):
            await sandbox.read_file("state")


async def test_one_copy_that_fails_undoes_the_others(launcher: FakeLauncher, pool: SandboxPool, copier: Copier) -> None:
    """The error is that of the copy; what had been lent for it is back, and the failed sandbox replaced."""
    await pool.prewarm(SPEC, 4)
    original = await pool.acquire(SPEC)
    await original.sandbox.write_file("state", b"x")
    copier.fail.add(launcher.sandboxes[1].id)
    with pytest.raises(SandboxLost, match="played"):
        await pool.fork(original, 3)
    await settle()
    stats = pool.stats()
    assert (1, 3, 0, 1, 0) == (stats.leased, stats.idle, stats.restoring, stats.replaced, stats.forks)
    assert b"x" == await original.sandbox.read_file("state")


async def test_a_fork_that_finds_no_room_in_time_lends_nothing(pool: SandboxPool, copier: Copier) -> None:
    """With two of four sandboxes lent to others, three copies are not had, and none is kept."""
    original, other, another = [await pool.acquire(SPEC) for _ in range(3)]
    await original.sandbox.write_file("state", b"x")
    with pytest.raises(AcquireTimeout, match=r"was not forked 3 times within 0\.05 s"):
        await pool.fork(original, 3, limit_s=0.05)
    await settle()
    assert (3, 1, 0) == (pool.stats().leased, pool.stats().idle, pool.stats().waiting)
    other.release()
    another.release()
    assert 3 == len(await pool.fork(original, 3, limit_s=5.0))


@pytest.mark.parametrize("ticks", range(0, 40, 2))
async def test_a_cancelled_fork_lends_nothing(pool: SandboxPool, copier: Copier, ticks: int) -> None:
    """At whatever point it is cancelled, only the original is lent afterwards."""
    original = await pool.acquire(SPEC)
    await original.sandbox.write_file("state", b"x")
    fork = asyncio.create_task(pool.fork(original, 3))
    for _ in range(ticks):
        await asyncio.sleep(0)
    fork.cancel()
    await asyncio.wait([fork])
    if not fork.cancelled():
        for lease in fork.result():
            lease.release()
    await settle()
    stats = pool.stats()
    assert (1, 0, 0, 0) == (stats.leased, stats.starting, stats.restoring, stats.waiting)


async def test_two_forks_do_not_wait_for_each_other(pool: SandboxPool, copier: Copier) -> None:
    """Two forks that fit one after the other, but not together, are served one after the other."""
    one, two = await pool.acquire(SPEC), await pool.acquire(SPEC)
    for lease in (one, two):
        await lease.sandbox.write_file("state", b"x")
    first, second = asyncio.create_task(pool.fork(one, 2)), asyncio.create_task(pool.fork(two, 2))
    for lease in await first:
        lease.release()
    assert 2 == len(await second)


async def test_a_fork_of_a_lost_sandbox_says_so(pool: SandboxPool, copier: Copier) -> None:
    """What is gone cannot be copied."""
    lease = await pool.acquire(SPEC)
    lease.sandbox.close()
    with pytest.raises(SandboxLost):
        await pool.fork(lease, 1)
    assert 1 == pool.stats().leased


async def test_closing_the_pool_ends_a_fork(pool: SandboxPool, copier: Copier) -> None:
    """A fork that waits for room hears that the pool was closed."""
    leases = [await pool.acquire(SPEC) for _ in range(4)]
    await leases[0].sandbox.write_file("state", b"x")
    fork = asyncio.create_task(pool.fork(leases[0], 2))
    await settle()
    await pool.aclose()
    with pytest.raises(PoolClosed):
        await fork


async def test_a_failed_start_fails_the_fork(launcher: FakeLauncher, pool: SandboxPool, copier: Copier) -> None:
    """The reason for which no further sandbox could be started is the error."""
    original = await pool.acquire(SPEC)
    await original.sandbox.write_file("state", b"x")
    launcher.fail_starts = 3
    with pytest.raises(LaunchError, match="told to fail"):
        await pool.fork(original, 3)
    await settle()
    assert (1, 0) == (pool.stats().leased, pool.stats().waiting)


async def test_what_cannot_be_forked_is_refused_at_once(pool: SandboxPool, copier: Copier) -> None:
    """More copies than the pool holds, or none: an error before anything is done."""
    lease = await pool.acquire(SPEC)
    with pytest.raises(PoolError, match="4 copies and the original do not fit into a pool of 4"):
        await pool.fork(lease, 4)
    with pytest.raises(ValueError, match="count is 0"):
        await pool.fork(lease, 0)
    assert 0 == copier.snapshots
