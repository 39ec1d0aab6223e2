"""Samplers by name, for one environment and for many."""

from __future__ import annotations

from collections.abc import Callable

from codecraft_curriculum import (
    AdaptiveSampler,
    Curriculum,
    Learner,
    Sampler,
    SequentialSampler,
    UniformSampler,
    WeightedSampler,
)

_SHARED: dict[str, Callable[[Curriculum], Sampler]] = {
    "uniform": UniformSampler,
    "weighted": WeightedSampler,
    "adaptive": AdaptiveSampler,
}
SAMPLERS = ("sequential", *_SHARED)


def make_sampler(sampler: str | Sampler, curriculum: Curriculum, *, offset: int = 0, stride: int = 1) -> Sampler:
    """Return the sampler that *sampler* names; a sequential one starts at *offset* and goes on by *stride*."""
    if not isinstance(sampler, str):
        return sampler
    if sampler == "sequential":
        return SequentialSampler(curriculum, offset=offset, stride=stride)
    if sampler in _SHARED:
        return _SHARED[sampler](curriculum)
    raise ValueError(f"sampler is {sampler!r}; it must be {', '.join(map(repr, SAMPLERS))} or a Sampler")


def make_samplers(sampler: str | Sampler, curriculum: Curriculum, count: int) -> list[Sampler]:
    """Return the samplers of *count* environments: one for all, or "sequential" ones that take turns."""
    if sampler == "sequential":
        return [make_sampler("sequential", curriculum, offset=index, stride=count) for index in range(count)]
    return [make_sampler(sampler, curriculum)] * count


def learn(sampler: Sampler, task_id: str, reward: float) -> None:
    """Tell a sampler that wants to know it what an episode without a fault came to."""
    if isinstance(sampler, Learner):
        sampler.update(task_id, reward)


__all__ = ["SAMPLERS", "learn", "make_sampler", "make_samplers"]
