"""Branches: a running episode copied into other slots, for tree search, or for groups that share a beginning."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from gymnasium.error import ResetNeeded

from codecraft_async._vector_episodes import Flaw
from codecraft_async._vector_members import AsyncEnv
from codecraft_async._vector_ready import FirstReady
from codecraft_async._vector_ready_asked import Ids, listed, read_ids, read_index
from codecraft_async._vector_ready_flights import CutOff
from codecraft_async._vector_round import Call, blame
from codecraft_pool._aio import finish

__all__ = ["Branchable", "Branching"]

ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")


@runtime_checkable
class Branchable(Protocol):
    """What an environment with coroutines offers so that its episode can be a copy of another's."""

    async def abranch_from(self, other: Any) -> tuple[Any, dict[str, Any]]:
        """Become a copy of `other`'s running episode; (observation, info), the observation being `other`'s last."""
        ...


class Branching(FirstReady[ObsT, ActT], Generic[ObsT, ActT]):
    """Copies running episodes from slot to slot.

    A `Branchable` environment copies the episode itself. Other environments without coroutines are copied by
    `copy.deepcopy`, generators included, and the copies take the places of the slots' environments, which are closed.
    """

    def _init_branching(self) -> None:
        # Held by the worker thread that copies: environments are not made to be looked at by two threads.
        self._copying = threading.Lock()

    async def abranch(
        self, env_id: int, n: int | None = None, *, slots: Ids | None = None
    ) -> tuple[ObsT, dict[str, Any]]:
        """Copy the running episode of `env_id` into `n` other slots, or into `slots`; (observations, infos) of these.

        Row i of what is returned belongs to the slot `infos["env_id"][i]`. With `n`, slots without a running episode
        are taken: first those whose episodes are over, then those that need a reset. Slots that are named are taken
        even if their episodes run, which ends these. All must be at rest; meanwhile others may be sent to and
        received. Copies are equal but independent: what is random in them goes on equally as well.

        If copying into a slot fails, the others are completed, then the error is raised, naming the slot, which needs
        a reset. So do slots whose copying a cancellation cuts off. The episode of `env_id` goes on in any case.

        Raises:
            TypeError: an index is no integer, or the environments cannot be copied.
            ValueError: neither `n` nor `slots`, or both; slots that are not others; fewer than `n` without an episode.
            IndexError: there is no such environment.
            ResetNeeded: `env_id` has no running episode.
            AlreadyPendingCallError: one of them is in flight, or ready, or another call is in progress.
            ClosedEnvironmentError: this is closed, or was closed meanwhile.
        """
        self._bind_here()
        source = read_index(env_id, self.num_envs)
        self._slots.check_at_rest([source], "branch")
        self._check_running(source)
        taken = self._choose(source, n, slots)
        copies = [self._copy_call(source, slot) for slot in taken]
        both = [source, *taken]
        self._take_rows(both, "branch")
        self._slots.begin_branch(both)
        try:
            return await self._branch(taken, copies)
        finally:
            self._slots.end_branch(both)
            self._end_rows(row for row in both if row in self._row_turns)

    def branch(self, env_id: int, n: int | None = None, *, slots: Ids | None = None) -> tuple[ObsT, dict[str, Any]]:
        """As `abranch`, from a thread other than the loop's."""
        return self._drive(self.abranch(env_id, n, slots=slots))

    def _check_running(self, source: int) -> None:
        flaw = self._episodes.flaws.get(source)
        if flaw is not None or self._episodes.over[source]:
            state = "its episode is over" if flaw is None else flaw.value
            raise ResetNeeded(f"`branch` copies a running episode, and env {source} has none: {state}")

    def _choose(self, source: int, n: int | None, slots: Ids | None) -> list[int]:
        if (n is None) == (slots is None):
            raise ValueError("`branch` takes either n, how many slots, or slots, which they are")
        if slots is not None:
            taken = read_ids(slots, self.num_envs, name="slots")
            if source in taken:
                raise ValueError(f"slots has {source}, the very environment to copy: name others")
            self._slots.check_at_rest(taken, "branch")
            return taken
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"n must be an integer, got {n!r} of type {type(n).__name__}")
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        flaws, over = self._episodes.flaws, self._episodes.over
        free = [row for row in range(self.num_envs) if (over[row] or row in flaws) and self._slots.at_rest(row)]
        if len(free) < n:
            raise ValueError(
                f"`branch` of env {source} into {n} slots: only {len(free)} have no running episode"
                f"{f' (envs {listed(free)})' if free else ''}; name slots whose episodes may be given up"
            )
        # Episodes that are over first: False sorts before True.
        return sorted(sorted(free, key=lambda row: row in flaws)[:n])

    async def _branch(self, taken: Sequence[int], copies: Sequence[Call]) -> tuple[Any, dict[str, Any]]:
        loop = asyncio.get_running_loop()
        gained: dict[int, tuple[Any, dict[str, Any]]] = {}
        failures: dict[int, BaseException] = {}
        ends: list[asyncio.Future[None]] = []
        for call in copies:
            end = loop.create_future()
            ends.append(end)
            self._flights.launch(call, "branch", partial(self._take_copy, call.row, end, gained, failures))
        try:
            await asyncio.wait(ends)
        except asyncio.CancelledError:
            self._flights.cancel(taken)
            await finish(asyncio.wait(ends))
            raise
        if self._closer is not None:
            raise self._closed_meanwhile("branch")
        if failures:
            raise blame(failures, "branch")
        observations, infos = self._batch_rows(
            taken, [gained[slot][0] for slot in taken], [[gained[slot][1]] for slot in taken]
        )
        return observations, infos

    def _take_copy(
        self,
        slot: int,
        end: asyncio.Future[None],
        gained: dict[int, tuple[Any, dict[str, Any]]],
        failures: dict[int, BaseException],
        result: Any,
        error: BaseException | None,
    ) -> None:
        """Note how the copying into one slot ended."""
        episodes = self._episodes
        try:
            if error is not None:
                raise error
            observation, info = result
            if not isinstance(info, dict):
                raise TypeError(f"an environment's info must be a dict, got {type(info).__name__}")
        except CutOff as cut_off:
            if cut_off.had_begun:
                episodes.flaws[slot] = Flaw.CUT_OFF
        except BaseException as failure:
            episodes.flaws[slot] = Flaw.FAILED
            failures[slot] = failure
        else:
            gained[slot] = observation, cast("dict[str, Any]", info)
            episodes.observations[slot] = observation
            episodes.over[slot] = False
            episodes.flaws.pop(slot, None)
        end.set_result(None)

    def _copy_call(self, source: int, slot: int) -> Call:
        origin, target = self._members.envs[source], self._members.envs[slot]
        if isinstance(target, Branchable):
            # A reset that runs in the background of an ended episode gives way to it.
            return self._members.background.in_place_of(Call(slot, partial(target.abranch_from, origin), True))
        if isinstance(target, AsyncEnv) or isinstance(target.unwrapped, AsyncEnv):
            raise TypeError(
                f"env {slot} ({target}) cannot take over an episode: it has coroutines but no `abranch_from`, and what "
                "it holds outside of Python cannot be known; give it one (see Branchable)"
            )
        return Call(slot, partial(self._replace_by_copy, source, slot), False)

    def _replace_by_copy(self, source: int, slot: int) -> tuple[Any, dict[str, Any]]:
        """Put a copy of an environment in another's place; in a worker thread."""
        with self._copying:
            origin = self._members.envs[source]
            try:
                copied, observation = deepcopy((origin, self._episodes.observations[source]))
            except Exception as error:
                raise TypeError(f"env {source} ({origin}) cannot be copied by copy.deepcopy: {error}") from error
        replaced = self._members.envs[slot]
        self._members.replace(slot, copied)
        replaced.close()
        return observation, {}
