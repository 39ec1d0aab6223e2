"""Which tasks an environment gives, and in which order."""

from __future__ import annotations

from codecraft_curriculum import Curriculum, Sampler, SequentialSampler, UniformSampler, load_curriculum


def choose_tasks(curriculum: str | Curriculum, task: str | None) -> Curriculum:
    """Return the curriculum that is meant, reduced to *task* if that is given."""
    whole = curriculum if isinstance(curriculum, Curriculum) else load_curriculum(curriculum)
    return whole if task is None else Curriculum([whole[task]], name=whole.name)


def make_sampler(sampler: str | Sampler, curriculum: Curriculum, *, offset: int = 0, stride: int = 1) -> Sampler:
    """Return the sampler that *sampler* names; a sequential one starts at *offset* and goes on by *stride*."""
    if not isinstance(sampler, str):
        return sampler
    if sampler == "sequential":
        return SequentialSampler(curriculum, offset=offset, stride=stride)
    if sampler == "uniform":
        return UniformSampler(curriculum)
    raise ValueError(f"sampler is {sampler!r}; it must be 'sequential', 'uniform' or a Sampler")


__all__ = ["choose_tasks", "make_sampler"]
