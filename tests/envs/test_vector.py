"""The vector environment returns what gymnasium's SyncVectorEnv returns, by either face and in every mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics, TransformReward

from codecraft_async.vector import AsyncioVectorEnv

from .vector_envs import (
    MODES,
    NUM_ENVS,
    SPACES,
    AsyncWanderer,
    Bounded,
    Wanderer,
    assert_same,
    factories,
    oracle,
    play_async,
    play_sync,
    scripted,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("sort", ["plain", "async", "mixed"])
async def test_areset_and_astep_equal_gymnasium(sort: str, kind: str, mode: str) -> None:
    """The asynchronous face gives SyncVectorEnv's numbers, texts and infos, types included."""
    async with AsyncioVectorEnv[Any, Any](factories(sort, kind), autoreset_mode=mode) as vec:
        assert_same(oracle(mode, kind), await play_async(vec, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("sort", ["plain", "async", "mixed"])
def test_reset_and_step_equal_gymnasium(sort: str, kind: str, mode: str) -> None:
    """The synchronous face gives the same."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(factories(sort, kind), autoreset_mode=AutoresetMode(mode))
    assert_same(oracle(mode, kind), play_sync(vec, mode))
    vec.close()


@pytest.mark.parametrize("limit", [1, 2, NUM_ENVS, 99])
async def test_limited_concurrency_changes_no_result(limit: int) -> None:
    """A limit on concurrency changes nothing but the concurrency."""
    async with AsyncioVectorEnv[Any, Any](factories("async", "text"), max_concurrency=limit) as vec:
        assert_same(oracle("NextStep", "text"), await play_async(vec, "NextStep"))


def test_attributes_equal_gymnasium() -> None:
    """Spaces, seeds, modes and calls by name are SyncVectorEnv's."""
    theirs = SyncVectorEnv(factories("plain", "dict"))
    ours: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(factories("plain", "dict"))
    for vec in (theirs, ours):
        vec.reset(seed=5)
        vec.set_attr("end_odds", [0.0, 1.0, 0.0, 1.0, 0.5])
    for name in ("single_observation_space", "observation_space", "single_action_space", "action_space", "num_envs"):
        assert getattr(theirs, name) == getattr(ours, name)
    assert theirs.np_random_seed == ours.np_random_seed == (5, 6, 7, 8, 9)
    assert [rng.random() for rng in theirs.np_random] == [rng.random() for rng in ours.np_random]
    assert theirs.get_attr("end_odds") == ours.get_attr("end_odds") == (0.0, 1.0, 0.0, 1.0, 0.5)
    assert theirs.render() == ours.render() == ("0 actions",) * NUM_ENVS
    assert theirs.call("render") == ours.call("render")
    assert theirs.render_mode == ours.render_mode == "ansi"
    ours.set_attr("end_odds", 0.25)
    assert (0.25,) * NUM_ENVS == ours.get_attr("end_odds")
    with pytest.raises(ValueError, match="Got `2` values for 5 environments"):
        ours.set_attr("end_odds", [1, 2])
    theirs.close()
    ours.close()
    assert [1] * NUM_ENVS == [env.unwrapped.closed for env in ours.envs]  # type: ignore[attr-defined]


def test_mode_is_in_metadata_and_attribute() -> None:
    """The mode is an AutoresetMode in both places, and the environment class's metadata is left alone."""
    vec = scripted(2, autoreset_mode="Disabled")
    assert AutoresetMode.DISABLED is vec.autoreset_mode
    assert AutoresetMode.DISABLED is vec.metadata["autoreset_mode"]
    assert "autoreset_mode" not in vec.envs[0].metadata
    assert "AsyncioVectorEnv(num_envs=2)" == repr(vec)


def test_results_are_fresh() -> None:
    """No array of one call is an array of another, so callers may keep or change them."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(factories("plain", "box"))
    first, _ = vec.reset(seed=0)
    masked, _ = vec.reset(options={"reset_mask": np.array([True, False, False, False, False])})
    kept = first.copy()
    first[:] = 99
    np.testing.assert_array_equal(kept[1:], masked[1:])
    steps = [vec.step(vec.action_space.sample()) for _ in range(2)]
    for before, after in zip(steps[0][:4], steps[1][:4], strict=True):
        assert not np.shares_memory(before, after)
    assert [np.float64, np.bool_, np.bool_] == [array.dtype for array in steps[0][1:4]]
    vec.close()


def test_observation_modes_equal_gymnasium() -> None:
    """Spaces that differ in bounds are batched in mode "different" or by a tuple (batched, single), as in gymnasium."""
    makers = [partial(Bounded, 1.0), partial(Bounded, 2.0)]
    wide = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    wide_batch = gymnasium.vector.utils.batch_space(wide, 2)
    modes: list[Any] = ["different", (wide_batch, wide)]
    for mode in modes:
        theirs = SyncVectorEnv(makers, observation_mode=mode)
        ours: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(makers, observation_mode=mode)
        assert theirs.observation_space == ours.observation_space
        assert theirs.single_observation_space == ours.single_observation_space
        assert_same(theirs.reset(seed=1), ours.reset(seed=1))
        ours.close()


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics(mode: str) -> None:
    """RecordEpisodeStatistics and TransformReward work over our vector environment as over gymnasium's."""
    results: list[list[Any]] = []
    for vec in (
        SyncVectorEnv(factories("plain", "text"), autoreset_mode=mode),
        AsyncioVectorEnv[Any, Any](factories("async", "text"), autoreset_mode=mode),
    ):
        wrapped = RecordEpisodeStatistics(TransformReward(vec, lambda reward: reward * 2))
        results.append(play_sync(wrapped, mode))
        wrapped.close()
    for result in results[0] + results[1]:
        result[-1].get("episode", {}).pop("t", None)
    # Over gymnasium's, which takes the mask out of the caller's options, a masked reset loses all statistics; so only
    # what is no statistic can be equal. The next test looks at the statistics.
    ours = [result[-1]["episode"] for result in results[1] if "episode" in result[-1]]
    assert ours
    assert all(set(episode) == {"r", "l"} for episode in ours)
    for left, right in zip(*results, strict=True):
        assert_same(left[:-1], right[:-1])


def test_episode_statistics_survive_masked_resets() -> None:
    """A masked reset zeroes the statistics of the masked environments only."""
    wrapped = RecordEpisodeStatistics(scripted(2, autoreset_mode="Disabled"))
    wrapped.reset()
    for _ in range(2):
        wrapped.step(("go", "go"))
    wrapped.reset(options={"reset_mask": np.array([False, True])})
    assert [2, 0] == wrapped.episode_lengths.tolist()
    wrapped.close()


@pytest.mark.parametrize("mode", MODES)
def test_info_lists(mode: str) -> None:
    """DictInfoToList gives one dict for each environment, equal to those over gymnasium's vector environment."""
    results: list[list[Any]] = []
    for vec in (
        SyncVectorEnv(factories("plain", "text"), autoreset_mode=mode),
        AsyncioVectorEnv[Any, Any](factories("async", "text"), autoreset_mode=mode),
    ):
        wrapped = DictInfoToList(vec)
        results.append(play_sync(wrapped, mode))
        wrapped.close()
    assert_same(results[0], results[1])


def make_registered(num_envs: int = 1, **keywords: Any) -> AsyncioVectorEnv[Any, Any]:
    """A vector entry point."""
    return AsyncioVectorEnv([partial(AsyncWanderer, "text")] * num_envs, **keywords)


@pytest.fixture(name="registered")
def _registered() -> Iterator[str]:
    name = "codecraft-test/Wanderer-v0"
    # By name, since only names can be written to JSON.
    gymnasium.register(
        name,
        entry_point=f"{Wanderer.__module__}:Wanderer",
        vector_entry_point=f"{__name__}:make_registered",
    )
    yield name
    del gymnasium.registry[name]


def test_make_vec_round_trips_the_spec(registered: str) -> None:
    """make_vec builds it from its vector entry point without a warning, and its spec builds an equal one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vec = gymnasium.make_vec(registered, num_envs=3, autoreset_mode="SameStep")
    assert vec.spec is not None
    again = gymnasium.make_vec(vec.spec)
    for made in (vec, again):
        assert isinstance(made.unwrapped, AsyncioVectorEnv)
        assert (3, AutoresetMode.SAME_STEP) == (made.num_envs, made.metadata["autoreset_mode"])
    assert f"AsyncioVectorEnv({registered}, num_envs=3)" == repr(again)
    assert_same(vec.reset(seed=1), again.reset(seed=1))
    assert '"autoreset_mode": "SameStep"' in vec.spec.to_json()
    vec.close()
    again.close()
