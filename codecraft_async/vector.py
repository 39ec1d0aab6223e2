"""A vector environment that steps its environments concurrently on one event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium import Env, Space
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from codecraft_async._loop import LoopThread
from codecraft_async._vector_batch import (
    Batch,
    ObservationMode,
    Seeds,
    observation_spaces,
    read_options,
    seeds,
    split,
)
from codecraft_async._vector_branch import Branchable, Branching
from codecraft_async._vector_episodes import Episodes, Flaw
from codecraft_async._vector_handles import Handle, Hands
from codecraft_async._vector_info import Entry, merge_infos
from codecraft_async._vector_members import AsyncEnv, Members
from codecraft_async._vector_ready_asked import Ids
from codecraft_async._vector_turns import CLOSE_S
from codecraft_async._vector_waiting import Stepped, Waiting, WaitTimeout

__all__ = ["CLOSE_S", "AsyncEnv", "AsyncioVectorEnv", "Branchable", "Handle", "WaitTimeout"]

ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")


class AsyncioVectorEnv(Branching[ObsT, ActT], Waiting[ObsT, ActT], Generic[ObsT, ActT]):
    """Steps `AsyncEnv`s concurrently on one event loop, and any other environment in order in one worker thread.

    It has two faces with the same results. `areset`, `astep` and `aclose` run on the caller's own event loop;
    `reset`, `step` and `close` run on a `LoopThread` (`loop`, or one of its own), and so work in any thread,
    also in one that has a running loop. The first use decides for one loop, to which the environments' resources
    belong from then on. Environments are constructed here, and closed by `close` or `aclose`. `envs` has a handle for
    each, to use one alone.

    If an environment raises in a reset or step, the others finish theirs, then the first error (by index) is raised
    with notes that name every environment that failed. If the call is cancelled, the calls of all environments are
    cancelled and waited for first. Either way `interrupted` says which environments need a reset, and stepping
    raises `gymnasium.error.ResetNeeded` until they have had one, alone (`options["reset_mask"]`) or with all others.
    Those that had completed their step keep its state; its results are not returned.

    Where environments differ in pace, `async_reset`, `send` and `recv` step each at its own, and deliver whichever are
    ready first; environments without coroutines then have threads of their own. `branch` copies a running episode into
    other slots.

    It takes the place of `gymnasium.vector.AsyncVectorEnv`, whose arguments and methods it has, `reset_async` to
    `call_wait` included.
    """

    single_observation_space: Space[Any]
    single_action_space: Space[Any]
    observation_space: Space[Any]
    action_space: Space[Any]

    def __init__(
        self,
        env_fns: Sequence[Callable[[], Env[Any, Any]]],
        shared_memory: bool = True,
        copy: bool = True,
        context: str | None = None,
        daemon: bool = True,
        worker: object = None,
        observation_mode: ObservationMode = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_concurrency: int | None = None,
        *,
        render_mode: str | None = None,
        loop: LoopThread | None = None,
        background_resets: bool | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Construct the environments.

        Args:
            env_fns: What constructs each of them.
            shared_memory, context, daemon: Without effect: they say how `AsyncVectorEnv` is to use processes.
            copy: False: observations of every call are in the same arrays, which the next call overwrites.
            worker: Refused: it is code for a process.
            observation_mode: "same", "different", or a tuple (batched space, single space).
            autoreset_mode: What happens to ended episodes; a `gymnasium.vector.AutoresetMode` or its value.
            max_concurrency: At most so many environments' coroutines at once.
            render_mode: What they all have.
            loop: The thread for the synchronous face.
            background_resets: In NEXT_STEP, reset an `AsyncEnv` from the moment its episode has ended, so that the
                step after that only waits for what is left. Results are those without, errors included, which are
                raised by that step. But what is read, set or rendered between two steps is in the next episode
                already, which is why None means: if there is no render mode. And an explicit reset that has a seed
                or options undoes the one in the background: environments that count their resets see one more.
            batch_size: How many results `recv` delivers unless it is told otherwise; by default those of all.

        Raises:
            ValueError: no environments, an unknown mode, a `worker`, a `max_concurrency` below 1, or a
                `batch_size` that is not from 1 to their number.
            RuntimeError: the environments' spaces do not go together.
        """
        if worker is not None:
            raise ValueError(
                "worker is code to run in AsyncVectorEnv's processes, and there are none here: leave it out, and put "
                "what it does to an environment into a wrapper in env_fns"
            )
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        super().__init__(Members(env_fns), thread=loop, max_concurrency=_at_least_one(max_concurrency))
        with self._members.closing_on_error():
            self.num_envs = len(self._members.envs)
            self._init_first_ready(batch_size)
            self._init_spaces(observation_mode)
            self.render_mode = self._members.render_mode(render_mode)
        self.metadata = {**self._members.envs[0].metadata, "autoreset_mode": self.autoreset_mode}
        self._episodes = Episodes(self.num_envs, self.autoreset_mode)
        self._batch = Batch(self.single_observation_space, self.num_envs, copy=copy)
        self._resets_ahead = (self.render_mode is None) if background_resets is None else background_resets
        self._init_branching()

    def _init_spaces(self, mode: ObservationMode) -> None:
        envs = self._members.envs
        self.single_action_space = envs[0].action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space, self.single_observation_space = observation_spaces(envs, mode)

    @cached_property
    def envs(self) -> tuple[Handle, ...]:
        """A handle for each environment; `envs[i].unwrapped` is the environment itself."""
        hands = Hands(self._areset_row, self._astep_row, self._taking_row, self._drive)
        return tuple(Handle(self._members, row, hands) for row in range(self.num_envs))

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
        self._bind_here()
        with self._taking_turns("reset"):
            return await self._begin_reset(seed, options)

    async def astep(self, actions: ActT, env_id: Ids | None = None) -> Stepped[ObsT]:
        """Step every environment with its action; what happens to ended episodes is up to `autoreset_mode`.

        With `env_id` this is a `send` to these environments and an `arecv` of the first batch that is ready.

        Raises:
            TypeError, ValueError: one str or mapping instead of a batch, or a wrong number of actions.
            ResetNeeded: an environment was never reset, or is one of the `interrupted`.
            AssertionError: an episode is over, and the mode is DISABLED.
            AlreadyPendingCallError, ClosedEnvironmentError: another call is in progress, or this is closed.
        """
        if env_id is not None:
            return await self._send_and_receive(actions, env_id)
        self._bind_here()
        with self._taking_turns("step"):
            return await self._begin_step(actions)

    # The synchronous face.

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[ObsT, dict[str, Any]]:
        """As `areset`, from a thread other than the loop's."""
        return self._drive(self.areset(seed=seed, options=options))

    def step(self, actions: ActT, env_id: Ids | None = None) -> Stepped[ObsT]:
        """As `astep`, from a thread other than the loop's."""
        return self._drive(self.astep(actions, env_id))

    # The work. What begins it checks what it is asked for, in any thread; what it gives is to be awaited on the loop.

    def _begin_reset(
        self, seed: Seeds, options: dict[str, Any] | None
    ) -> Coroutine[Any, Any, tuple[ObsT, dict[str, Any]]]:
        each = seeds(seed, self.num_envs)
        rows, others = read_options(options, self.num_envs)
        self._episodes.check_reset(rows)
        return self._reset_rows(rows, each, others)

    async def _reset_rows(
        self, rows: Sequence[int], each: Sequence[int | None] | Mapping[int, int | None], options: dict[str, Any] | None
    ) -> tuple[ObsT, dict[str, Any]]:
        await self._before_reset()
        infos = await self._reset(rows, each, options)
        return self._observations(), self._merge(infos)

    async def _before_reset(self) -> None:
        """What subclasses have to do before a reset of several environments that are to begin together."""

    async def _reset(
        self, rows: Sequence[int], each: Sequence[int | None] | Mapping[int, int | None], options: dict[str, Any] | None
    ) -> list[Entry]:
        outcome = await self._perform("reset", [self._reset_call(row, each[row], options) for row in rows])
        infos = self._episodes.take_resets(outcome)
        self._deliver(outcome, "reset")
        return infos

    def _begin_step(self, actions: ActT) -> Coroutine[Any, Any, Stepped[ObsT]]:
        each = split(self.action_space, actions, self.num_envs)
        self._episodes.check_step()
        return self._step(each)

    async def _step(self, actions: Sequence[Any]) -> Stepped[ObsT]:
        mode, over = self.autoreset_mode, self._episodes.over
        step_call = self._members.step_call
        calls = [step_call(row, action, mode=mode, over=over[row]) for row, action in enumerate(actions)]
        outcome = await self._perform("step", calls)
        taken = self._episodes.take_steps(outcome)
        if outcome.cancelled is None and taken.ended and self._resets_ahead and self._closer is None:
            self._reset_ahead(taken.ended)
        self._deliver(outcome, "step")
        infos = self._merge(taken.infos)
        return self._observations(), taken.rewards, taken.terminations, taken.truncations, infos

    def _reset_ahead(self, rows: Sequence[int]) -> None:
        """Start the resets that the next step would begin with."""
        self._episodes.keep_observations(rows)
        self._members.reset_ahead(rows, self._limit)

    async def _areset_row(
        self, row: int, seed: int | None, options: dict[str, Any] | None
    ) -> tuple[Any, dict[str, Any]]:
        self._bind_here()
        with self._taking_row(row, "reset"):
            ((_, info),) = await self._reset([row], {row: seed}, options)
            # Kept for masked resets of others, while the caller may change what is returned.
            return deepcopy(self._episodes.observations[row]), info

    async def _astep_row(self, row: int, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._bind_here()
        with self._taking_row(row, "step"):
            self._episodes.check_own_step(row)
            call = self._members.step_call(row, action, mode=AutoresetMode.DISABLED, over=False)
            outcome = await self._perform("step", [call])
            self._episodes.take_own_step(row, outcome)
            self._deliver(outcome, "step")
            observation, reward, terminated, truncated, info = outcome.results[row]
            return observation, float(reward), bool(terminated), bool(truncated), info

    def _observations(self) -> Any:
        observations = self._episodes.observations
        try:
            return self._batch(observations)
        except Exception as error:
            misfits = self._batch.misfits(observations)
            self._episodes.flaws.update(dict.fromkeys(misfits, Flaw.FAILED))
            error.add_note(f"the observations of envs {misfits} do not fit {self.single_observation_space}")
            raise

    def _merge(self, infos: Sequence[Entry]) -> dict[str, Any]:
        return merge_infos(infos, num_envs=self.num_envs, add_info=self._add_info)


def _at_least_one(max_concurrency: int | None) -> int | None:
    if max_concurrency is not None and not max_concurrency >= 1:
        raise ValueError(f"max_concurrency must be at least 1, or None for no limit, got {max_concurrency}")
    return max_concurrency
