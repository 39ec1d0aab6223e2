"""In the place of gymnasium's AsyncVectorEnv: its arguments, its copy semantics, custom spaces, and vector wrappers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

from codecraft_async.vector import AsyncioVectorEnv

from .vector_envs import MODES, AsyncWanderer, Bounded, Scripted, Wanderer, assert_same, factories, play_sync, scripted

METHODS = ["reset_async", "reset_wait", "step_async", "step_wait", "call_async", "call_wait", "get_attr", "set_attr"]


def test_arguments_are_those_of_async_vector_env() -> None:
    """Every argument that AsyncVectorEnv takes is taken, at the same place and with the same default."""
    theirs = inspect.signature(AsyncVectorEnv.__init__).parameters
    ours = inspect.signature(AsyncioVectorEnv.__init__).parameters
    assert [*theirs] == [*ours][: len(theirs)]  # gymnasium 1.2 has no max_concurrency, which is the last
    assert [each.default for each in theirs.values()] == [ours[name].default for name in theirs]
    positional = [name for name, each in ours.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert ["max_concurrency"] == positional[9:]
    assert set(theirs) <= set(positional)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_those_of_async_vector_env(name: str) -> None:
    """The methods take what AsyncVectorEnv's take."""
    theirs = inspect.signature(getattr(AsyncVectorEnv, name)).parameters
    ours = inspect.signature(getattr(AsyncioVectorEnv, name)).parameters
    assert [*theirs] == [*ours]


def test_arguments_about_processes_change_nothing() -> None:
    """There are no processes, so how to start them and share memory with them does not matter."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(
        factories("plain", "text"), False, True, "spawn", False, None, "same", "SameStep"
    )
    expected = SyncVectorEnv(factories("plain", "text"), autoreset_mode="SameStep")
    assert_same(play_sync(expected, "SameStep"), play_sync(vec, "SameStep"))
    vec.close()


def test_a_worker_is_refused() -> None:
    """It would be code that never runs; the error says what to do instead, and no environment was made."""
    with pytest.raises(ValueError, match=r"worker is code to run in AsyncVectorEnv's processes.*a wrapper in env_fns"):
        AsyncioVectorEnv[Any, Any]([pytest.fail], worker=print)


def test_environments_are_closed_if_their_spaces_do_not_fit() -> None:
    """A constructor that fails leaves no environment open."""
    made: list[Wanderer] = []

    def make(high: float) -> Wanderer:
        made.append(Bounded(high))
        return made[-1]

    with pytest.raises(RuntimeError, match="env 1 has observation space"):
        AsyncioVectorEnv[Any, Any]([partial(make, 1.0), partial(make, 2.0)])
    assert [1, 1] == [env.closed for env in made]


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_without_copies(kind: str) -> None:
    """With `copy=False` each call overwrites the arrays of the call before, as with AsyncVectorEnv."""

    def arrays(batch: Any) -> list[Any]:
        if isinstance(batch, dict):
            return [array for value in batch.values() for array in arrays(value)]
        if isinstance(batch, tuple):
            return [array for value in batch for array in arrays(value)]
        return [batch] if isinstance(batch, np.ndarray) else []

    for copy in (True, False):
        vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(factories("async", kind), copy=copy)
        first = arrays(vec.reset(seed=1)[0])
        second = arrays(vec.step(vec.action_space.sample())[0])
        assert first
        assert [not copy] * len(first) == [
            np.shares_memory(before, after) for before, after in zip(first, second, strict=True)
        ]
        vec.close()


def test_text_beyond_any_charset() -> None:
    """Texts that AsyncVectorEnv's shared memory cannot hold come through, although that is asked for."""
    texts = ("\x1b[31mred", "日本 é \x00")
    vec = AsyncioVectorEnv[Any, Any]([Scripted] * 2, shared_memory=True)
    vec.reset()
    assert tuple(f"step 1 {text}" for text in texts) == vec.step(texts)[0]
    vec.close()


class Pairs(gymnasium.Space[tuple[str, int]]):
    """A space that gymnasium knows nothing of."""

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[str, int]:
        return "x", int(self.np_random.integers(9))

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple) and len(x) == 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pairs)

    __hash__ = None  # type: ignore[assignment]

    @property
    def is_np_flattenable(self) -> bool:
        return False


class Custom(Wanderer):
    """Lives in a custom space."""

    def __init__(self) -> None:
        super().__init__("text")
        self.observation_space = Pairs()
        self.action_space = Pairs()


class AsyncCustom(AsyncWanderer, Custom):
    """The same, in coroutines."""


@pytest.mark.parametrize("mode", MODES)
def test_custom_spaces(mode: str) -> None:
    """Custom spaces batch as SyncVectorEnv batches them: observations and actions are tuples."""
    theirs = SyncVectorEnv([Custom] * 5, autoreset_mode=mode)
    ours: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([AsyncCustom] * 5, autoreset_mode=mode)
    assert theirs.observation_space == ours.observation_space
    assert_same(play_sync(theirs, mode), play_sync(ours, mode))
    theirs.close()
    ours.close()


class Shaky(Scripted):
    """Rewards and flags of every type that environments give."""

    kinds: list[tuple[Any, Any]] = [  # noqa: RUF012  # shared by all on purpose
        (1, False),
        (np.float32(0.5), np.bool_(True)),
        (True, 0),
        (np.int64(3), np.bool_(False)),
    ]

    async def astep(self, action: str) -> Any:
        await super().astep(action)
        reward, flag = self.kinds[int(action)]
        return action, reward, flag, flag, {}


