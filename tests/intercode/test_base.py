"""What all InterCode environments have in common, over fake sandboxes."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from codecraft_async import EpisodeError
from codecraft_async.curriculum import Dataset
from codecraft_async.intercode import InterCodeEnv, InterCodeVectorEnv
from codecraft_async.intercode.episodes import LOG
from codecraft_async.pool import FakeLauncher, LaunchError, RequestRefused, SandboxLost
from tests.intercode.fakes import DATA, Sayings, answer, sayings

pytestmark = pytest.mark.anyio


async def test_an_episode() -> None:
    """The query is observed first; actions pay nothing; a submission observes the last output and pays its worth."""
    env = sayings()
    observation, info = await env.areset(index=2)
    assert ("say 2", 2, "2", False) == (observation, info["index"], info["task"], info["action_executed"])
    step = await env.astep("echo 1")
    assert ("1", 0.0, False, False, True) == (*step[:4], step[4]["action_executed"])
    step = await env.astep("fail 2")
    assert ("2", False, 2) == (step[0], step[4]["action_executed"], step[4]["steps"])
    observation, reward, terminated, truncated, info = await env.astep("submit")
    assert ("2", 1.0, True, False) == (observation, reward, terminated, truncated)
    assert ("2", "2", True, True, 1.0) == tuple(
        info[key] for key in ("agent_obs", "eval_obs", "action_executed", "graded", "score")
    )
    with pytest.raises(ResetNeeded):
        await env.astep("echo 1")
    await env.aclose()


async def test_skipping() -> None:
    """`skip` ends an episode without a reward."""
    env = sayings()
    await env.areset(index=1)
    await env.astep("echo 1")
    assert ("skipped", 0.0, True, False) == (await env.astep("skip"))[:4]
    await env.aclose()


async def test_every_episode_has_a_new_sandbox() -> None:
    """What an action left is gone after the reset."""
    env = sayings()
    await env.areset(index=0)
    await env.astep("keep x")
    assert "x" == (await env.astep("recall"))[0]
    await env.areset(index=0)
    assert "" == (await env.astep("recall"))[0]
    await env.aclose()


async def test_an_environment_may_keep_its_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it says that it has made the one at hand as good as new; else, or when that is lost, another is had."""
    kept = [True, True, False]

    async def restore_container(self: Sayings) -> bool:
        if len(kept) == 2:
            self.sandbox.close()
            raise SandboxLost(self.sandbox.id, "it died over that")
        return kept[0]

    monkeypatch.setattr(Sayings, "restore_container", restore_container)
    env = sayings()
    await env.areset(index=0)
    await env.astep("keep x")
    for expected in ("x", "", ""):
        await env.areset(index=0)
        kept.pop(0)
        assert expected == (await env.astep("recall"))[0]
        await env.astep("keep y")
    await env.aclose()


async def test_no_restore_is_wasted() -> None:
    """Sandboxes of agents and of golds are alike, so that each is restored once after it was used."""
    env = sayings()
    for _ in range(3):
        await env.areset(index=1)
        await env.astep("submit")
    pool = await env.runtime.pool()
    async with asyncio.timeout(10):
        while pool.stats().restoring:  # noqa: ASYNC110  # a pool says nothing by itself
            await asyncio.sleep(0.001)
    stats = pool.stats()
    assert stats.waits.count - 1 == stats.restored  # all but the last, which is still lent
    await env.aclose()


