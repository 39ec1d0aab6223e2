"""Carries out what the pool's plan decides: starts, restores, proves, looks after and ends sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from codecraft_pool._aio import finish
from codecraft_pool.errors import DaemonUnavailable, LaunchError, RequestRefused, SandboxLost
from codecraft_pool.launcher import Launcher
from codecraft_pool.plan import Phase, Plan, Policy, Slot
from codecraft_pool.pool_proof import Prover
from codecraft_pool.pool_stats import Ledger
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import RestoreReport, SandboxSpec

_CLOSE_LIMIT_S: Final = 10.0
_CHECKS_AT_ONCE: Final = 8
# A guest answers a ping in less than a millisecond; a machine under heavy load may take seconds.
_PING_LIMIT_S: Final = 15.0
_PROOF_LIMIT_S: Final = 120.0


class TimerHandle(Protocol):
    """A timer that was set."""

    def cancel(self) -> None:
        """Have it not go off."""


class Clock(Protocol):
    """Tells the time and sets timers, in seconds from any beginning; an event loop is one."""

    def time(self) -> float:
        """Return the time."""
        ...

    def call_at(self, when: float, callback: Callable[[], None], /) -> TimerHandle:
        """Have *callback* called at *when*."""
        ...


@dataclass(slots=True)
class Box:
    """A sandbox in its slot, and the last restore of it by the pool; None if it is as it was started."""

    sandbox: Sandbox
    restored: RestoreReport | None = None


PoolSlot = Slot[Box]
Asker = asyncio.Future[PoolSlot]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A sandbox whose restore was proved not to be clean. It runs on, lent to nobody, until its time is over."""

    sandbox: Sandbox
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofPolicy:
    """Every *every*-th restore of a kind is proved by *prover*; at most *max_kept* that fail are kept for *kept_s*."""

    prover: Prover | None = None
    every: int = 0
    max_kept: int = 2
    kept_s: float = 600.0


