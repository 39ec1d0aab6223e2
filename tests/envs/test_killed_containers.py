"""Recovery, branches and replays where sandboxes are containers, which somebody kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codecraft_async import CodeEnv, Recorder, Recovery
from codecraft_async.curriculum import load_curriculum
from codecraft_async.replay import Replay, ReplayedEpisode
from codecraft_async.runtime import Runtime
from codecraft_pool import connect_daemon
from tests.conftest import ASYNCIO

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
TASKS = load_curriculum("builtin").subset(["sort-numbers"])
SOLUTION = "tr -s ' \\t' '\\n' < input.txt | grep . | sort -n > output.txt"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """What becomes of containers does not depend on the loop."""
    return ASYNCIO


async def kill_container(env: Any) -> str:
    """Kill the container of a `CodeEnv`, as a stranger would; return its name."""
    name: str = vars(env)["_tenant"].sandbox.id
    async with await connect_daemon() as daemon:
        await daemon.client.containers.container(name).kill()
    return name


async def test_episodes_outlive_their_containers_branch_and_are_replayed(tmp_path: Path) -> None:
    """From the beginning or from a checkpoint: the work is there again and earns what it is worth, and so twice."""
    runtime = Runtime("docker", list(TASKS.values()), max_sandboxes=3)
    replayed: list[ReplayedEpisode] = []
    with Recorder(tmp_path, curriculum_source="builtin") as recorder:
        policies = (Recovery(), Recovery(checkpoint_every=1))
        envs = [CodeEnv(curriculum=TASKS, runtime=runtime, record=recorder, recover=policy) for policy in policies]
        for env, said_again in zip(envs, (2, 1), strict=True):
            await env.areset()
            await env.astep("echo kept > notes")
            await env.astep(SOLUTION)
            name = await kill_container(env)
            text, *_, info = await env.astep("ls")
            assert ("input.txt\nnotes\noutput.txt\n", name) == (text, info["recovery"]["sandbox"])
            assert "somebody killed its container" in info["recovery"]["reason"]
            assert (said_again, 0) == (info["recovery"]["replayed"], info["recovery"]["differed"])
        branch = CodeEnv(curriculum=TASKS, runtime=runtime, record=recorder, recover=True)
        text, info = await branch.abranch_from(envs[0])
        assert ("input.txt\nnotes\noutput.txt\n", 3) == (text, info["steps"])
        await kill_container(branch)
        text, *_, info = await branch.astep("rm output.txt; cat notes")
        assert ("kept\n", 1) == (text, info["recovery"]["count"])
        for env, worth in zip((*envs, branch), (1.0, 1.0, 0.0), strict=True):
            _, reward, terminated, _, info = await env.astep("submit")
            assert (worth, True, True) == (reward, terminated, info["valid"])
            await env.aclose()
    await runtime.aclose()
    await Replay(tmp_path, backend="docker", num_envs=3).run(replayed.append)
    assert [("", [])] * 3 == [(each.failed, each.differences) for each in replayed]
    assert [2, 4, 4] == sorted(each.compared for each in replayed)
