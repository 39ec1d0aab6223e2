"""Tasks played in many environments at once, over fake sandboxes, and what the log says of each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar

import pytest

from codecraft_async.agents import AgentFailed
from codecraft_async.evaluation import (
    EpisodeLog,
    EvalRules,
    EvalTask,
    GoldAgent,
    Move,
    MovesAgent,
    ReplayAgent,
    Turn,
    evaluate,
    tasks_of,
)
from codecraft_async.intercode import InterCodeVectorEnv
from codecraft_async.llm import BudgetExceeded
from codecraft_async.pool import FakeLauncher
from tests.intercode.fakes import DATA, Sayings, answer

pytestmark = pytest.mark.anyio


@pytest.fixture(name="launcher")
def make_launcher() -> FakeLauncher:
    """What starts the sandboxes."""
    return FakeLauncher(answer)


@pytest.fixture(name="scored")
async def make_scored(launcher: FakeLauncher) -> AsyncGenerator[InterCodeVectorEnv]:
    """Two environments that score each action."""
    env = InterCodeVectorEnv(2, env=Sayings, data_path=DATA, backend=launcher, score_steps=True)
    yield env
    await env.aclose()


@pytest.fixture(name="unscored")
async def make_unscored(launcher: FakeLauncher) -> AsyncGenerator[InterCodeVectorEnv]:
    """Two environments that pay submissions only."""
    env = InterCodeVectorEnv(2, env=Sayings, data_path=DATA, backend=launcher)
    yield env
    await env.aclose()


def episode(*turns: Turn) -> EpisodeLog:
    """An episode on the first task."""
    return EpisodeLog("sayings", "sayings", 0, "say 0", turns)


def says(*moves: str) -> Any:
    """What makes agents that do all these."""
    return lambda task: MovesAgent(moves)


async def test_each_turn_is_scored_until_one_is_right(scored: InterCodeVectorEnv) -> None:
    """The episode ends at reward 1, without a submission of its own in the log; errors of actions are told."""
    result = await evaluate(scored, says("echo 7", "fail 1", "echo 1", "echo 2"), tasks_of(DATA, [1, 2]), dataset="d")
    first, second = result.episodes["1"], result.episodes["2"]
    assert (
        Turn("echo 7", "7", 0.0, True),
        Turn("fail 1", "1", 1.0, False),
    ) == first.turns
    assert (("sayings", "d", 1, "say 1", 10), True) == (
        (first.environment, first.dataset, first.task_id, first.query, first.turns_max),
        first.is_success,
    )
    assert ([0.0, 0.0, 0.0, 1.0], 3) == ([turn.reward for turn in second.turns], second.best_turn)
    assert ("2", "2") == (second.info["agent_obs"], second.info["eval_obs"])


async def test_submissions_are_turns_where_nothing_else_is_scored(unscored: InterCodeVectorEnv) -> None:
    """An agent that has had its turns submits, once; so does one that has nothing more to do."""
    rules = EvalRules(max_turns=2)
    result = await evaluate(unscored, says("echo 1", "echo 2", "echo 3"), tasks_of(DATA, [2, 1]), rules=rules)
    assert ["2", "1"] == list(result.episodes)
    assert ["echo 1", "echo 2", "submit"] == [turn.action for turn in result.episodes["2"].turns]
    assert ([0.0, 0.0, 1.0], [0.0, 0.0, 0.0]) == tuple(
        [turn.reward for turn in each.turns] for each in result.episodes.values()
    )


async def test_nothing_and_golds(unscored: InterCodeVectorEnv) -> None:
    """A gold that is an action earns what it is worth; an agent that does nothing has one turn."""
    task = EvalTask(1, "say 1", "echo 1")
    assert (await evaluate(unscored, lambda each: GoldAgent(each, "ic_bash"), [task])).episodes["1"].is_success
    nothing = (await evaluate(unscored, says(), [task])).episodes["1"]
    assert (("submit",), False) == (tuple(turn.action for turn in nothing.turns), nothing.is_success)


async def test_a_replay_runs_what_was_run(scored: InterCodeVectorEnv) -> None:
    """Answers that were no code are turns again, and are not run; a replay goes on where the recording did."""
    old = episode(
        Turn("echo 0", "0", 0.5),
        Turn("I do not know", "No BASH code was found in your last response.", 0.0, False),
        Turn("blocked", None, 0.0, None),
        Turn("echo 5", "5", 0.5),
    )
    rules = EvalRules(stop_at=None)
    result = await evaluate(scored, lambda task: ReplayAgent(old), tasks_of(DATA, [0]), rules=rules)
    assert [("echo 0", 1.0, True), ("I do not know", 0.0, False), ("echo 5", 0.0, True)] == [
        (turn.action, turn.reward, turn.valid) for turn in result.episodes["0"].turns
    ]


async def test_faults_are_played_again_and_then_told(launcher: FakeLauncher, unscored: InterCodeVectorEnv) -> None:
    """A reward that crashes does so twice; one episode more loses its sandbox only once, and is told as if never."""
    told: list[EpisodeLog] = []
    lost: list[str] = []

    class Breaks(MovesAgent):
        async def act(self, observation: str, info: dict[str, Any]) -> str:
            if observation == "say 1" and not lost:
                lost.append(observation)
                for sandbox in launcher.sandboxes:
                    sandbox.close()
            return await super().act(observation, info)

    result = await evaluate(unscored, lambda task: Breaks(["echo 1"]), tasks_of(DATA, [1, 4]), on_episode=told.append)
    assert [("1", True), ("4", False)] == [(name, each.counts) for name, each in result.episodes.items()]
    assert ("fault", "grader: ZeroDivisionError: a bug") == (result.episodes["4"].end, result.episodes["4"].error)
    assert {"1", "4"} == {each.key for each in told} and 2 == len(told)


async def test_a_gold_that_fails_is_not_the_agents_fault(scored: InterCodeVectorEnv) -> None:
    """The episode is played to its end, and does not count."""
    played = (await evaluate(scored, says("echo 3", "echo x"), tasks_of(DATA, [3]))).episodes["3"]
    assert (2, True, False, "terminated") == (len(played.turns), played.corrupt_gold, played.counts, played.end)


class Fails(MovesAgent):
    """An agent that cannot begin."""

    def __init__(self, error: Exception, moves: Sequence[str] = ()) -> None:
        super().__init__(moves)
        self._error = error

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """Fail."""
        raise self._error


async def test_agents_that_fail_and_budgets_that_end(unscored: InterCodeVectorEnv) -> None:
    """An agent's failure is an episode's end; a budget that is used up leaves the rest to another time."""
    result = await evaluate(unscored, lambda task: Fails(AgentFailed("no idea")), tasks_of(DATA, [0]))
    assert ("agent_failed", "AgentFailed: no idea", ()) == (
        result.episodes["0"].end,
        result.episodes["0"].error,
        result.episodes["0"].turns,
    )
    result = await evaluate(unscored, lambda task: Fails(BudgetExceeded("used up")), tasks_of(DATA))
    assert ({}, 5, "used up") == (result.episodes, len(result.left), result.stopped)


async def test_samples(unscored: InterCodeVectorEnv) -> None:
    """The same task can be played several times, under names of their own."""
    result = await evaluate(unscored, says("echo 1"), tasks_of(DATA, [1, 0], samples=2))
    assert {"1": True, "0": False, "1/1": True, "0/1": False} == {
        name: each.is_success for name, each in result.episodes.items()
    }
    with pytest.raises(ValueError, match="twice"):
        await evaluate(unscored, says(), [*tasks_of(DATA, [1]), *tasks_of(DATA, [1])])
    with pytest.raises(IndexError, match="no task 5: sayings has the tasks 0 to 4"):
        tasks_of(DATA, [5])


async def test_thoughts(scored: InterCodeVectorEnv) -> None:
    """What an agent says beside its action is in the log."""
    moves = [Move("echo 7", thought="hm"), Move("echo 1", step="say it")]
    turns = (await evaluate(scored, says(*moves), tasks_of(DATA, [1]))).episodes["1"].turns
    assert [("hm", ""), ("", "say it")] == [(turn.thought, turn.step) for turn in turns]


class Flags(Sayings):
    """Pays 1 for the submission that is the gold, one half for any other, and breaks at one of them."""

    name: ClassVar[str] = "ic_ctf"

    async def get_reward(self) -> tuple[float, dict[str, Any]]:
        """Look at the submission."""
        if self.submission == "crash":
            raise ZeroDivisionError("a bug")
        return (1.0 if self.submission == self.gold else 0.5), {"submission": self.submission}


class Functions(Flags):
    """The same, in Python."""

    name: ClassVar[str] = "ic_python"


async def hidden(env: type[Flags], *moves: str) -> EpisodeLog:
    """An episode whose submissions do not end it, on the task whose answer is 2."""
    many = InterCodeVectorEnv(1, env=env, data_path=DATA, backend=FakeLauncher(answer))
    rules = EvalRules(hidden_submissions=True, max_turns=4, attempts=1)
    result = await evaluate(many, says(*moves), tasks_of(DATA, [2]), rules=rules)
    await many.aclose()
    return result.episodes["2"]


async def test_submissions_that_may_be_wrong() -> None:
    """A wrong flag is a turn, the right one ends the episode, and no turn but those earns anything."""
    played = await hidden(Flags, "echo 2", "submit 1", "submit 2", "echo 3")
    assert [("echo 2", 0.0, "2"), ("submit 1", 0.5, "That is not right. Keep trying."), ("submit 2", 1.0, None)] == [
        (turn.action, turn.reward, turn.observation if turn.reward < 1 else None) for turn in played.turns
    ]
    assert (True, "terminated", "2") == (played.is_success, played.end, played.info["submission"])
    given_up = await hidden(Flags, "submit 1", "skip")
    assert ([0.5, 0.0], "terminated", 0.5) == (
        [turn.reward for turn in given_up.turns],
        given_up.end,
        given_up.max_reward,
    )
    assert ("fault", "grader: ZeroDivisionError: a bug") == (
        (broken := await hidden(Flags, "submit crash")).end,
        broken.error,
    )


async def test_functions_are_judged_when_they_are_defined() -> None:
    """What an action defines is submitted under its name; other actions earn nothing, and no submission is a turn."""
    played = await hidden(Functions, "echo 2", "def f(x): ...", "def f(x): ...", "def f(x): ...", "never played")
    assert [0.0, 0.5, 0.5, 0.5] == [turn.reward for turn in played.turns]
    assert ("f", False, "terminated") == (played.info["submission"], played.is_success, played.end)
