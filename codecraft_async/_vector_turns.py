"""One call at a time, on one event loop, until it is closed: what a vector environment is beneath its calls."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Self, TypeVar

from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from codecraft_async._loop import LoopThread
from codecraft_async._vector_members import Members
from codecraft_async._vector_round import Call, Round, blame
from codecraft_pool._aio import finish

__all__ = ["CLOSE_S", "Turns"]

T = TypeVar("T")
ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")

# How long a synchronous `close` waits for all environments to close.
CLOSE_S = 60.0


class Turns(VectorEnv[ObsT, ActT, NDArray[Any]], Generic[ObsT, ActT]):
    """Binds a vector environment to one event loop, gives its calls their turns, runs their rounds, and closes it."""

    def __init__(self, members: Members, *, thread: LoopThread | None, max_concurrency: int | None) -> None:
        super().__init__()
        self._members = members
        self._max_concurrency = max_concurrency
        self._thread = thread
        self._owns_thread = thread is None
        self._bound: asyncio.AbstractEventLoop | None = None
        self._binding = threading.Lock()
        # Reentrant, because a signal handler may close in the midst of closing.
        self._closing = threading.RLock()
        # Held by the call in progress, whose name is `_pending`. Taken without waiting: a second call is refused.
        self._turn = threading.Lock()
        self._pending = ""
        self._round: Round | None = None
        self._turn_over: Callable[[], object] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._worker: ThreadPoolExecutor | None = None

    async def aclose(self) -> None:
        """Close all environments, each attempted whatever the others do; a call in progress is cancelled first.

        Closing goes on to its end even if this call is cancelled, and may be asked for more than once.
        """
        if self.closed:
            return
        loop = asyncio.get_running_loop()
        self._bind(loop)
        if self._closer is None:
            self._closer = loop.create_task(self._close_once())
        await finish(self._closer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close_extras(self, timeout: float | None = CLOSE_S) -> None:
        """As `aclose`, from a thread other than the loop's, and within `timeout` seconds; `close` calls this.

        After an asynchronous use whose event loop has ended, the environments are closed on another loop.
        """
        with self._closing:
            if self.closed:
                return
            if self._bound is not None and self._bound.is_closed():
                self._bound = self._closer = None
            try:
                self._drive(self.aclose(), timeout_s=timeout)
            finally:
                if self.closed:
                    self._end_threads()

    def __del__(self) -> None:
        # An instance whose constructor failed has no `_bound`; one that was never used holds nothing.
        if not self.closed and getattr(self, "_bound", None) is not None:
            message = f"unclosed {type(self).__name__}: call close() or await aclose()"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)

    # One call at a time, on one loop.

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

    def _drive(self, coro: Coroutine[Any, Any, T], *, timeout_s: float | None = None) -> T:
        try:
            thread = self._loop_thread()
        except BaseException:
            coro.close()
            raise
        return thread.run(coro, timeout_s=timeout_s)

    def _loop_thread(self) -> LoopThread:
        if self.closed:
            raise ClosedEnvironmentError(f"{type(self).__name__} is closed and cannot be used any more")
        with self._binding:
            if self._thread is None and self._bound is None:
                self._thread = LoopThread(name=f"{type(self).__name__}-loop")
        if self._thread is None or self._bound not in (None, self._thread.loop):
            raise RuntimeError(
                f"{type(self).__name__} is in use on an event loop of the caller's, {self._bound!r}: await areset, "
                "astep and aclose there instead of calling reset, step and close"
            )
        return self._thread

    def _check_open(self) -> None:
        if self.closed or self._closer is not None:
            raise ClosedEnvironmentError(f"{type(self).__name__} is closed and cannot be used any more")

    @contextmanager
    def _taking_turns(self, name: str) -> Generator[None, None, None]:
        self._check_open()
        if not self._turn.acquire(blocking=False):
            raise AlreadyPendingCallError(
                f"{type(self).__name__}: `{name}` while a call of `{self._pending}` is in progress", self._pending
            )
        self._pending = name
        try:
            yield
        finally:
            self._pending = ""
            self._turn.release()
            if self._turn_over is not None:
                self._turn_over()

    # Rounds of calls, and the last one.

    async def _perform(self, name: str, calls: Sequence[Call]) -> Round:
        outcome = self._round = Round(executor=self._worker_thread, max_concurrency=self._max_concurrency, label=name)
        try:
            await outcome.run(calls)
        finally:
            self._round = None
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
            raise ClosedEnvironmentError(f"{type(self).__name__} was closed while a call of `{name}` was in progress")
        if outcome.failures:
            raise blame(outcome.failures, name)

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
        """Cancel the call in progress, if any, and take its turn, for good, when it has ended."""
        over = asyncio.Event()
        # Set before the attempt, so that a turn that ends after a failed attempt is noticed.
        self._turn_over = partial(asyncio.get_running_loop().call_soon_threadsafe, over.set)
        while not self._turn.acquire(blocking=False):
            if self._round is not None:
                self._round.cancel()
            await over.wait()
            over.clear()
