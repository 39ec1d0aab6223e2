"""What the environments of a vector environment hold: their attributes, methods, frames and generators."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar, cast

import numpy as np

from codecraft_async._vector_round import Call, wait_for
from codecraft_async._vector_turns import Turns

__all__ = ["Attributes", "discard_unstarted"]

ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")


class Attributes(Turns[ObsT, ActT], Generic[ObsT, ActT]):
    """Reads, sets and calls by name what every environment has.

    All of these are calls: they are refused while another is in progress. Where a reset runs in the background they
    wait for its end, or, on an event loop of the caller's, where they cannot, raise AlreadyPendingCallError.
    """

    def render(self) -> tuple[Any, ...]:
        """One frame from each environment."""
        with self._touching("render"):
            return tuple(env.render() for env in self._members.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Each environment's attribute `name`, called with the arguments if it is callable.

        The calls are made in this thread, in order; coroutines that they return are then run concurrently, unless an
        event loop of the caller's is in use: there, `acall` does it.
        """
        with self._touching("call"):
            results = [self._call_one(row, name, args, kwargs) for row in range(self.num_envs)]
            if any(map(inspect.isawaitable, results)):
                try:
                    results = self._drive(self._await_each(name, results))
                finally:
                    discard_unstarted(results)
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
        with self._touching("set_attr"):
            for env, value in zip(self._members.envs, each, strict=True):
                env.set_wrapper_attr(name, value)

    @property  # type: ignore[misc]  # each environment has a generator of its own, and replacing it is its own affair
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each environment's random number generator."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each environment's seed."""
        return self.get_attr("np_random_seed")

    @contextmanager
    def _touching(self, name: str) -> Generator[None, None, None]:
        """A turn for a call made in this thread, when no reset runs in the background."""
        with self._taking_turns(name):
            running = self._members.background.running
            if running:
                self._settle(name, running[0])
            yield

    def _settle(self, name: str, row: int) -> None:
        thread = self._thread
        if thread is None or self._bound is not thread.loop or thread.is_current:
            raise self._already(name, "reset", f"`reset` of env {row}, in the background,")
        self._drive(self._members.background.settle())

    def _call_one(self, row: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = self._members.envs[row].get_wrapper_attr(name)
        return value(*args, **kwargs) if callable(value) else value

    async def _await_each(self, name: str, results: list[Any]) -> list[Any]:
        self._bind(asyncio.get_running_loop())
        rows = [row for row, result in enumerate(results) if inspect.isawaitable(result)]
        outcome = await self._perform(name, [Call(row, partial(wait_for, results[row]), True) for row in rows])
        self._deliver(outcome, name)
        return [outcome.results.get(row, result) for row, result in enumerate(results)]


def discard_unstarted(results: Iterable[Any]) -> None:
    """Close the coroutines among `results` that nothing will ever start."""
    for result in results:
        if inspect.iscoroutine(result) and inspect.getcoroutinestate(result) == inspect.CORO_CREATED:
            result.close()
