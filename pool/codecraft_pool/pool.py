"""The pool: keeps sandboxes warm, lends them out, brings them back clean, replaces what fails.

Decisions are made by `plan.Plan`, synchronously; `pool_keeper.Keeper` carries them out. Here is what users call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from codecraft_pool.errors import AcquireTimeout, LaunchError, PoolClosed, PoolError
from codecraft_pool.launcher import Launcher
from codecraft_pool.plan import Phase, Policy
from codecraft_pool.pool_fork import check_forkable, lease_copies, take_checkpoint
from codecraft_pool.pool_keeper import Asker, Clock, Keeper, PoolSlot, ProofPolicy, Quarantined
from codecraft_pool.pool_kind import Kind, key_of
from codecraft_pool.pool_proof import Prover
from codecraft_pool.pool_stats import PoolStats, SpecStats, Tally, launcher_info
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import RestoreReport, SandboxSpec

_PHASES: Final = (Phase.STARTING, Phase.IDLE, Phase.LEASED, Phase.RESTORING, Phase.QUARANTINED)


class Lease:
    """One borrower's hold on one sandbox. Ends with `release`; until then the sandbox is the borrower's alone.

    `restored` tells of the restore that made it what it was when it was lent; None if it was new.
    """

    def __init__(self, keeper: Keeper, slot: PoolSlot) -> None:
        assert slot.box is not None
        self.sandbox: Sandbox = slot.box.sandbox
        self.restored: RestoreReport | None = slot.box.restored
        self._keeper = keeper
        self._slot: PoolSlot | None = slot

    def release(self) -> None:
        """Give the sandbox back; it is restored in the background, or replaced where that fails. Idempotent."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._keeper.take_back(slot)


