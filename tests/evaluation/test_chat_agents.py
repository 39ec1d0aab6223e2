"""What models are told in each part, and what becomes of their answers, over fake sandboxes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Unpack

import pytest

from codecraft_async.agents import Agent
from codecraft_async.evaluation import (
    ChatRules,
    EpisodeLog,
    EvalRules,
    EvalTask,
    PlanSolveAgent,
    ReActAgent,
    TryAgainAgent,
    Turn,
    evaluate,
    language_of,
    tasks_of,
)
from codecraft_async.intercode import InterCodeVectorEnv
from codecraft_async.llm import ChatOptions, ChatReply, Message, Tool, Usage
from codecraft_async.pool import FakeLauncher
from tests.intercode.fakes import DATA, Sayings, answer

pytestmark = pytest.mark.anyio
BASH = language_of("ic_bash")


class Model:
    """Answers from a list; `asked` has the messages of all questions, as pairs of role and text."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[list[tuple[str, str]]] = []
        self.options: list[ChatOptions] = []

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Give the next answer."""
        assert not tools
        self.asked.append([(message.role, message.content) for message in messages])
        self.options.append(options)
        return ChatReply(self.answers.pop(0), usage=Usage(10, 1))


@pytest.fixture(name="scored")
async def make_scored() -> AsyncGenerator[InterCodeVectorEnv]:
    """An environment that scores each action."""
    env = InterCodeVectorEnv(1, env=Sayings, data_path=DATA, backend=FakeLauncher(answer), score_steps=True)
    yield env
    await env.aclose()


@pytest.fixture(name="unscored")
async def make_unscored() -> AsyncGenerator[InterCodeVectorEnv]:
    """An environment that pays submissions only."""
    env = InterCodeVectorEnv(1, env=Sayings, data_path=DATA, backend=FakeLauncher(answer))
    yield env
    await env.aclose()


async def played(env: InterCodeVectorEnv, make: Callable[[EvalTask], Agent], **rules: Any) -> EpisodeLog:
    """What an agent makes of the task whose answer is 2."""
    return (await evaluate(env, make, tasks_of(DATA, [2]), rules=EvalRules(**rules))).episodes["2"]


async def test_trying_again(scored: InterCodeVectorEnv) -> None:
    """The model sees output and reward; an answer without code is a turn that is not run; at reward 1 it is over."""
    model = Model("First:\n```bash\necho 1\n```", "```\n```", "```bash\nfail 2\n```", "never asked")
    episode = await played(scored, lambda task: TryAgainAgent(model, task, BASH))
    assert [("echo 1", 0.0, True), ("```\n```", 0.0, False), ("fail 2", 1.0, False)] == [
        (turn.action, turn.reward, turn.valid) for turn in episode.turns
    ]
    assert Usage(30, 3) == episode.usage
    system, query, _, output, _, retry = model.asked[-1]
    assert "system" == system[0] and "root" in system[1] and "one fenced code block" in system[1]
    assert "Task: say 2" == query[1]
    assert "It printed:\n1\n\nReward: 0.00\nThe next action?" == output[1]
    assert retry[1].startswith(
        "No Bash code was found in your last answer, and nothing was run. Answer with one fenced"
    )


async def test_trying_again_by_completion(scored: InterCodeVectorEnv) -> None:
    """Where a model only completes a text, one message tells of all tries."""
    model = Model("echo 1", "echo {3}", "echo 2")
    episode = await played(scored, lambda task: TryAgainAgent(model, task, BASH, ChatRules(template="v1")))
    assert (3, True, Usage(30, 3)) == (len(episode.turns), episode.is_success, episode.usage)
    assert [2, 2, 2] == [len(messages) for messages in model.asked]
    assert model.asked[-1][1][1] == (
        "Task: say 2\n\nAction: echo 1\n1\nReward: 0.00\n\nAction: echo {3}\n{3}\nReward: 0.00\n\nThe next action:"
    )


@pytest.mark.parametrize("template", ["v2", "v3", "v4", "game"])
async def test_templates(scored: InterCodeVectorEnv, template: str) -> None:
    """Each tells the task, the tables if it may, and what came of an action; long outputs are cut."""
    model = Model("```\necho " + "x" * 500 + "\n```", "```\necho 2\n```")
    rules = ChatRules(template=template, handicap=True, max_observation_chars=100, dialogue_limit=2)
    tables = {"db_tables": {"singer": ["id", "name"]}}
    task = EvalTask(2, "say 2", extras=tables)
    await evaluate(scored, lambda each: TryAgainAgent(model, each, BASH, rules), [task])
    assert "say 2\n\nTable singer: id, name" in model.asked[0][1][1]
    told = model.asked[1][-1][1]
    assert "characters or more left out" in told and "Reward: 0.00" in told and "x" * 60 not in told


async def test_reacting(unscored: InterCodeVectorEnv) -> None:
    """Thoughts are logged, the observation is numbered, no reward is told, and the submission is the model's own."""
    solved = EpisodeLog("e", "d", 9, "an old task", tuple(Turn(f"a{number}", "o", 1.0) for number in range(3)))
    same = EpisodeLog("e", "d", 2, "say 2", tuple(Turn("secret", "o", 1.0) for _ in range(3)))
    model = Model("Thought 1: hm\nAction 1: execute[echo 2]", "I am done", "Thought: so\nAction: submit")
    rules = ChatRules(demonstrations=(same, solved))
    episode = await played(unscored, lambda task: ReActAgent(model, task, BASH, rules))
    assert [("echo 2", "hm", 0.0), ("I am done", "", 0.0), ("submit", "so", 1.0)] == [
        (turn.action, turn.thought, turn.reward) for turn in episode.turns
    ]
    system, _, _, output, _, retry = model.asked[-1]
    assert "Action 3: execute[a2]\nObservation 3: o\nAction 4: submit" in system[1] and "secret" not in system[1]
    assert ("Observation 1: 2", True) == (output[1], retry[1].startswith("No action was found"))
    sampling = model.options[0].get("sampling")
    assert sampling is not None and ("\nObservation",) == sampling.stop


