"""``codecraft replay``, ``codecraft export`` and ``codecraft demo --record``: what they say and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from codecraft_async import CodeEnv
from codecraft_async._trajectory_export import chat_entry, intercode_entry
from codecraft_async._trajectory_lines import Branch, Line
from codecraft_async.cli import main
from codecraft_async.curriculum import load_curriculum
from codecraft_async.pool import FakeLauncher
from codecraft_async.trajectory import EpisodeStart, RecordedEpisode, find_parents, read_trajectories, with_past
from tests.envs.code_envs import make, play
from tests.envs.trajectories import encoded, start_line, step_line

ACTIONS = ["echo hello", "cat none", "printf '\\033[31mred\\n'; date +%s%N", "submit"]


@pytest.fixture(scope="module", name="recording")
def make_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two episodes of a built-in task in real sandboxes; the second prints what never comes again."""
    path = tmp_path_factory.mktemp("recordings") / "run.jsonl.gz"
    env = CodeEnv(task="hello-world", backend="local", record=path)
    for actions in (ACTIONS[:2], ACTIONS):
        env.reset()
        for action in actions:
            env.step(action)
    env.close()
    return path


def written(path: Path, *lines: Line) -> str:
    """Return the name of a file with these lines."""
    path.write_bytes(encoded(lines))
    return str(path)


