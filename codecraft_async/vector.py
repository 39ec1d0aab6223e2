"""A vector environment that steps its environments concurrently on one event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Self, TypeVar, cast

import numpy as np
from gymnasium import Env, Space
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from codecraft_async._loop import LoopThread
from codecraft_async._vector_batch import (
    ObservationMode,
    Seeds,
    batch_observations,
    observation_spaces,
    read_options,
    seeds,
    split,
)
from codecraft_async._vector_episodes import Episodes
from codecraft_async._vector_info import Entry, merge_infos
from codecraft_async._vector_members import AsyncEnv, Members
from codecraft_async._vector_round import Call, Round, blame, wait_for
from codecraft_pool._aio import finish

__all__ = ["CLOSE_S", "AsyncEnv", "AsyncioVectorEnv"]

T = TypeVar("T")
ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")

# How long a synchronous `close` waits for all environments to close.
CLOSE_S = 60.0


class AsyncioVectorEnv(VectorEnv[ObsT, ActT, NDArray[Any]], Generic[ObsT, ActT]):
    """Steps `AsyncEnv`s concurrently on one event loop, and any other environment in order in one worker thread.

    It has two faces with the same results. `areset`, `astep` and `aclose` run on the caller's own event loop;
    `reset`, `step` and `close` run on a `LoopThread` (`loop`, or one of its own), and so work in any thread,
    also in one that has a running loop. The first use decides for one loop, to which the environments' resources
    belong from then on. Environments are constructed here, and closed by `close` or `aclose`.

    If an environment raises in a reset or step, the others finish theirs, then the first error (by index) is raised
    with notes that name every environment that failed. If the call is cancelled, the calls of all environments are
    cancelled and waited for first. Either way `interrupted` says which environments need a reset, and stepping
    raises `gymnasium.error.ResetNeeded` until they have had one, alone (`options["reset_mask"]`) or with all others.
    Those that had completed their step keep its state; its results are not returned.
    """

    single_observation_space: Space[Any]
    single_action_space: Space[Any]
    observation_space: Space[Any]
    action_space: Space[Any]

    def __init__(
        self,
        env_fns: Sequence[Callable[[], Env[Any, Any]]],
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        observation_mode: ObservationMode = "same",
        max_concurrency: int | None = None,
        render_mode: str | None = None,
        loop: LoopThread | None = None,
    ) -> None:
        """`max_concurrency`: at most so many environments' coroutines at once. `render_mode`: what they all have.

        Raises:
            ValueError: no environments, an unknown mode, or a `max_concurrency` below 1.
            RuntimeError: the environments' spaces do not go together.
        """
        super().__init__()
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, or None for no limit, got {max_concurrency}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self._members = Members(env_fns)
        self.envs = self._members.envs
        self._init_spaces(observation_mode)
        self.render_mode = self._members.render_mode(render_mode)
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": self.autoreset_mode}
        self._max_concurrency = max_concurrency
        self._episodes = Episodes(self.num_envs, self.autoreset_mode)
        self._init_machinery(loop)

    def _init_spaces(self, mode: ObservationMode) -> None:
        self.num_envs = len(self.envs)
        self.single_action_space = self.envs[0].action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space, self.single_observation_space = observation_spaces(self.envs, mode)

    def _init_machinery(self, thread: LoopThread | None) -> None:
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

    @property
    def interrupted(self) -> NDArray[np.bool_]:
        """Which environments failed or were cut off since their last reset, shape (num_envs,), a new array."""
        return self._episodes.interrupted

    # The asynchronous face.

    async def areset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[ObsT, dict[str, Any]]:
        """Reset all environments, or those that `options["reset_mask"]` chooses.

        `seed`: an int counts up from environment to environment; a sequence has one for each.

        Raises:
            TypeError, ValueError: a wrong `reset_mask`, or a wrong number of seeds.
            ResetNeeded: the mask leaves out an environment that was never reset.
            AlreadyPendingCallError, ClosedEnvironmentError: another call is in progress, or this is closed.
        """
        self._bind(asyncio.get_running_loop())
        with self._taking_turns("reset"):
            each = seeds(seed, self.num_envs)
            rows, others = read_options(options, self.num_envs)
            self._episodes.check_reset(rows)
            outcome = await self._perform("reset", [self._members.reset_call(row, each[row], others) for row in rows])
            infos = self._episodes.take_resets(outcome)
            self._deliver(outcome, "reset")
            return self._observations(), self._merge(infos)

    async def astep(
        self, actions: ActT
    ) -> tuple[ObsT, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every environment with its action; what happens to ended episodes is up to `autoreset_mode`.

        Raises:
            TypeError, ValueError: one str or mapping instead of a batch, or a wrong number of actions.
            ResetNeeded: an environment was never reset, or is one of the `interrupted`.
            AssertionError: an episode is over, and the mode is DISABLED.
            AlreadyPendingCallError, ClosedEnvironmentError: another call is in progress, or this is closed.
        """
        self._bind(asyncio.get_running_loop())
        with self._taking_turns("step"):
            each = split(self.action_space, actions, self.num_envs)
            self._episodes.check_step()
            outcome = await self._perform("step", self._step_calls(each))
            taken = self._episodes.take_steps(outcome)
            self._deliver(outcome, "step")
            infos = self._merge(taken.infos)
            return self._observations(), taken.rewards, taken.terminations, taken.truncations, infos

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

    # The synchronous face.

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[ObsT, dict[str, Any]]:
        """As `areset`, from a thread other than the loop's."""
        return self._drive(self.areset(seed=seed, options=options))

    def step(
        self, actions: ActT
    ) -> tuple[ObsT, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """As `astep`, from a thread other than the loop's."""
        return self._drive(self.astep(actions))

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

    def render(self) -> tuple[Any, ...]:
        """One frame from each environment."""
        with self._taking_turns("render"):
            return tuple(env.render() for env in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Each environment's attribute `name`, called with the arguments if it is callable.

        The calls are made in this thread, in order; coroutines that they return are then run concurrently.
        """
        with self._taking_turns("call"):
            found = [env.get_wrapper_attr(name) for env in self.envs]
            results = [value(*args, **kwargs) if callable(value) else value for value in found]
            if any(map(inspect.isawaitable, results)):
                results = self._drive(self._await_each(name, results))
            return tuple(results)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Each environment's attribute `name`; callables are called, as gymnasium's vector environments do."""
        return self.call(name)

    def set_attr(self, name: str, values: list[Any] | tuple[Any, ...] | Any) -> None:
        """Set attribute `name` of the environments: one value each from a list or tuple, any other value for all.

        Raises:
            ValueError: a list or tuple of another length than `num_envs`.
        """
        each = cast("Sequence[Any]", values) if isinstance(values, (list, tuple)) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(each)}` values for {self.num_envs} environments."
            )
        with self._taking_turns("set_attr"):
            for env, value in zip(self.envs, each, strict=True):
                env.set_wrapper_attr(name, value)

    @property  # type: ignore[misc]  # each environment has a generator of its own, and replacing it is its own affair
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each environment's random number generator."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each environment's seed."""
        return self.get_attr("np_random_seed")

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

    # The work.

    def _step_calls(self, actions: Sequence[Any]) -> list[Call]:
        mode, over = self.autoreset_mode, self._episodes.over
        step_call = self._members.step_call
        return [step_call(row, action, mode=mode, over=over[row]) for row, action in enumerate(actions)]

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

    def _observations(self) -> Any:
        return batch_observations(self.single_observation_space, self._episodes.observations)

    def _merge(self, infos: Sequence[Entry]) -> dict[str, Any]:
        return merge_infos(infos, num_envs=self.num_envs, add_info=self._add_info)

    async def _await_each(self, name: str, results: list[Any]) -> list[Any]:
        self._bind(asyncio.get_running_loop())
        rows = [row for row, result in enumerate(results) if inspect.isawaitable(result)]
        outcome = await self._perform(name, [Call(row, partial(wait_for, results[row]), True) for row in rows])
        self._deliver(outcome, name)
        return [outcome.results.get(row, result) for row, result in enumerate(results)]

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
