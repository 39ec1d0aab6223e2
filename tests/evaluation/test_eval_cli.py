"""``codecraft eval`` as a program: an endpoint that fails in every way, kills, second runs, budgets, reports."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from aiohttp import web
from gymnasium.envs.registration import EnvSpec

from codecraft_async.curriculum import CurriculumError
from codecraft_async.evaluation import EpisodeLog, Turn, as_log, read_log
from codecraft_async.evaluation.cli import run_eval
from codecraft_async.evaluation.options import EvalOptions, add_eval_parser
from tests.conftest import ASYNCIO
from tests.evaluation.sayings import ENV
from tests.intercode.data import intercode_data
from tests.intercode.test_bash_parts import ENTRIES
from tests.llm.openai_server import KEY, MODEL, Asked, OpenAIServer, fails, says, sends_text, until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
TASKS = [{"query": f"say {number}", "gold": f"echo {number}", "hardness": "easy"} for number in range(6)]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Whole runs, with processes of their own: one loop does."""
    return ASYNCIO


@pytest.fixture(name="data")
def make_data(tmp_path: Path) -> Path:
    """Six tasks of saying what the gold is."""
    return written(tmp_path / "tasks.json", TASKS)


def written(path: Path, content: object) -> Path:
    """A file with *content* as JSON."""
    path.write_text(json.dumps(content))
    return path


async def solve(request: web.Request, asked: Asked) -> web.StreamResponse:
    """Say what the task asks for, in the second try."""
    task = next(message["content"] for message in asked["messages"] if message["role"] == "user")
    number = task.split("say ")[1].split()[0]
    tries = sum(message["role"] == "assistant" for message in asked["messages"])
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    action = f"echo echo {number}" if tries else "echo what?"
    return await says(f"```bash\n{action}\n```", usage=usage)(request, asked)


