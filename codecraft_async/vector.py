"""A vector environment that steps its environments concurrently on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium import Env, Space
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from codecraft_async._loop import LoopThread
from codecraft_async._vector_attributes import Attributes
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
from codecraft_async._vector_round import Call
from codecraft_async._vector_turns import CLOSE_S

__all__ = ["CLOSE_S", "AsyncEnv", "AsyncioVectorEnv"]

ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")


class AsyncioVectorEnv(Attributes[ObsT, ActT], Generic[ObsT, ActT]):
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
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, or None for no limit, got {max_concurrency}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        super().__init__(Members(env_fns), thread=loop, max_concurrency=max_concurrency)
        self.envs = self._members.envs
        self._init_spaces(observation_mode)
        self.render_mode = self._members.render_mode(render_mode)
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": self.autoreset_mode}
        self._episodes = Episodes(self.num_envs, self.autoreset_mode)

    def _init_spaces(self, mode: ObservationMode) -> None:
        self.num_envs = len(self.envs)
        self.single_action_space = self.envs[0].action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space, self.single_observation_space = observation_spaces(self.envs, mode)

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

    # The synchronous face.

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[ObsT, dict[str, Any]]:
        """As `areset`, from a thread other than the loop's."""
        return self._drive(self.areset(seed=seed, options=options))

    def step(
        self, actions: ActT
    ) -> tuple[ObsT, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """As `astep`, from a thread other than the loop's."""
        return self._drive(self.astep(actions))

    # The work.

    def _step_calls(self, actions: Sequence[Any]) -> list[Call]:
        mode, over = self.autoreset_mode, self._episodes.over
        step_call = self._members.step_call
        return [step_call(row, action, mode=mode, over=over[row]) for row, action in enumerate(actions)]

    def _observations(self) -> Any:
        return batch_observations(self.single_observation_space, self._episodes.observations)

    def _merge(self, infos: Sequence[Entry]) -> dict[str, Any]:
        return merge_infos(infos, num_envs=self.num_envs, add_info=self._add_info)
