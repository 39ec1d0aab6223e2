"""Cancelled calls of the vector environment: what is awaited, and what state is left."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from codecraft_async.vector import AsyncioVectorEnv

from .vector_envs import Gate, Scripted, Wanderer, env_tasks, scripted

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_cancelled_step(cancellations: int) -> None:
    """A cancelled step cancels every environment once, awaits its clean-up, and says which were cut off."""
    gate = Gate(2)

    async def step(env: Scripted, action: str) -> None:
        if action == "wait":
            await gate()

    async with scripted(3, step=step) as vec:
        await vec.areset()
        call = asyncio.create_task(vec.astep(("wait", "go", "wait")))
        await gate.filled()
        for _ in range(cancellations):
            call.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([call])
        assert call.cancelled()
        assert 2 == gate.cancelled
        assert [] == env_tasks()
        assert [True, False, True] == vec.interrupted.tolist()
        with pytest.raises(ResetNeeded, match=r"env 0 \(cut off by a cancellation\), env 2 \(cut off"):
            await vec.astep(("go",) * 3)
        observations, _ = await vec.areset(options={"reset_mask": vec.interrupted})
        assert ("reset 2", "step 1 go", "reset 2") == observations
        assert ("step 1 go", "step 2 go", "step 1 go") == (await vec.astep(("go",) * 3))[0]


async def test_cancelled_reset() -> None:
    """A cancelled reset leaves those that were cut off in need of one; the next full reset works."""
    gate = Gate(1)
    async with scripted(2, where=1, reset=gate) as vec:
        call = asyncio.create_task(vec.areset())
        await gate.filled()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert [False, True] == vec.interrupted.tolist()
        with pytest.raises(ResetNeeded, match=r"envs \[1\] were never reset"):
            await vec.areset(options={"reset_mask": np.array([True, False])})
        gate.open.set()
        assert ("reset 2", "reset 1") == (await vec.areset())[0]


async def test_timeout_around_a_step() -> None:
    """`asyncio.timeout` around a step raises TimeoutError, with every environment's clean-up done."""
    gate = Gate(3)
    async with scripted(3, step=gate) as vec:
        await vec.areset()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await vec.astep(("go",) * 3)
        assert 3 == gate.cancelled
        assert vec.interrupted.all()


async def test_timeout_within_an_environment() -> None:
    """An environment's own `asyncio.timeout` ends only its own work, and `current_task` is its own."""
    tasks = set()

    async def step(env: Scripted, action: str) -> None:
        tasks.add(asyncio.current_task())
        try:
            async with asyncio.timeout(0.01 if action == "slow" else None):
                await (asyncio.Event().wait() if action == "slow" else asyncio.sleep(0))
        except TimeoutError:
            env.ended.append("timed out")

    async with scripted(3, step=step) as vec:
        await vec.areset()
        assert ("step 1 go", "step 1 slow", "step 1 go") == (await vec.astep(("go", "slow", "go")))[0]
        assert [[], ["timed out"], []] == [env.unwrapped.ended for env in vec.envs]  # type: ignore[attr-defined]
        assert 3 == len(tasks)


async def test_environments_that_had_not_begun_are_untouched() -> None:
    """A cancellation under a concurrency limit leaves those whose turn had not come as they were."""
    gate = Gate(2)
    async with scripted(4, step=gate, max_concurrency=2) as vec:
        await vec.areset()
        call = asyncio.create_task(vec.astep(("go",) * 4))
        await gate.filled()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert [True, True, False, False] == vec.interrupted.tolist()
        assert 2 == gate.inside


async def test_cancellation_that_was_pending() -> None:
    """Environments that complete their step at once do so although its caller was cancelled already."""

    async def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await vec.astep(("go",) * 2)

    async with scripted(2) as vec:
        await vec.areset()
        call = asyncio.create_task(cancel_myself())
        await asyncio.wait([call])
        assert call.cancelled()
        assert not vec.interrupted.any()
        assert ("step 2 go",) * 2 == (await vec.astep(("go",) * 2))[0]


async def test_cancelled_step_of_plain_environments() -> None:
    """Plain environments cannot be cut off: the one at work finishes, those after it stay as they were."""
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()
    go_on = threading.Event()

    class Slow(Wanderer):
        def step(self, action: Any) -> Any:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(20)
            return super().step(action)

    async with AsyncioVectorEnv[Any, Any]([Slow] * 3) as vec:
        await vec.areset(seed=1)
        call = asyncio.create_task(vec.astep(("a", "b", "c")))
        await begun.wait()
        call.cancel()
        await asyncio.sleep(0)
        assert not call.done()
        go_on.set()
        await asyncio.wait([call])
        assert call.cancelled()
        assert [["a"], [], []] == [env.unwrapped.actions for env in vec.envs]  # type: ignore[attr-defined]
        assert not vec.interrupted.any()


async def test_environment_that_does_not_give_in() -> None:
    """An environment that completes its step in spite of a cancellation is not cut off."""

    async def step(env: Scripted, action: str) -> None:
        try:
            await gate()
        except asyncio.CancelledError:
            env.ended.append("kept on")

    gate = Gate(2)
    async with scripted(2, step=step) as vec:
        await vec.areset()
        call = asyncio.create_task(vec.astep(("go",) * 2))
        await gate.filled()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert not vec.interrupted.any()


async def test_failure_during_a_cancellation() -> None:
    """An environment that fails while it is cancelled is marked, and the CancelledError has a note about it."""

    async def step(env: Scripted, action: str) -> None:
        try:
            await gate()
        except asyncio.CancelledError:
            raise OSError("clean-up failed") from None

    gate = Gate(2)
    async with scripted(2, step=step) as vec:
        await vec.areset()
        notes: list[str] = []

        async def watched() -> None:
            try:
                await vec.astep(("go",) * 2)
            except asyncio.CancelledError as error:
                notes.extend(error.__notes__)
                raise

        call = asyncio.create_task(watched())
        await gate.filled()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert ["env 0 failed: OSError: clean-up failed"] == notes
        assert vec.interrupted.all()


@pytest.mark.parametrize("door", ["step", "send", "worker"])
def test_closing_keeps_to_its_time(door: str) -> None:
    """An environment that does not give in has `close` raise when its time is over, by name; closing goes on."""
    begun, let_go = threading.Event(), threading.Event()

    async def hold(_env: Scripted, action: str) -> None:
        while action == "hold" and not let_go.is_set():
            begun.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    class Plain(Wanderer):
        def step(self, action: Any) -> Any:
            begun.set()
            let_go.wait()
            return super().step(action)

    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Plain] * 2) if door == "worker" else scripted(2, step=hold)
    vec.reset()
    if door == "send":
        vec.send(("hold",), [1])
    else:
        vec.step_async(("go", "hold"))
    assert begun.wait(20)
    with pytest.raises(TimeoutError, match=rf"within 0.1 s.*waits for envs \[{0 if door == 'worker' else 1}\]"):
        vec.close(timeout=0.1)
    assert not vec.closed
    let_go.set()
    vec.close(timeout=20)
    assert vec.closed
