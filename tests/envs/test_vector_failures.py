"""Environments that fail: what the vector environment raises, and what state is left."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from codecraft_async.vector import AsyncioVectorEnv

from .vector_envs import Scripted, Wanderer, env_tasks, scripted

pytestmark = pytest.mark.anyio


async def test_siblings_finish_before_a_failure_is_raised() -> None:
    """When one environment fails, the others finish their step first, and keep its outcome."""
    finished = 0

    async def step(env: Scripted, action: str) -> None:
        nonlocal finished
        if action == "fail":
            raise ValueError("broken")
        for _ in range(5):
            await asyncio.sleep(0)
        finished += 1

    async with scripted(4, step=step) as vec:
        await vec.areset()
        with pytest.raises(ValueError, match="broken") as caught:
            await vec.astep(("go", "fail", "go", "go"))
        assert 3 == finished
        assert [] == env_tasks()
        assert ["raised by env 1 in step"] == caught.value.__notes__
        assert [False, True, False, False] == vec.interrupted.tolist()


async def test_every_failure_is_named() -> None:
    """The first failure by index is raised; notes name the others, in full up to a point."""

    async def step(env: Scripted, action: str) -> None:
        raise KeyError(action)

    async with scripted(11, step=step) as vec:
        await vec.areset()
        with pytest.raises(KeyError, match="a0") as caught:
            await vec.astep([f"a{index}" for index in range(11)])
    notes = caught.value.__notes__
    assert "raised by env 0 in step" == notes[0]
    assert [f"env {index} failed in step as well: KeyError: 'a{index}'" for index in range(1, 9)] == notes[1:9]
    assert ["further envs that failed in step: [9, 10]"] == notes[9:]


async def test_failed_environment_needs_a_reset() -> None:
    """After a failure, stepping raises until the failed environment was reset, alone or with the others."""
    broken = True

    async def step(env: Scripted, action: str) -> None:
        if broken:
            raise OSError("lost")

    async with scripted(3, where=2, step=step) as vec:
        await vec.areset()
        with pytest.raises(OSError, match="lost"):
            await vec.astep(("go",) * 3)
        broken = False
        with pytest.raises(ResetNeeded, match=r"1 of 3 environments need a reset .* env 2 \(failed\)"):
            await vec.astep(("go",) * 3)
        observations, _ = await vec.areset(options={"reset_mask": vec.interrupted})
        assert ("step 1 go", "step 1 go", "reset 2") == observations
        assert ("step 2 go", "step 2 go", "step 1 go") == (await vec.astep(("go",) * 3))[0]
        assert not vec.interrupted.any()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
async def test_failed_reset(mode: str) -> None:
    """A failed reset leaves the environment in need of one, in every mode; the next full reset works."""
    broken = True

    async def reset(env: Scripted) -> None:
        if broken:
            raise OSError("no sandbox")

    async with scripted(2, where=0, reset=reset, autoreset_mode=mode) as vec:
        with pytest.raises(OSError, match="no sandbox") as caught:
            await vec.areset()
        assert ["raised by env 0 in reset"] == caught.value.__notes__
        assert [True, False] == vec.interrupted.tolist()
        broken = False
        assert ("reset 1", "reset 2") == (await vec.areset())[0]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
async def test_failed_autoreset(mode: str) -> None:
    """An autoreset that fails is a failure of the step."""

    async def reset(env: Scripted) -> None:
        if env.resets:
            raise OSError("no second sandbox")

    async with scripted(2, where=1, reset=reset, autoreset_mode=mode) as vec:
        await vec.areset()
        with pytest.raises(OSError, match="no second sandbox"):
            for action in ("end", "go"):
                await vec.astep(("go", action))
        assert [False, True] == vec.interrupted.tolist()


class Odd(Wanderer):
    """Returns from `step` whatever it is told to."""

    result: Any = None

    def step(self, action: Any) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class AsyncOdd(Odd):
    """The same, from `astep`."""

    async def areset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.reset(seed=seed, options=options)

    async def astep(self, action: Any) -> Any:
        return self.step(action)


@pytest.mark.parametrize("sort", [Odd, AsyncOdd])
@pytest.mark.parametrize(
    ("result", "kind", "text"),
    [
        (("o", 0.0, False, False), ValueError, "not enough values to unpack"),
        (None, TypeError, "cannot unpack"),
        (("o", 0.0, False, False, None), TypeError, "an environment's info must be a dict, got NoneType"),
        (("o", "much", False, False, {}), ValueError, "could not convert string to float"),
        (RuntimeError("odd"), RuntimeError, "odd"),
        (SystemExit("out"), SystemExit, "out"),
    ],
)
def test_malformed_results(sort: type[Odd], result: Any, kind: type[BaseException], text: str) -> None:
    """A result that is none, or an exit exception, is that environment's failure, and the error names it."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Wanderer, sort, Wanderer])
    vec.reset(seed=1)
    vec.envs[1].unwrapped.result = result  # type: ignore[attr-defined]
    with pytest.raises(kind, match=text) as caught:
        vec.step(("a", "b", "c"))
    assert "raised by env 1 in step" in caught.value.__notes__
    assert [False, True, False] == vec.interrupted.tolist()
    assert [1, 1] == [len(vec.envs[index].unwrapped.actions) for index in (0, 2)]  # type: ignore[attr-defined]
    vec.reset()
    assert not vec.interrupted.any()
    vec.close()


@pytest.mark.parametrize("copy", [True, False])
def test_observation_that_does_not_fit(copy: bool) -> None:
    """An observation that cannot be batched is its environment's failure, by name, and a reset of it mends that."""
    makers = [lambda: Wanderer("box"), lambda: Odd("box"), lambda: Wanderer("box")]
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(makers, copy=copy)
    vec.reset(seed=1)
    vec.envs[1].unwrapped.result = (np.zeros(7), 0.0, False, False, {})  # type: ignore[attr-defined]
    actions = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="shape") as caught:
        vec.step(actions)
    assert [f"the observations of envs [1] do not fit {vec.single_observation_space}"] == caught.value.__notes__
    assert [False, True, False] == vec.interrupted.tolist()
    with pytest.raises(ResetNeeded, match=r"env 1 \(failed\)"):
        vec.step(actions)
    observations, _ = vec.reset(options={"reset_mask": vec.interrupted})
    assert (3, 2) == observations.shape
    assert not vec.interrupted.any()
    vec.close()


async def test_methods_that_are_no_coroutine_functions() -> None:
    """An `astep` that gives no coroutine is that environment's failure."""
    async with scripted(2) as vec:
        await vec.areset()
        vec.envs[1].unwrapped.astep = lambda action: None  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="coroutine was expected") as caught:
            await vec.astep(("a", "b"))
        assert ["raised by env 1 in step"] == caught.value.__notes__


async def test_environment_that_cancels_itself() -> None:
    """A cancellation that comes from within an environment is its failure, not the caller's cancellation."""

    async def step(env: Scripted, action: str) -> None:
        raise asyncio.CancelledError

    async with scripted(2, where=1, step=step) as vec:
        await vec.areset()
        with pytest.raises(RuntimeError, match="the environment cancelled its own step"):
            await vec.astep(("a", "b"))
