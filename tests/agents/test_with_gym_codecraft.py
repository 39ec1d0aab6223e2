"""Models in gym-codecraft's environment: one as the student, one as the teacher, over fake sandboxes."""

from __future__ import annotations

import pytest

from codecraft_async.agents import CodeCraftDialect, EpisodePlan, ExpertAgent, ModelAgent, ModelTeacher, run_episode
from codecraft_async.gym_codecraft import CodeCraftEnv, Teacher
from codecraft_async.pool import FakeLauncher
from tests.agents.chats import client_of
from tests.envs.code_envs import make_task, play
from tests.gym_codecraft.students import fake_env
from tests.llm.openai_server import OpenAIServer, calls, fails

pytestmark = pytest.mark.anyio

PLAN = EpisodePlan("first", {"task_id": "answer"})


def env_of(teacher: Teacher | None = None) -> CodeCraftEnv:
    """An environment whose work that teacher grades."""
    return fake_env(FakeLauncher(play), teacher=teacher)


async def test_a_model_that_calls_functions_is_graded_by_a_model() -> None:
    """The teacher's tenth is the reward, its comments are what the student reads, and the session ends with exit."""
    student = (calls(("command", {"command": "ls"})), calls(("submit", {})), calls(("exit", {})))
    async with (
        OpenAIServer(*student) as server,
        OpenAIServer(calls(("grade", {"score": 4, "comments": "Hm"}))) as school,
    ):
        async with client_of(server) as client, client_of(school) as teacher:
            env = env_of(ModelTeacher(teacher))
            agent = ModelAgent(client, dialect=CodeCraftDialect(), use_tools=True)
            result = await run_episode(env, agent, PLAN)
            await env.aclose()
    assert ("terminated", 4.0, 3) == (result.end, result.reward, len(result.steps))
    assert "The teacher's comments: Hm.\nThe score is: 4.\n" in result.steps[1].observation


async def test_a_teacher_that_fails_is_a_fault() -> None:
    """Its endpoint is down: the episode counts for nothing."""
    async with OpenAIServer(otherwise=fails(500)) as school, client_of(school) as teacher:
        env = env_of(ModelTeacher(teacher))
        result = await run_episode(env, ExpertAgent({"answer": make_task(expert=("ls",))}, as_json=True), PLAN)
        await env.aclose()
    assert ("fault", False, 0.0) == (result.end, result.counts, result.reward)
    assert "ServerFailed" in result.error and "it answered 500" in result.error


async def test_the_expert_in_json() -> None:
    """Commands, submission and exit; graded by the task's own grader."""
    env = env_of()
    result = await run_episode(env, ExpertAgent({"answer": make_task(expert=("write 42",))}, as_json=True), PLAN)
    await env.aclose()
    assert ("terminated", 10.0, 3) == (result.end, result.reward, len(result.steps))