async def test_rows_by_seed() -> None:
    """The same seed gives the same rows, and "sequential" all in order; options choose one as `index` does."""
    seen: list[list[int]] = []
    for _ in range(2):
        env = sayings()
        infos = [(await env.areset(seed=7 if first else None))[1] for first in (True, False, False, False)]
        seen.append([int(info["index"]) for info in infos])
        await env.aclose()
    assert seen[0] == seen[1] and len(set(seen[0])) > 1
    env = sayings(sampler="sequential")
    assert [0, 1, 2, 3, 4, 0] == [int((await env.areset())[1]["index"]) for _ in range(6)]
    assert 3 == (await env.areset(options={"index": np.int64(3)}))[1]["index"]
    await env.aclose()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"index": 5}, IndexError, "no row 5: sayings has the rows 0 to 4"),
        ({"index": -1}, IndexError, "no row -1"),
        ({"options": {"idx": 1}}, ValueError, "unknown reset option 'idx'"),
        ({"options": {"index": "1"}}, TypeError, "index is '1'"),
        ({"index": True}, TypeError, "index is True"),
    ],
)
async def test_wrong_resets(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    """What is asked for and cannot be is said, and the next reset works."""
    env = sayings()
    with pytest.raises(error, match=words):
        await env.areset(**arguments)
    assert "say 1" == (await env.areset(index=1))[0]
    await env.aclose()


async def test_interactive_mode() -> None:
    """Without data there is no query and no reward; actions run."""
    env = sayings(data_path=None)
    observation, info = await env.areset()
    assert ("", -1, "sayings", "N/A", "N/A") == (observation, info["index"], info["task"], env.query, env.gold)
    assert "1" == (await env.astep("echo 1"))[0]
    observation, reward, terminated, _, info = await env.astep("submit")
    assert ("1", 0.0, True, False) == (observation, reward, terminated, info["graded"])
    with pytest.raises(IndexError, match="give a data_path"):
        await env.areset(index=0)
    await env.aclose()


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        ("echo \ud800", "an action cannot hold half of a surrogate pair"),
        ("echo \0", "an action cannot hold a NUL character"),
        ("refuse", "the action cannot be run: sandbox x cannot write y: it is a directory"),
    ],
)
async def test_actions_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch, action: str, problem: str) -> None:
    """That is the agent's doing, and the episode goes on; other mistakes are the subclass's."""
    run = Sayings.execute_action

    async def execute_action(self: Sayings, action: str) -> str:
        if action == "refuse":
            raise RequestRefused("x", "write y", errno.EISDIR, "it is a directory")
        if action == "err":
            raise ValueError("a bug")
        return await run(self, action)

    monkeypatch.setattr(Sayings, "execute_action", execute_action)
    env = sayings(score_steps=True)
    await env.areset(index=1)
    observation, _, terminated, truncated, info = await env.astep(action)
    assert (problem, False, False) == (observation, terminated, truncated)
    assert (False, 0.0, 1, True) == (info["action_executed"], info["score"], info["steps"], info["valid"])
    assert ("1", 1.0) == ((await env.astep("echo 1"))[0], env.info["score"])
    with pytest.raises(ValueError, match="a bug"):
        await env.astep("err")
    await env.aclose()


@pytest.mark.parametrize("returned", [(float("nan"), {}), (None, {}), (1.0, None), None])
async def test_rewards_that_are_none(monkeypatch: pytest.MonkeyPatch, returned: Any) -> None:
    """What a subclass returns and is no reward is a fault, as what it raises is."""

    async def get_reward(self: Sayings) -> Any:
        return returned

    monkeypatch.setattr(Sayings, "get_reward", get_reward)
    env = sayings()
    await env.areset(index=1)
    _, reward, _, truncated, info = await env.astep("submit")
    assert (0.0, True, "grader", False) == (reward, truncated, info["fault"]["kind"], info["valid"])
    await env.aclose()


async def test_preparing() -> None:
    """What `preprocess` returns runs before each episode, and counts as none of its actions; failing it is an error."""

    def prepare(record: dict[str, Any]) -> list[str]:
        return [f"keep {record['number']}"] if record["number"] < 3 else [f"fail {record['gold']}"]

    env = sayings(preprocess=prepare)
    observation, info = await env.areset(index=2)
    assert ("say 2", 0, False) == (observation, info["steps"], info["action_executed"])
    assert "2" == (await env.astep("recall"))[0]
    assert [("recall", "2")] == env.trajectory
    with pytest.raises(EpisodeError, match="row 3: the prepared action 'fail 3' failed: 3"):
        await env.areset(index=3)
    with pytest.raises(ResetNeeded):
        await env.astep("recall")
    await env.areset(index=0)
    await env.aclose()
    env = sayings(preprocess=lambda record: "ls")
    with pytest.raises(TypeError, match="must return a list of actions, this one returned 'ls'"):
        await env.areset()
    await env.aclose()


