"""First-ready batches and branches of coding environments, over fake sandboxes and over real ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from codecraft_async import CodeVectorEnv
from codecraft_async.curriculum import Curriculum
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher
from codecraft_async.replay import Replay, ReplayedEpisode
from codecraft_async.trajectory import read_trajectories

from .code_envs import make_task, play

pytestmark = pytest.mark.anyio

LIMIT_S = 60.0


def vector(backend: str | FakeLauncher, num_envs: int, **options: Any) -> CodeVectorEnv:
    """Environments with the one task."""
    return CodeVectorEnv(num_envs, curriculum=Curriculum((make_task(),)), backend=backend, **options)


async def test_slow_command_delays_nobody() -> None:
    """While a command runs on in one sandbox, episodes in the others go through to their grades."""
    go_on = asyncio.Event()

    async def answer(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        if argv[-1] == "slow":
            await go_on.wait()
        return await play(files, argv)

    async with vector(FakeLauncher(answer), 3, batch_size=2) as env:
        env.async_reset()
        await env.arecv(3, timeout=LIMIT_S)
        env.send(("slow", "write 42", "write 41"), [0, 1, 2])
        await env.arecv(timeout=LIMIT_S)
        env.send(("submit", "submit"), [1, 2])
        _, rewards, terminations, _, info = await env.arecv(timeout=LIMIT_S)
        assert {1: 1.0, 2: 0.0} == dict(zip(info["env_id"].tolist(), rewards.tolist(), strict=True))
        assert terminations.all()
        # The next action stands for a reset, which begins with the task's instruction.
        env.send(("any", "any"))
        observations, *_ = await env.arecv(timeout=LIMIT_S)
        assert all("Write 42 into answer." in text for text in observations)
        assert [True, False, False] == env.outstanding.tolist()
        go_on.set()
        assert [0] == (await env.arecv(1, timeout=LIMIT_S))[-1]["env_id"].tolist()


def test_script_over_real_sandboxes() -> None:
    """The plain calls, over sandboxes of the machine's own."""
    env = vector("local", 2, max_episode_steps=3)
    try:
        env.async_reset(seed=1)
        assert {0, 1} == set(env.recv(timeout=LIMIT_S)[-1]["env_id"].tolist())
        env.send(("echo one", "sleep 0.3; echo two"), [0, 1])
        assert ("one\n",) == env.recv(1, timeout=LIMIT_S)[0]
        env.send(("echo three",), [0])
        rest = env.recv(2, timeout=LIMIT_S)
        assert ("three\n", "two\n") == rest[0]
        assert [0, 1] == rest[-1]["env_id"].tolist()
    finally:
        env.close()


async def test_group_from_one_prefix() -> None:
    """Slots that branch from an episode have its files and its steps, and are graded each by what they make of it."""
    async with vector("local", 3, max_episode_steps=4) as env:
        await env.areset()
        await env.astep(("echo 4 > draft", "true", "true"))
        _, info = await env.abranch(0, slots=[1, 2])
        assert [1, 2] == info["env_id"].tolist()
        assert [1, 1] == info["steps"].tolist()
        await env.astep(("printf 42 > answer", "printf 41 > answer", "cat draft"))
        env.send(("cat draft", "cat answer", "ls"))
        observations, *_, info = await env.arecv(timeout=LIMIT_S)
        said = dict(zip(info["env_id"].tolist(), observations, strict=True))
        assert ["4\n", "41", "draft\nhint\n"] == [said[row] for row in range(3)]
        rewards = (await env.astep(("submit",) * 3))[1]
        assert [1.0, 0.0, 0.0] == rewards.tolist()


async def test_branches_amid_recorded_episodes(tmp_path: Path) -> None:
    """Into running episodes, one that is over and is being reset, and beside a call in flight: each is told, and played
    again as it was."""
    async with vector("local", 3, record=tmp_path) as env:
        await env.areset()
        await env.astep(("echo 4 > draft", "true", "true"))
        await env.abranch(0, slots=[1, 2])
        await env.astep(("cat draft", "printf 42 > answer", "submit"))
        await env.abranch(1, 1)
        env.send(("sleep 0.1; cat draft",), [0])
        await env.abranch(2, slots=[1])
        env.send(("submit", "cat answer"), [1, 2])
        _, rewards, *_, info = await env.arecv(3, timeout=LIMIT_S)
        assert {0: 0.0, 1: 1.0, 2: 0.0} == dict(zip(info["env_id"].tolist(), rewards.tolist(), strict=True))
    episodes = list(read_trajectories(tmp_path))
    assert [1, 1, 2, 2] == sorted(each.start.branch.steps for each in episodes if each.start.branch is not None)
    played: list[ReplayedEpisode] = []
    await Replay(tmp_path, backend="local", curriculum=Curriculum((make_task(),))).run(played.append)
    assert len(episodes) == len(played)
    assert all(each.is_same for each in played)
