"""Sandboxes restored ahead of time to what will be asked for, over fake sandboxes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator

import pytest

from codecraft_pool import (
    FakeLauncher,
    Lease,
    PoolClosed,
    RequestRefused,
    RestoreReport,
    Sandbox,
    SandboxPool,
    SandboxSpec,
    Snapshot,
)
from tests.pool.settling import settle
from tests.pool.virtual_clock import VirtualClock

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec()
OTHER = SandboxSpec(image="other")
X, Y = (Snapshot.from_files({"name": name}) for name in ("x", "y"))


@pytest.fixture(name="pool")
async def make_pool(launcher: FakeLauncher) -> AsyncGenerator[SandboxPool]:
    async with SandboxPool(launcher, max_sandboxes=3) as pool:
        yield pool


def hits(pool: SandboxPool) -> tuple[int, int]:
    return pool.stats().prefetch_hits, pool.stats().prefetch_misses


async def test_a_lease_holds_the_snapshot_that_was_asked_for(pool: SandboxPool) -> None:
    """Whether the sandbox is new, comes back, or held something else: the workspace is what was asked for."""
    for snapshot, name in ((X, b"x"), (Y, b"y"), (X, b"x")):
        async with pool.lease(SPEC, snapshot=snapshot) as sandbox:
            assert name == await sandbox.read_file("name")
    await settle()
    async with pool.lease(SPEC) as sandbox:
        with pytest.raises(FileNotFoundError):
            await sandbox.read_file("name")


async def test_what_is_expected_is_lent_without_waiting(pool: SandboxPool) -> None:
    """After `expect`, a sandbox holds the snapshot before it is asked for, and acquiring it never yields."""
    await pool.prewarm(SPEC, 2)
    pool.expect(SPEC, X)
    await settle()
    acquire = pool.acquire(SPEC, snapshot=X)
    with pytest.raises(StopIteration) as caught:
        acquire.send(None)
    lease = caught.value.value
    assert isinstance(lease, Lease)
    assert lease.restored is not None
    assert b"x" == await lease.sandbox.read_file("name")
    assert (1, 0) == hits(pool)
    lease.release()


async def test_a_sandbox_that_comes_back_is_restored_once_to_what_is_expected(pool: SandboxPool) -> None:
    """It is not made empty first, and no other sandbox is started for it."""
    lease = await pool.acquire(SPEC)
    pool.expect(SPEC, X)
    lease.release()
    await settle()
    assert (1, 1) == (pool.stats().restored, pool.stats().started)
    (await pool.acquire(SPEC, snapshot=X)).release()
    assert (1, 0) == hits(pool)


async def test_releasing_and_asking_at_once_needs_one_restore(pool: SandboxPool) -> None:
    """Whoever gives back and asks for the next snapshot in one breath gets it from the restore of the release."""
    await pool.prewarm(SPEC, 1, maximum=1)
    lease = await pool.acquire(SPEC)
    for number in range(1, 4):
        lease.release()
        lease = await pool.acquire(SPEC, snapshot=X)
        assert number == pool.stats().restored
        assert b"x" == await lease.sandbox.read_file("name")
    lease.release()


async def test_one_restore_that_is_under_way_is_waited_for(pool: SandboxPool) -> None:
    """An asker whose snapshot a sandbox is being restored to takes that one, although others are idle."""
    await pool.prewarm(SPEC, 3)
    pool.expect(SPEC, X)
    await asyncio.sleep(0)
    assert (2, 1) == (pool.stats().idle, pool.stats().restoring)
    (await pool.acquire(SPEC, snapshot=X)).release()
    assert ((0, 1), 1) == (hits(pool), pool.stats().restored)


async def test_another_kind_is_started_before_it_is_asked_for(launcher: FakeLauncher) -> None:
    """In a full pool, the sandbox that comes back makes room for the kind that is expected next."""
    async with SandboxPool(launcher, max_sandboxes=1) as pool:
        lease = await pool.acquire(SPEC, snapshot=X)
        pool.expect(OTHER, Y)
        lease.release()
        await settle()
        assert (1, 0, 1) == (pool.stats().idle, pool.stats().leased, pool.stats().evicted)
        async with pool.lease(OTHER, snapshot=Y) as sandbox:
            assert ("other", b"y") == (sandbox.spec.image, await sandbox.read_file("name"))
        assert (1, 1) == hits(pool)


async def test_what_is_expected_holds_up_nobody(pool: SandboxPool) -> None:
    """Those who ask for something else get a sandbox that was restored in vain; the wish is then over."""
    pool.expect(SPEC, X, 3)
    await settle()
    assert (3, 3) == (pool.stats().idle, pool.stats().restored)
    leases = [await pool.acquire(SPEC, snapshot=Y, limit_s=1.0) for _ in range(3)]
    for lease in leases:
        lease.release()
    await settle()
    assert (9, (0, 3)) == (pool.stats().restored, hits(pool))  # ahead, for the askers, and when they gave back


async def test_a_snapshot_that_no_sandbox_takes_is_given_up(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restoring ahead ends after a few failures; the one who asks for it is told why, and others are served."""
    restore = Sandbox.restore

    async def refuse(self: Sandbox, snapshot: Snapshot | None = None) -> RestoreReport:
        if snapshot is X:
            raise RequestRefused(self.id, "restore", errno.ENOSPC, "No space left on device")
        return await restore(self, snapshot)

    monkeypatch.setattr(Sandbox, "restore", refuse)
    await pool.prewarm(SPEC, 2)
    for _ in range(10):
        pool.expect(SPEC, X, 2)
        await settle()
    assert pool.stats().replaced <= 4
    with pytest.raises(RequestRefused, match="No space left"):
        await pool.acquire(SPEC, snapshot=X)
    async with pool.lease(SPEC, snapshot=Y) as sandbox:
        assert b"y" == await sandbox.read_file("name")


