"""The pool over the fake launcher: who gets what, and what happens when something fails, is cancelled or is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import NoReturn

import pytest

from codecraft_pool import (
    AcquireTimeout,
    FakeAnswer,
    FakeFiles,
    FakeLauncher,
    LaunchError,
    Lease,
    PoolClosed,
    PoolError,
    SandboxPool,
    SandboxSpec,
)
from codecraft_pool.sandbox import Sandbox
from tests.pool.settling import settle

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec()
OTHER = SandboxSpec(image="other")


@pytest.fixture(name="pool")
async def make_pool(launcher: FakeLauncher) -> AsyncGenerator[SandboxPool]:
    async with SandboxPool(launcher, max_sandboxes=3) as pool:
        yield pool


def now(pool: SandboxPool) -> tuple[int, int, int, int, int]:
    s = pool.stats()
    return s.starting, s.idle, s.leased, s.restoring, s.waiting


def did(pool: SandboxPool) -> dict[str, int]:
    """What the pool has done with sandboxes so far, but for what it has not."""
    names = ("started", "restored", "replaced", "lost", "expired", "evicted", "failed_starts")
    stats = pool.stats()
    return {name: getattr(stats, name) for name in names if getattr(stats, name)}


async def test_prewarm_starts_to_the_target_and_tells_progress(pool: SandboxPool) -> None:
    """After prewarm the target is idle, and progress went from none to all."""
    heard: list[int] = []
    await pool.prewarm(SPEC, 3, progress=heard.append)
    assert (0, 3, 0, 0, 0) == now(pool)
    assert (0, 3) == (heard[0], heard[-1])
    assert {"started": 3} == did(pool)


async def test_a_warm_sandbox_is_lent_without_waiting(pool: SandboxPool) -> None:
    """Acquiring an idle sandbox never yields to the loop."""
    await pool.prewarm(SPEC, 1)
    acquire = pool.acquire(SPEC)
    with pytest.raises(StopIteration) as caught:
        acquire.send(None)
    lease = caught.value.value
    assert isinstance(lease, Lease)
    assert (0, 0, 1, 0, 0) == now(pool)
    lease.release()


async def test_release_restores_and_the_sandbox_is_lent_again(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """What the borrower left is gone, and no second sandbox was started."""
    async with pool.lease(SPEC) as sandbox:
        await sandbox.write_file("left", b"over")
    async with pool.lease(SPEC) as again:
        assert again is sandbox
        with pytest.raises(OSError, match="cannot read 'left'"):
            await again.read_file("left")
    await settle()
    assert {"started": 1, "restored": 2} == did(pool)
    assert (0, 1, 0, 0, 0) == now(pool)


async def test_release_twice_is_release_once(pool: SandboxPool) -> None:
    """A lease that has ended has no more say."""
    lease = await pool.acquire(SPEC)
    lease.release()
    lease.release()
    await settle()
    assert (0, 1, 0, 0, 0) == now(pool)


async def test_those_who_wait_are_served_in_order(pool: SandboxPool) -> None:
    """With the pool full, sandboxes go to the askers in the order of asking."""
    leases = [await pool.acquire(SPEC) for _ in range(3)]
    order: list[int] = []

    async def ask(number: int) -> None:
        async with pool.lease(SPEC):
            order.append(number)

    tasks = [asyncio.create_task(ask(number)) for number in range(5)]
    await settle()
    assert (0, 0, 3, 0, 5) == now(pool)
    for lease in leases:
        lease.release()
    await asyncio.gather(*tasks)
    assert [0, 1, 2, 3, 4] == order


async def test_a_newcomer_does_not_overtake(pool: SandboxPool) -> None:
    """Someone who waits is served before someone who asks just when a sandbox becomes idle."""
    leases = [await pool.acquire(SPEC) for _ in range(3)]
    waiter = asyncio.create_task(pool.acquire(SPEC))
    await settle()
    leases[0].release()
    late = asyncio.create_task(pool.acquire(SPEC))
    await settle()
    assert (True, False) == (waiter.done(), late.done())
    leases[1].release()
    (await waiter).release()
    (await late).release()


async def test_an_idle_sandbox_of_another_kind_makes_room(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """A full pool of the wrong kind serves an asker by ending an idle one."""
    await pool.prewarm(SPEC, 3)
    await pool.prewarm(SPEC, 0)
    async with pool.lease(OTHER) as sandbox:
        assert "other" == sandbox.spec.image
        assert (0, 2, 1, 0, 0) == now(pool)
    assert 1 == sum(each.lost is not None for each in launcher.sandboxes)


async def test_no_sandbox_in_time_is_a_timeout_that_says_why(pool: SandboxPool) -> None:
    """The error names the image, the limit and the pool's state, and leaves nobody waiting."""
    leases = [await pool.acquire(SPEC) for _ in range(3)]
    with pytest.raises(AcquireTimeout, match=r"codecraft/base became free within 0\.01 s: .*3 leased"):
        await pool.acquire(SPEC, limit_s=0.01)
    assert (0, 0, 3, 0, 0) == now(pool)
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("ticks", range(12))
async def test_a_cancelled_asker_leaves_the_pool_whole(pool: SandboxPool, ticks: int) -> None:
    """At whatever point acquire is cancelled, every sandbox ends up idle and nobody waits."""
    first = await pool.acquire(SPEC)
    asker = asyncio.create_task(pool.acquire(SPEC))
    for _ in range(ticks):
        await asyncio.sleep(0)
    first.release()
    asker.cancel()
    await asyncio.wait([asker])
    if not asker.cancelled():
        asker.result().release()
    await settle()
    stats = pool.stats()
    assert (0, 0, 0, 0) == (stats.starting, stats.leased, stats.restoring, stats.waiting)
    assert stats.idle == stats.started


