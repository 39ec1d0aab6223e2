"""Samplers pick the task of the next episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, cast, runtime_checkable

from codecraft_curriculum.chance import Chance, RandomSource, draw_weighted
from codecraft_curriculum.curriculum import Curriculum
from codecraft_curriculum.errors import SamplerStateError
from codecraft_curriculum.task import Task

__all__ = [
    "Learner",
    "LookAhead",
    "RandomSource",
    "Resumable",
    "Sampler",
    "SequentialSampler",
    "UniformSampler",
    "WeightedSampler",
]

_BY_DIFFICULTY: Mapping[str, float] = {"easy": 3.0, "": 2.0, "medium": 2.0, "hard": 1.0}


class Sampler(Protocol):
    """Picks tasks; all chance comes from the generator that the caller gives, or from one of the sampler's own."""

    def next(self, rng: RandomSource, /) -> Task:
        """Return the task of the next episode."""
        ...


@runtime_checkable
class LookAhead(Protocol):
    """A sampler that can say what comes next, so that a sandbox can be made ready for it ahead of time."""

    def peek(self, rng: RandomSource, /) -> Task | None:
        """Return what `next` would return with such a generator, and change nothing but `rng`; None if unknown."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A sampler that wants to know what came of the tasks."""

    def update(self, task_id: str, reward: float, /) -> None:
        """Take in the score of an episode that ended without a fault; 0 if it was cut off."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A sampler that can be saved, and go on in another process as if nothing had been."""

    def state_dict(self) -> dict[str, object]:
        """Return all that changes, as what JSON can hold."""
        ...

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        """Go on where a state was taken.

        Raises:
            SamplerStateError: it is of another kind of sampler, or of another curriculum.
        """
        ...


class SequentialSampler:
    """Goes through the tasks in order, round and round.

    Environment i of n with ``offset=i, stride=n`` gets every n-th task, so that together they see each task once
    before any is seen twice.
    """

    __slots__ = ("_curriculum", "_position", "_stride")

    def __init__(self, curriculum: Curriculum, *, offset: int = 0, stride: int = 1) -> None:
        if offset < 0 or stride < 1:
            raise ValueError(f"offset is {offset} and stride {stride}: give at least 0 and 1")
        self._curriculum = curriculum
        self._position = offset
        self._stride = stride

    def next(self, rng: RandomSource, /) -> Task:
        """Return the next task in order; `rng` is not used."""
        task = self.peek(rng)
        self._position += self._stride
        return task

    def peek(self, rng: RandomSource, /) -> Task:
        """Return the task that `next` will return; `rng` is not used."""
        del rng
        tasks = self._curriculum.tasks
        return tasks[self._position % len(tasks)]

    def state_dict(self) -> dict[str, object]:
        """Return where it is."""
        return {"kind": "sequential", "tasks": list(self._curriculum), "position": self._position}

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        """Go on where a state was taken."""
        state = checked_state(state, "sequential", self._curriculum)
        position = state.get("position")
        if not isinstance(position, int) or isinstance(position, bool) or position < 0:
            raise SamplerStateError(f"its position is {position!r}, which is no whole number of at least 0")
        self._position = position

    def __repr__(self) -> str:
        return f"SequentialSampler({self._curriculum.name!r}, next={self._position}, stride={self._stride})"


class Drawing:
    """What samplers that draw have in common: where chance comes from, and how that is saved.

    With a `seed` a sampler has a generator of its own, and the caller's is not used: the tasks then depend on nothing
    but the seed (and what it is told), and `state_dict` holds the generator too.
    """

    __slots__ = ("_chance", "_curriculum")

    kind = ""

    def __init__(self, curriculum: Curriculum, *, seed: int | None = None) -> None:
        self._curriculum = curriculum
        self._chance = None if seed is None else Chance(seed)

    def next(self, rng: RandomSource, /) -> Task:
        """Return a task, drawn with `rng` or with the generator of its own."""
        return self._curriculum.tasks[self._draw(self._chance or rng)]

    def peek(self, rng: RandomSource, /) -> Task:
        """Return the task that `next` would draw with a generator such as `rng`; give a copy, for it is drawn from."""
        return self._curriculum.tasks[self._draw(self._chance.copy() if self._chance else rng)]

    def state_dict(self) -> dict[str, object]:
        """Return all that changes, as what JSON can hold."""
        chance = None if self._chance is None else self._chance.state()
        return {"kind": self.kind, "tasks": list(self._curriculum), "chance": chance}

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        """Go on where a state was taken."""
        chance = checked_state(state, self.kind, self._curriculum).get("chance")
        if chance is None:
            self._chance = None
            return
        try:
            loaded = Chance(0)
            loaded.load(chance)
        except ValueError as error:
            raise SamplerStateError(str(error)) from None
        self._chance = loaded

    def _draw(self, rng: RandomSource) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._curriculum.name!r})"


class UniformSampler(Drawing):
    """Draws each task with the same probability."""

    __slots__ = ()

    kind = "uniform"

    def _draw(self, rng: RandomSource) -> int:
        return int(rng.integers(len(self._curriculum)))


class WeightedSampler(Drawing):
    """Draws each task with a probability that is as its weight.

    Without `weights` those of the difficulty count: easy 3, medium (and unknown) 2, hard 1. A task that is not in
    `weights` is never drawn.

    Raises:
        UnknownTask: there is a weight for a task that the curriculum has not.
        ValueError: a weight is negative or no number, or all are 0.
    """

    __slots__ = ("_weights",)

    kind = "weighted"

    def __init__(
        self, curriculum: Curriculum, weights: Mapping[str, float] | None = None, *, seed: int | None = None
    ) -> None:
        super().__init__(curriculum, seed=seed)
        if weights is None:
            weights = {task.id: _BY_DIFFICULTY.get(task.difficulty, 2.0) for task in curriculum.tasks}
        for task_id, weight in weights.items():
            curriculum[task_id]  # raises UnknownTask
            if not (math.isfinite(weight) and weight >= 0.0):
                raise ValueError(f"the weight of {task_id!r} is {weight}: give a number of at least 0")
        self._weights = tuple(float(weights.get(task_id, 0.0)) for task_id in curriculum)
        if not any(self._weights):
            raise ValueError("all weights are 0: give one task at least a weight above 0")

    def _draw(self, rng: RandomSource) -> int:
        return draw_weighted(self._weights, rng)


def checked_state(state: Mapping[str, object], kind: str, curriculum: Curriculum) -> Mapping[str, object]:
    """Return a state if it is of this kind of sampler and of these tasks.

    Raises:
        SamplerStateError: it is not, and why.
    """
    if state.get("kind") != kind:
        raise SamplerStateError(f"it is of a sampler of the kind {state.get('kind')!r}, and this one is {kind!r}")
    tasks = state.get("tasks")
    if not isinstance(tasks, list) or cast(list[object], tasks) != list(curriculum):
        raise SamplerStateError(f"it is of other tasks than those of {curriculum.name}, or of another order")
    return state