@pytest.mark.parametrize("ticks", range(14))
async def test_a_cancelled_asker_of_a_snapshot_leaves_the_pool_whole(pool: SandboxPool, ticks: int) -> None:
    """At whatever point it is cancelled, also while the sandbox is restored for it, every sandbox is idle again."""
    await pool.prewarm(SPEC, 1)
    asker = asyncio.create_task(pool.acquire(SPEC, snapshot=X))
    for _ in range(ticks):
        await asyncio.sleep(0)
    asker.cancel()
    await asyncio.wait([asker])
    if not asker.cancelled():
        asker.result().release()
    await settle()
    stats = pool.stats()
    assert (0, 0, 0, 0, 0) == (stats.starting, stats.leased, stats.restoring, stats.waiting, stats.replaced)
    async with pool.lease(SPEC) as sandbox:
        with pytest.raises(FileNotFoundError):
            await sandbox.read_file("name")


async def test_a_wish_that_nobody_comes_for_is_dropped(launcher: FakeLauncher) -> None:
    """What was started for it ends as any idle sandbox does, and is not started again."""
    clock = VirtualClock()
    async with SandboxPool(launcher, idle_s=10.0, check_s=None, clock=clock) as pool:
        pool.expect(SPEC, X, 2)
        await settle()
        assert 2 == pool.stats().idle
        for _ in range(30):
            clock.advance(1.0)
            await settle()
        assert (0, 2, 2, []) == (pool.stats().idle, pool.stats().started, pool.stats().expired, clock.pending())


async def test_a_closed_pool_expects_nothing(pool: SandboxPool) -> None:
    """Closing in the middle of restoring ahead ends it; afterwards an error says so."""
    pool.expect(SPEC, X, 3)
    await asyncio.sleep(0)
    await pool.aclose()
    with pytest.raises(PoolClosed):
        pool.expect(SPEC, X)
    assert (0, 0, 0) == (pool.stats().starting, pool.stats().idle, pool.stats().restoring)


async def test_a_senseless_wish_is_refused(pool: SandboxPool) -> None:
    """Fewer than one is no number to expect."""
    with pytest.raises(ValueError, match="count is 0; it must be at least 1"):
        pool.expect(SPEC, X, 0)