class SandboxPool:
    """Lends sandboxes that a launcher starts. Use it as ``async with SandboxPool(launcher) as pool``.

    Args:
        launcher: Starts the sandboxes. The pool does not own it.
        max_sandboxes: Most sandboxes at once, of all specs together; further askers wait.
        max_starting: Most sandboxes being started at once. How many really are adapts to how starts fare.
        max_waiting: Most tasks that may wait in `acquire`.
        idle_s: Idle sandboxes over their spec's target end after so many seconds; None: they never do.
        check_s: Idle sandboxes are asked every so many seconds whether they live, and replaced if not; None: never.
        prover: Says how a restored sandbox differs from a new one; None: nothing is proved.
        prove_every: Every so many restores of a spec, one is proved; 0: none is.
        max_quarantined: Most unclean sandboxes kept for inspection, on top of *max_sandboxes*.
        quarantine_s: How long they are kept.
        clock: What tells the time; by default the event loop. Tests give one of their own.
    """

    def __init__(
        self,
        launcher: Launcher,
        *,
        max_sandboxes: int = 64,
        max_starting: int = 16,
        max_waiting: int = 65_536,
        idle_s: float | None = 300.0,
        check_s: float | None = 30.0,
        prover: Prover | None = None,
        prove_every: int = 0,
        max_quarantined: int = 2,
        quarantine_s: float = 600.0,
        clock: Clock | None = None,
    ) -> None:
        if max_sandboxes < 1 or max_starting < 1 or max_waiting < 1:
            raise ValueError("max_sandboxes, max_starting and max_waiting must be at least 1")
        if prove_every < 0 or max_quarantined < 0:
            raise ValueError("prove_every and max_quarantined must be at least 0")
        for name, value in {"idle_s": idle_s, "check_s": check_s, "quarantine_s": quarantine_s}.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value!r}; it must be more than 0")
        self.launcher = launcher
        self._max = max_sandboxes
        self._max_waiting = max_waiting
        policy = Policy(max_sandboxes=max_sandboxes, max_starting=max_starting, idle_s=idle_s, check_s=check_s)
        proofs = ProofPolicy(prover=prover, every=prove_every, max_kept=max_quarantined, kept_s=quarantine_s)
        self._keeper = Keeper(launcher, policy, proofs, clock)
        self._plan = self._keeper.plan
        self._ledger = self._keeper.ledger
        self._forking = asyncio.Lock()

    async def __aenter__(self) -> SandboxPool:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        starting, idle, leased, restoring, _ = (self._plan.count(phase) for phase in _PHASES)
        return (
            f"<SandboxPool {self.launcher.name}: {idle} idle, {leased} leased, {restoring} restoring, {starting} "
            f"starting, {self._plan.waiting} waiting, {'closed' if self._keeper.closed else f'at most {self._max}'}>"
        )

    # --- what it keeps ready ---

    async def prewarm(
        self,
        spec: SandboxSpec,
        target: int,
        *,
        maximum: int | None = None,
        limit_s: float = 600.0,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Keep *target* sandboxes of *spec*, and return once they have been started; *progress* is told how many are.

        From then on the pool replaces what goes, and never has more than *maximum* of them. After an error it goes on
        trying in the background, with growing pauses, until the target is 0 or the pool closed.

        Raises:
            LaunchError: A sandbox cannot be started, or the pool is too small for the targets.
            AcquireTimeout: It took longer than *limit_s* seconds.
            PoolClosed: The pool is closed.
        """
        self._check_open()
        if target < 0 or (maximum is not None and (maximum < 1 or maximum < target)):
            raise ValueError(f"a target of {target} and a maximum of {maximum} do not go together")
        others = sum(kind.target for other, kind in self._plan.kinds.items() if other != spec)
        if target + others > self._max:
            raise LaunchError(
                f"{target + others} warm sandboxes are wanted of a pool of {self._max}; raise max_sandboxes"
            )
        try:
            async with asyncio.timeout(limit_s):
                await self.launcher.prepare(spec)
                self._check_open()
                self._plan.prepared(spec)
                self._plan.aim(spec, target, maximum)
                await self._warm_up(spec, target, progress)
        except TimeoutError as exc:
            raise AcquireTimeout(
                f"{target} sandboxes of {spec.image} were not ready within {limit_s:g} s: {self!r}"
            ) from exc

    async def _warm_up(self, spec: SandboxSpec, target: int, progress: Callable[[int], None] | None) -> None:
        tally = self._ledger.of(spec) or self._ledger.all
        failures = tally.done["failed_starts"]
        kind, changed = self._plan.kind(spec), self._keeper.changed
        self._keeper.act()
        while True:
            self._check_open()
            if tally.done["failed_starts"] > failures and self._keeper.last_failure is not None:
                raise self._keeper.last_failure
            alive = kind.places - kind.count(Phase.STARTING)
            if progress is not None:
                progress(alive)
            if alive >= target:
                return
            changed.clear()
            await changed.wait()

    def expect(self, spec: SandboxSpec, snapshot: Snapshot | None = None, count: int = 1) -> None:
        """Say that *count* more calls of `acquire` for this spec and snapshot will come soon.

        The pool then restores idle sandboxes to that snapshot ahead of time, and starts what is lacking for it, as far
        as nobody who waits and no target needs the room. A hint: it costs nothing but work if nobody comes. It takes
        effect once the caller waits for something: a sandbox given back in the same breath is used for it.

        Raises:
            PoolClosed: The pool is closed.
        """
        self._check_open()
        if count < 1:
            raise ValueError(f"count is {count}; it must be at least 1")
        self._plan.expect(spec, snapshot, count)
        asyncio.get_running_loop().call_soon(self._keeper.act)

    # --- who gets what ---

    async def acquire(self, spec: SandboxSpec, *, snapshot: Snapshot | None = None, limit_s: float = 60.0) -> Lease:
        """Return a lease on a clean sandbox whose workspace is what *snapshot* is, or empty.

        At once if a warm one is idle that holds it; one that holds something else is restored first. Otherwise in the
        order of asking. Cancellation leaves the pool as if nothing had been asked.

        Raises:
            AcquireTimeout: None became free within *limit_s* seconds.
            LaunchError: The sandbox to be started for this call could not be.
            RequestRefused, SandboxLost: The sandbox could not be restored to *snapshot*; it is replaced.
            PoolClosed: The pool is closed, or was closed meanwhile.
        """
        self._check_open()
        key, slot = key_of(snapshot), self._plan.take_idle(spec, snapshot)
        if snapshot is not None:
            is_hit = slot is not None and slot.holds == key
            self._ledger.count(spec, "prefetch_hits" if is_hit else "prefetch_misses")
        if slot is not None:
            self._ledger.wait(spec, 0.0)
        else:
            slot = await self._wait_for(spec, snapshot, limit_s)
        lease = Lease(self._keeper, slot)
        if slot.holds != key:
            await self._bring(lease, snapshot)
        return lease

    async def _wait_for(self, spec: SandboxSpec, snapshot: Snapshot | None, limit_s: float) -> PoolSlot:
        if self._plan.waiting >= self._max_waiting:
            raise PoolError(f"{self._max_waiting} tasks wait for a sandbox already, which is max_waiting: {self!r}")
        future: Asker = asyncio.get_running_loop().create_future()
        began = self._keeper.clock.time()
        self._plan.ask(spec, snapshot, future)
        self._keeper.act()
        try:
            async with asyncio.timeout(limit_s):
                slot = await future
        except TimeoutError as exc:
            self._ledger.count(spec, "timed_out")
            fault = self._keeper.fault_of(spec)
            self._give_up(spec, future)
            raise AcquireTimeout(
                f"no sandbox of {spec.image} became free within {limit_s:g} s: {self!r}{fault}"
            ) from exc
        except BaseException:
            self._give_up(spec, future)
            raise
        self._ledger.wait(spec, self._keeper.clock.time() - began)
        return slot

    async def _bring(self, lease: Lease, snapshot: Snapshot | None) -> None:
        clock = self._keeper.clock
        began = clock.time()
        try:
            lease.restored = await lease.sandbox.restore(snapshot)
        except Exception:
            lease.sandbox.close()  # in an unknown state: to be replaced
            lease.release()
            raise
        except BaseException:
            lease.release()
            raise
        self._ledger.restore(lease.sandbox.spec, clock.time() - began)

    def _give_up(self, spec: SandboxSpec, future: Asker) -> None:
        self._plan.withdraw(spec, future)
        if future.done() and not future.cancelled() and future.exception() is None:
            self._keeper.take_back_unused(future.result())
        self._keeper.act()

    @asynccontextmanager
    async def lease(
        self, spec: SandboxSpec, *, snapshot: Snapshot | None = None, limit_s: float = 60.0
    ) -> AsyncGenerator[Sandbox]:
        """Lend a sandbox for the length of a block. Raises what `acquire` raises."""
        held = await self.acquire(spec, snapshot=snapshot, limit_s=limit_s)
        try:
            yield held.sandbox
        finally:
            held.release()

    async def fork(self, lease: Lease, count: int, *, limit_s: float = 60.0) -> list[Lease]:
        """Return *count* further leases of the same spec, whose sandboxes' trees equal those of *lease*'s.

        What runs in the original goes on; in the copies nothing runs. All or nothing: after an error or a cancellation
        no further sandbox is lent. One fork is served at a time, so that two never wait for each other's sandboxes. A
        layer over the root file system is not copied: a sandbox whose commands have changed something there is refused.

        Raises:
            PoolError: The pool is smaller than what is asked for, or the sandbox cannot be forked.
            AcquireTimeout: It took longer than *limit_s* seconds.
            LaunchError, RequestRefused, SandboxLost: As `acquire`, or the original is lost.
            PoolClosed: The pool is closed, or was closed meanwhile.
        """
        self._check_open()
        if count < 1:
            raise ValueError(f"count is {count}; it must be at least 1")
        if count + 1 > self._max:
            raise PoolError(f"{count} copies and the original do not fit into a pool of {self._max}")
        check_forkable(lease.sandbox)
        spec = lease.sandbox.spec
        try:
            async with asyncio.timeout(limit_s):
                checkpoint = await take_checkpoint(lease.sandbox)
                async with self._forking:
                    leases = await lease_copies(checkpoint, count, lambda: self.acquire(spec, limit_s=limit_s))
        except TimeoutError as exc:
            raise AcquireTimeout(
                f"sandbox {lease.sandbox.id} was not forked {count} times within {limit_s:g} s: {self!r}"
            ) from exc
        self._ledger.count(spec, "forks", count)
        return leases

    # --- what it tells ---

    def stats(self) -> PoolStats:
        """Return the pool's state and counts."""
        kinds = self._plan.kinds
        known = dict.fromkeys([*kinds, *self._ledger.specs()])
        specs = tuple(
            SpecStats(spec=spec, **_counts([kinds[spec]] if spec in kinds else [], self._ledger.of(spec) or Tally()))
            for spec in known
        )
        return PoolStats(
            max_sandboxes=self._max,
            starts_at_once=int(self._plan.starts_at_once),
            specs=specs,
            launcher=launcher_info(self.launcher),
            **_counts(list(kinds.values()), self._ledger.all),
        )

    def metrics(self) -> str:
        """Return the state and counts as Prometheus' text."""
        from codecraft_pool.metrics import metrics_text

        return metrics_text(self)

    def serve_metrics(self, port: int = 0, *, address: str = "127.0.0.1") -> AbstractAsyncContextManager[int]:
        """Serve `metrics` over HTTP for the length of an ``async with`` block, which is given the port.

        Port 0 lets the system choose. Whoever reaches *address* can read the metrics.

        Raises:
            OSError: The port cannot be had.
        """
        from codecraft_pool.metrics import serve_metrics

        return serve_metrics(self, port, address=address)

    def quarantined(self) -> list[Quarantined]:
        """Return the unclean sandboxes that are kept for inspection, with what is not clean about them."""
        return [entry for _, _, entry in self._keeper.quarantined.values()]

    async def aclose(self) -> None:
        """End every sandbox, lent ones too. Idempotent; cancellation is delivered when all is closed."""
        if self._keeper.closed:
            return
        for kind in self._plan.kinds.values():
            kind.target = 0
            for future in kind.waiting:
                if not future.done():
                    future.set_exception(PoolClosed("the pool was closed while a sandbox was waited for"))
            kind.waiting.clear()
        await self._keeper.aclose()

    def _check_open(self) -> None:
        if self._keeper.closed:
            raise PoolClosed("the pool is closed; make a new one")


def _counts(kinds: list[Kind[Any, Any]], tally: Tally) -> dict[str, Any]:
    counts: dict[str, Any] = {phase.value: sum(kind.count(phase) for kind in kinds) for phase in _PHASES}
    counts["waiting"] = sum(len(kind.waiting) for kind in kinds)
    counts["target"] = sum(kind.target for kind in kinds)
    return counts | tally.frozen()


__all__ = ["Lease", "SandboxPool"]
