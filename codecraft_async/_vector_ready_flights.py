"""Calls of a vector environment that run on when the method that started them has returned."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from codecraft_async._vector_round import Call, Limit

__all__ = ["CutOff", "Ended", "Flights"]


class CutOff(Exception):
    """A call was cancelled, be it before it had begun."""

    def __init__(self, label: str, *, had_begun: bool) -> None:
        super().__init__(f"the {label} was cut off" if had_begun else f"the {label} had not begun")
        self.had_begun = had_begun


# Told a call's result, or the error that it raised; `CutOff` if it was cancelled.
Ended: TypeAlias = Callable[[Any, BaseException | None], None]


@dataclass(slots=True, eq=False)
class _Flight:
    call: Call
    label: str
    ended: Ended
    context: contextvars.Context
    task: asyncio.Task[Any] | None = None
    cut_off: CutOff | None = None


class Flights:
    """Runs each call from its `launch` to its end in a task of its own; no environment has two calls here at once.

    Plain functions run in one of `threads` worker threads, so that none waits for another; once begun, they cannot be
    cut off. What is launched before `start` has said on which loop waits for that. All methods belong to its thread.
    """

    def __init__(self, *, threads: int, name: str) -> None:
        self._threads = max(1, threads)
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limit: Limit | None = None
        # By environment; those without a task wait for `start`.
        self._flights: dict[int, _Flight] = {}
        self._landed = asyncio.Event()
        self._executor: ThreadPoolExecutor | None = None

    @property
    def rows(self) -> set[int]:
        """The environments whose calls have not ended."""
        return set(self._flights)

    def start(self, loop: asyncio.AbstractEventLoop, limit: Limit | None) -> None:
        """Run what was launched, and what will be, on `loop`, within `limit`."""
        if self._loop is None:
            self._loop = loop
            self._limit = limit
            for flight in tuple(self._flights.values()):
                self._begin(loop, flight)

    def launch(self, call: Call, label: str, ended: Ended) -> None:
        """Run a call; `ended` is called once, on the loop, whatever happens to it."""
        flight = self._flights[call.row] = _Flight(call, label, ended, contextvars.copy_context())
        if self._loop is not None:
            self._begin(self._loop, flight)

    def cancel(self, rows: Iterable[int]) -> None:
        """Cut off the calls of `rows`; they end when they have cleaned up."""
        for row in set(rows) & self._flights.keys():
            flight = self._flights[row]
            if flight.task is None:
                self._end(flight, CutOff(flight.label, had_begun=False))
            elif flight.cut_off is None:  # a second time would only disturb the clean-up
                queued = self._limit is not None and row in self._limit.queued
                flight.cut_off = CutOff(flight.label, had_begun=not queued)
                flight.task.cancel()

    async def ground(self) -> None:
        """Cut off every call and wait until all have ended; what belonged to another, dead loop is forgotten."""
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            self._flights.clear()
            if self._executor is not None:
                # The loop is dead, but a worker thread is not, nor is the environment that it is in.
                await asyncio.to_thread(self._executor.shutdown)
            return
        self.cancel(tuple(self._flights))
        while self._flights:
            self._landed.clear()
            await self._landed.wait()
        if self._executor is not None:
            # No job is left, so the threads end at once; waiting for them would block the loop.
            self._executor.shutdown(wait=False)

    def _begin(self, loop: asyncio.AbstractEventLoop, flight: _Flight) -> None:
        call, limit = flight.call, self._limit
        if not call.concurrent:
            call = Call(call.row, partial(self._in_thread, call.function), True)
        try:
            coro = call.function() if limit is None or call.waits else limit.run(call)
            task = loop.create_task(coro, name=f"{flight.label} of env {call.row}", context=flight.context)
        except Exception as error:
            self._end(flight, error)
        else:
            flight.task = task
            task.add_done_callback(partial(self._task_ended, flight))

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix=f"{self._name}-ready")
        context = contextvars.copy_context()
        attempt = partial(_attempt, function)
        job = asyncio.get_running_loop().run_in_executor(self._executor, lambda: context.run(attempt))
        while not job.done():
            # It cannot be cut off, so that it ends well even if this is cancelled.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([job])
        result, error = job.result()
        if error is not None:
            raise error
        return result

    def _task_ended(self, flight: _Flight, task: asyncio.Task[Any]) -> None:
        if self._flights.get(flight.call.row) is not flight:
            return  # forgotten with its loop
        if not task.cancelled():
            error = task.exception()
            self._end(flight, error, None if error is not None else task.result())
        else:
            self._end(flight, flight.cut_off or RuntimeError(f"the environment cancelled its own {flight.label}"))

    def _end(self, flight: _Flight, error: BaseException | None, result: Any = None) -> None:
        del self._flights[flight.call.row]
        flight.ended(result, error)
        self._landed.set()


def _attempt(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """A function's result, or what it raised: not every exception can travel through a future."""
    try:
        return function(), None
    except BaseException as error:
        return None, error