async def test_trajectory_files(tmp_path: Path) -> None:
    """Each submitted episode is a file of its own, however fast they follow, whatever was printed."""
    env = sayings(traj_dir=tmp_path)
    for index in (1, 2, 1):
        await env.areset(index=index)
        await env.astep("echo 1\udcff" if index == 2 else "echo 1")
        await env.astep("submit")
    await env.aclose()
    files = sorted((tmp_path / "logs_sayings").iterdir(), key=lambda path: int(path.stem.rpartition("_")[2]))
    assert 3 == len(files)
    logs = [json.loads(path.read_bytes()) for path in files]
    assert [1.0, 0.0, 1.0] == [log["reward"] for log in logs]
    first = logs[0]
    assert ["environment", "query_idx", "query", "gold", "reward", "trajectory", "info"] == list(first)
    assert ("sayings", 1, "say 1", "1") == tuple(first[key] for key in ("environment", "query_idx", "query", "gold"))
    assert [{"action": "echo 1", "observation": "1"}] == first["trajectory"]
    assert ("1", True) == (first["info"]["agent_obs"], first["info"]["action_executed"])


async def test_an_unfinished_trajectory(tmp_path: Path) -> None:
    """It can be written at any time, where there is a directory for it; an environment may know actions."""
    env = sayings(traj_dir=tmp_path)
    await env.areset(index=1)
    await env.astep("echo 1")
    log = json.loads(env.save_trajectory().read_bytes())
    assert ([{"action": "echo 1", "observation": "1"}], 0.0, "say 1") == (
        log["trajectory"],
        log["reward"],
        log["query"],
    )
    assert [] == env.get_available_actions()
    await env.aclose()
    env = sayings()
    with pytest.raises(ValueError, match="give a traj_dir"):
        env.save_trajectory()
    await env.aclose()


async def test_scoring_every_step() -> None:
    """With `score_steps` info tells what a submission would pay; the reward is paid once, by the submission."""
    env = sayings(score_steps=True)
    await env.areset(index=1)
    steps = [await env.astep(action) for action in ("echo 1", "fail 1", "echo 0")]
    assert [(0.0, 1.0, True), (0.0, 1.0, False), (0.0, 0.0, True)] == [
        (step[1], step[4]["score"], step[4]["action_executed"]) for step in steps
    ]
    assert (0.0, "0") == ((scored := await env.ascore())[0], scored[1]["agent_obs"])
    assert not (await env.astep("echo 1"))[2]
    assert "2" == (await env.ascore("2"))[1]["submission"] and "" == env.submission
    await env.aclose()


async def test_telling_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    """With `verbose`, resets, actions and rewards are told on stderr; without, nothing is."""
    for verbose in (False, True):
        env = sayings(verbose=verbose)
        try:
            await env.areset(index=1)
            await env.astep("echo 1")
            await env.astep("submit")
        finally:
            await env.aclose()
            LOG.handlers.clear()
            LOG.setLevel(logging.NOTSET)
        told = capsys.readouterr()
        assert "" == told.out
        assert verbose == all(words in told.err for words in ("reset to row 1", "action 'echo 1': '1'", "reward 1.0"))


async def test_faults_are_no_rewards() -> None:
    """A reward that crashes, and a sandbox that dies, end the episode as faults; a gold that fails makes it invalid."""
    launcher = FakeLauncher(answer)
    env = sayings(launcher)
    await env.areset(index=4)
    observation, reward, terminated, truncated, info = await env.astep("submit")
    assert ("", 0.0, False, True, False) == (observation, reward, terminated, truncated, info["valid"])
    assert ("grader", "ZeroDivisionError: a bug") == (info["fault"]["kind"], info["fault"]["message"])
    await env.areset(index=3)
    info = (await env.astep("submit"))[4]
    assert (True, False) == (info["corrupt_gold"], info["valid"])
    await env.areset(index=1)
    env.sandbox.close()
    *_, truncated, info = await env.astep("echo 1")
    assert (True, "sandbox", "fault") == (truncated, info["fault"]["kind"], info["truncation"])
    assert "say 2" == (await env.areset(index=2))[0]
    await env.aclose()


