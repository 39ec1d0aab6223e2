"""One round of calls of a vector environment: start them all, wait for every one, say how each ended."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

__all__ = ["Call", "Limit", "Round", "blame", "wait_for"]

# How many further failures an error describes; the environments of the others are only counted.
_DESCRIBED = 8


class Call(NamedTuple):
    """What environment `row` is to do: `function()` gives a coroutine if `concurrent`, else it does the work.

    One that only `waits` for what runs already needs no turn under a limit: what it waits for has its own.
    """

    row: int
    function: Callable[[], Any]
    concurrent: bool
    waits: bool = False


class Limit:
    """At most so many environments' coroutines at once, in all rounds and outside of them, first come, first served."""

    def __init__(self, number: int) -> None:
        # The environments whose turn has not come.
        self.queued: set[int] = set()
        self._turns = asyncio.Semaphore(number)

    async def run(self, call: Call) -> Any:
        """What `call`'s coroutine gives, once it had its turn."""
        self.queued.add(call.row)
        try:
            await self._turns.acquire()
        finally:
            self.queued.discard(call.row)
        try:
            return await call.function()
        finally:
            self._turns.release()


class Round:
    """Runs calls to their ends; nothing that it started runs on when `run` returns, whatever happened.

    Coroutines run concurrently in tasks of their own, as many at once as `limit` allows; plain functions run in
    order, in one job of `executor`. Afterwards each call's row is in one of `results`, `failures` and `cut_off`,
    or in none of them if the call never began.
    """

    def __init__(self, *, executor: Callable[[], Executor], limit: Limit | None, label: str) -> None:
        self.results: dict[int, Any] = {}
        self.failures: dict[int, BaseException] = {}
        self.cut_off: set[int] = set()
        # The cancellation that reached `run`; the caller is to raise it once it has noted how the calls ended.
        self.cancelled: asyncio.CancelledError | None = None
        self._executor = executor
        self._limit = limit
        self._label = label
        self._stopping = False
        self._tasks: list[tuple[int, asyncio.Task[Any]]] = []
        # The one whose plain function the worker thread is in.
        self._plain: int | None = None
        self._open = 0
        self._ended: asyncio.Future[None] | None = None
        # Those that were cancelled before their turn under the limit had come.
        self._untouched: frozenset[int] = frozenset()

    @property
    def running(self) -> set[int]:
        """The environments that have begun and not ended."""
        running = {row for row, task in self._tasks if not task.done()}
        return running if self._plain is None else running | {self._plain}

    async def run(self, calls: Sequence[Call]) -> None:
        """Run `calls` to their ends; a cancellation is passed on to them, and noted in `cancelled`."""
        loop = asyncio.get_running_loop()
        self._start_concurrent(loop, [call for call in calls if call.concurrent])
        self._start_plain(loop, [call for call in calls if not call.concurrent])
        while self._open:
            self._ended = loop.create_future()
            try:
                await self._ended
            except asyncio.CancelledError as cancelled:
                self.cancelled = cancelled
                self.cancel()
        self._collect()

    def cancel(self) -> None:
        """Cancel what is still running; `run` goes on waiting for it. A second time would only disturb its clean-up."""
        if self._stopping:
            return
        self._stopping = True
        if self._limit is not None:
            self._untouched = frozenset(self._limit.queued)
        for _, task in self._tasks:
            task.cancel()

    def _start_concurrent(self, loop: asyncio.AbstractEventLoop, calls: Sequence[Call]) -> None:
        limit = self._limit
        for call in calls:
            try:
                coro = call.function() if limit is None or call.waits else limit.run(call)
                task: asyncio.Task[Any] = loop.create_task(coro, name=f"{self._label} of env {call.row}")
            except Exception as error:
                self.failures[call.row] = error
                continue
            self._open += 1
            self._tasks.append((call.row, task))
            task.add_done_callback(self._one_ended)

    def _start_plain(self, loop: asyncio.AbstractEventLoop, calls: Sequence[Call]) -> None:
        if not calls:
            return
        context = contextvars.copy_context()
        try:
            future = loop.run_in_executor(self._executor(), lambda: context.run(self._run_plain, calls))
        except RuntimeError as error:
            # Executors refuse work once the interpreter is shutting down.
            self.failures.update((call.row, error) for call in calls)
            return
        self._open += 1
        future.add_done_callback(self._one_ended)

    def _run_plain(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if self._stopping:
                break
            self._plain = call.row
            try:
                self.results[call.row] = call.function()
            except BaseException as error:
                self.failures[call.row] = error
        self._plain = None

    def _one_ended(self, _future: asyncio.Future[Any]) -> None:
        self._open -= 1
        if not self._open and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _collect(self) -> None:
        for index, task in self._tasks:
            if not task.cancelled():
                error = task.exception()
                if error is None:
                    self.results[index] = task.result()
                else:
                    self.failures[index] = error
            elif not self._stopping:
                self.failures[index] = RuntimeError(f"the environment cancelled its own {self._label}")
            elif index not in self._untouched:
                self.cut_off.add(index)


def blame(failures: dict[int, BaseException], label: str) -> BaseException:
    """The failure of the lowest index, with notes that say which environment failed how."""
    (first, error), *others = sorted(failures.items())
    error.add_note(f"raised by env {first} in {label}")
    for index, other in others[:_DESCRIBED]:
        error.add_note(f"env {index} failed in {label} as well: {type(other).__name__}: {other}")
    if len(others) > _DESCRIBED:
        error.add_note(f"further envs that failed in {label}: {[index for index, _ in others[_DESCRIBED:]]}")
    return error


async def wait_for(result: Awaitable[Any]) -> Any:
    """An awaitable as the coroutine that a task needs."""
    return await result
