"""One call at a time, on one event loop, until it is closed: what a vector environment is beneath its calls."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, Self, TypeVar

from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from codecraft_async._loop import LoopThread
from codecraft_async._vector_members import Members
from codecraft_async._vector_round import Call, Limit, Round, blame
from codecraft_pool._aio import finish

__all__ = ["CLOSE_S", "Turns"]

T = TypeVar("T")
ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")

# How long a synchronous `close` waits for all environments to close.
CLOSE_S = 60.0


class Turns(VectorEnv[ObsT, ActT, NDArray[Any]], Generic[ObsT, ActT]):
    """Binds a vector environment to one event loop, gives its calls their turns, runs their rounds, and closes it.

    A turn is either the vector environment's, and then no other call is in progress, or that of single environments
    (rows), any number of which may have one at the same time.
    """

    def __init__(self, members: Members, *, thread: LoopThread | None, max_concurrency: int | None) -> None:
        super().__init__()
        self._members = members
        self._max_concurrency = max_concurrency
        self._limit = self._make_limit()
        self._thread = thread
        self._owns_thread = thread is None
        self._bound: asyncio.AbstractEventLoop | None = None
        self._binding = threading.Lock()
        # Reentrant, because a signal handler may close in the midst of closing.
        self._closing = threading.RLock()
        # Held by the call in progress, whose name is `_pending`. Taken without waiting: a second call is refused.
        self._turn = threading.Lock()
        self._pending = ""
        # The names of single environments' calls, by row; each in a list of its own, so that `is` tells them apart.
        self._busy: dict[int, list[str]] = {}
        # Whether the call in progress has ended but keeps its turn until its caller comes back for its results.
        self._lingers = False
        self._rounds: set[Round] = set()
        self._turn_over: Callable[[], object] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._worker: ThreadPoolExecutor | None = None

    def _make_limit(self) -> Limit | None:
        limit = self._max_concurrency
        return Limit(limit) if limit is not None and limit < len(self._members.envs) else None

    async def aclose(self) -> None:
        """Close all environments, each attempted whatever the others do; a call in progress is cancelled first.

        Closing goes on to its end even if this call is cancelled, and may be asked for more than once. After a use
        whose event loop has ended, any loop will do.
        """
        if self.closed:
            return
        self._forget_ended_loop()
        loop = asyncio.get_running_loop()
        self._bind(loop)
        if self._closer is None:
            self._closer = loop.create_task(self._close_once())
        await finish(self._closer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close_extras(self, timeout: float | None = CLOSE_S, terminate: bool = False) -> None:
        """As `aclose`, from a thread other than the loop's, and within `timeout` seconds; `close` calls this.

        After an asynchronous use whose event loop has ended, the environments are closed on another loop. A call in
        progress is cancelled whether or not `terminate` says so: it is there because `AsyncVectorEnv` has it.

        Raises:
            TimeoutError: closing took longer than `timeout`; it goes on.
        """
        with self._closing:
            if self.closed:
                return
            self._forget_ended_loop()
            try:
                self._close_within(timeout)
            finally:
                if self.closed:
                    self._end_threads()

    def _close_within(self, timeout: float | None) -> None:
        closing = self._loop_thread().start(self.aclose())
        try:
            is_over = closing.wait(timeout)
        except BaseException:
            closing.cancel()  # which closing outlives, but gives it a while to end
            raise
        if not is_over:
            rows = sorted({row for outcome in tuple(self._rounds) for row in outcome.running} | self._in_flight())
            raise TimeoutError(
                f"{type(self).__name__} was not closed within {timeout} s, which goes on: it waits for envs "
                f"{rows[:8]}{', ...' if len(rows) > 8 else ''} to end what they do"
            )
        closing.result()

    def _forget_ended_loop(self) -> None:
        """Let another loop close what belonged to one that has ended."""
        if self._bound is not None and self._bound.is_closed():
            self._bound = self._closer = None
            self._limit = self._make_limit()
        if self._bound is None and self._thread is not None and self._thread.closed and not self._owns_thread:
            self._thread, self._owns_thread = None, True  # its owner was faster; the next one is for closing alone

    def _in_flight(self) -> set[int]:
        """The environments whose calls run outside of any round."""
        return set()

    def __del__(self) -> None:
        # An instance whose constructor failed has no `_bound`; one that was never used holds nothing.
        if not self.closed and getattr(self, "_bound", None) is not None:
            message = f"unclosed {type(self).__name__}: call close() or await aclose()"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)

    # One call at a time, on one loop.

    def _bind_here(self) -> None:
        self._check_open()  # one that is closed says so, on whatever loop
        self._bind(asyncio.get_running_loop())

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._bound is loop:
            return
        with self._binding:
            if self._bound is None:
                self._bound = loop
        if self._bound is not loop:
            raise RuntimeError(
                f"{type(self).__name__} was first used on {self._bound!r} and belongs to it, but is now used on "
                f"{loop!r}: use one event loop from first reset to close, and either reset, step and close, or areset, "
                "astep and aclose"
            )

    def _drive(self, coro: Coroutine[Any, Any, T]) -> T:
        try:
            thread = self._loop_thread()
        except BaseException:
            coro.close()
            raise
        return thread.run(coro)

    def _loop_thread(self) -> LoopThread:
        if self.closed:
            raise ClosedEnvironmentError(f"{type(self).__name__} is closed and cannot be used any more")
        with self._binding:
            if self._thread is None and self._bound is None:
                self._thread = LoopThread(name=f"{type(self).__name__}-loop")
        if self._thread is None or self._bound not in (None, self._thread.loop):
            raise RuntimeError(
                f"{type(self).__name__} is in use on an event loop of the caller's, {self._bound!r}: await areset, "
                "astep, acall and aclose there instead of calling reset, step, call and close"
            )
        return self._thread

    def _check_open(self) -> None:
        if self.closed or self._closer is not None:
            raise ClosedEnvironmentError(f"{type(self).__name__} is closed and cannot be used any more")

    @contextmanager
    def _taking_turns(self, name: str) -> Generator[None, None, None]:
        """The turn for a call of all environments."""
        self._check_open()
        if not self._turn.acquire(blocking=False):
            raise self._already(name, self._pending, f"`{self._pending}`")
        try:
            if self._busy:
                row, (pending,) = next(iter(self._busy.copy().items()), (0, ["call"]))
                raise self._already(name, pending, f"`{pending}` of env {row}")
            self._pending = name
            yield
        finally:
            self._pending = ""
            self._turn.release()
            if self._turn_over is not None:
                self._turn_over()

    @contextmanager
    def _taking_row(self, row: int, name: str) -> Generator[None, None, None]:
        """The turn for a call of environment `row` alone."""
        self._check_open()
        mine = [name]
        holder = self._busy.setdefault(row, mine)
        if holder is not mine:
            raise self._already(f"{name} of env {row}", holder[0], f"`{holder[0]}` of env {row}")
        try:
            # First `_busy`, then this, and `_taking_turns` the other way round: of two threads at least one is refused.
            if self._turn.locked():
                raise self._already(f"{name} of env {row}", self._pending, f"`{self._pending}`")
            yield
        finally:
            del self._busy[row]
            if self._turn_over is not None:
                self._turn_over()

    def _already(self, name: str, pending: str, what: str) -> AlreadyPendingCallError:
        return AlreadyPendingCallError(
            f"Calling `{name}` while waiting for a pending call to {what} to complete: {type(self).__name__} and its "
            "environments take one call at a time",
            pending,
        )

    # Rounds of calls, and the last one.

    def _reset_call(self, row: int, seed: int | None, options: dict[str, Any] | None) -> Call:
        """A reset that a caller asks for, in whatever way."""
        return self._members.reset_call(row, seed, options)

    async def _perform(self, name: str, calls: Sequence[Call]) -> Round:
        outcome = Round(executor=self._worker_thread, limit=self._limit, label=name)
        self._rounds.add(outcome)
        try:
            await outcome.run(calls)
        finally:
            self._rounds.discard(outcome)
        return outcome

    def _worker_thread(self) -> ThreadPoolExecutor:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"{type(self).__name__}-worker")
        return self._worker

    def _deliver(self, outcome: Round, name: str) -> None:
        """Raise what ended `outcome` other than well."""
        if outcome.cancelled is not None:
            if outcome.failures:
                error = blame(outcome.failures, name)
                outcome.cancelled.add_note(f"env {min(outcome.failures)} failed: {type(error).__name__}: {error}")
            raise outcome.cancelled
        if self._closer is not None:
            raise self._closed_meanwhile(name)
        if outcome.failures:
            raise blame(outcome.failures, name)

    def _closed_meanwhile(self, name: str) -> ClosedEnvironmentError:
        return ClosedEnvironmentError(f"{type(self).__name__} was closed while a call of `{name}` was in progress")

    async def _close_once(self) -> None:
        try:
            await self._close_all()
        finally:
            self.closed = True
            if self._worker is not None:
                # No job is left, so the thread ends at once; waiting for it would block the loop.
                self._worker.shutdown(wait=False)

    def _end_threads(self) -> None:
        if self._worker is not None:
            self._worker.shutdown()
        if self._owns_thread and self._thread is not None:
            self._thread.close()

    async def _close_all(self) -> None:
        """Close all environments; run once. Subclasses may extend it to close what their environments share."""
        await self._take_last_turn()
        outcome = await self._perform("close", self._members.close_calls())
        if outcome.cancelled is not None:
            raise outcome.cancelled
        if outcome.failures:
            raise blame(outcome.failures, "close")

    async def _take_last_turn(self) -> None:
        """Cancel what is in progress, and take the turn, for good, when it has ended."""
        over = asyncio.Event()
        # Set before the first look, so that a turn that ends after it is noticed.
        self._turn_over = partial(_set_soon, asyncio.get_running_loop(), over)
        while self._busy or not self._take_over():
            for outcome in self._rounds:
                outcome.cancel()
            await over.wait()
            over.clear()
        self._turn_over = None
        await self._members.background.close()

    def _take_over(self) -> bool:
        """Whether the turn could be taken, be it from a call that has ended and that nobody has come back for."""
        return self._turn.acquire(blocking=False) or self._lingers


def _set_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # a loop that has ended has nobody who waits
        loop.call_soon_threadsafe(event.set)