async def test_planning_and_solving(scored: InterCodeVectorEnv) -> None:
    """One action for each step, the same step again where there was none, and turns to refine; then it is over."""
    model = Model("1. Look\n2. Say it", "```\necho 7\n```", "```\n```", "```\necho 8\n```", "```\necho 9\n```")
    rules = ChatRules(refine_turns=1)
    episode = await played(scored, lambda task: PlanSolveAgent(model, task, BASH, rules))
    assert [("echo 7", "Look"), ("```\n```", "Say it"), ("echo 8", "Say it"), ("echo 9", "")] == [
        (turn.action, turn.step) for turn in episode.turns
    ]
    asked = [messages[-1][1] for messages in model.asked]
    assert "Write a plan" in asked[0] and asked[1].startswith("Do step 1 of your plan now: Look\n")
    assert asked[2].startswith("It printed:\n7\n\nDo step 2 of your plan now: Say it\n")
    assert asked[4].startswith("It printed:\n8\n\nYour plan is done, and the task is not solved yet. Reward: 0.00\n")


async def test_an_empty_plan(scored: InterCodeVectorEnv) -> None:
    """The task itself is its only step."""
    model = Model("I just do it.", "```\necho 2\n```")
    assert (await played(scored, lambda task: PlanSolveAgent(model, task, BASH))).is_success
    assert model.asked[1][-1][1].startswith("Do step 1 of your plan now: say 2\n")


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"template": "v9"}, "must be one of v1, v2, v3, v4, game"),
        ({"max_observation_rows": 0}, "max_observation_rows is 0"),
        ({"dialogue_limit": 0}, "dialogue_limit is 0"),
    ],
)
def test_rules_that_make_no_sense(rules: dict[str, Any], words: str) -> None:
    """They are refused with what is allowed."""
    with pytest.raises(ValueError, match=words):
        ChatRules(**rules)