def test_rewards_and_flags_have_one_dtype() -> None:
    """Rewards are float64 and flags bool, whatever the environments give."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Shaky] * 4)
    vec.reset()
    _, rewards, terminations, truncations, _ = vec.step(("0", "1", "2", "3"))
    assert ["float64", "bool", "bool"] == [str(each.dtype) for each in (rewards, terminations, truncations)]
    assert ([1.0, 0.5, 1.0, 3.0], [False, True, False, False]) == (rewards.tolist(), terminations.tolist())
    vec.close()


def test_no_autoreset_after_an_explicit_reset() -> None:
    """An ended episode that was reset explicitly is not reset once more by the next step."""
    for background in (False, True):
        vec = scripted(2, background_resets=background)
        vec.reset()
        vec.step(("end", "go"))
        assert ("reset 2", "reset 2") == vec.reset()[0]
        observations, rewards, *_ = vec.step(("go", "go"))
        assert (("step 1 go", "step 1 go"), [1.0, 1.0]) == (observations, rewards.tolist())
        vec.close()


def _twice(batch: Any) -> Any:
    return batch * 2


def _normalized(vec: Any) -> Any:
    return wrappers.NormalizeObservation(wrappers.NormalizeReward(vec))


def _doubled(vec: Any) -> Any:
    return wrappers.VectorizeTransformReward(vec, gymnasium.wrappers.TransformReward, func=_twice)


WRAPPERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "RecordEpisodeStatistics": (wrappers.RecordEpisodeStatistics, "text"),
    "NormalizeReward": (wrappers.NormalizeReward, "text"),
    "NormalizeObservation": (_normalized, "box"),
    "ClipReward": (partial(wrappers.ClipReward, min_reward=-1.0, max_reward=1.0), "text"),
    "TransformObservation": (partial(wrappers.TransformObservation, func=_twice), "box"),
    "TransformAction": (partial(wrappers.TransformAction, func=_twice), "box"),
    "VectorizeTransformReward": (_doubled, "text"),
    "FilterObservation": (partial(wrappers.FilterObservation, filter_keys=["place"]), "dict"),
    "DictInfoToList": (wrappers.DictInfoToList, "text"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_vector_wrappers(name: str) -> None:
    """Gymnasium's vector wrappers give over our vector environment what they give over gymnasium's."""
    wrap, kind = WRAPPERS[name]
    results: list[list[Any]] = []
    for vec in (
        SyncVectorEnv(factories("plain", kind)),
        AsyncioVectorEnv[Any, Any](factories("async", kind), background_resets=True),
    ):
        wrapped = wrap(vec)
        wrapped.action_space.seed(3)
        results.append([wrapped.reset(seed=4)])
        results[-1] += [wrapped.step(wrapped.action_space.sample()) for _ in range(15)]
        wrapped.close()
        assert vec.closed
    for result in results[0] + results[1]:
        if isinstance(result[-1], dict):
            result[-1].get("episode", {}).pop("t", None)  # measured
    assert_same(results[0], results[1])


@pytest.mark.parametrize("wrap", [partial(wrappers.TransformObservation, func=_twice), wrappers.NormalizeObservation])
def test_observation_wrappers_refuse_same_step(wrap: Any) -> None:
    """In SAME_STEP they would miss the final observations; `metadata` tells them the mode, as SyncVectorEnv's does."""
    refusals: list[tuple[type[BaseException], str]] = []
    for vec in (
        SyncVectorEnv(factories("plain", "box"), autoreset_mode="SameStep"),
        AsyncioVectorEnv[Any, Any](factories("async", "box"), autoreset_mode="SameStep"),
    ):
        with pytest.raises((ValueError, AssertionError)) as caught:
            wrap(vec)
        refusals.append((caught.type, str(caught.value)))
        vec.close()
    assert refusals[0] == refusals[1]


def test_final_observations_and_infos() -> None:
    """In SAME_STEP: `final_obs` is an array of objects, `final_info` nests, and all other keys are the reset's."""
    for vec in (
        SyncVectorEnv(factories("plain", "dict"), autoreset_mode="SameStep"),
        AsyncioVectorEnv[Any, Any](factories("async", "dict"), autoreset_mode="SameStep"),
    ):
        vec.reset(seed=2)
        vec.set_attr("end_odds", [1.0, 0.0, 1.0, 0.0, 0.0])
        _, _, terminations, _, info = vec.step(vec.action_space.sample())
        over = [True, False, True, False, False]
        assert over == terminations.tolist() == info["_final_obs"].tolist() == info["_final_info"].tolist()
        assert np.dtype(object) == info["final_obs"].dtype
        assert [dict, type(None)] == [type(info["final_obs"][row]) for row in (0, 1)]
        assert isinstance(info["final_info"], dict)
        vec.close()


def test_a_spec_as_json() -> None:
    """A spec that went through JSON makes an equal vector environment, with our own options."""
    name = "codecraft-test/DropIn-v0"
    gymnasium.register(name, entry_point=f"{__name__}:AsyncCustom", vector_entry_point=f"{__name__}:make_vector")
    try:
        made = gymnasium.make_vec(name, num_envs=2, autoreset_mode="Disabled", background_resets=False)
        assert made.spec is not None
        spec = EnvSpec.from_json(made.spec.to_json())
        assert "background_resets" in json.loads(made.spec.to_json())["kwargs"]
        again = gymnasium.make_vec(spec)
        assert (2, AutoresetMode.DISABLED) == (again.num_envs, again.metadata["autoreset_mode"])
        assert_same(made.reset(seed=1), again.reset(seed=1))
        made.close()
        again.close()
    finally:
        del gymnasium.registry[name]


def make_vector(num_envs: int = 1, **keywords: Any) -> AsyncioVectorEnv[Any, Any]:
    """A vector entry point."""
    return AsyncioVectorEnv([AsyncCustom] * num_envs, **keywords)
