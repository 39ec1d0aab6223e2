"""Samplers that draw: by weight and by success, seeded, and resumed where they were saved."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from codecraft_curriculum import (
    AdaptiveSampler,
    Curriculum,
    Learner,
    Resumable,
    Sampler,
    SamplerStateError,
    SequentialSampler,
    Task,
    UniformSampler,
    UnknownTask,
    WeightedSampler,
)

LEVELS = ("easy", "easy", "medium", "hard")
TASKS = Curriculum([Task(id=f"t{n}", instruction="x", difficulty=level) for n, level in enumerate(LEVELS)])
OTHER = Curriculum([Task(id="other", instruction="x")])
MAKERS: list[Callable[[], Sampler]] = [
    lambda: SequentialSampler(TASKS, offset=1, stride=2),
    lambda: UniformSampler(TASKS, seed=5),
    lambda: WeightedSampler(TASKS, seed=5),
    lambda: AdaptiveSampler(TASKS, seed=5),
]


def draw(sampler: Sampler, number: int, seed: int = 0) -> list[str]:
    """Return the ids of the next tasks; a sampler that learns is told that they were solved now and then."""
    rng = np.random.default_rng(seed)
    ids: list[str] = []
    for place in range(number):
        ids.append(sampler.next(rng).id)
        if isinstance(sampler, Learner):
            sampler.update(ids[-1], float(place % 3 == 0))
    return ids


@pytest.mark.parametrize("make", MAKERS)
def test_a_saved_sampler_goes_on_as_if_nothing_had_been(make: Callable[[], Sampler]) -> None:
    """Its state goes through JSON into a new sampler, and the caller's generator has no say if it has its own."""
    first, second = make(), make()
    draw(first, 30)
    assert isinstance(first, Resumable) and isinstance(second, Resumable)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert draw(first, 50, seed=1) == draw(second, 50, seed=2)
    assert first.state_dict() == second.state_dict()


@pytest.mark.parametrize("make", MAKERS[1:])
def test_to_peek_is_not_to_draw(make: Callable[[], Sampler]) -> None:
    """What comes next can be known before, and stays what it is."""
    sampler = make()
    assert isinstance(sampler, UniformSampler | WeightedSampler | AdaptiveSampler)
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert sampler.peek(rng) == sampler.peek(rng) == sampler.next(rng)


@pytest.mark.parametrize("make", MAKERS)
def test_a_state_of_something_else_is_refused(make: Callable[[], Sampler]) -> None:
    """A state of other tasks, of another kind, or of nobody, is told, and changes nothing."""
    sampler = make()
    assert isinstance(sampler, Resumable)
    before = sampler.state_dict()
    with pytest.raises(SamplerStateError, match="of other tasks"):
        sampler.load_state_dict({**before, "tasks": ["other"]})
    with pytest.raises(SamplerStateError, match="of the kind None"):
        sampler.load_state_dict({})
    broken = {"position": -1, "chance": [1, 2], "rewards": {"t0": ["x"]}}
    with pytest.raises(SamplerStateError):
        sampler.load_state_dict({**before, **broken})
    assert before == sampler.state_dict()


def test_without_a_seed_chance_is_the_callers() -> None:
    """The same generator gives the same tasks, another one others."""
    assert draw(WeightedSampler(TASKS), 30, seed=1) == draw(WeightedSampler(TASKS), 30, seed=1)
    assert draw(WeightedSampler(TASKS), 30, seed=1) != draw(WeightedSampler(TASKS), 30, seed=2)


def test_weights() -> None:
    """Tasks come as often as their weights say: those of their difficulty, or the caller's."""
    counts = Counter(draw(WeightedSampler(TASKS), 9000))
    for task, weight in {"t0": 3, "t1": 3, "t2": 2, "t3": 1}.items():
        assert math.isclose(weight / 9, counts[task] / 9000, abs_tol=0.02)
    assert {"t3"} == set(draw(WeightedSampler(TASKS, {"t3": 0.1, "t0": 0.0}), 50))


def test_wrong_weights() -> None:
    """They are refused, by name."""
    with pytest.raises(UnknownTask, match="'t9'"):
        WeightedSampler(TASKS, {"t9": 1})
    with pytest.raises(ValueError, match="all weights are 0"):
        WeightedSampler(TASKS, {"t0": 0})
    with pytest.raises(ValueError, match="'t0' is -1"):
        WeightedSampler(TASKS, {"t0": -1})
    with pytest.raises(ValueError, match="window is 1"):
        AdaptiveSampler(TASKS, window=1)
    with pytest.raises(ValueError, match="explore is 0"):
        AdaptiveSampler(TASKS, explore=0)


def test_an_adaptive_sampler_follows_success() -> None:
    """Tasks that are sometimes solved come most, those that always or never are least, and none is forgotten."""
    sampler = AdaptiveSampler(TASKS, window=10, explore=0.2)
    assert {"t0": 0.25, "t1": 0.25, "t2": 0.25, "t3": 0.25} == sampler.probabilities()
    for place in range(10):
        sampler.update("t0", 1.0)
        sampler.update("t1", 0.0)
        sampler.update("t2", float(place % 2))
        sampler.update("t3", float(place >= 5))
    chances = sampler.probabilities()
    assert math.isclose(1.0, sum(chances.values()))
    assert chances["t3"] > chances["t2"] > 2 * chances["t0"]
    assert math.isclose(chances["t0"], chances["t1"])
    assert min(chances.values()) > 0.2 / 4


def test_the_formula_of_interest() -> None:
    """4 p (1 - p) + |d|, as it is documented, with two rewards more in p."""
    sampler = AdaptiveSampler(TASKS, window=4, explore=1e-9)
    for reward in (1.0, 0.0, 0.0, 1.0, 1.0):  # the first one is out of the window
        sampler.update("t0", reward)
    p, d = (2.0 + 1.0) / (4 + 2), 1.0 - 0.0
    interest = 4 * p * (1 - p) + d
    assert math.isclose(interest / (interest + 3), sampler.probabilities()["t0"], rel_tol=1e-6)


def test_what_an_adaptive_sampler_is_told() -> None:
    """Rewards are brought into [0, 1]; what is no number, or of no task, is refused."""
    sampler = AdaptiveSampler(TASKS)
    sampler.update("t0", 7.0)
    assert {"t0": [1.0], "t1": [], "t2": [], "t3": []} == sampler.state_dict()["rewards"]
    with pytest.raises(ValueError, match="not a number"):
        sampler.update("t0", math.nan)
    with pytest.raises(UnknownTask):
        sampler.update("t9", 1.0)