class Keeper:
    """Owns the slots' sandboxes, the tasks that work on them, and the one timer. Ends with `aclose`."""

    def __init__(self, launcher: Launcher, policy: Policy, proofs: ProofPolicy, clock: Clock | None) -> None:
        self.plan: Plan[Box, Asker] = Plan(policy, lambda: self.clock.time())
        self.ledger = Ledger()
        self.changed = asyncio.Event()
        self.last_failure: LaunchError | None = None
        self.closed = False
        self.quarantined: dict[int, tuple[float, PoolSlot, Quarantined]] = {}
        self._launcher = launcher
        self._proofs = proofs
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: tuple[float, TimerHandle] | None = None
        self._is_checking = False

    @property
    def clock(self) -> Clock:
        """What tells the time: the event loop, unless it was given."""
        if self._clock is None:
            self._clock = asyncio.get_running_loop()
        return self._clock

    def act(self) -> None:
        """Settle the plan, and set going what it decides."""
        if self.closed:
            return
        decisions = self.plan.settle()
        for slot in decisions.remove:
            self.ledger.count(slot.spec, "evicted")
            self._end(slot)
        for slot in decisions.start:
            self._spawn(self._start(slot))
        for slot in decisions.restore:
            self._spawn(self._restore(slot))
        is_unused = False
        for future, slot in decisions.grant:
            if future.done():  # its asker left in this very moment
                self.plan.return_unused(slot)
                is_unused = True
            else:
                future.set_result(slot)
        self.changed.set()
        if is_unused:
            self.act()
        self._set_timer()

    def take_back(self, slot: PoolSlot) -> None:
        """The lease of *slot* has ended: restore it in the background, or replace it."""
        if slot.phase is not Phase.LEASED:  # the pool was closed in the meantime
            return
        if slot.box is None or slot.box.sandbox.lost is not None:
            self.replace(slot, is_lost=True)
        elif self.plan.give_back(slot):
            self._spawn(self._restore(slot))
            self.act()
        else:
            self.ledger.count(slot.spec, "evicted" if slot.spec.reusable else "replaced")
            self._end(slot)
            self.act()

    def take_back_unused(self, slot: PoolSlot) -> None:
        """The lease of *slot* has ended before anybody had it: it is as clean as it was."""
        if slot.phase is not Phase.LEASED or (slot.box is not None and slot.box.sandbox.lost is not None):
            self.take_back(slot)
        else:
            self.plan.return_unused(slot)

    def replace(self, slot: PoolSlot, *, is_lost: bool = False) -> None:
        """End a sandbox; another one is started where the target or somebody who waits asks for it."""
        if slot.phase is not Phase.RETIRED:
            self.plan.retire(slot)
        self.ledger.count(slot.spec, "replaced")
        if is_lost:
            self.ledger.count(slot.spec, "lost")
        self._end(slot)
        self.act()

    async def aclose(self) -> None:
        """End every sandbox, once everything that worked on one has ended."""
        self.closed = True
        if self._timer is not None:
            self._timer[1].cancel()
            self._timer = None
        self.changed.set()
        await finish(self._end_all())

    async def _end_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_LIMIT_S)
        self.quarantined.clear()
        for slot in list(self.plan.slots.values()):
            self.plan.retire(slot)
            self._end(slot)

    def _end(self, slot: PoolSlot) -> None:
        if slot.box is not None:
            slot.box.sandbox.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- starts ---

    async def _start(self, slot: PoolSlot) -> None:
        try:
            await self._launcher.prepare(slot.spec)
            if self.plan.prepared(slot.spec):
                self.act()
            sandbox = await self._launcher.start(slot.spec)
        except Exception as exc:
            self._start_failed(slot, exc)
            return
        self.ledger.start(slot.spec, self.clock.time() - slot.began_at)
        self.plan.started(slot, Box(sandbox))
        sandbox.watch(lambda: self._lost(slot))
        if sandbox.lost is not None:
            self._lost(slot)
        self.act()

    def _start_failed(self, slot: PoolSlot, exc: Exception) -> None:
        """Tell those who waited for it; they all get an error of their own, so that tracebacks do not mix."""
        self.last_failure = exc if isinstance(exc, LaunchError) else LaunchError(f"a sandbox did not start: {exc!r}")
        self.ledger.fail(slot.spec, type(exc).__name__)
        for future in self.plan.start_failed(slot, is_outage=isinstance(exc, DaemonUnavailable)):
            if not future.done():
                error = copy(self.last_failure)
                error.__cause__ = exc
                future.set_exception(error)
        self.act()

    def _lost(self, slot: PoolSlot) -> None:
        """A sandbox is gone. An idle one is replaced now; a lent one when its borrower gives it back."""
        if self.closed:
            return
        if slot.phase is Phase.IDLE:
            self.replace(slot, is_lost=True)
        elif slot.number in self.quarantined:
            self._let_go(slot.number)

    # --- restores and their proof ---

    async def _restore(self, slot: PoolSlot) -> None:
        assert slot.box is not None
        box, began = slot.box, self.clock.time()
        # Chosen now and not when the lease ended: whoever gave it back may have asked for the next one since.
        goal = cast(Snapshot | None, self.plan.choose_goal(slot))
        try:
            box.restored = await box.sandbox.restore(goal)
        except Exception as exc:  # whatever it is: what cannot be proved clean is replaced
            self.plan.restore_failed(slot, is_contents_fault=isinstance(exc, RequestRefused))
            self.replace(slot, is_lost=isinstance(exc, SandboxLost))
            return
        self.ledger.restore(slot.spec, self.clock.time() - began)
        if await self._is_clean(slot, box.sandbox, goal):
            self.plan.restored(slot)
            self.act()

    async def _is_clean(self, slot: PoolSlot, sandbox: Sandbox, snapshot: Snapshot | None) -> bool:
        """Prove a restore, if it is one that is to be proved; a sandbox that fails it is taken out."""
        prover, kind = self._proofs.prover, self.plan.kinds[slot.spec]
        kind.unproved += 1
        if prover is None or not 1 <= self._proofs.every <= kind.unproved:
            return True
        kind.unproved = 0
        self.ledger.count(slot.spec, "proofs")
        try:
            async with asyncio.timeout(_PROOF_LIMIT_S):
                differences = tuple(await prover(sandbox, snapshot))
        except Exception:
            self.ledger.count(slot.spec, "proof_errors")
            self.replace(slot, is_lost=sandbox.lost is not None)
            return False
        if not differences:
            return True
        self.ledger.count(slot.spec, "failed_proofs")
        self._quarantine(slot, Quarantined(sandbox, differences))
        return False

    def _quarantine(self, slot: PoolSlot, entry: Quarantined) -> None:
        """Keep an unclean sandbox for whoever looks into it; end the oldest where there are too many."""
        self.plan.quarantine(slot)
        self.ledger.count(slot.spec, "replaced")
        self.quarantined[slot.number] = (self.clock.time() + self._proofs.kept_s, slot, entry)
        while len(self.quarantined) > self._proofs.max_kept:
            self._let_go(next(iter(self.quarantined)))
        self.act()

    def _let_go(self, number: int) -> None:
        _, slot, _ = self.quarantined.pop(number)
        self.plan.retire(slot)
        self._end(slot)

    # --- what is to be done at its time ---

    def _set_timer(self) -> None:
        """One timer for all that is due, set anew only for something earlier: an idle pool costs next to nothing."""
        times = [until for until, _, _ in self.quarantined.values()]
        due = self.plan.next_due()
        if due is not None and not (self._is_checking and due <= self.clock.time()):
            times.append(due)
        when = min(times, default=None)
        if when is None or (self._timer is not None and self._timer[0] <= when):
            return
        if self._timer is not None:
            self._timer[1].cancel()
        self._timer = (when, self.clock.call_at(when, self._wake))

    def _wake(self) -> None:
        self._timer = None
        for slot in self.plan.expire():
            self.ledger.count(slot.spec, "expired")
            self._end(slot)
        now = self.clock.time()
        for number in [number for number, (until, _, _) in self.quarantined.items() if until <= now]:
            self._let_go(number)
        if not self._is_checking:
            due = self.plan.to_check(_CHECKS_AT_ONCE)
            if due:
                self._is_checking = True
                self._spawn(self._check(due))
        self.act()

    async def _check(self, slots: Sequence[PoolSlot]) -> None:
        """Ask some idle sandboxes whether they live. One that does not answer is lost, and so replaced."""
        for slot in slots:
            self.ledger.count(slot.spec, "checks")
        boxes = [slot.box.sandbox for slot in slots if slot.box is not None]
        try:
            await asyncio.gather(*(box.ping(limit_s=_PING_LIMIT_S) for box in boxes), return_exceptions=True)
        finally:
            self._is_checking = False
        self._set_timer()

    def fault_of(self, spec: SandboxSpec) -> str:
        """Return what keeps *spec* from being started at the moment, for an error's text; empty if nothing does."""
        kind = self.plan.kinds.get(spec)
        if kind is None or not kind.pauses.failures or self.last_failure is None:
            return ""
        return f"; the last {kind.pauses.failures} starts failed: {self.last_failure}"


__all__ = ["Asker", "Box", "Clock", "Keeper", "PoolSlot", "ProofPolicy", "Quarantined"]
