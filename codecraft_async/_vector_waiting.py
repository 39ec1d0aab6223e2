"""Calls in two halves, as `gymnasium.vector.AsyncVectorEnv` has them: one starts a call, one waits for its results."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError
from gymnasium.vector.async_vector_env import AsyncState
from numpy.typing import NDArray

from codecraft_async._loop import LoopThread, Started
from codecraft_async._vector_attributes import Attributes, discard_unstarted
from codecraft_async._vector_batch import Seeds
from codecraft_async._vector_members import Members
from codecraft_async._vector_round import Call

__all__ = ["WaitTimeout", "Waiting"]

ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")
Stepped = tuple[ObsT, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class WaitTimeout(multiprocessing.TimeoutError, TimeoutError):
    """A call did not end within the time that its caller would wait; it is still in progress."""


class Waiting(Attributes[ObsT, ActT], Generic[ObsT, ActT]):
    """The synchronous face in halves. What a call would refuse at once, its first half refuses.

    A wait that times out loses nothing: the call goes on, and may be waited for again, cancelled, or ended by `close`.
    """

    def __init__(self, members: Members, *, thread: LoopThread | None, max_concurrency: int | None) -> None:
        super().__init__(members, thread=thread, max_concurrency=max_concurrency)
        # The call that was started and not waited for yet, and its turn.
        self._started: Started[Any] | None = None
        self._held = ExitStack()
        # Held by the thread that waits for it.
        self._waiting = threading.Lock()

    def _begin_reset(
        self, seed: Seeds, options: dict[str, Any] | None
    ) -> Coroutine[Any, Any, tuple[ObsT, dict[str, Any]]]:
        raise NotImplementedError

    def _begin_step(self, actions: ActT) -> Coroutine[Any, Any, Stepped[ObsT]]:
        raise NotImplementedError

    def reset_async(self, seed: Seeds = None, options: dict[str, Any] | None = None) -> None:
        """Start what `reset` does; `reset_wait` gives its results.

        Raises:
            as `areset`, but for what the environments themselves raise.
        """
        self._start("reset", partial(self._begin_reset, seed, options))

    def reset_wait(self, timeout: float | None = None) -> tuple[ObsT, dict[str, Any]]:
        """The results of `reset_async`, once they are there.

        Raises:
            NoAsyncCallError: no reset was started.
            WaitTimeout: it took longer than `timeout` seconds; a `multiprocessing.TimeoutError` and a `TimeoutError`.
            ClosedEnvironmentError: this is closed.
        """
        result: tuple[ObsT, dict[str, Any]] = self._wait("reset", timeout)
        return result

    def step_async(self, actions: ActT) -> None:
        """Start what `step` does; `step_wait` gives its results.

        Raises:
            as `astep`, but for what the environments themselves raise.
        """
        self._start("step", partial(self._begin_step, actions))

    def step_wait(self, timeout: float | None = None) -> Stepped[ObsT]:
        """The results of `step_async`, once they are there.

        Raises:
            NoAsyncCallError, WaitTimeout, ClosedEnvironmentError: as `reset_wait`.
        """
        result: Stepped[ObsT] = self._wait("step", timeout)
        return result

    def call_async(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Start what `call` does, plain functions in the worker thread; `call_wait` gives its results.

        Raises:
            AlreadyPendingCallError, ClosedEnvironmentError: another call is in progress, or this is closed.
        """
        self._start("call", partial(self._call_everywhere, name, args, kwargs))

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """The results of `call_async`, once they are there.

        Raises:
            NoAsyncCallError, WaitTimeout, ClosedEnvironmentError: as `reset_wait`.
        """
        result: tuple[Any, ...] = self._wait("call", timeout)
        return result

    def cancel_async(self) -> None:
        """Cancel the call that was started, if any, and wait for its end; `interrupted` says what it cut off.

        Raises:
            TimeoutError: an environment has not given in; the call is still in progress.
        """
        started = self._started
        if started is None:
            return
        started.cancel()
        if not started.done:
            raise TimeoutError(f"an environment goes on with its {self._pending} in spite of the cancellation")
        if self._waiting.acquire(blocking=False):  # else it is for the thread that waits
            try:
                self._check_open()
                if self._started is started:
                    self._let_go()
            finally:
                self._waiting.release()

    @property
    def _state(self) -> AsyncState:
        """What `AsyncVectorEnv` keeps under this name: which call was started and not waited for."""
        return AsyncState.DEFAULT if self._started is None else AsyncState(self._pending)

    async def acall(self, name: str, /, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As `call`, on an event loop of the caller's; plain functions are called in the worker thread.

        Unlike `call`, it can wait for resets in the background, which end before it touches any environment.
        """
        self._bind_here()
        with self._taking_turns("call"):
            return await self._call_everywhere(name, args, kwargs)

    async def _call_everywhere(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        await self._members.background.settle()
        rows = range(self.num_envs)
        found = [Call(row, partial(self._call_one, row, name, args, kwargs), False) for row in rows]
        outcome = await self._perform("call", found)
        try:
            self._deliver(outcome, "call")
        except BaseException:
            discard_unstarted(outcome.results.values())
            raise
        return tuple(await self._await_each("call", [outcome.results[row] for row in rows]))

    def _start(self, name: str, begin: partial[Coroutine[Any, Any, Any]]) -> None:
        thread = self._loop_thread()
        self._bind(thread.loop)
        with ExitStack() as turn:
            try:
                turn.enter_context(self._taking_turns(name))
            except AlreadyPendingCallError as error:
                raise AlreadyPendingCallError(
                    str(error).replace(f"`{name}`", f"`{name}_async`", 1), error.name
                ) from None
            work = begin()
            turn.callback(work.close)  # it may be cancelled before it has begun
            self._started = thread.start(self._run_started(work))
            self._held = turn.pop_all()

    async def _run_started(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            self._check_open()  # it may have been closed on the way here
            return await work
        finally:
            work.close()
            self._lingers = True
            if self._turn_over is not None:
                self._turn_over()

    def _wait(self, name: str, timeout: float | None) -> Any:
        self._check_open()
        if not self._waiting.acquire(blocking=False):
            raise self._already(f"{name}_wait", self._pending, f"`{self._pending}_wait` in another thread")
        try:
            started = self._started
            if started is None or self._pending != name:
                raise NoAsyncCallError(f"Calling `{name}_wait` without any prior call to `{name}_async`.", name)
            if not started.wait(timeout):
                raise WaitTimeout(
                    f"The call to `{name}_wait` has timed out after {timeout} second(s). It is still in progress: wait "
                    "again, or end it by cancel_async() or close()"
                )
            self._check_open()  # closing, which may have come meanwhile, keeps the turn
            self._let_go()
            return started.result()
        finally:
            self._waiting.release()

    def _let_go(self) -> None:
        self._started = None
        self._lingers = False
        self._held.close()
