"""First-ready batches beside what else a vector environment does: background resets, handles, steps of all."""

from __future__ import annotations

import asyncio
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ResetNeeded

from codecraft_async.vector import AsyncioVectorEnv

from .ready_envs import AsyncReuser, inside, let_go, puppets, settle, started
from .test_branch import Branching
from .vector_envs import env_tasks

pytestmark = pytest.mark.anyio


async def ended(**options: Any) -> AsyncioVectorEnv[Any, Any]:
    """Three puppets, of which the last has ended its episode; its reset runs in the background."""
    vec = await started(3, **options)
    vec.send(("end",), [2])
    await settle()
    await let_go(vec, [2])
    assert [True] == (await vec.arecv(1))[2].tolist()
    assert inside(vec)[2].waiting
    assert "reset" == inside(vec)[2].calls[-1]
    assert not vec.outstanding.any()
    return vec


async def test_reset_begins_when_the_episode_ends() -> None:
    """In NEXT_STEP the reset is done by the time the next action comes, which then has its result at once."""
    async with await ended() as vec:
        await let_go(vec, [2])
        vec.send(("any",), [2])
        observations, rewards, terminations, _, infos = await vec.arecv(1, timeout=20)
        assert ("2: reset",) == observations
        assert [0.0] == rewards.tolist()
        assert [False] == terminations.tolist()
        assert ["reset"] == infos["call"].tolist()
        assert ["reset", "step end", "reset"] == inside(vec)[2].calls


async def test_action_waits_for_the_rest_of_the_reset() -> None:
    """An action that comes before the reset has ended has its result when that has."""
    async with await ended() as vec:
        vec.send(("any", "go"), [2, 0])
        await settle()
        await let_go(vec, [0])
        assert [0] == (await vec.arecv(1))[-1]["env_id"].tolist()
        await let_go(vec, [2])
        assert ("2: reset",) == (await vec.arecv(1))[0]


async def test_explicit_reset_takes_over_or_undoes() -> None:
    """`async_reset` without a seed takes the reset under way for its own; with one it puts another in its place."""
    async with await ended() as vec:
        vec.async_reset([2])
        await settle()
        await let_go(vec, [2])
        assert ("2: reset",) == (await vec.arecv(1))[0]
        assert 2 == inside(vec)[2].calls.count("reset")
    async with await ended() as vec:
        vec.async_reset([2], seed=5)
        await settle()
        assert 1 == inside(vec)[2].cut_off
        await let_go(vec, [2])
        assert ("2: reset",) == (await vec.arecv(1))[0]
        assert [None, None, 7] == inside(vec)[2].seeds


async def test_background_reset_that_fails() -> None:
    """Its error is raised by the `recv` of the action that stands for it."""
    async with await ended() as vec:
        inside(vec)[2].break_down(OSError("no sandbox"))
        await settle()
        assert not vec.interrupted.any()
        vec.send(("any",), [2])
        with pytest.raises(OSError, match="no sandbox") as caught:
            await vec.arecv(1)
        assert ["raised by env 2 in reset"] == caught.value.__notes__
        assert [False, False, True] == vec.interrupted.tolist()


async def test_background_reset_counts_towards_the_limit() -> None:
    """With `max_concurrency` a reset in the background has its turn like any other call."""
    async with await ended(max_concurrency=1) as vec:
        vec.send(("go",), [0])
        await settle()
        assert not inside(vec)[0].waiting
        await let_go(vec, [2, 0])
        assert ("0: step go",) == (await vec.arecv(1))[0]


async def test_branch_into_a_slot_that_is_being_reset() -> None:
    """A branch cuts off the reset that runs in the background of its slot."""
    async with await ended(make=Branching) as vec:
        inside(vec)[2].eager = True
        assert [2] == (await vec.abranch(0, 1))[1]["env_id"].tolist()
        assert 1 == inside(vec)[2].cut_off
        assert [] == env_tasks()
        vec.send(("on",), [2])
        assert ("on",) == (await vec.arecv(1))[0]


async def test_close_while_resetting() -> None:
    """Closing cuts off resets in the background."""
    vec = await ended()
    await vec.aclose()
    assert [(0, 1), (0, 1), (1, 1)] == [(env.cut_off, env.closed) for env in inside(vec)]


async def test_last_observation_outlives_the_reset() -> None:
    """What is delivered of an ended episode is its last observation, though the environment reuses the array."""

    async with AsyncioVectorEnv[Any, Any]([AsyncReuser]) as vec:
        await vec.areset()
        vec.send(np.full((1, 1), 4.0, dtype=np.float32))
        await settle()
        assert [0.0] == inside(vec)[0].place.tolist()
        assert [[4.0]] == (await vec.arecv())[0].tolist()