def test_a_replay_shows_what_differs_and_fails(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Old and new lines, with nothing in them that a terminal would act on."""
    assert 1 == main(["replay", str(recording), "--backend", "local", "--num-envs", "2"])
    said = capsys.readouterr().out
    assert "  step 3: observation\n" in said
    assert r"\x1b[31mred" in said and "\x1b" not in said
    assert "2 episodes: 1 the same, 1 different, 0 not played; 6 steps compared" in said
    assert f"({recording}:4)" in said


def test_a_replay_of_what_is_the_same_succeeds(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what never comes again masked, or with the other episode alone."""
    words = ["replay", str(recording), "--backend", "local"]
    assert 0 == main([*words, "--mask", "times", "--mask-pattern", "[0-9]{19}"])
    first = next(read_trajectories(recording)).start.episode
    assert 0 == main([*words, "--episode", first[:8]])
    assert "1 episodes: 1 the same, 0 different, 0 not played; 2 steps compared" in capsys.readouterr().out


def test_a_replay_of_nothing_fails(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was shown to be the same."""
    assert 1 == main(["replay", str(recording), "--backend", "local", "--episode", "none"])
    assert "there is no episode to replay" in capsys.readouterr().out


def test_what_cannot_be_played_is_told_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each episode with its reason."""
    path = written(tmp_path / "run.jsonl", start_line(), step_line())
    assert 1 == main(["replay", path, "--backend", "local"])
    said = capsys.readouterr().out
    assert "could not be played: its curriculum 'curriculum' was made by a program: say where the tasks are" in said
    assert "1 episodes: 0 the same, 0 different, 1 not played; 0 steps compared" in said


@pytest.mark.parametrize("command", [["replay", "--backend", "local"], ["export", "--format", "chat"]])
def test_damage_is_one_line_on_stderr(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With file and line; a cut last line is told and no failure of an export; the rest can be had if asked for."""
    path = tmp_path / "run.jsonl"
    lines = encoded([start_line(curriculum_source="builtin"), step_line(step=1)])
    path.write_bytes(b"garbage\n" + lines)
    assert 1 == main([*command, str(path)])
    assert f"codecraft {command[0]}: {path}:1: it is no JSON: " in capsys.readouterr().err
    assert 1 == main([*command, str(path), "--skip-damaged"])
    said, complaint = capsys.readouterr()
    assert f"{path}:1: it is no JSON" in complaint and said
    path.write_bytes(lines + b'{"schema":1,')
    assert int(command[0] == "replay") == main([*command, str(path)])
    assert f"codecraft {command[0]}: {path}:3: the line is cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replay"], "the following arguments are required: FILE"),
        (["replay", "x", "--mask", "dates"], "invalid choice: 'dates'"),
        (["replay", "x", "--num-envs", "0"], "'0' is not a whole number from 1 to 4096"),
        (["export", "x"], "the following arguments are required: --format"),
        (["export", "x", "--format", "csv"], "invalid choice: 'csv'"),
    ],
)
def test_command_lines_that_make_no_sense(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They end with status 2 and a line that says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert 2 == caught.value.code
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replay", "/none.jsonl"], "codecraft replay: /none.jsonl: cannot be read: No such file or directory"),
        (["export", "/none.jsonl", "--format", "chat"], "codecraft export: /none.jsonl: cannot be read: No such file"),
        (["replay", "/none.jsonl", "--mask-pattern", "("], "codecraft replay: '(' is no regular expression"),
        (["replay", "/none.jsonl", "--curriculum", "/none"], "codecraft replay: "),
    ],
)
def test_what_is_not_there_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with status 1."""
    assert 1 == main(words)
    assert capsys.readouterr().err.startswith(said)


def test_an_intercode_log_has_every_field_of_its_schema(recording: Path, tmp_path: Path) -> None:
    """As InterCode's own programs write and read it: names, order and types."""
    out = tmp_path / "log.json"
    assert 0 == main(["export", str(recording), "--format", "intercode", "--output", str(out)])
    log: dict[str, dict[str, Any]] = json.loads(out.read_bytes())
    assert ["0", "1"] == list(log)
    entry = log["1"]
    assert ["environment", "dataset", "task_id", "query", "turn_history", "info", "summary"] == list(entry)
    assert ("codecraft", "builtin", 0) == (entry["environment"], entry["dataset"], entry["task_id"])
    assert entry["query"].startswith("Write a Python program")
    history = entry["turn_history"]
    assert ["actions", "observations", "rewards", "valid_action"] == list(history)
    assert (ACTIONS, [True, False, True, True]) == (history["actions"], history["valid_action"])
    assert ("hello\n", [0.0] * 4) == (history["observations"][0], history["rewards"])
    most = load_curriculum()["hello-world"].max_steps
    assert {"max_reward": 0.0, "max_reward_idx": 0, "turns_taken": 4, "turns_max": most} == entry["summary"]
    assert ["log.json"] == [path.name for path in tmp_path.iterdir()]


def test_a_chat_is_what_was_said_in_turn(recording: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """One line for each episode, in OpenAI's form; the last message is the last action."""
    assert 0 == main(["export", str(recording), "--format", "chat"])
    first, second = (json.loads(line) for line in capsysbinary.readouterr().out.splitlines())
    assert ["user", "assistant"] * 4 == [message["role"] for message in second["messages"]]
    assert ACTIONS == [message["content"] for message in second["messages"][1::2]]
    assert second["messages"][0]["content"].startswith("Hello World\n\nWrite a Python program")
    assert "hello\n" == second["messages"][2]["content"]
    assert ("hello-world", 0.0, True, "score 0") == tuple(
        second["metadata"][key] for key in ("task", "reward", "terminated", "last_observation")
    )
    assert (4, False) == (len(first["messages"]), first["metadata"]["terminated"])


def test_a_best_reward_is_told_with_its_first_turn() -> None:
    """Of several that are equally good the first, as InterCode does."""
    steps = [step_line(step=1), step_line(step=2, reward=0.5), step_line(step=3, reward=0.5, info={"exit_code": 1})]
    entry = intercode_entry(RecordedEpisode(start_line(), Path("x"), 1, steps))
    assert {"max_reward": 0.5, "max_reward_idx": 1, "turns_taken": 3, "turns_max": 5} == entry["summary"]
    assert [True, True, False] == entry["turn_history"]["valid_action"]


def test_episodes_without_a_step_are_left_out(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Neither format has such."""
    path = written(tmp_path / "run.jsonl", start_line())
    for name, expected in (("intercode", b"{}\n"), ("chat", b"")):
        assert 0 == main(["export", path, "--format", name])
        assert expected == capsysbinary.readouterr().out


def test_text_that_no_encoding_has_is_exported_as_it_can_be() -> None:
    """Half a surrogate pair becomes a question mark."""
    episode = RecordedEpisode(start_line(), Path("x"), 1, [step_line(action="half \ud800 pair")])
    assert b"half ? pair" in orjson.dumps(chat_entry(episode))
    assert b"half ? pair" in orjson.dumps(intercode_entry(episode))


def test_a_branch_is_exported_with_its_past(tmp_path: Path) -> None:
    """From the reset on, also of a branch of a branch; what its origin did later is no part of it."""
    lines: list[Line] = [
        start_line("a", "1"),
        step_line("a", 1, action="a1"),
        start_line("b", "2", branch=Branch(episode="a", steps=1), observation="1\n"),
        step_line("a", 2, action="a2"),
        step_line("b", 2, action="b2"),
        start_line("c", "3", branch=Branch(episode="b", steps=2), observation="2\n"),
        step_line("c", 3, action="c3", terminated=True),
    ]
    path = written(tmp_path / "run.jsonl", *lines)
    parents = find_parents(path)
    assert {"a", "b"} == parents.keys()
    past = {each.start.episode: with_past(each, parents) for each in read_trajectories(path)}
    assert {"a": ["a1", "a2"], "b": ["a1", "b2"], "c": ["a1", "b2", "c3"]} == {
        name: episode.actions for name, episode in past.items()
    }
    assert all(isinstance(each.start, EpisodeStart) and each.start.branch is None for each in past.values())


def test_a_demo_can_be_recorded_replayed_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every script of it, from a curriculum in a file of the user's."""
    task = tmp_path / "made" / "task.toml"
    task.parent.mkdir()
    task.write_text(
        'title = "Make a file"\ninstruction = "Make the file done."\n[grader]\n[[grader.checks]]\ntype = "file"\n'
        'path = "done"\nexpected = "yes"\n[proof]\nexpert = ["echo yes > done"]\n[proof.failures]\nnothing = ["true"]\n'
    )
    out = tmp_path / "recording"
    words = ["--backend", "local", "--curriculum", str(task), "--num-envs", "2", "--rounds", "2"]
    assert 0 == main(["demo", *words, "--record", str(out)])
    capsys.readouterr()
    assert 0 == main(["replay", str(out), "--backend", "local"])
    assert "0 different, 0 not played" in capsys.readouterr().out
    assert 0 == main(["export", str(out), "--format", "chat"])
    exported = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    played = [each for each in exported if each["metadata"]["terminated"]]
    assert [0.0, 0.0, 1.0, 1.0] == sorted(each["metadata"]["reward"] for each in played)


def test_a_demo_that_cannot_be_recorded_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the place, and why."""
    (tmp_path / "file").touch()
    assert 1 == main(["demo", "--backend", "local", "--record", str(tmp_path / "file" / "x")])
    assert f"codecraft demo: {tmp_path}/file/x: cannot be made: " in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_ends_an_export(tmp_path: Path) -> None:
    """Without a word; the status is that of a program that the signal ended."""
    names = [str(each) for each in range(2000)]
    lines = [line for name in names for line in (start_line(name, name), step_line(name))]
    path = written(tmp_path / "run.jsonl", *lines)
    program = [sys.executable, "-m", "codecraft_async", "export", path, "--format", "chat"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert b'{"mes' == process.stdout.read(5)
        process.stdout.close()
        assert (b"", 141) == (process.stderr.read(), process.wait(60))


def test_the_recording_of_an_environment_of_fakes_can_be_exported(tmp_path: Path) -> None:
    """Nothing but the file is needed for that."""
    env = make(FakeLauncher(play), record=tmp_path / "run.jsonl.zst")
    env.reset()
    env.step("write 42")
    env.step("submit")
    env.close()
    out = tmp_path / "log.json"
    assert 0 == main(["export", str(tmp_path / "run.jsonl.zst"), "--format", "intercode", "--output", str(out)])
    entry = json.loads(out.read_bytes())["0"]
    assert ("curriculum", 1.0, 1) == (
        entry["dataset"],
        entry["summary"]["max_reward"],
        entry["summary"]["max_reward_idx"],
    )
