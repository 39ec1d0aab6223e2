"""Single environments of a vector environment, used alone: `vec.envs[i]`."""

from __future__ import annotations

import asyncio
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from codecraft_async._loop import LoopThread
from codecraft_async.spaces import Unicode
from codecraft_async.vector import AsyncEnv, AsyncioVectorEnv

from .vector_envs import MODES, AsyncWanderer, Gate, Scripted, Wanderer, assert_same, factories, scripted

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("sort", ["plain", "async"])
def test_a_handle_lives_the_environments_life(sort: str) -> None:
    """By hand, one after the other, environments give what the same ones give on their own."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(factories(sort, "dict"), autoreset_mode="Disabled")
    for index, handle in enumerate(vec.envs):
        alone = Wanderer("dict")
        alone.action_space.seed(3)
        assert_same(alone.reset(seed=index), handle.reset(seed=index))
        for _ in range(12):
            action = alone.action_space.sample()
            observation, reward, terminated, truncated, info = alone.step(action)
            expected = observation, float(reward), bool(terminated), bool(truncated), info
            assert_same(expected, handle.step(action))
            if terminated or truncated:
                assert_same(alone.reset(options={"level": 1}), handle.reset(options={"level": 1}))
        assert alone.render() == handle.render()
    vec.close()


async def test_handles_are_environments() -> None:
    """A handle is a gymnasium environment with both faces, and says of itself what its environment says."""
    async with AsyncioVectorEnv[Any, Any]([AsyncWanderer, Wanderer]) as vec:
        for index, handle in enumerate(vec.envs):
            assert isinstance(handle, gymnasium.Env)
            assert isinstance(handle, AsyncEnv)
            assert handle.unwrapped.observation_space is handle.observation_space
            assert ("ansi", None) == (handle.render_mode, handle.spec)
            await handle.areset(seed=5)
            assert 5 == handle.np_random_seed
            assert f"<env {index}: " == repr(handle)[: len("<env 0: ")]
            assert handle is vec.envs[index]


class Checked(gymnasium.Env[str, str]):
    """What gymnasium's checker asks of an environment, in coroutines."""

    observation_space = Unicode(64)
    action_space = Unicode(64)

    async def areset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return str(self.np_random.integers(9)), {}

    async def astep(self, action: str) -> Any:
        return str(self.np_random.integers(9)), 0.5, False, False, {}


def test_gymnasiums_checker_passes_a_handle() -> None:
    """`check_env` finds nothing wrong with a handle but that it is a wrapper and has no spec."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Checked] * 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(vec.envs[1], skip_render_check=True)
    said = [str(warning.message) for warning in caught]
    assert all("is different from the unwrapped version" in text or "`env.spec`" in text for text in said), said
    vec.close()


def test_a_handle_in_a_gymnasium_wrapper() -> None:
    """Gymnasium's own wrappers work over handles, and so does another vector environment."""
    vec = scripted(2)
    limited = gymnasium.wrappers.TimeLimit(vec.envs[0], 2)
    limited.reset()
    assert [False, True] == [limited.step("go")[3] for _ in range(2)]
    vec.close()
    vec = scripted(2)
    outer = SyncVectorEnv([partial(vec.envs.__getitem__, index) for index in range(2)])
    assert ("reset 1",) * 2 == outer.reset()[0]
    assert ("step 1 a", "step 1 b") == outer.step(("a", "b"))[0]
    outer.close()
    assert not vec.closed
    vec.close()


async def test_handles_at_the_same_time() -> None:
    """Each in a task of its own, handles step at once; one of them takes one call at a time."""
    gate = Gate(3)
    async with scripted(3, step=gate) as vec:
        await vec.areset()
        calls = [asyncio.create_task(handle.astep("go")) for handle in vec.envs]
        await gate.filled()
        with pytest.raises(AlreadyPendingCallError, match=r"`step of env 1` .* call to `step` of env 1") as caught:
            await vec.envs[1].astep("again")
        assert "step" == caught.value.name
        gate.open.set()
        assert ["step 1 go"] * 3 == [(await call)[0] for call in calls]


