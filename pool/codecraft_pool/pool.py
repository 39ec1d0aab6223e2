"""The pool: keeps sandboxes warm, lends them out, brings them back clean, replaces what fails.

Decisions are made by `plan.Plan`, synchronously; the tasks here only carry them out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

from codecraft_pool._aio import finish
from codecraft_pool.errors import AcquireTimeout, LaunchError, PoolClosed, PoolError
from codecraft_pool.launcher import Launcher
from codecraft_pool.plan import Decisions, Phase, Plan, Slot
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.spec import SandboxSpec

_MAX_FAILURES: Final = 3
_CLOSE_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool at one moment (numbers of sandboxes, and of tasks that wait), and what it has done so far."""

    starting: int = 0
    idle: int = 0
    leased: int = 0
    restoring: int = 0
    waiting: int = 0
    started: int = 0
    restored: int = 0
    replaced: int = 0
    failed_starts: int = 0


class Lease:
    """One borrower's hold on one sandbox. Ends with `release`; until then the sandbox is the borrower's alone."""

    def __init__(self, pool: SandboxPool, slot: Slot[Sandbox]) -> None:
        assert slot.box is not None
        self.sandbox: Sandbox = slot.box
        self._pool = pool
        self._slot: Slot[Sandbox] | None = slot

    def release(self) -> None:
        """Give the sandbox back; it is restored in the background, or replaced where that fails. Idempotent."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool._take_back(slot)  # pyright: ignore[reportPrivateUsage]  # a lease is the pool's own half


class SandboxPool:
    """Lends sandboxes that a launcher starts. Use it as ``async with SandboxPool(launcher) as pool``.

    Args:
        launcher: Starts the sandboxes. The pool does not own it.
        max_sandboxes: Most sandboxes at once, of all specs together; further askers wait.
        max_starting: Most sandboxes being started at once.
        max_waiting: Most tasks that may wait in `acquire`.
    """

    def __init__(
        self, launcher: Launcher, *, max_sandboxes: int = 64, max_starting: int = 8, max_waiting: int = 65_536
    ) -> None:
        if max_sandboxes < 1 or max_starting < 1 or max_waiting < 1:
            raise ValueError("max_sandboxes, max_starting and max_waiting must be at least 1")
        self.launcher = launcher
        self._max = max_sandboxes
        self._max_waiting = max_waiting
        self._plan: Plan[Sandbox, asyncio.Future[Lease]] = Plan(max_sandboxes=max_sandboxes, max_failures=_MAX_FAILURES)
        self._starting = asyncio.Semaphore(max_starting)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._last_failure: LaunchError | None = None
        self._closed = False
        self._done = {"started": 0, "restored": 0, "replaced": 0, "failed_starts": 0}

    async def __aenter__(self) -> SandboxPool:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        s = self.stats()
        return (
            f"<SandboxPool {self.launcher.name}: {s.idle} idle, {s.leased} leased, {s.restoring} restoring, "
            f"{s.starting} starting, {s.waiting} waiting, {'closed' if self._closed else f'at most {self._max}'}>"
        )

    def stats(self) -> PoolStats:
        """Return the pool's state and counts."""
        count = self._plan.count
        return PoolStats(
            starting=count(Phase.STARTING),
            idle=count(Phase.IDLE),
            leased=count(Phase.LEASED),
            restoring=count(Phase.RESTORING),
            waiting=len(self._plan.waiting),
            **self._done,
        )

    async def prewarm(
        self, spec: SandboxSpec, target: int, *, limit_s: float = 600.0, progress: Callable[[int], None] | None = None
    ) -> None:
        """Keep *target* sandboxes of *spec*, and return once they have been started; *progress* is told how many are.

        Raises:
            LaunchError: A sandbox cannot be started, or the pool is too small for the targets.
            AcquireTimeout: It took longer than *limit_s* seconds.
            PoolClosed: The pool is closed.
        """
        self._check_open()
        others = sum(number for other, number in self._plan.targets.items() if other != spec)
        if target + others > self._max:
            raise LaunchError(
                f"{target + others} warm sandboxes are wanted of a pool of {self._max}; raise max_sandboxes"
            )
        try:
            async with asyncio.timeout(limit_s):
                await self.launcher.prepare(spec)
                self._plan.aim(spec, target)
                await self._warm_up(spec, target, progress)
        except TimeoutError as exc:
            raise AcquireTimeout(
                f"{target} sandboxes of {spec.image} were not ready within {limit_s:g} s: {self!r}"
            ) from exc

    async def _warm_up(self, spec: SandboxSpec, target: int, progress: Callable[[int], None] | None) -> None:
        failures = self._done["failed_starts"]
        self._act()
        while True:
            self._check_open()
            if self._done["failed_starts"] > failures and self._last_failure is not None:
                raise self._last_failure
            alive = sum(slot.spec == spec and slot.phase is not Phase.STARTING for slot in self._plan.slots.values())
            if progress is not None:
                progress(alive)
            if alive >= target:
                return
            self._changed.clear()
            await self._changed.wait()

    async def acquire(self, spec: SandboxSpec, *, limit_s: float = 60.0) -> Lease:
        """Return a lease on a clean sandbox; at once if a warm one is idle, else in the order of asking.

        Cancellation leaves the pool as if nothing had been asked.

        Raises:
            AcquireTimeout: None became free within *limit_s* seconds.
            LaunchError: The sandbox to be started for this call could not be.
            PoolClosed: The pool is closed, or was closed meanwhile.
        """
        self._check_open()
        slot = self._plan.take_idle(spec)
        if slot is not None:
            return Lease(self, slot)
        if len(self._plan.waiting) >= self._max_waiting:
            raise PoolError(f"{self._max_waiting} tasks wait for a sandbox already, which is max_waiting: {self!r}")
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._plan.ask(spec, future)
        self._act()
        try:
            async with asyncio.timeout(limit_s):
                return await future
        except TimeoutError as exc:
            self._give_up(future)
            raise AcquireTimeout(f"no sandbox of {spec.image} became free within {limit_s:g} s: {self!r}") from exc
        except BaseException:
            self._give_up(future)
            raise

    @asynccontextmanager
    async def lease(self, spec: SandboxSpec, *, limit_s: float = 60.0) -> AsyncGenerator[Sandbox]:
        """Lend a sandbox for the length of a block. Raises what `acquire` raises."""
        held = await self.acquire(spec, limit_s=limit_s)
        try:
            yield held.sandbox
        finally:
            held.release()

    async def aclose(self) -> None:
        """End every sandbox, lent ones too. Idempotent; cancellation is delivered when all is closed."""
        if self._closed:
            return
        self._closed = True
        self._plan.targets.clear()
        for _, future in self._plan.waiting:
            if not future.done():
                future.set_exception(PoolClosed("the pool was closed while a sandbox was waited for"))
        self._plan.waiting.clear()
        self._changed.set()
        await finish(self._end_all())

    async def _end_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_LIMIT_S)
        for slot in list(self._plan.slots.values()):
            self._plan.retire(slot)
            if slot.box is not None:
                slot.box.close()

    # --- decisions, carried out ---

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosed("the pool is closed; make a new one")

    def _act(self) -> None:
        """Settle, and set going what was decided."""
        if self._closed:
            return
        decisions: Decisions[Sandbox, asyncio.Future[Lease]] = self._plan.settle()
        for slot in decisions.remove:
            if slot.box is not None:
                slot.box.close()
        for slot in decisions.start:
            self._spawn(self._start(slot))
        regranted = False
        for future, slot in decisions.grant:
            if future.done():  # its asker left in this very moment
                slot.move(Phase.RESTORING)
                slot.move(Phase.IDLE)
                regranted = True
            else:
                future.set_result(Lease(self, slot))
        self._changed.set()
        if regranted:
            self._act()

    def _give_up(self, future: asyncio.Future[Lease]) -> None:
        self._plan.withdraw(future)
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().release()
        self._act()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, slot: Slot[Sandbox]) -> None:
        try:
            async with self._starting:
                await self.launcher.prepare(slot.spec)
                box = await self.launcher.start(slot.spec)
        except Exception as exc:
            self._start_failed(slot, exc)
            return
        self._done["started"] += 1
        self._plan.started(slot, box)
        box.watch(lambda: self._lost(slot))
        if box.lost is not None:
            self._lost(slot)
        self._act()

    def _start_failed(self, slot: Slot[Sandbox], exc: Exception) -> None:
        """Tell those who waited for it; they all get an error of their own, so that tracebacks do not mix."""
        self._last_failure = exc if isinstance(exc, LaunchError) else LaunchError(f"a sandbox did not start: {exc!r}")
        self._done["failed_starts"] += 1
        for future in self._plan.start_failed(slot):
            if not future.done():
                error = copy(self._last_failure)
                error.__cause__ = exc
                future.set_exception(error)
        self._act()

    def _lost(self, slot: Slot[Sandbox]) -> None:
        """A sandbox is gone. An idle one is replaced now; a lent one when its borrower gives it back."""
        if slot.phase is Phase.IDLE and not self._closed:
            self._replace(slot)

    def _take_back(self, slot: Slot[Sandbox]) -> None:
        if slot.phase is not Phase.LEASED:  # the pool was closed in the meantime
            return
        if not slot.spec.reusable:
            self._replace(slot)
            return
        slot.move(Phase.RESTORING)
        self._spawn(self._clean(slot))
        self._act()

    async def _clean(self, slot: Slot[Sandbox]) -> None:
        box = slot.box
        assert box is not None
        try:
            await box.restore()
        except OSError:  # lost, or it could not be brought back: what cannot be proved clean is replaced
            self._replace(slot)
            return
        slot.move(Phase.IDLE)
        self._done["restored"] += 1
        self._act()

    def _replace(self, slot: Slot[Sandbox]) -> None:
        """End a sandbox; another one is started where the target or somebody who waits asks for it."""
        self._plan.retire(slot)
        self._done["replaced"] += 1
        if slot.box is not None:
            slot.box.close()
        self._act()
