"""`CodeVectorEnv` with resets in the background: the same episodes, no sandbox too many, nobody who waits for ever."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from codecraft_async import CodeEnv, CodeVectorEnv
from codecraft_async.curriculum import Curriculum, RandomSource, Task, Workspace, WorkspaceFile
from codecraft_async.pool import FakeLauncher, PoolStats
from codecraft_async.runtime import Runtime
from codecraft_async.vector import AsyncioVectorEnv
from tests.envs.code_envs import make_task, play, vector

pytestmark = pytest.mark.anyio


def task(number: int, **changes: Any) -> Task:
    """A task whose workspace has a file of its own."""
    return make_task(f"t{number}", workspace=Workspace({f"file-{number}": WorkspaceFile(b"")}), **changes)


TASKS = tuple(task(number) for number in range(4))


async def settle() -> None:
    """Let what runs in the background get as far as it can."""
    for _ in range(60):
        await asyncio.sleep(0)


async def stats(env: CodeVectorEnv) -> PoolStats:
    """The pool's figures."""
    return (await env.runtime.pool()).stats()


async def test_resets_in_the_background_begin_at_once() -> None:
    """In NEXT_STEP the next episode's sandbox is ready, and the reset done, before the next step asks for it."""
    launcher = FakeLauncher(play)
    env = vector(launcher, 4, *TASKS)
    await env.areset()
    await env.astep(("submit", "ls", "submit", "ls"))
    await settle()
    resets = await env.acall("render_mode")
    assert (None,) * 4 == resets
    texts, rewards, _, _, info = await env.astep(("x", "ls", "x", "ls"))
    assert ["t0", "t1", "t2", "t3"] == info["task"].tolist()
    assert [text.startswith("The answer") or text for text in texts] == [True, "file-1\n", True, "file-3\n"]
    assert [0.0] * 4 == rewards.tolist()
    assert ("file-0\n", "file-1\n", "file-2\n", "file-3\n") == (await env.astep(("ls",) * 4))[0]
    assert 4 == (await stats(env)).started
    await env.aclose()
    assert all(sandbox.lost is not None for sandbox in launcher.sandboxes)


@pytest.mark.parametrize("shell", ["fresh", "persistent"])
async def test_background_resets_give_the_same_episodes(shell: str) -> None:
    """Tasks, texts, rewards and flags are the same with and without, with explicit resets in between."""
    lives: list[Any] = []
    for background in (False, True):
        env = vector(FakeLauncher(play), 3, *TASKS, sampler="uniform", background_resets=background)
        lives.append([await _seen(env, env.areset(seed=4))])
        for turn in range(10):
            actions = ("submit" if turn % 3 == 0 else "ls", "submit" if turn % 4 == 1 else "ls", "write 42")
            lives[-1].append(await _seen(env, env.astep(actions)))
            if turn == 4:
                lives[-1].append(await _seen(env, env.areset(seed=9)))
            if turn == 7:
                mask = {"reset_mask": np.array([True, False, True])}
                lives[-1].append(await _seen(env, env.areset(options=mask)))
        await env.aclose()
    assert lives[0] == lives[1]


async def _seen(env: CodeVectorEnv, call: Awaitable[tuple[Any, ...]]) -> list[Any]:
    observations, *numbers, info = await call
    await settle()
    return [observations, *(array.tolist() for array in numbers), info["task"].tolist()]


async def test_images_that_change_hands_between_background_resets() -> None:
    """As many sandboxes as environments, all of whose next tasks need another image: none waits for ever."""
    images = tuple(task(number, image=f"codecraft/image-{number % 3}") for number in range(6))
    env = vector(FakeLauncher(play), 3, *images, sampler=_Rotating(images))
    async with asyncio.timeout(60):
        await env.areset()
        for turn in range(12):
            over = [turn % 2 == 0, turn % 3 == 0, True]
            *_, info = await env.astep(tuple("submit" if each else "ls" for each in over))
            assert info["valid"].all()
    after = await stats(env)
    assert after.idle + after.leased + after.starting <= 3
    await env.aclose()


async def test_more_environments_than_sandboxes() -> None:
    """Two environments share one sandbox: the reset of one waits until the other gives it back."""
    runtime = Runtime(FakeLauncher(play), list(TASKS), max_sandboxes=1)
    makers = [partial(CodeEnv, curriculum=Curriculum(TASKS), runtime=runtime) for _ in range(2)]
    env: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(makers)
    one, other = env.envs
    async with asyncio.timeout(60):
        for _ in range(3):
            await one.areset()
            waiting = asyncio.create_task(other.areset())
            await settle()
            assert not waiting.done()
            await one.astep("submit")
            await waiting
            await other.astep("submit")
    await env.aclose()
    await runtime.aclose()


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_closing_in_the_midst_of_background_resets_leaves_nothing(ticks: int) -> None:
    """However far they are, closing ends them, and every sandbox."""
    launcher = FakeLauncher(play)
    env = vector(launcher, 3, *TASKS)
    await env.areset()
    await env.astep(("submit", "ls", "submit"))
    for _ in range(ticks):
        await asyncio.sleep(0)
    await env.aclose()
    assert all(sandbox.lost is not None for sandbox in launcher.sandboxes)


async def test_a_sandbox_lost_during_a_background_reset() -> None:
    """The reset begins again in another one, and the step that follows has the new episode."""
    launcher = FakeLauncher(play)
    env = vector(launcher, 2, *TASKS)
    await env.areset()
    await env.astep(("submit", "ls"))
    launcher.sandboxes[0].close()
    texts, *_, info = await env.astep(("x", "ls"))
    assert texts[0].startswith("The answer") or not info["valid"][0]
    texts, *_, info = await env.astep(("ls", "ls"))
    assert [True, True] == info["valid"].tolist()
    await env.aclose()


def test_calls_in_halves_start_the_sandboxes_too() -> None:
    """`reset_async` comes back at once; what it started has the sandboxes made, and the episodes begun."""
    launcher = FakeLauncher(play)
    with vector(launcher, 3, *TASKS) as env:
        env.reset_async(seed=1)
        assert [True] * 3 == [text.startswith("The answer") for text in env.reset_wait(timeout=60)[0]]
        env.step_async(("ls", "submit", "ls"))
        texts, _, terminations, _, _ = env.step_wait(timeout=60)
        assert ("file-0\n", "file-2\n") == (texts[0], texts[2])
        assert [False, True, False] == terminations.tolist()
    assert all(sandbox.lost is not None for sandbox in launcher.sandboxes)


class _Rotating:
    """Gives the tasks in turn to whoever asks."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = itertools.cycle(tasks)

    def next(self, rng: RandomSource, /) -> Task:
        return next(self._tasks)