@pytest.fixture(name="server")
async def make_server(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[OpenAIServer]:
    """An endpoint at which every task is solved in two turns."""
    async with OpenAIServer(otherwise=solve) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


async def run(*words: object) -> int:
    """The exit status of a run in this process."""
    parser = argparse.ArgumentParser()
    add_eval_parser(parser.add_subparsers())
    return await run_eval(parser.parse_args(["eval", *map(str, words)]))


def a_run(data: Path, *more: object) -> list[object]:
    """The words of a run with a model."""
    return [
        *("--env", ENV, "--data", data, "--agent", "try-again", "--model", MODEL, "--out", data.parent / "out"),
        *more,
    ]


async def start(*words: object) -> asyncio.subprocess.Process:
    """A run in a process of its own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "codecraft_async", "eval", *map(str, words)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_run_with_an_endpoint_that_fails(
    data: Path, server: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rate limits, failures and garbage are tried again; log and reports are written, and the report is shown."""
    server.script.extend(
        [fails(429, Retry_After="0.01"), fails(500), sends_text("<html>", "text/html"), sends_text("{}"), says("")]
    )
    assert 0 == await run(*a_run(data, "--num-envs", 3, "--price-prompt", 1, "--price-answer", 1))
    out = data.parent / "out"
    log = json.loads((out / "log.json").read_bytes())
    assert [str(number) for number in range(6)] == list(log)
    assert all(entry["summary"]["max_reward"] == 1.0 for entry in log.values())
    assert ("easy", 2) == (log["5"]["hardness"], len(log["5"]["turn_history"]["actions"]))
    report = json.loads((out / "report.json").read_bytes())
    assert (6, 6, 1) == (report["total"]["successes"], report["total"]["episodes"], report["total"]["invalid_actions"])
    assert (11 * 100 + 10, True) == (report["usage"]["prompt_tokens"], report["cost"] > 0)
    assert "| all | 6 | 6 | 100.0 %" in (out / "report.md").read_text()
    assert "0: reward 1.00" in (shown := capsys.readouterr().out) and "100.0 %" in shown


async def test_a_killed_run_goes_on(data: Path, server: OpenAIServer, capsys: pytest.CaptureFixture[str]) -> None:
    """After a kill -9 only what is missing is played, and no answer is paid for twice; meanwhile nobody else may."""
    # The first two tasks need two answers each, the third gets one: then nothing is answered any more.
    server.script.extend([*[solve] * 5, server.hangs()])
    process = await start(*a_run(data, "--num-envs", 1))
    await until(lambda: len(server.asked) == 6)
    assert 1 == await run(*a_run(data))
    assert f"process {process.pid} is writing this run" in capsys.readouterr().err
    process.kill()
    await process.communicate()
    assert ["0", "1"] == list(read_log(data.parent / "out"))
    assert 0 == await run(*a_run(data, "--num-envs", 2))
    assert "2 of 6 episodes are played already" in capsys.readouterr().out
    # The hung question again, and two for each of the three tasks that had not begun.
    assert 6 + 1 + 6 == len(server.asked)
    assert all(episode.is_success for episode in read_log(data.parent / "out").values())
    assert 0 == await run(*a_run(data))
    assert 13 == len(server.asked)


async def test_an_interrupted_run_says_how_it_goes_on(data: Path, server: OpenAIServer) -> None:
    """Ctrl-C ends everything, keeps what was played, and says so."""
    server.script.extend([*[solve] * 2, server.hangs()])
    process = await start(*a_run(data, "--num-envs", 1))
    await until(lambda: len(server.asked) == 3)
    process.send_signal(signal.SIGINT)
    printed, complained = await process.communicate()
    assert 130 == process.returncode
    assert b"1 of 6 episodes are played and kept in" in printed and b"the same command goes on" in printed
    assert b"everything is closed" in complained
    assert ["0"] == list(read_log(data.parent / "out"))


async def test_other_settings_are_refused(data: Path, server: OpenAIServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what does not change the meaning of results may differ: how many tasks, how many at once."""
    assert 0 == await run(*a_run(data, "--tasks", "0-1"))
    assert 0 == await run(*a_run(data, "--tasks", "1-2", "--num-envs", 1, "--max-tokens", 100_000))
    assert {"0", "1", "2"} == set(read_log(data.parent / "out"))
    written(data, TASKS[:4])
    assert 1 == await run(*a_run(data, "--template", "v3"))
    complaint = capsys.readouterr().err
    assert "holds a run with other settings" in complaint and 'template was "v2", now "v3"' in complaint
    assert "data was" in complaint


async def test_budgets_and_refusals_leave_the_rest(
    data: Path, server: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A budget that is used up, or a key that is refused, leaves episodes to the next time, which counts what was
    spent."""
    budget = ("--max-answer-tokens", 50, "--num-envs", 1, "--max-tokens")
    assert 1 == await run(*a_run(data, *budget, 700))
    assert "the budget is used up" in capsys.readouterr().err
    played = len(read_log(data.parent / "out"))
    assert 0 < played < 6
    asked = len(server.asked)
    assert 1 == await run(*a_run(data, *budget, 60))
    assert (asked, played) == (len(server.asked), len(read_log(data.parent / "out")))
    server.script.extend([fails(401)] * 6)
    assert 1 == await run(*a_run(data, *budget, 10_000))
    assert f"{6 - played} episodes were not played: model" in capsys.readouterr().err
    assert 5 == len(server.script), "one refusal is enough for all"


async def test_agents_without_a_model(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Golds, doing nothing, scripts and replays; and what they cannot be without is said."""
    words = ("--env", ENV, "--data", data, "--agent")
    assert 0 == await run(*words, "gold", "--out", tmp_path / "gold", "--tasks", "0-2")
    assert 0 == await run(*words, "nothing", "--out", tmp_path / "nothing", "--tasks", "0-2", "--samples", 2)
    assert ["0", "1", "2", "0/1", "1/1", "2/1"] == list(read_log(tmp_path / "nothing" / "log.json"))
    scripts = written(tmp_path / "scripts.json", {"0": ["echo 5", "echo echo 0"], "1": []})
    assert 0 == await run(*words, "scripted", "--actions", scripts, "--out", tmp_path / "s", "--tasks", "0,1")
    assert {"0": 3, "1": 1} == {key: len(each.turns) for key, each in read_log(tmp_path / "s").items()}
    assert 0 == await run(*words, "replay", "--log", tmp_path / "s", "--out", tmp_path / "r", "--tasks", "0,1")
    assert [("echo 5", 0.0), ("echo echo 0", 1.0)] == [
        (turn.action, turn.reward) for turn in read_log(tmp_path / "r")["0"].turns[:2]
    ]
    second = written(tmp_path / "second.json", {"0/1": as_log(EpisodeLog("e", "d", 0, "say 0", (), sample=1))})
    assert 0 == await run(*words, "replay", "--log", second, "--out", tmp_path / "r2", "--tasks", "0")
    assert ["0"] == list(read_log(tmp_path / "r2"))
    capsys.readouterr()
    assert 1 == await run(*words, "gold", "--out", tmp_path / "x", "--tasks", "4-6")
    assert "--tasks: there is no task 6: tasks has the tasks 0 to 5" in capsys.readouterr().err
    assert 1 == await run(*words, "replay", "--log", tmp_path / "s", "--out", tmp_path / "x")
    assert "there is no recording in" in (complaint := capsys.readouterr().err) and "for task 2, 3, 4, 5" in complaint
    assert 0 == await run("compare", tmp_path / "nothing", tmp_path / "gold")
    assert "pairs of episodes: 3" in capsys.readouterr().out


async def test_reports_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs are shown one by one and together, and written; what is none is named."""
    turns = (Turn("ls", "", 1.0),)
    for name, episodes in (("a", [EpisodeLog("e", "d", 0, "q", turns)]), ("b", [EpisodeLog("e", "d", 0, "q", ())])):
        (tmp_path / f"{name}.json").write_text(json.dumps({each.key: as_log(each) for each in episodes}))
    files = ("--json", tmp_path / "j", "--markdown", tmp_path / "m")
    assert 0 == await run("report", tmp_path / "a.json", tmp_path / "b.json", *files)
    assert [1.0, 0.0, 0.5] == [each["total"]["success_rate"] for each in json.loads((tmp_path / "j").read_bytes())]
    assert 3 == (tmp_path / "m").read_text().count("\n# ") + 1
    assert 0 == await run("compare", tmp_path / "a.json", tmp_path / "b.json", *files)
    assert ["0"] == json.loads((tmp_path / "j").read_bytes())["lost"]
    (tmp_path / "a.json").write_text("nonsense")
    assert 1 == await run("report", tmp_path / "a.json")
    assert f"codecraft eval: {tmp_path / 'a.json'}: not valid JSON" in capsys.readouterr().err


async def test_the_recordings_report(capsys: pytest.CaptureFixture[str]) -> None:
    """The recorded runs of GPT-4 are read as any other log."""
    assert 0 == await run("report", *(intercode_data(f"nl2bash/gpt4_fs_{number}.json") for number in (1, 4)))
    shown = capsys.readouterr().out
    assert "41.7 %" in shown and "59.3 %" in shown and "47.1 %" in shown


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "--env is missing"),
        (("--env", "x", "--agent", "gold", "--out", "o"), "there is no such environment; these are known: codecraft/"),
        (("--env", "intercode/Bash-v0", "--agent", "gold", "--out", "o"), "--data is missing"),
        (("--env", ENV, "--agent", "gold", "--out", "o", "--model", "m"), "--model and --base-url are for"),
        (("--env", ENV, "--agent", "replay", "--out", "o"), "--log is the log"),
        (("--env", ENV, "--agent", "gold", "--out", "o", "--price-answer", "1"), "give both or neither"),
        (("--env", ENV, "--agent", "gold", "--out", "o", "--max-cost", "1"), "--max-cost needs --price-prompt"),
        (("--env", ENV, "--agent", "gold", "--out", "o", "--env-arg", "colour=red"), "has no option 'colour'"),
        (("--env", ENV, "--agent", "gold", "--out", "o", "--compat"), "has no option 'compat'"),
        (
            ("--env", "intercode/Bash-v0", "--agent", "gold", "--out", "o", "--reward", "free"),
            "option 'reward' of intercode/Bash-v0: 'free' is not one of strict, intercode",
        ),
        (
            ("--env", ENV, "--agent", "gold", "--out", "o", "--env-arg", "command_limit_s=soon"),
            "'soon' is not a number",
        ),
    ],
)
async def test_options_that_make_no_sense(
    words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is refused before anything is opened, with what would do."""
    assert 1 == await run(*words)
    assert complaint in capsys.readouterr().err


def test_options_with_a_name_of_their_own() -> None:
    """They are the environment's, under the names that it has for them."""
    words: dict[str, Any] = {"env": ENV, "agent": "gold", "out": Path("o")}
    assert {"image_name": "i", "reward": "strict"} == EvalOptions(**words, image="i", reward="strict").texts()
    assert {"image_name": "t", "dump": "d"} == EvalOptions(**words, tree=Path("t"), dump=Path("d")).texts()


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        (":x", "the module '' cannot be imported"),
        (".tests:x", "the module '.tests' cannot be imported"),
        ("tests/Broken-v0", "it cannot be loaded: No module named 'tests.nowhere'"),
        ("CartPole-v1", "neither rows of data nor tasks"),
    ],
)
async def test_environments_that_cannot_be_played(
    env: str, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are told in a line."""
    monkeypatch.setitem(gymnasium.registry, "tests/Broken-v0", EnvSpec("tests/Broken-v0", "tests.nowhere:Env"))
    assert 1 == await run("--env", env, "--agent", "gold", "--out", "o")
    assert complaint in capsys.readouterr().err


async def test_a_file_tree(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read before anything is opened, and so are the tasks."""
    tree = written(tmp_path / "tree.json", ENTRIES)
    words = ("--env", "intercode/Bash-v0", "--agent", "gold", "--data", data, "--out", tmp_path / "out", "--tasks", "9")
    assert 1 == await run(*words, "--tree", tree, "--compat")
    assert "there is no task 9" in capsys.readouterr().err
    with pytest.raises(CurriculumError, match=r"tasks\.json"):
        await run(*words, "--tree", data)


async def test_a_curriculum(tmp_path: Path) -> None:
    """Tasks of a curriculum are played in their own environment, and their experts solve them."""
    words = ("--env", "codecraft/Code-v0", "--agent", "gold", "--backend", "local", "--tasks", "0-1")
    assert 0 == await run(*words, "--out", tmp_path / "out", "--num-envs", 2)
    episodes = read_log(tmp_path / "out")
    assert [True, True] == [each.is_success for each in episodes.values()]
    assert "submit" == next(iter(episodes.values())).turns[-1].action
