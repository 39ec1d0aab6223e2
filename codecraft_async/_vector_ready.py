"""First-ready batches: `async_reset` and `send` start calls, `recv` and `arecv` deliver whichever ended first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from gymnasium import Space
from gymnasium.error import AlreadyPendingCallError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from codecraft_async._vector_batch import Seeds, batch_observations, read_options, seeds, split
from codecraft_async._vector_episodes import Episodes
from codecraft_async._vector_info import merge_infos
from codecraft_async._vector_members import AsyncEnv
from codecraft_async._vector_ready_asked import Ids, check_timeout, listed, read_ids, read_size, read_sizes, scatter
from codecraft_async._vector_ready_flights import Flights
from codecraft_async._vector_ready_slots import Landing, Slots
from codecraft_async._vector_round import Call
from codecraft_async._vector_turns import Turns

__all__ = ["FirstReady"]

ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")
Flags: TypeAlias = NDArray[np.bool_]
# What the calls below deliver: observations, rewards, terminations, truncations, infos.
Batch: TypeAlias = tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]


class FirstReady(Turns[ObsT, ActT], Generic[ObsT, ActT]):
    """Steps environments each at its own pace.

    Each environment is at rest, in flight (after `send` or `async_reset`), or ready (until `recv` has delivered).
    Results are delivered in the order in which they arrived, so that no environment waits for a slower one. To that
    end environments without coroutines have worker threads of their own here, in which several may be at work at once
    (`max_concurrency` limits how many). Calls of all environments, `reset` and `step` among them, are refused while
    anything is outstanding.
    """

    autoreset_mode: AutoresetMode
    single_observation_space: Space[Any]
    action_space: Space[Any]
    _episodes: Episodes
    _resets_ahead: bool

    def _init_first_ready(self, batch_size: int | None) -> None:
        self._batch_size = self.num_envs if batch_size is None else read_size("batch_size", batch_size, self.num_envs)
        self._slots = Slots(self.num_envs)
        plain = sum(not isinstance(env, AsyncEnv) for env in self._members.envs)
        self._flights = Flights(threads=plain, name=type(self).__name__)
        # The turns of the environments that are not at rest.
        self._row_turns: dict[int, AbstractContextManager[None]] = {}
        # The environments of the last batch received, to which a `send` without ids belongs; None: all.
        self._answered: list[int] | None = None
        self._receiving = False
        self._waiter: asyncio.Future[None] | None = None
        self._least = 0

    @property
    def batch_size(self) -> int:
        """How many results a `recv` delivers unless it is told otherwise."""
        return self._batch_size

    @property
    def outstanding(self) -> NDArray[np.bool_]:
        """Which environments are in flight, have a result that `recv` has not delivered, or are part of a `branch`.

        A new array of shape (num_envs,).
        """
        return np.array([not self._slots.at_rest(row) for row in range(self.num_envs)], dtype=np.bool_)

    def async_reset(
        self, env_id: Ids | None = None, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> None:
        """Start to reset all environments, or those of `env_id` or `options["reset_mask"]`; `recv` has the results.

        Their rewards are 0, and their flags False. `seed`: an int is added to an environment's index; a sequence has
        one for each of `env_id`. Whoever calls this first of all in the thread of a running event loop leaves open
        which loop is meant: the resets begin with the call, `recv` or `arecv`, say, that settles it.

        Raises:
            TypeError, ValueError, IndexError: a wrong `env_id` or `reset_mask`, or a wrong number of seeds.
            AlreadyPendingCallError: one of them has a call outstanding, or another call is in progress.
            ClosedEnvironmentError: this is closed.
        """
        self._where_they_live(partial(self._start_resets, env_id, seed, options))

    def send(self, actions: Any, env_id: Ids | None = None) -> None:
        """Start to step the environments of `env_id` with one action each; `recv` has the results.

        Without `env_id` the actions belong to the environments of the last batch received, in its order; after a
        `reset` or `step`, to all. An episode that is over goes by `autoreset_mode`: in NEXT_STEP the action is put
        aside, and the result is that of a reset. A call that raises has started nothing.

        Raises:
            TypeError, ValueError, IndexError: a wrong `env_id`, or not one action for each environment.
            AlreadyPendingCallError: one of them has a call outstanding, or another call is in progress.
            ResetNeeded: one was never reset, or failed in its last call.
            AssertionError: the episode of one is over, and the mode is DISABLED.
            ClosedEnvironmentError: this is closed.
        """
        self._where_they_live(partial(self._start_steps, actions, env_id))

    async def arecv(
        self,
        batch_size: int | None = None,
        *,
        min_get: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # unlike `asyncio.timeout`, it lets through what came just then
    ) -> Batch:
        """Wait for the first `batch_size` results, and return them in the order in which they arrived.

        Row i of everything belongs to the environment `info["env_id"][i]`. With `min_get` a batch may be smaller: it
        has what is there as soon as that many are. An environment that raised has its error raised here, with a note
        that names it, and needs an `async_reset`; all other results stay for the next call. Nor is anything lost if
        the time is over, or if this is cancelled.

        Raises:
            TypeError, ValueError: a size that is no integer from 1 to `num_envs`, or `min_get` above `batch_size`.
            NoAsyncCallError: fewer results are outstanding than that.
            TimeoutError: there were not enough within `timeout` seconds.
            AlreadyPendingCallError: another call waits for results already.
            ClosedEnvironmentError: this is closed, or was closed meanwhile.
        """
        self._check_open()
        most = self._batch_size if batch_size is None else batch_size
        most, least = read_sizes(most, min_get, self.num_envs)
        check_timeout(timeout)
        self._check_no_receiver()
        self._slots.check_receivable(least, most)
        self._bind_here()
        self._receiving = True
        try:
            if not self._slots.enough(least):
                await self._arrivals(least, timeout)
            if self._closer is not None:
                raise self._closed_meanwhile("recv")
            return self._collect(least, most)
        finally:
            self._receiving = False

    def recv(self, batch_size: int | None = None, *, min_get: int | None = None, timeout: float | None = None) -> Batch:
        """As `arecv`, from a thread other than the loop's."""
        return self._drive(self.arecv(batch_size, min_get=min_get, timeout=timeout))

    async def _send_and_receive(self, actions: Any, env_id: Ids) -> Batch:
        """`send`, then `arecv`, which has to have enough to wait for before anything is sent."""
        self._check_open()
        self._check_no_receiver()
        sent = len(read_ids(env_id, self.num_envs))
        self._slots.check_receivable(self._batch_size, self._batch_size, sent=sent)
        self._bind_here()
        self._start_steps(actions, env_id)
        return await self.arecv()

    def _check_no_receiver(self) -> None:
        if self._receiving:
            raise AlreadyPendingCallError(f"{type(self).__name__}: `recv` while another `recv` waits", "recv")

    # Starting.

    def _where_they_live(self, work: Callable[[], None]) -> None:
        """Do `work` in the thread of the loop that the environments belong to."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not None and self._bound in (None, running):
            work()
        else:
            self._drive(self._there(work))

    async def _there(self, work: Callable[[], None]) -> None:
        self._bind_here()
        work()

    def _start_resets(self, env_id: Ids | None, seed: Seeds, options: dict[str, Any] | None) -> None:
        self._check_open()
        rows, others = read_options(options, self.num_envs)
        if env_id is None:
            each = seeds(seed, self.num_envs)
        elif options is not None and "reset_mask" in options:
            raise ValueError("env_id and options['reset_mask'] both say what to reset: give one of them")
        else:
            rows = read_ids(env_id, self.num_envs)
            each = scatter(seed, rows, self.num_envs)
        self._take_rows(rows, "async_reset")
        self._depart([(self._reset_call(row, each[row], others), False) for row in rows])

    def _start_steps(self, actions: Any, env_id: Ids | None) -> None:
        self._check_open()
        if env_id is not None:
            rows = read_ids(env_id, self.num_envs)
        else:
            rows = list(range(self.num_envs)) if self._answered is None else self._answered
        try:
            each = split(self.action_space, actions, len(rows))
        except ValueError as error:
            if env_id is None and self._answered is not None:
                error.add_note(f"without env_id they are for the last batch received: envs {listed(rows)}")
            raise
        self._slots.check_at_rest(rows, "send")
        self._check_episodes(rows)
        self._take_rows(rows, "send")
        mode, over = self.autoreset_mode, self._episodes.over
        step_call = self._members.step_call
        self._depart(
            [
                (step_call(row, action, mode=mode, over=over[row]), not over[row])
                for row, action in zip(rows, each, strict=True)
            ]
        )

    def _check_episodes(self, rows: Sequence[int]) -> None:
        flaws = self._episodes.flaws
        flawed = [f"env {row} ({flaws[row].value})" for row in rows if row in flaws]
        if flawed:
            raise ResetNeeded(f"{listed(flawed)}: `async_reset` these, and receive the results, before the next `send`")
        if self.autoreset_mode is AutoresetMode.DISABLED:
            ended = [row for row in rows if self._episodes.over[row]]
            if ended:
                raise AssertionError(
                    f"the episodes of envs {listed(ended)} are over and autoreset_mode is DISABLED: `async_reset` "
                    "these, and receive the results, before the next `send`"
                )

    def _depart(self, calls: Sequence[tuple[Call, bool]]) -> None:
        """Start calls, each a step or else a reset."""
        self._slots.depart([call.row for call, _ in calls])
        for call, is_step in calls:
            self._flights.launch(call, "step" if is_step else "reset", partial(self._land, call.row, is_step))

    def _land(self, row: int, is_step: bool, result: Any, error: BaseException | None) -> None:
        label = "step" if is_step else "reset"
        try:
            if error is not None:
                landing = Landing.of_failure(row, label, error)
            elif is_step:
                landing = Landing.of_step(row, self.autoreset_mode, result)
            else:
                landing = Landing.of_reset(row, label, result)
            if landing.over and self._resets_ahead and self._closer is None:
                landing = self._reset_already(landing)
        except Exception as malformed:
            landing = Landing.of_failure(row, label, malformed)
        self._slots.land(landing)
        if self._waiter is not None and not self._waiter.done() and self._slots.enough(self._least):
            self._waiter.set_result(None)

    def _reset_already(self, landing: Landing) -> Landing:
        """In NEXT_STEP start the reset that the next action stands for; the observation has to outlive it."""
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            return landing
        landing = replace(landing, observation=deepcopy(landing.observation))
        self._members.reset_ahead([landing.row], self._limit)
        return landing

    # Delivering.

    async def _arrivals(self, least: int, limit_s: float | None) -> None:
        self._least = least
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit_s):
                await self._waiter
        except TimeoutError:
            # What came in the very moment is no less welcome.
            if not self._slots.enough(least) and self._closer is None:
                raise TimeoutError(
                    f"`recv`: within {limit_s} s {self._slots.ready} of {least} results came; they stay ready for the "
                    f"next `recv`, as do those of the {self._slots.outstanding - self._slots.ready} in flight"
                ) from None
        finally:
            self._waiter = None

    def _collect(self, least: int, most: int) -> Batch:
        """Take a batch out of what is ready; if this raises, it takes no more than the failure that it raises."""
        while True:
            landings = self._slots.offer(least, most)
            error = landings[0].error
            if error is not None:
                self._hand_over(landings)
                try:
                    raise error
                finally:
                    # Its traceback holds this frame.
                    del error, landings
            try:
                batch = self._assemble(landings)
            except Exception as clash:
                if self._find_misfits(landings):
                    continue
                clash.add_note("no result is lost: each by itself can be had by a `recv` of batch_size 1")
                raise
            self._hand_over(landings)
            self._answered = [landing.row for landing in landings]
            return batch

    def _assemble(self, landings: Sequence[Landing]) -> Batch:
        """The results as one batch that shares nothing with them."""
        observations, infos = self._batch_rows(
            [landing.row for landing in landings],
            [landing.observation for landing in landings],
            [landing.infos for landing in landings],
        )
        return (
            observations,
            np.array([landing.reward for landing in landings], dtype=np.float64),
            np.array([landing.terminated for landing in landings], dtype=np.bool_),
            np.array([landing.truncated for landing in landings], dtype=np.bool_),
            infos,
        )

    def _batch_rows(
        self, rows: Sequence[int], observations: Sequence[Any], infos: Sequence[Sequence[dict[str, Any]]]
    ) -> tuple[Any, dict[str, Any]]:
        """Observations and infos of some environments, the infos in the form that those of all of them have."""
        # What `_add_info` goes by is the number of environments.
        vector: VectorEnv[Any, Any, Any] = VectorEnv()
        vector.num_envs = len(rows)
        entries = [(index, info) for index, each in enumerate(infos) for info in each]
        add_info = vector._add_info  # pyright: ignore[reportPrivateUsage]
        merged = merge_infos(entries, num_envs=len(rows), add_info=add_info)
        merged.pop("_env_id", None)
        merged["env_id"] = np.array(rows, dtype=np.int32)
        return batch_observations(self.single_observation_space, observations), merged

    def _find_misfits(self, landings: Sequence[Landing]) -> bool:
        """Turn results that cannot be batched even alone into failures; say whether there were any."""
        found = False
        for landing in landings:
            try:
                self._assemble([landing])
            except Exception as error:
                self._slots.replace(landing, Landing.of_failure(landing.row, landing.label, error))
                found = True
        return found

    def _hand_over(self, landings: Sequence[Landing]) -> None:
        self._slots.deliver(landings)
        self._end_rows([landing.row for landing in landings])
        episodes = self._episodes
        for landing in landings:
            if landing.flaw is not None:
                episodes.flaws[landing.row] = landing.flaw
                continue
            episodes.observations[landing.row] = landing.observation
            episodes.over[landing.row] = landing.over
            episodes.flaws.pop(landing.row, None)

    # Beside the other calls.

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        super()._bind(loop)
        self._flights.start(loop, self._limit)

    def _take_rows(self, rows: Sequence[int], name: str) -> None:
        """Take the turns of some environments, all or none, for a call that outlasts the method that starts it."""
        self._slots.check_at_rest(rows, name)
        with ExitStack() as stack:
            turns = {row: self._taking_row(row, name) for row in rows}
            for turn in turns.values():
                stack.enter_context(turn)
            stack.pop_all()
        self._row_turns.update(turns)

    def _end_rows(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._row_turns.pop(row).__exit__(None, None, None)

    @contextmanager
    def _taking_turns(self, name: str) -> Generator[None, None, None]:
        """Take the turn for a call of all environments, which needs all of them at rest."""
        self._check_open()
        self._slots.check_at_rest(range(self.num_envs), name)
        with super()._taking_turns(name):
            if name in ("reset", "step"):
                self._answered = None
            yield

    def _in_flight(self) -> set[int]:
        return self._flights.rows

    async def _take_last_turn(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done() and waiter.get_loop() is asyncio.get_running_loop():
            waiter.set_result(None)
        await self._flights.ground()
        self._end_rows(tuple(self._row_turns))
        await super()._take_last_turn()
