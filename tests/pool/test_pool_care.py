"""What the pool does by itself, over fake sandboxes and a clock that the test moves: idle times, checks, retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from codecraft_pool import (
    AcquireTimeout,
    DaemonUnavailable,
    FakeLauncher,
    LaunchError,
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


@pytest.fixture(name="clock")
def make_clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(name="pool")
async def make_pool(launcher: FakeLauncher, clock: VirtualClock) -> AsyncGenerator[SandboxPool]:
    async with SandboxPool(launcher, max_sandboxes=8, idle_s=100.0, check_s=30.0, clock=clock) as pool:
        yield pool


async def pass_time(clock: VirtualClock, seconds: float, *, step_s: float = 1.0) -> None:
    """Let time pass in small steps, and everything happen that it brings."""
    for _ in range(round(seconds / step_s)):
        clock.advance(step_s)
        await settle()


async def test_idle_sandboxes_over_the_target_end_after_a_while(
    launcher: FakeLauncher, pool: SandboxPool, clock: VirtualClock
) -> None:
    """A burst leaves nothing behind for long; the target never goes."""
    await pool.prewarm(SPEC, 2)
    for lease in [await pool.acquire(SPEC) for _ in range(6)]:
        lease.release()
    await settle()
    assert 6 == pool.stats().idle
    await pass_time(clock, 99, step_s=33)
    assert 6 == pool.stats().idle
    await pass_time(clock, 2)
    assert (2, 4) == (pool.stats().idle, pool.stats().expired)
    await pass_time(clock, 1000, step_s=50)
    assert (2, 4) == (pool.stats().idle, sum(each.lost is not None for each in launcher.sandboxes))


async def test_idle_sandboxes_are_asked_whether_they_live(pool: SandboxPool, clock: VirtualClock) -> None:
    """Every idle sandbox is asked once in every interval, and stays."""
    await pool.prewarm(SPEC, 5)
    await pass_time(clock, 61, step_s=0.5)
    assert (10, 5, 0) == (pool.stats().checks, pool.stats().idle, pool.stats().replaced)


async def test_a_sandbox_that_does_not_answer_is_replaced(
    launcher: FakeLauncher, pool: SandboxPool, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent guest is noticed by the check, before anybody borrows it."""
    await pool.prewarm(SPEC, 2)
    silent = launcher.sandboxes[0]
    asked = asyncio.Event()

    async def fall_silent(*, limit_s: float) -> None:
        asked.set()
        silent.close()  # what the channel does once the limit has passed

    monkeypatch.setattr(silent, "ping", fall_silent)
    await pass_time(clock, 31)
    assert asked.is_set()
    assert (2, 1, 1) == (pool.stats().idle, pool.stats().replaced, pool.stats().lost)


