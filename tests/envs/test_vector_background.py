"""Resets in the background: from the moment an episode ends, and with the results that they have in the foreground."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from codecraft_async.vector import AsyncioVectorEnv

from .vector_envs import (
    NUM_ENVS,
    AsyncWanderer,
    Gate,
    Resets,
    Scripted,
    assert_same,
    background_tasks,
    factories,
    oracle,
    play_async,
    play_sync,
    reset_under_way,
    scripted,
    settle,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("sort", "kind", "limit"), [("async", "dict", None), ("mixed", "box", None), ("async", "text", 1)]
)
async def test_results_are_those_of_the_foreground(sort: str, kind: str, limit: int | None) -> None:
    """Every number is SyncVectorEnv's, with explicit resets of all sorts in between, by both faces."""
    makers = factories(sort, kind)
    options: dict[str, Any] = {"background_resets": True, "max_concurrency": limit}
    expected = oracle("NextStep", kind)
    async with AsyncioVectorEnv[Any, Any](makers, **options) as vec:
        assert_same(expected, await play_async(vec, "NextStep"))
    vec = AsyncioVectorEnv(makers, **options)
    assert_same(expected, play_sync(vec, "NextStep"))
    vec.close()


async def test_the_reset_begins_when_the_episode_ends() -> None:
    """It runs while the caller thinks; the next step waits for what is left of it, and returns what it gave."""
    resets = Resets()
    async with scripted(2, where=0, reset=resets) as vec:
        await vec.areset()
        observations, _, terminations, _, _ = await vec.astep(("end", "go"))
        assert (("step 1 end", "step 1 go"), [True, False]) == (observations, terminations.tolist())
        await resets.gate.filled()
        step = asyncio.create_task(vec.astep(("ignored", "go")))
        await settle()
        assert not step.done()
        resets.gate.open.set()
        observations, rewards, terminations, _, _ = await step
        assert (("reset 2", "step 2 go"), [0.0, 1.0]) == (observations, rewards.tolist())
        assert not terminations.any()
        assert 1 == resets.gate.inside
        assert [] == background_tasks()


@pytest.mark.parametrize(
    "options",
    [
        {"background_resets": False},
        {"autoreset_mode": "Disabled", "background_resets": True},
        {"autoreset_mode": "SameStep", "background_resets": True},
    ],
)
async def test_no_reset_begins_otherwise(options: dict[str, Any]) -> None:
    """By option, and in the other modes, nothing happens between two steps."""
    async with scripted(2, **options) as vec:
        await vec.areset()
        await vec.astep(("end", "go"))
        before = vec.get_attr("resets")
        await settle()
        assert before == vec.get_attr("resets")


@pytest.mark.parametrize(("option", "resets"), [(None, 1), (True, 2)])
async def test_where_there_is_a_render_mode_the_default_is_none(option: bool | None, resets: int) -> None:
    """There the frame between two steps shows how the episode ended, unless the option says otherwise."""
    makers = [partial(AsyncWanderer, "text", end_odds=1.0)]
    async with AsyncioVectorEnv[Any, Any](makers, background_resets=option) as vec:
        await vec.areset(seed=0)
        await vec.astep(("a",))
        await settle()
        assert resets == len((await vec.acall("options"))[0])


@pytest.mark.parametrize("ended", [False, True])
async def test_a_failed_reset_is_raised_by_the_next_step(ended: bool) -> None:
    """Not before, with the environment named; the others complete that step, and a reset mends it."""
    resets = Resets(fails=True)
    async with scripted(3, where=1, reset=resets) as vec:
        await vec.areset()
        await vec.astep(("go", "end", "go"))
        await resets.gate.filled()
        resets.gate.open.set()
        if ended:
            await settle()
        assert not vec.interrupted.any()
        with pytest.raises(OSError, match="no second sandbox") as caught:
            await vec.astep(("go",) * 3)
        assert ["raised by env 1 in step"] == caught.value.__notes__
        assert [False, True, False] == vec.interrupted.tolist()
        with pytest.raises(ResetNeeded, match=r"env 1 \(failed\)"):
            await vec.astep(("go",) * 3)
        vec.set_attr("on_reset", [None] * 3)
        assert ("step 2 go", "reset 2", "step 2 go") == (await vec.areset(options={"reset_mask": vec.interrupted}))[0]