def test_handles_in_threads() -> None:
    """The same in threads."""
    meeting = threading.Barrier(3)

    async def meet(*_: Any) -> None:
        await asyncio.to_thread(meeting.wait, 20)

    vec = scripted(3, step=meet)
    vec.reset()
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda handle: handle.step("go")[0], vec.envs))
    assert ["step 1 go"] * 3 == results
    vec.close()


async def test_handle_while_all_are_in_a_call() -> None:
    """While the vector environment steps, a handle is refused, and nothing of the step is disturbed."""
    gate = Gate(2)
    async with scripted(2, step=gate) as vec:
        await vec.areset()
        call = asyncio.create_task(vec.astep(("a", "b")))
        await gate.filled()
        for refused in (vec.envs[0].astep("x"), vec.envs[1].areset()):
            with pytest.raises(AlreadyPendingCallError, match="pending call to `step` to complete"):
                await refused
        with pytest.raises(AlreadyPendingCallError):
            vec.envs[0].render()
        gate.open.set()
        assert ("step 1 a", "step 1 b") == (await call)[0]


async def test_all_while_a_handle_is_in_a_call() -> None:
    """While one handle steps, the calls of all are refused, and say which environment is busy."""
    gate = Gate(1)
    async with scripted(2, where=1, step=gate) as vec:
        await vec.areset()
        call = asyncio.create_task(vec.envs[1].astep("a"))
        await gate.filled()
        for refused in (vec.astep(("x", "y")), vec.areset()):
            with pytest.raises(AlreadyPendingCallError, match="pending call to `step` of env 1"):
                await refused
        with pytest.raises(AlreadyPendingCallError):
            vec.get_attr("steps")
        assert "step 1 z" == (await vec.envs[0].astep("z"))[0]
        gate.open.set()
        assert "step 1 a" == (await call)[0]
        assert ("step 2 x", "step 2 y") == (await vec.astep(("x", "y")))[0]


@pytest.mark.parametrize("mode", MODES)
async def test_an_episode_ended_by_hand(mode: str) -> None:
    """No handle resets by itself; the next step of all does what `autoreset_mode` has for ended episodes."""
    async with scripted(2, autoreset_mode=mode) as vec:
        await vec.areset()
        assert ("step 1 end", 1.0, True, False, {}) == await vec.envs[0].astep("end")
        with pytest.raises(ResetNeeded, match="env 0 needs a reset before its next step: its episode is over"):
            await vec.envs[0].astep("go")
        if mode == "NextStep":
            observations, rewards, terminations, _, _ = await vec.astep(("ignored", "go"))
            assert (("reset 2", "step 1 go"), [0.0, 1.0]) == (observations, rewards.tolist())
            assert not terminations.any()
        elif mode == "Disabled":
            with pytest.raises(AssertionError, match=r"episodes of envs \[0\] are over"):
                await vec.astep(("go", "go"))
        else:
            with pytest.raises(ResetNeeded, match=r"env 0 \(ended by a step of its own"):
                await vec.astep(("go", "go"))
            assert not vec.interrupted.any()
        await vec.envs[0].areset()
        assert "step 1 go" == (await vec.astep(("go", "go")))[0][0]


