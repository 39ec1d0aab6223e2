"""Between two episodes a sandbox is made ready for the next one, as far as the sampler can say what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from codecraft_async import CodeEnv
from codecraft_async.curriculum import Curriculum, RandomSource, SequentialSampler, Task, Workspace, WorkspaceFile
from codecraft_async.pool import FakeLauncher, PoolStats
from tests.envs.code_envs import make, make_task, play, vector

pytestmark = pytest.mark.anyio


def task(number: int, **changes: Any) -> Task:
    files = {f"file-{number}": WorkspaceFile(b"")}
    return make_task(f"t{number}", workspace=Workspace(files), **changes)


TASKS = tuple(task(number) for number in range(4))


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


async def stats(env: Any) -> PoolStats:
    found: PoolStats = (await env.runtime.pool()).stats()
    return found


async def play_through(env: CodeEnv, episodes: int, *, between: Callable[[], Awaitable[None]] = settle) -> list[str]:
    """Play some episodes; return what was in the workspace of each."""
    seen: list[str] = []
    for _ in range(episodes):
        await env.areset()
        seen.append((await env.astep("ls"))[0].strip())
        await env.astep("submit")
        await between()
    return seen


async def test_the_next_workspace_is_there_before_the_reset() -> None:
    """With the sequential sampler every reset but the first finds its sandbox restored."""
    env = make(FakeLauncher(play), *TASKS)
    assert ["file-0", "file-1", "file-2", "file-3", "file-0"] == await play_through(env, 5)
    after = await stats(env)
    assert (4, 1, 1) == (after.prefetch_hits, after.prefetch_misses, after.started)
    await env.aclose()


async def test_a_random_sampler_is_foreseen_without_changing_what_it_draws() -> None:
    """Looking ahead uses a copy of the generator: the tasks are those that the seed gives, and they are ready."""
    env = make(FakeLauncher(play), *TASKS, sampler="uniform")
    await env.areset(seed=3)
    drawn = [int(env.np_random.integers(4)) for _ in range(6)]
    await env.areset(seed=3)
    await env.astep("submit")
    await settle()
    assert [f"file-{number}" for number in drawn] == await play_through(env, 6)
    assert 6 == (await stats(env)).prefetch_hits
    await env.aclose()


async def test_a_wrong_guess_costs_no_correctness() -> None:
    """A reset that names another task, or a new seed, gets that task's workspace."""
    env = make(FakeLauncher(play), *TASKS, sampler="uniform")
    await env.areset(seed=0)
    for number in (2, 0, 3, 3, 1):
        await env.astep("submit")
        await settle()
        _, info = await env.areset(options={"task": f"t{number}"})
        assert (f"t{number}", f"file-{number}\n") == (info["task"], (await env.astep("ls"))[0])
    await env.aclose()


async def test_a_sampler_that_cannot_look_ahead_keeps_working() -> None:
    """Without `peek` nothing is foreseen, and the sandbox is restored at the reset."""

    class Plain:
        def __init__(self) -> None:
            self._inner = SequentialSampler(Curriculum(TASKS))

        def next(self, rng: RandomSource, /) -> Task:
            return self._inner.next(rng)

    env = make(FakeLauncher(play), *TASKS, sampler=Plain())
    assert ["file-0", "file-1", "file-2"] == await play_through(env, 3)
    after = await stats(env)
    assert (0, 3, 1) == (after.prefetch_hits, after.prefetch_misses, after.started)
    await env.aclose()


async def test_the_next_image_is_started_before_the_reset() -> None:
    """Where the next task needs another image, its sandbox is started while whoever acts still thinks."""
    mixed = (task(0), task(1, image="codecraft/other"))
    env = make(FakeLauncher(play), *mixed)
    assert ["file-0", "file-1", "file-0"] == await play_through(env, 3)
    after = await stats(env)
    assert (2, 1) == (after.prefetch_hits, after.prefetch_misses)
    await env.aclose()


async def test_environments_that_share_a_pool_get_their_own_workspaces() -> None:
    """Eight environments over eight sandboxes, autoreset in both ways: each episode has the files of its task."""
    for mode in ("NextStep", "SameStep"):
        env = vector(FakeLauncher(play), 8, *TASKS, autoreset_mode=mode)
        await env.areset()
        for _ in range(5):
            texts, _, _, _, info = await env.astep(("ls",) * 8)
            assert [f"file-{name[1:]}\n" for name in info["task"]] == list(texts)
            await env.astep(("submit",) * 8)
            if mode == "NextStep":
                await settle()
                await env.astep(("ls",) * 8)
        after = await stats(env)
        assert 8 == after.started
        assert after.prefetch_hits >= (32 if mode == "NextStep" else 0)
        await env.aclose()


@pytest.mark.parametrize("ticks", range(10))
async def test_closing_between_episodes_leaves_nothing(ticks: int) -> None:
    """However far the next workspace is made ready, closing ends it."""
    launcher = FakeLauncher(play)
    env = make(launcher, *TASKS)
    await env.areset()
    await env.astep("submit")
    for _ in range(ticks):
        await asyncio.sleep(0)
    await env.aclose()
    assert all(sandbox.lost is not None for sandbox in launcher.sandboxes)