async def test_last_observation_that_cannot_outlive_the_reset() -> None:
    """An observation that cannot be copied is its environment's failure, as one is that cannot be batched."""

    class Generating(AsyncReuser):
        async def astep(self, action: Any) -> Any:
            return (each for each in "ab"), 0.0, True, False, {}

    async with AsyncioVectorEnv[Any, Any]([AsyncReuser, Generating]) as vec:
        await vec.areset()
        vec.send(np.ones((2, 1), dtype=np.float32))
        with pytest.raises(TypeError, match="cannot pickle 'generator' object") as caught:
            await vec.arecv()
        assert ["raised by env 1 in step"] == caught.value.__notes__
        assert [0] == (await vec.arecv(1))[-1]["env_id"].tolist()


async def test_without_background_resets() -> None:
    """Without them nothing runs that was not asked for."""
    async with await started(1, background_resets=False) as vec:
        vec.send(("end",))
        await settle()
        await let_go(vec, [0])
        await vec.arecv()
        assert not inside(vec)[0].waiting
        vec.send(("any",))
        await settle()
        await let_go(vec, [0])
        assert ("0: reset",) == (await vec.arecv())[0]


async def test_handles_of_environments_at_rest() -> None:
    """A handle may be used while other environments are in flight, but not its own, nor may that be sent to then."""
    async with await started(3) as vec:
        vec.send(("go",), [0])
        own = asyncio.create_task(vec.envs[1].astep("alone"))
        await settle()
        with pytest.raises(AlreadyPendingCallError, match="`send` of env 0"):
            await vec.envs[0].astep("go")
        with pytest.raises(AlreadyPendingCallError, match="`step` of env 1"):
            vec.send(("a", "b"), [2, 1])
        with pytest.raises(AlreadyPendingCallError, match="`step` of env 1"):
            vec.async_reset([2, 1])
        assert [True, False, False] == vec.outstanding.tolist()
        await let_go(vec, [1, 0])
        assert "1: step alone" == (await own)[0]
        assert ("0: step go",) == (await vec.arecv(1))[0]
        vec.send(("a", "b"), [2, 1])
        await settle()
        await let_go(vec, [2, 1])
        assert ("2: step a", "1: step b") == (await vec.arecv(2))[0]


async def test_ready_environment_has_no_handle_to_use() -> None:
    """Until its result is delivered, an environment belongs to whoever receives."""
    async with puppets(2, eager=True) as vec:
        await vec.areset()
        vec.send(("go",), [1])
        await settle()
        for call in (vec.envs[1].astep("more"), vec.envs[1].areset(), vec.abranch(0, slots=[1])):
            with pytest.raises(AlreadyPendingCallError):
                await call
        await vec.arecv(1)
        assert "1: step more" == (await vec.envs[1].astep("more"))[0]


async def test_episode_ended_by_a_handle() -> None:
    """An episode that a handle's step has ended is over for `send` as well, as far as the mode can meet that."""
    async with puppets(1, eager=True) as vec:
        await vec.areset()
        await vec.envs[0].astep("end")
        vec.send(("any",))
        assert ("0: reset",) == (await vec.arecv())[0]
    async with puppets(1, eager=True, autoreset_mode="SameStep") as vec:
        await vec.areset()
        await vec.envs[0].astep("end")
        with pytest.raises(ResetNeeded, match="env 0"):
            vec.send(("any",))
    async with puppets(1, eager=True, autoreset_mode="Disabled") as vec:
        await vec.areset()
        await vec.envs[0].astep("end")
        with pytest.raises(AssertionError, match="episodes of envs 0 are over"):
            vec.send(("any",))


async def test_branch_and_handles() -> None:
    """A handle shows the environment that a branch has put in its place, and goes on with the copied episode."""
    async with AsyncioVectorEnv[Any, Any]([lambda: gymnasium.make("CartPole-v1")] * 2) as vec:
        await vec.areset(seed=1)
        handle = vec.envs[1]
        before = handle.unwrapped
        observations, _ = await vec.abranch(0, slots=[1])
        assert before is not handle.unwrapped
        state: Any = handle.get_wrapper_attr("state")
        np.testing.assert_allclose(observations[0], state, rtol=1e-6)
        first, second = await vec.envs[0].astep(1), await handle.astep(1)
        np.testing.assert_array_equal(first[0], second[0])