async def test_a_reset_without_a_sandbox() -> None:
    """It is an error, or, if so asked, said in info; the next step then ends the episode."""
    launcher = FakeLauncher(answer)
    launcher.fail_starts = 100
    env = sayings(launcher)
    with pytest.raises(LaunchError):
        await env.areset()
    await env.aclose()
    env = sayings(launcher, reset_faults="info")
    info = (await env.areset())[1]
    assert ("daemon", False) == (info["fault"]["kind"], info["valid"])
    *_, truncated, info = await env.astep("echo 1")
    assert (True, "daemon") == (truncated, info["fault"]["kind"])
    await env.aclose()


async def test_cutting_off() -> None:
    """After so many actions the episode is truncated, which info says; a long output is cut in its middle."""
    env = sayings(max_episode_steps=2, max_observation_chars=100)
    await env.areset(index=0)
    assert not (await env.astep("echo 1"))[3]
    observation, _, terminated, truncated, info = await env.astep("echo " + "x" * 1000)
    assert (False, True, "max_episode_steps") == (terminated, truncated, info["truncation"])
    assert 100 == len(observation) and "left out" in observation
    await env.aclose()


async def test_a_cancelled_action() -> None:
    """An action that is cancelled leaves the episode under way."""
    env = sayings()
    await env.areset(index=1)
    task = asyncio.create_task(env.astep("hang"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert "1" == (await env.astep("echo 1"))[0]
    await env.aclose()


def test_gymnasiums_checker(recwarn: pytest.WarningsRecorder) -> None:
    """gymnasium finds nothing wrong with such an environment."""
    env = sayings()
    check_env(env, skip_render_check=True)
    env.close()


def test_wrong_arguments() -> None:
    """Limits that are none are refused; so is a missing class of a vector environment."""
    with pytest.raises(ValueError, match="command_limit_s is 0"):
        sayings(command_limit_s=0)
    with pytest.raises(ValueError, match="max_episode_steps is -1"):
        sayings(max_episode_steps=-1)
    with pytest.raises(ValueError, match="give a subclass of InterCodeEnv"):
        InterCodeVectorEnv(2)
    with pytest.raises(ValueError, match="num_envs is 0"):
        InterCodeVectorEnv(0, env=Sayings)


async def test_unwritten_subclasses() -> None:
    """A subclass without its methods says which one is missing."""
    env = InterCodeEnv(data_path=Dataset.from_rows([{"query": "q"}]), backend=FakeLauncher(answer))
    await env.areset()
    with pytest.raises(NotImplementedError, match="execute_action"):
        await env.astep("ls")
    assert "get_reward" in (await env.astep("submit"))[4]["fault"]["message"]
    await env.aclose()


async def test_many_at_once() -> None:
    """A subclass is vectorized as it is: rows in order, one pool, scores and faults of each in the infos."""
    launcher = FakeLauncher(answer)
    env = InterCodeVectorEnv(
        4, env=Sayings, data_path=DATA, backend=launcher, sampler="sequential", autoreset_mode="Disabled"
    )
    observations, infos = await env.areset(seed=1)
    assert ("say 0", "say 1", "say 2", "say 3") == observations
    assert [0, 1, 2, 3] == infos["index"].tolist()
    observations, *_, infos = await env.astep(("echo 0", "fail 1", "echo x", "echo 3"))
    assert ("0", "1", "x", "3") == observations
    assert [True, False, True, True] == infos["action_executed"].tolist()
    _, rewards, terminations, _, infos = await env.astep(("submit",) * 4)
    assert [1.0, 1.0, 0.0, 0.0] == rewards.tolist()
    assert all(terminations)
    assert [False, False, False, True] == infos["corrupt_gold"].tolist()
    assert len(launcher.sandboxes) <= 6
    await env.aclose()


def test_render() -> None:
    """Mode "ansi" shows the last action, its output, and what became of it."""
    env = sayings(render_mode="ansi")
    env.reset(options={"index": 1})
    env.step("echo 1")
    assert "$ echo 1" in (env.render() or "")
    env.close()
