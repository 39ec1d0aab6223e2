"""Samplers pick the task of the next episode."""

from __future__ import annotations

from typing import Protocol, SupportsIndex, runtime_checkable

from codecraft_curriculum.curriculum import Curriculum
from codecraft_curriculum.task import Task

__all__ = ["LookAhead", "RandomSource", "Sampler", "SequentialSampler", "UniformSampler"]


class RandomSource(Protocol):
    """The part of ``numpy.random.Generator`` that samplers use."""

    def integers(self, low: int, /) -> SupportsIndex:
        """Return a whole number from 0 to below `low`."""
        ...


class Sampler(Protocol):
    """Picks tasks; all chance comes from the generator that the caller gives."""

    def next(self, rng: RandomSource, /) -> Task:
        """Return the task of the next episode."""
        ...


@runtime_checkable
class LookAhead(Protocol):
    """A sampler that can say what comes next, so that a sandbox can be made ready for it ahead of time."""

    def peek(self, rng: RandomSource, /) -> Task | None:
        """Return what `next` would return with such a generator, and change nothing but `rng`; None if unknown."""
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
        del rng
        tasks = self._curriculum.tasks
        task = tasks[self._position % len(tasks)]
        self._position += self._stride
        return task

    def peek(self, rng: RandomSource, /) -> Task:
        """Return the task that `next` will return; `rng` is not used."""
        del rng
        tasks = self._curriculum.tasks
        return tasks[self._position % len(tasks)]

    def __repr__(self) -> str:
        return f"SequentialSampler({self._curriculum.name!r}, next={self._position}, stride={self._stride})"


class UniformSampler:
    """Draws each task with the same probability."""

    __slots__ = ("_curriculum",)

    def __init__(self, curriculum: Curriculum) -> None:
        self._curriculum = curriculum

    def next(self, rng: RandomSource, /) -> Task:
        """Return a task drawn with `rng`."""
        tasks = self._curriculum.tasks
        return tasks[rng.integers(len(tasks))]

    def peek(self, rng: RandomSource, /) -> Task:
        """Return the task that `next` would draw with a generator such as `rng`; give a copy, for it is drawn from."""
        return self.next(rng)

    def __repr__(self) -> str:
        return f"UniformSampler({self._curriculum.name!r})"