async def test_a_failed_reset_is_superseded_by_an_explicit_one(caplog: pytest.LogCaptureFixture) -> None:
    """Who resets anyway gets a fresh reset; the failure is not reported behind the user's back."""
    resets = Resets(fails=True)
    async with scripted(1, reset=resets) as vec:
        await vec.areset()
        await vec.astep(("end",))
        await resets.gate.filled()
        resets.gate.open.set()
        await settle()
        vec.envs[0].unwrapped.on_reset = None  # type: ignore[attr-defined]
        assert ("reset 2",) == (await vec.areset())[0]
    gc.collect()
    assert not [text for text in caplog.messages if "never retrieved" in text]


async def test_an_explicit_reset_takes_over_the_one_under_way() -> None:
    """Without seed and options, of all or by mask or by hand, there is only one reset."""
    for how in ("all", "mask", "hand"):
        async with reset_under_way() as (vec, resets):
            mask = {"reset_mask": np.array([True, False])}
            explicit: dict[str, Callable[[], Any]] = {
                "all": vec.areset,
                "mask": partial(vec.areset, options=mask),
                "hand": vec.envs[0].areset,
            }
            call = asyncio.create_task(explicit[how]())
            await settle()
            resets.gate.open.set()
            observation = (await call)[0]
            assert "reset 2" == (observation if how == "hand" else observation[0])
            assert 1 == resets.gate.inside


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("keywords", [{"seed": 7}, {"options": {"level": 2}}])
async def test_an_explicit_reset_with_arguments_undoes_the_one_under_way(keywords: Any, done: bool) -> None:
    """It is cancelled if it still runs, and gone when the explicit one begins."""
    resets = Resets()
    async with scripted(1, reset=resets) as vec:
        await vec.areset()
        await vec.astep(("end",))
        await resets.gate.filled()
        if done:
            resets.gate.open.set()
            await settle()
        vec.envs[0].unwrapped.on_reset = None  # type: ignore[attr-defined]
        assert (f"reset {3 if done else 2}",) == (await vec.areset(**keywords))[0]
        assert (0 if done else 1) == resets.gate.cancelled
        assert [] == background_tasks()
        assert ("step 1 go",) == (await vec.astep(("go",)))[0]


async def test_a_masked_reset_of_others_leaves_it_alone() -> None:
    """Meanwhile the last observation of the ended episode is what a masked reset returns for it."""
    async with reset_under_way() as (vec, resets):
        assert ("step 1 end", "reset 2") == (await vec.areset(options={"reset_mask": np.array([False, True])}))[0]
        resets.gate.open.set()
        assert ("reset 2", "step 1 go") == (await vec.astep(("x", "go")))[0]


class Reuses(AsyncWanderer):
    """Writes every observation into the same array, as some environments do."""

    def __init__(self) -> None:
        super().__init__("box", end_odds=1.0)
        self._array = np.zeros(2, dtype=np.float32)

    def _observe(self) -> Any:
        self._array[:] = super()._observe()
        return self._array


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
async def test_an_environment_that_reuses_its_arrays(mode: str) -> None:
    """A reset that overwrites the observation which ended the episode changes none that was or will be returned."""
    async with AsyncioVectorEnv[Any, Any]([Reuses] * 2, autoreset_mode=mode, background_resets=True) as vec:
        await vec.areset(seed=1)
        vec.envs[1].unwrapped.end_odds = 0.0  # type: ignore[attr-defined]
        observations, _, _, _, info = await vec.astep(np.zeros((2, 2)))
        alone = AsyncWanderer("box", end_odds=1.0)
        await alone.areset(seed=1)
        final = (await alone.astep(np.zeros(2)))[0]
        if mode == "SameStep":
            np.testing.assert_array_equal(final, info["final_obs"][0])
        else:
            np.testing.assert_array_equal(final, observations[0])
            await settle()
            masked, _ = await vec.areset(options={"reset_mask": np.array([False, True])})
            np.testing.assert_array_equal(final, masked[0])