async def test_a_sandbox_granted_to_a_cancelled_asker_is_idle_again(pool: SandboxPool) -> None:
    """Cancellation in the very tick of the grant loses nothing."""
    leases = [await pool.acquire(SPEC) for _ in range(3)]
    asker = asyncio.create_task(pool.acquire(SPEC))
    await settle()
    for lease in leases:
        lease.release()
    for _ in range(60):
        if pool.stats().waiting:
            await asyncio.sleep(0)
    asker.cancel()
    await asyncio.wait([asker])
    assert asker.cancelled()
    await settle()
    assert (0, 3, 0, 0, 0) == now(pool)


async def test_a_sandbox_that_dies_while_lent_is_replaced(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """The borrower's sandbox is gone, its place is not: the target is kept."""
    await pool.prewarm(SPEC, 2)
    async with pool.lease(SPEC) as sandbox:
        sandbox.close()
    await settle()
    assert {"started": 3, "replaced": 1, "lost": 1} == did(pool)
    assert (0, 2, 0, 0, 0) == now(pool)


async def test_a_sandbox_that_dies_while_idle_is_never_lent(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """A dead spare is noticed at once and replaced before anybody asks."""
    await pool.prewarm(SPEC, 2)
    launcher.sandboxes[0].close()
    launcher.sandboxes[1].close()
    async with pool.lease(SPEC) as sandbox:
        assert sandbox.lost is None
    await settle()
    assert (2, 2) == (pool.stats().idle, pool.stats().replaced)


async def test_a_sandbox_that_cannot_be_restored_is_replaced(
    pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be proved clean is closed, not lent."""
    lease = await pool.acquire(SPEC)

    async def refuse(snapshot: object) -> NoReturn:
        raise OSError(5, "a tree cannot be brought back")

    monkeypatch.setattr(lease.sandbox, "restore", refuse)
    lease.release()
    await settle()
    assert lease.sandbox.lost is not None
    assert 1 == pool.stats().replaced


async def test_a_sandbox_that_is_to_be_replaced_is_not_reused(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """Where the spec says so, every borrower has a sandbox that nobody had before."""
    spec = SandboxSpec(reset="replace")
    async with pool.lease(spec) as first:
        pass
    assert first.lost is not None
    async with pool.lease(spec) as second:
        assert second is not first
    assert (2, 0, 2) == (pool.stats().started, pool.stats().restored, pool.stats().replaced)


async def test_a_failed_start_is_told_to_the_one_who_asked(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """One failure costs one asker; the next one is served."""
    launcher.fail_starts = 1
    with pytest.raises(LaunchError, match="told to fail"):
        await pool.acquire(SPEC)
    async with pool.lease(SPEC):
        assert (0, 0, 1, 0, 0) == now(pool)
    assert 1 == pool.stats().failed_starts


async def test_starts_that_keep_failing_are_not_tried_for_ever(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """A target that cannot be met is tried a few times in a row, then after pauses, and is met in the end."""
    launcher.fail_starts = 1000
    with pytest.raises(LaunchError, match="told to fail"):
        await pool.prewarm(SPEC, 2)
    await settle()
    failed = pool.stats().failed_starts
    assert failed <= 5
    await settle()
    assert failed == pool.stats().failed_starts
    launcher.fail_starts = 0
    async with pool.lease(SPEC):
        assert (0, 0) == now(pool)[3:]
    await settle()
    assert 2 == pool.stats().idle


async def test_warming_up_again_tries_again(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """After starts that failed until they were given up, another prewarm starts anew; it does not wait for nothing."""
    launcher.fail_starts = 1000
    for _ in range(3):
        with pytest.raises(LaunchError, match="told to fail"):
            await pool.prewarm(SPEC, 2, limit_s=2.0)
        await settle()
    launcher.fail_starts = 0
    await pool.prewarm(SPEC, 2, limit_s=2.0)
    assert (0, 2, 0, 0, 0) == now(pool)


async def test_an_unexpected_error_in_a_start_reaches_the_asker(
    launcher: FakeLauncher, pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a launcher is a LaunchError for the asker, not a wait until the deadline."""

    async def broken(spec: SandboxSpec) -> Sandbox:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(launcher, "start", broken)
    with pytest.raises(LaunchError, match=r"ZeroDivisionError\('bug'\)"):
        await pool.acquire(SPEC)


async def test_a_target_over_the_maximum_is_refused(pool: SandboxPool) -> None:
    """A pool that can never be warm says so at once."""
    with pytest.raises(LaunchError, match="4 warm sandboxes are wanted of a pool of 3"):
        await pool.prewarm(SPEC, 4)


async def test_close_ends_all_and_wakes_all(launcher: FakeLauncher) -> None:
    """Closing ends idle, lent and starting sandboxes, fails those who wait, and refuses further use."""
    pool = SandboxPool(launcher, max_sandboxes=2)
    await pool.prewarm(SPEC, 1)
    lease = await pool.acquire(SPEC)
    second = await pool.acquire(SPEC)
    waiter = asyncio.create_task(pool.acquire(SPEC))
    await settle()
    await pool.aclose()
    await pool.aclose()
    with pytest.raises(PoolClosed, match="while a sandbox was waited for"):
        await waiter
    lease.release()
    second.release()
    assert all(sandbox.lost is not None for sandbox in launcher.sandboxes)
    assert (0, 0, 0, 0, 0) == now(pool)
    with pytest.raises(PoolClosed, match="closed"):
        await pool.acquire(SPEC)


async def test_close_waits_for_starts_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that is cancelled by close has ended before close returns."""
    ended: list[str] = []

    class Slow(FakeLauncher):
        async def start(self, spec: SandboxSpec) -> Sandbox:
            try:
                await asyncio.sleep(999)
            finally:
                ended.append("start")
            raise AssertionError("unreachable")

    pool = SandboxPool(Slow())
    asker = asyncio.create_task(pool.acquire(SPEC))
    await settle()
    await pool.aclose()
    assert ["start"] == ended
    with pytest.raises(PoolClosed):
        await asker


async def test_the_repr_tells_the_state(pool: SandboxPool) -> None:
    """A log line of the pool says what matters."""
    await pool.prewarm(SPEC, 2)
    async with pool.lease(SPEC):
        assert "<SandboxPool fake: 1 idle, 1 leased, 0 restoring, 0 starting, 0 waiting, at most 3>" == repr(pool)


async def test_commands_reach_the_fake_answer() -> None:
    """The shipped fake lets users play any sandbox: output, exit status and files."""

    async def answer(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        files.files["log"] = " ".join(argv).encode()
        return FakeAnswer(stdout=b"out", stderr=b"err", exit_code=3)

    async with FakeLauncher(answer) as launcher, SandboxPool(launcher) as pool, pool.lease(SPEC) as sandbox:
        result = await sandbox.run("date")
        assert (b"out", b"err", 3) == (result.stdout, result.stderr, result.exit_code)
        assert b"/bin/sh -c date" == await sandbox.read_file("log")


@pytest.mark.parametrize("ticks", range(10))
async def test_a_cancelled_prewarm_leaves_a_working_pool(launcher: FakeLauncher, pool: SandboxPool, ticks: int) -> None:
    """Whoever stops waiting for the target stops nothing else: starts under way go on, and what they give is lent."""
    warming = asyncio.create_task(pool.prewarm(SPEC, 3))
    for _ in range(ticks):
        await asyncio.sleep(0)
    warming.cancel()
    await asyncio.wait([warming])
    await settle()
    assert pool.stats().idle == len(launcher.sandboxes) == pool.stats().target
    leases = [await pool.acquire(SPEC, limit_s=1.0) for _ in range(3)]
    for lease in leases:
        lease.release()


async def test_a_kind_never_has_more_than_its_maximum(pool: SandboxPool) -> None:
    """The third asker of a kind with a maximum of two waits, although the pool has room for another kind."""
    await pool.prewarm(SPEC, 1, maximum=2)
    leases = [await pool.acquire(SPEC) for _ in range(2)]
    with pytest.raises(AcquireTimeout):
        await pool.acquire(SPEC, limit_s=0.01)
    leases.append(await pool.acquire(OTHER, limit_s=1.0))
    for lease in leases:
        lease.release()


async def test_numbers_that_make_no_sense_are_refused(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """An error names what is wrong, before anything is done."""
    with pytest.raises(ValueError, match="a target of 2 and a maximum of 1 do not go together"):
        await pool.prewarm(SPEC, 2, maximum=1)
    with pytest.raises(ValueError, match=r"idle_s is 0; it must be more than 0"):
        SandboxPool(launcher, idle_s=0)
    with pytest.raises(ValueError, match="prove_every and max_quarantined must be at least 0"):
        SandboxPool(launcher, prove_every=-1)
    with pytest.raises(ValueError, match="must be at least 1"):
        SandboxPool(launcher, max_sandboxes=0)


async def test_too_many_askers_are_refused(launcher: FakeLauncher) -> None:
    """The queue has a bound, and the error says which."""
    async with SandboxPool(launcher, max_sandboxes=1, max_waiting=1) as pool:
        lease = await pool.acquire(SPEC)
        waiter = asyncio.create_task(pool.acquire(SPEC))
        await settle()
        with pytest.raises(PoolError, match="1 tasks wait for a sandbox already, which is max_waiting"):
            await pool.acquire(SPEC)
        lease.release()
        (await waiter).release()
