"""Many episodes at once: what came of each, and what is left when something ends them."""

from __future__ import annotations

import asyncio
import io
import os
from typing import Any

import pytest

from codecraft_async import CodeEnv
from codecraft_async.agents import (
    EpisodePlan,
    EpisodeResult,
    HumanAgent,
    ModelAgent,
    ScriptedAgent,
    run_episode,
    run_episodes,
)
from codecraft_async.agents.episodes import fault_of, text_of
from codecraft_async.llm import Budget, RateLimits, Sampling, Usage
from codecraft_async.pool import FakeLauncher, LaunchError
from tests.agents.chats import client_of, sh
from tests.envs.code_envs import Crashes, make, make_task, play
from tests.llm.openai_server import OpenAIServer, says, slowly

pytestmark = pytest.mark.anyio


def plans(count: int) -> list[EpisodePlan]:
    """Plans by the name of their number."""
    return [EpisodePlan(str(number)) for number in range(count)]


async def close(envs: list[CodeEnv]) -> None:
    """Close them all."""
    for env in envs:
        await env.aclose()


async def test_forty_episodes_in_eight_environments_over_one_client() -> None:
    """All share its limits; each has an agent of its own; the results come in the order of the plans."""
    launcher = FakeLauncher(play)
    envs = [make(launcher) for _ in range(8)]
    done: list[EpisodeResult] = []
    limits = RateLimits(max_concurrency=3)
    async with OpenAIServer(otherwise=slowly(says(sh("submit")), 0.001)) as server:
        async with client_of(server, limiter=limits) as client:
            batch = await run_episodes(
                envs, lambda plan: ModelAgent(client, episode=plan.name), plans(40), on_result=done.append
            )
    await close(envs)
    assert [str(number) for number in range(40)] == [result.plan.name for result in batch.results]
    assert (40, 40, 3) == (len(done), len(server.asked), server.most_at_once)
    assert ({"terminated"}, (), "") == ({result.end for result in batch.results}, batch.left, batch.stopped)
    assert {Usage(10, 5)} == {result.usage for result in batch.results}


async def test_a_used_up_budget_leaves_the_rest() -> None:
    """Nothing more is begun, and a later run can play what is left."""
    envs = [make(FakeLauncher(play)) for _ in range(2)]
    async with OpenAIServer(otherwise=says(sh("submit"))) as server:
        budget = Budget(max_tokens=1500)
        async with client_of(server, budget=budget, sampling=Sampling(max_tokens=900)) as client:
            batch = await run_episodes(envs, lambda plan: ModelAgent(client), plans(60))
    await close(envs)
    assert batch.stopped.startswith("the budget is used up: ")
    assert 0 < len(batch.results) < 60
    names = [result.plan.name for result in batch.results] + [plan.name for plan in batch.left]
    assert {str(number) for number in range(60)} == set(names) and 60 == len(names)
    assert all(result.counts for result in batch.results)


async def test_a_human_who_leaves_ends_everything() -> None:
    """Nobody else will type."""
    typed, hands = os.pipe()
    os.write(hands, b"submit\n")
    os.close(hands)
    human = HumanAgent(descriptor=typed, output=io.StringIO())
    env = make(FakeLauncher(play))
    batch = await run_episodes([env], lambda plan: human, plans(5))
    await env.aclose()
    os.close(typed)
    assert ["0"] == [result.plan.name for result in batch.results]
    assert ["1", "2", "3", "4"] == [plan.name for plan in batch.left]
    assert "the input has ended" == batch.stopped


async def test_a_fault_is_no_reward() -> None:
    """A grader that crashes and a sandbox that dies end the episode, which says so and counts for nothing."""
    env = make(FakeLauncher(play), make_task(grader=Crashes()))
    result = await run_episode(env, ScriptedAgent(["ls", "submit"]))
    assert ("fault", False, 0.0, 1) == (result.end, result.counts, result.reward, len(result.steps))
    assert "grader: " in result.error and "in the grader" in result.error
    await env.aclose()


async def test_a_task_whose_set_up_fails_does_not_end_the_others() -> None:
    """It is a fault of its own."""
    broken = make_task("broken", setup=("false",))
    env = make(FakeLauncher(play), broken, make_task("sound"))
    wanted = [EpisodePlan(name, {"task": name}) for name in ("broken", "sound")]
    batch = await run_episodes([env], lambda plan: ScriptedAgent(["write 42", "submit"]), wanted)
    assert ["fault", "terminated"] == [result.end for result in batch.results]
    assert "task 'broken': its set-up 'false' ended with 1" in batch.results[0].error
    assert ["", "sound"] == [result.task for result in batch.results]
    await env.aclose()


async def test_an_episode_has_a_limit() -> None:
    """A command that hangs ends with it, and the environment plays the next episode."""
    env = make(FakeLauncher(play))
    result = await run_episode(env, ScriptedAgent(["hang"]), limit_s=0.1)
    assert ("out_of_time", "the episode took longer than 0.1 s") == (result.end, result.error)
    assert "terminated" == (await run_episode(env, ScriptedAgent(["submit"]))).end
    await env.aclose()


async def test_steps_up_to_the_limit_are_a_truncation() -> None:
    """It counts: the agent has not submitted in time."""
    env = make(FakeLauncher(play))
    result = await run_episode(env, ScriptedAgent(["ls"] * 9))
    assert ("truncated", True, 5) == (result.end, result.counts, len(result.steps))
    await env.aclose()


async def test_no_sandbox_at_all_ends_everything() -> None:
    """The error is the launcher's own, not a group."""
    launcher = FakeLauncher(play)
    launcher.fail_starts = 1000
    envs = [make(launcher) for _ in range(3)]
    with pytest.raises(LaunchError):
        await run_episodes(envs, lambda plan: ScriptedAgent(["submit"]), plans(10))
    await close(envs)


async def test_cancelled_episodes_leave_environments_that_work() -> None:
    """All steps under way end."""
    envs = [make(FakeLauncher(play)) for _ in range(3)]
    playing = asyncio.create_task(run_episodes(envs, lambda plan: ScriptedAgent(["hang"]), plans(10)))
    await asyncio.sleep(0.05)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    batch = await run_episodes(envs, lambda plan: ScriptedAgent(["submit"]), plans(3))
    assert {"terminated"} == {result.end for result in batch.results}
    await close(envs)


async def test_no_environment_is_an_error() -> None:
    """It says what is missing."""
    with pytest.raises(ValueError, match="envs is empty"):
        await run_episodes([], lambda plan: ScriptedAgent(()), plans(1))


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"fault": "sandbox: lost"}, "sandbox: lost"),
        ({"fault": {"kind": "daemon", "sandbox": "x", "message": "gone"}}, "daemon: gone"),
        ({}, ""),
    ],
)
def test_faults_in_words(info: dict[str, Any], said: str) -> None:
    """As text, as a table, or none."""
    assert said == fault_of(info)


def test_observations_as_text() -> None:
    """Themselves, or gym-codecraft's."""
    assert ("a", "b") == (text_of("a"), text_of({"obs": "b"}))
