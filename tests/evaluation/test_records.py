"""Logs in InterCode's schema: what is written can be read, and so can all forms that its programs write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from codecraft_async.evaluation import EpisodeLog, LogError, Turn, as_log, read_log
from codecraft_async.llm import Usage
from tests.intercode.data import intercode_data


def written(path: Path, content: object) -> Path:
    """A file with *content* as JSON."""
    path.write_text(json.dumps(content))
    return path


def entry(**more: Any) -> dict[str, Any]:
    """An entry as InterCode's experiments write it."""
    history = {"actions": ["a", "b"], "observations": ["x", "y"], "rewards": [0.5, 1.0], "valid_action": [True, False]}
    summary = {"max_reward": 1.0, "max_reward_idx": 1, "turns_taken": 2, "turns_max": 10}
    return {"environment": "ic_bash", "dataset": "d.json", "task_id": 7, "query": "q"} | {
        "turn_history": history,
        "summary": summary,
        **more,
    }


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """All that an episode knows, whatever a sandbox printed."""
    turns = (Turn("ls", "\udcff\x00é", 0.25, True, "think"), Turn("?", "no code", 0.0, False, "", "step 2"))
    episode = EpisodeLog("ic_bash", "fs_1", 3, "q", turns, 10, "hard", {"eval_obs": "x"}, 2, usage=Usage(5, 6, True))
    log = as_log(episode)
    assert ["actions", "observations", "rewards", "valid_action", "thoughts", "steps"] == list(log["turn_history"])
    assert {"max_reward": 0.25, "max_reward_idx": 0, "turns_taken": 2, "turns_max": 10} == log["summary"]
    (read,) = read_log(written(tmp_path / "log.json", {episode.key: log})).values()
    assert ("\\udcff\x00é", "3/2", 0.25) == (read.turns[0].observation, read.key, read.max_reward)
    assert as_log(read) == log


def test_the_forms_of_others(tmp_path: Path) -> None:
    """A wrapper with the arguments; no summary of the best turn; blocked calls without an observation; trajectories."""
    (one,) = read_log(written(tmp_path / "a.json", {"meta": {}, "logs": {"7": entry()}})).values()
    assert (1.0, True, [True, False]) == (one.max_reward, one.is_success, [turn.valid for turn in one.turns])
    react = entry(summary={"max_reward": 0.5, "turns_taken": 2, "turns_max": 10})
    assert 0.5 == read_log(written(tmp_path / "b.json", {"7": react}))["7"].max_reward
    blocked = entry(turn_history={"actions": ["a", "blocked", "b"], "observations": ["x", "y"], "rewards": [0, 0, 1]})
    (one,) = read_log(written(tmp_path / "c.json", {"7": blocked})).values()
    assert [("x", None), (None, None), ("y", None)] == [(turn.observation, turn.valid) for turn in one.turns]
    steps = [{"action": "a", "observation": "x"}]
    trajectory = {
        "environment": "ic_sql",
        "query_idx": 4,
        "query": "q",
        "gold": "g",
        "reward": 1.0,
        "trajectory": steps,
    }
    for content in (trajectory, {"4": trajectory}):
        one = read_log(written(tmp_path / "d.json", content))["4"]
        assert [("a", 0.0), ("submit", 1.0)] == [(turn.action, turn.reward) for turn in one.turns]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "expected an object of episodes"),
        ({"7": 1}, "entry '7': expected an object"),
        ({"7": {}}, "turn_history: expected an object"),
        ({"7": entry(turn_history={"actions": ["a"], "rewards": [0, 1]})}, "1 actions, but 2 rewards"),
        (
            {"7": entry(turn_history={"actions": ["a"], "rewards": [1], "observations": ["x"] * 3})},
            "but 3 observations",
        ),
        ({"7": entry(turn_history={"actions": ["a"], "rewards": ["1"]})}, "'1' is no reward"),
        ({"7": entry(task_id=None)}, "None is no task_id"),
        ({"7": entry(wall_s="x")}, "entry '7': could not convert"),
    ],
)
def test_what_is_no_log(tmp_path: Path, content: object, words: str) -> None:
    """The file, the entry and what is wrong with it are said."""
    file = written(tmp_path / "log.json", content)
    with pytest.raises(LogError, match=words) as raised:
        read_log(file)
    assert str(file) in str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    """Broken JSON and empty directories are told as such."""
    (tmp_path / "log.json").write_text("{")
    with pytest.raises(LogError, match="not valid JSON"):
        read_log(tmp_path)
    (tmp_path / "log.json").unlink()
    with pytest.raises(LogError, match="no run is here"):
        read_log(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LogError, match="that is no file, but a directory, a pipe or a device"):
        read_log(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("name", "episodes", "turns", "solved"),
    [("nl2bash/gpt4_fs_1", 60, 401, 25), ("nl2bash/gpt4_fs_4", 27, 131, 16), ("sql/gpt4_0_516", 517, 2924, 386)],
)
def test_recorded_logs(name: str, episodes: int, turns: int, solved: int) -> None:
    """The recordings have as many episodes, turns and successes as counted otherwise, and are kept as they are."""
    path = intercode_data(f"{name}.json")
    read = read_log(path)
    assert (episodes, turns) == (len(read), sum(len(each.turns) for each in read.values()))
    assert solved == sum(each.is_success for each in read.values())
    for key, raw in json.loads(path.read_bytes()).items():
        log = as_log(read[key])
        assert {part: raw[part] for part in ("turn_history", "summary", "task_id")} == {
            part: log[part] for part in ("turn_history", "summary", "task_id")
        }