async def test_an_episode_begun_by_hand() -> None:
    """A handle's reset mends what a call of all left behind, and its observation is what a masked reset returns."""
    broken = True

    async def step(env: Scripted, action: str) -> None:
        if broken:
            raise OSError("lost")

    async with scripted(2, where=0, step=step) as vec:
        with pytest.raises(ResetNeeded, match="env 0 needs a reset before its next step: never reset"):
            await vec.envs[0].astep("go")
        await vec.areset()
        with pytest.raises(OSError, match="lost") as caught:
            await vec.envs[0].astep("go")
        assert ["raised by env 0 in step"] == caught.value.__notes__
        assert [True, False] == vec.interrupted.tolist()
        with pytest.raises(ResetNeeded, match="failed"):
            await vec.envs[0].astep("go")
        broken = False
        assert ("reset 2", {}) == await vec.envs[0].areset(seed=1, options={})
        assert not vec.interrupted.any()
        assert ("reset 2", "reset 2") == (await vec.areset(options={"reset_mask": np.array([False, True])}))[0]


async def test_cancelled_handle() -> None:
    """Cancelling a handle's step cuts off that environment, and no other."""
    gate = Gate(1)
    async with scripted(2, where=0, step=gate) as vec:
        await vec.areset()
        call = asyncio.create_task(vec.envs[0].astep("go"))
        await gate.filled()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert 1 == gate.cancelled
        assert [True, False] == vec.interrupted.tolist()


async def test_a_handles_results_are_its_callers() -> None:
    """What a handle returned can be changed without changing what a masked reset returns later."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(factories("async", "box"), autoreset_mode="Disabled")
    await vec.areset(seed=1)
    for call in (vec.envs[0].areset(seed=1), vec.envs[0].astep(np.zeros(2))):
        observation = (await call)[0]
        kept = observation.copy()
        observation[:] = 99
        mask = np.arange(5) == 1
        np.testing.assert_array_equal(kept, (await vec.areset(options={"reset_mask": mask}))[0][0])
    await vec.aclose()


async def test_closing_a_handle_closes_nothing() -> None:
    """The vector environment closes its environments, and ends the calls of handles that are in progress."""
    gate = Gate(1)
    vec = scripted(2, where=0, step=gate)
    await vec.areset()
    vec.envs[0].close()
    call = asyncio.create_task(vec.envs[0].astep("go"))
    await gate.filled()
    await vec.aclose()
    assert 1 == gate.cancelled
    with pytest.raises(ClosedEnvironmentError):
        await call
    with pytest.raises(ClosedEnvironmentError):
        await vec.envs[1].areset()
    with pytest.raises(ClosedEnvironmentError):
        vec.envs[1].render()
    assert [["closed"], ["closed"]] == [env.unwrapped.ended for env in vec.envs]  # type: ignore[attr-defined]


async def test_another_environment_in_the_place_of_one() -> None:
    """A handle stands for a place: what is put there is what the calls of all use from then on."""
    async with AsyncioVectorEnv[Any, Any]([Wanderer] * 2) as vec:
        await vec.areset(seed=1)
        replaced, other = vec.envs[1].unwrapped, AsyncWanderer()
        vec.envs[1].env = other
        assert other is vec.envs[1].unwrapped
        await vec.envs[1].areset(seed=2)
        await vec.astep(("a", "b"))
        assert ([], ["b"]) == (replaced.actions, other.actions)  # type: ignore[attr-defined]
        replaced.close()


def test_synchronous_handle_in_the_loops_own_thread() -> None:
    """There, waiting would block the loop for ever: it raises, and the asynchronous one works."""
    with LoopThread() as thread:
        vec = scripted(2, loop=thread)

        async def use() -> str:
            await vec.areset()
            with pytest.raises(RuntimeError, match="own thread would block"):
                vec.envs[0].step("x")
            return str((await vec.envs[0].astep("x"))[0])

        assert "step 1 x" == thread.run(use())
        assert ("step 2 a", "step 1 b") == vec.step(("a", "b"))[0]
        vec.close()


async def test_synchronous_handle_beside_a_running_loop() -> None:
    """In a thread with a running loop, as in a notebook, it works."""
    vec = scripted(2)
    assert "reset 1" == vec.envs[1].reset()[0]
    assert "step 1 x" == vec.envs[1].step("x")[0]
    vec.close()