async def test_a_check_that_hangs_holds_up_no_borrower(
    launcher: FakeLauncher, pool: SandboxPool, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While some are asked, they are lent as ever; no second check is begun, and closing ends it."""
    await pool.prewarm(SPEC, 2)
    asked = 0

    async def hang(*, limit_s: float) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(999)

    for sandbox in launcher.sandboxes:
        monkeypatch.setattr(sandbox, "ping", hang)
    await pass_time(clock, 95, step_s=5)
    assert 2 == asked
    leases = [await pool.acquire(SPEC, limit_s=1.0) for _ in range(2)]
    for lease in leases:
        lease.release()


async def test_an_idle_pool_sets_few_timers(launcher: FakeLauncher, clock: VirtualClock) -> None:
    """64 idle sandboxes have one timer between them, and it is set at most twice for every eight checks."""
    async with SandboxPool(launcher, max_sandboxes=64, check_s=30.0, clock=clock) as pool:
        await pool.prewarm(SPEC, 64)
        assert 1 == len(clock.pending())
        before = clock.timers_set
        await pass_time(clock, 68)  # two rounds of eight times eight
        assert 1 == len(clock.pending())
        assert 128 == pool.stats().checks
        assert clock.timers_set - before <= 2 * 128 / 8
    assert [] == clock.pending()


async def test_a_dead_daemon_is_not_hammered_and_the_pool_recovers_by_itself(
    launcher: FakeLauncher, pool: SandboxPool, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of failure costs one try every 15 seconds; once the daemon is back, the target is met without a call."""
    await pool.prewarm(SPEC, 4)
    start, is_up = launcher.start, False

    async def unless_down(spec: SandboxSpec) -> Sandbox:
        if not is_up:
            raise DaemonUnavailable("the container daemon does not answer")
        return await start(spec)

    monkeypatch.setattr(launcher, "start", unless_down)
    for sandbox in list(launcher.sandboxes):
        sandbox.close()
    await pass_time(clock, 3600, step_s=15)
    stats = pool.stats()
    assert (0, 4) == (stats.idle, stats.lost)
    assert 200 < stats.failed_starts < 260
    assert {"DaemonUnavailable": stats.failed_starts} == stats.failures
    is_up = True
    await pass_time(clock, 16)
    assert 4 == pool.stats().idle


async def test_an_asker_in_a_pause_is_served_once_starts_work_again(
    launcher: FakeLauncher, pool: SandboxPool, clock: VirtualClock
) -> None:
    """Asking does not cut a pause short: it waits for the next try, and its sandbox."""
    launcher.fail_starts = 3
    with pytest.raises(LaunchError, match="told to fail"):
        await pool.prewarm(SPEC, 1)
    await settle()
    asker = asyncio.create_task(pool.acquire(SPEC))
    await settle()
    assert (False, 3) == (asker.done(), pool.stats().failed_starts)
    await pass_time(clock, 0.3, step_s=0.1)
    (await asker).release()


async def test_a_timeout_in_a_pause_says_what_failed(launcher: FakeLauncher, pool: SandboxPool) -> None:
    """The error of a deadline names the failure that kept the sandbox from being started."""
    launcher.fail_starts = 3
    with pytest.raises(LaunchError, match="told to fail"):
        await pool.prewarm(SPEC, 1)
    await settle()
    with pytest.raises(AcquireTimeout, match="the last 3 starts failed: the fake launcher was told to fail"):
        await pool.acquire(SPEC, limit_s=0.01)
    assert 1 == pool.stats().timed_out


async def test_a_failing_kind_does_not_hold_up_another(
    launcher: FakeLauncher, pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that cannot be had costs those who ask for it, and nobody else."""
    start = launcher.start

    async def only_one(spec: SandboxSpec) -> Sandbox:
        if spec != SPEC:
            raise LaunchError("no such image")
        return await start(spec)

    monkeypatch.setattr(launcher, "start", only_one)
    for _ in range(3):
        with pytest.raises(LaunchError, match="no such image"):
            await pool.acquire(OTHER)
    waiting = asyncio.create_task(pool.acquire(OTHER))
    await settle()
    leases = [await pool.acquire(SPEC, limit_s=1.0) for _ in range(8)]
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    for lease in leases:
        lease.release()


async def test_an_image_that_takes_long_holds_up_no_other_kind(
    launcher: FakeLauncher, pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one image is pulled, one start waits for it, and not as many as may be under way; then all go on."""
    pulled = asyncio.Event()

    async def pull(spec: SandboxSpec) -> None:
        if spec == OTHER:
            await pulled.wait()

    monkeypatch.setattr(launcher, "prepare", pull)
    waiting = [asyncio.create_task(pool.acquire(OTHER)) for _ in range(4)]
    await settle()
    assert 1 == pool.stats().starting
    (await pool.acquire(SPEC, limit_s=1.0)).release()
    pulled.set()
    for lease in await asyncio.gather(*waiting):
        lease.release()


async def _differs(sandbox: Sandbox, snapshot: Snapshot | None, /) -> list[str]:
    return ["/workspace: an extra file 'x'", "1 process of uid 1000"]


async def test_a_sandbox_that_is_not_clean_is_taken_out(launcher: FakeLauncher, clock: VirtualClock) -> None:
    """It is lent to nobody, kept with what is wrong about it for a time, and another takes its place."""
    async with SandboxPool(launcher, prover=_differs, prove_every=1, quarantine_s=50.0, clock=clock) as pool:
        await pool.prewarm(SPEC, 1)
        lease = await pool.acquire(SPEC)
        lease.release()
        await settle()
        (found,) = pool.quarantined()
        assert (lease.sandbox, 2) == (found.sandbox, len(found.differences))
        stats = pool.stats()
        assert (1, 1, 1, 1, 1) == (stats.idle, stats.quarantined, stats.proofs, stats.failed_proofs, stats.replaced)
        await pass_time(clock, 49)
        assert lease.sandbox.lost is None
        await pass_time(clock, 2)
        assert ([], 0) == (pool.quarantined(), pool.stats().quarantined)
        assert lease.sandbox.lost is not None


async def test_only_the_latest_unclean_sandboxes_are_kept(launcher: FakeLauncher) -> None:
    """However many fail their proof, a few are kept, and closing the pool ends those too."""
    async with SandboxPool(launcher, prover=_differs, prove_every=1, max_quarantined=2) as pool:
        for _ in range(5):
            (await pool.acquire(SPEC)).release()
            await settle()
        assert (2, 5) == (pool.stats().quarantined, pool.stats().failed_proofs)
        assert launcher.sandboxes[3:5] == [each.sandbox for each in pool.quarantined()]
        assert 3 == sum(sandbox.lost is not None for sandbox in launcher.sandboxes)
    assert all(sandbox.lost is not None for sandbox in launcher.sandboxes)


async def test_an_unclean_sandbox_that_dies_is_let_go(launcher: FakeLauncher) -> None:
    """A dead sandbox proves nothing, and nothing is left of it."""
    async with SandboxPool(launcher, prover=_differs, prove_every=1) as pool:
        (await pool.acquire(SPEC)).release()
        await settle()
        launcher.sandboxes[0].close()
        assert ([], 0) == (pool.quarantined(), pool.stats().quarantined)


async def test_restores_are_proved_by_sample(launcher: FakeLauncher) -> None:
    """Every third restore of a kind is proved, with what it was restored to; the others are lent at once."""
    proved: list[tuple[str, Snapshot | None]] = []

    async def prove(sandbox: Sandbox, snapshot: Snapshot | None, /) -> list[str]:
        proved.append((sandbox.id, snapshot))
        return []

    async with SandboxPool(launcher, prover=prove, prove_every=3) as pool:
        for _ in range(7):
            (await pool.acquire(SPEC)).release()
            await settle()
        assert [("fake-0", None)] * 2 == proved
        assert (1, 2, 0, 7) == (*(getattr(pool.stats(), n) for n in ("idle", "proofs", "failed_proofs", "restored")),)


async def test_a_proof_that_cannot_be_made_proves_nothing(launcher: FakeLauncher) -> None:
    """What could not be proved clean is replaced, and counted apart from what was proved unclean."""

    async def broken(sandbox: Sandbox, snapshot: Snapshot | None, /) -> list[str]:
        raise ZeroDivisionError("a bug in the prover")

    async with SandboxPool(launcher, prover=broken, prove_every=1) as pool:
        await pool.prewarm(SPEC, 1)
        (await pool.acquire(SPEC)).release()
        await settle()
        stats = pool.stats()
        assert (1, 1, 0, 1) == (stats.idle, stats.proof_errors, stats.failed_proofs, stats.replaced)
        assert launcher.sandboxes[0].lost is not None


async def test_a_sandbox_is_not_lent_while_it_is_proved(launcher: FakeLauncher) -> None:
    """An asker waits for the end of the proof; closing the pool ends a proof that hangs."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def prove(sandbox: Sandbox, snapshot: Snapshot | None, /) -> list[str]:
        begun.set()
        await go.wait()
        return []

    async with SandboxPool(launcher, max_sandboxes=1, prover=prove, prove_every=1) as pool:
        (await pool.acquire(SPEC)).release()
        await begun.wait()
        asker = asyncio.create_task(pool.acquire(SPEC))
        await settle()
        assert not asker.done()
        go.set()
        (await asker).release()
        go.clear()
        await settle()
        assert 1 == pool.stats().restoring