async def test_a_cancelled_step_cuts_off_the_reset_it_waited_for() -> None:
    """As in the foreground: the environment is one of the `interrupted`, and nothing goes on."""
    async with reset_under_way() as (vec, resets):
        step = asyncio.create_task(vec.astep(("ignored", "go")))
        await settle()
        step.cancel()
        await asyncio.wait([step])
        assert step.cancelled()
        assert (1, []) == (resets.gate.cancelled, background_tasks())
        assert [True, False] == vec.interrupted.tolist()
        vec.envs[0].unwrapped.on_reset = None  # type: ignore[attr-defined]
        assert ("reset 2", "step 2 go") == (await vec.areset(options={"reset_mask": vec.interrupted}))[0]


async def test_a_cancelled_step_begins_none() -> None:
    """An episode that a cancelled step ended is reset by the next step, and nothing goes on in between."""
    gate = Gate(1)

    async def step(env: Scripted, action: str) -> None:
        if action == "wait":
            await gate()

    async with scripted(2, step=step) as vec:
        await vec.areset()
        call = asyncio.create_task(vec.astep(("end", "wait")))
        await gate.filled()
        call.cancel()
        await asyncio.wait([call])
        await settle()
        assert (1, 1) == vec.get_attr("resets")
        assert ("step 1 end", "reset 2") == (await vec.areset(options={"reset_mask": vec.interrupted}))[0]
        assert ("reset 2", "step 1 x") == (await vec.astep(("x", "x")))[0]


async def test_cancelled_before_its_turn_had_come() -> None:
    """Under a concurrency limit, a reset that had not begun is not cut off, and the next step has it."""
    resets = Resets()
    async with scripted(2, reset=resets, max_concurrency=1) as vec:
        await vec.areset()
        await vec.astep(("end", "end"))
        await resets.gate.filled()
        step = asyncio.create_task(vec.astep(("x", "x")))
        await settle()
        step.cancel()
        await asyncio.wait([step])
        assert [True, False] == vec.interrupted.tolist()
        resets.gate.open.set()
        await vec.areset(options={"reset_mask": vec.interrupted})
        assert ("step 1 x", "reset 2") == (await vec.astep(("x", "x")))[0]


async def test_resets_obey_the_concurrency_limit() -> None:
    """Background resets and the steps that follow them are never more than `max_concurrency` at once."""
    at_work = most = 0

    async def work(*_: Any) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        for _turn in range(3):
            await asyncio.sleep(0)
        at_work -= 1

    async with scripted(6, step=work, reset=work, max_concurrency=2) as vec:
        await vec.areset()
        for actions in (("end", "go") * 3, ("go", "end") * 3, ("end",) * 6, ("go",) * 6):
            await vec.astep(actions)
        assert (2, 0) == (most, at_work)


async def test_generators_draw_as_if_it_had_not_been() -> None:
    """An explicit reset with options draws what it would draw had no reset begun before it."""
    lives: list[Any] = []
    for background in (False, True):
        makers = [partial(AsyncWanderer, "box", end_odds=1.0)] * NUM_ENVS
        async with AsyncioVectorEnv[Any, Any](makers, background_resets=background) as vec:
            await vec.areset(seed=11)
            await vec.astep(vec.action_space.sample() * 0)
            await settle()
            lives.append([await vec.areset(options={"level": 1}), *(rng.random() for rng in vec.np_random)])
    assert_same(lives[0], lives[1])
