"""What the environments of a vector environment hold: their attributes, methods, frames and generators."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

import numpy as np
from gymnasium import Env

from codecraft_async._vector_round import Call, wait_for
from codecraft_async._vector_turns import Turns

__all__ = ["Attributes"]

ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")


class Attributes(Turns[ObsT, ActT], Generic[ObsT, ActT]):
    """Reads, sets and calls by name what every environment has."""

    envs: Sequence[Env[Any, Any]]

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

    async def _await_each(self, name: str, results: list[Any]) -> list[Any]:
        self._bind(asyncio.get_running_loop())
        rows = [row for row, result in enumerate(results) if inspect.isawaitable(result)]
        outcome = await self._perform(name, [Call(row, partial(wait_for, results[row]), True) for row in rows])
        self._deliver(outcome, name)
        return [outcome.results.get(row, result) for row, result in enumerate(results)]
