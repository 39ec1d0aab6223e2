"""``codecraft demo --agent``: the real program, in real sandboxes, against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codecraft_async.cli import main
from tests.agents.chats import sh
from tests.llm.openai_server import KEY, Asked, Behaviour, OpenAIServer, calls, fails, says, slowly

EXPERT = "printf 'print(\"Hello, World!\")\\n' > hello.py"


@contextmanager
def serving(behaviour: Behaviour) -> Generator[OpenAIServer]:
    """A server on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    async def start() -> OpenAIServer:
        return await OpenAIServer(otherwise=behaviour).__aenter__()

    server = run(start())
    try:
        yield server
    finally:
        run(server.__aexit__())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def by_turn(first: Behaviour, then: Behaviour) -> Behaviour:
    """Answer *first* while the model has not answered yet in a conversation, afterwards *then*."""

    async def answer(request: Any, asked: Asked) -> Any:
        has_answered = any(message["role"] == "assistant" for message in asked["messages"])
        return await (then if has_answered else first)(request, asked)

    return answer


def demo(
    folder: Path, *words: str, typed: str = "", key: str = KEY, task: str = "hello-world"
) -> subprocess.CompletedProcess[str]:
    """Run the program in *folder*, with nothing of OpenAI's in its environment but the key."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    if key:
        environment["OPENAI_API_KEY"] = key
    of_task = ("--task", task) if task else ()
    return subprocess.run(
        [sys.executable, "-m", "codecraft_async", "demo", "--backend", "local", *of_task, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env=environment,
        input=typed,
    )


@pytest.mark.parametrize("agent", ["model", "model-tools", "langchain"])
def test_a_model_plays(agent: str, tmp_path: Path) -> None:
    """It solves the task in a sandbox, and the key is in nothing that the program says or writes."""
    if agent == "langchain":
        pytest.importorskip("langchain_core")
    behaviour = by_turn(says(sh(EXPERT)), says(sh("submit")))
    if agent != "model":
        behaviour = by_turn(calls(("run", {"command": EXPERT})), calls(("submit", {})))
    with serving(behaviour) as server:
        words = ("--agent", agent, "--model", "m", "--base-url", server.base_url, "--json", "out.json")
        ended = demo(tmp_path, *words, "--episodes", "2")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert "hello-world/0: reward 1.00, 2 steps" in ended.stdout
    assert "tokens: 40 of prompts, 20 of answers" in ended.stdout
    results = json.loads((tmp_path / "out.json").read_text())
    assert [1.0, 1.0] == [result["reward"] for result in results]
    assert KEY not in ended.stdout + (tmp_path / "out.json").read_text()


def test_the_key_and_the_rest_may_come_from_a_file(tmp_path: Path) -> None:
    """The `.env` of the working directory."""
    with serving(says(sh("submit"))) as server:
        (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\nOPENAI_MODEL=m\nOPENAI_BASE_URL={server.base_url}\n")
        ended = demo(tmp_path, "--agent", "model", key="")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert "hello-world/0: reward 0.00, 1 steps" in ended.stdout


def test_a_model_plays_gym_codecraft_and_a_model_grades(tmp_path: Path) -> None:
    """One server is the student and the teacher; the score that the teacher gives is the reward."""
    actions = ({"action": "command", "command": EXPERT}, {"action": "submit"}, {"action": "exit"})
    turns = [says(json.dumps(action)) for action in actions]

    async def play(request: Any, asked: Asked) -> Any:
        if asked["messages"][0]["content"].startswith("You are a teacher."):
            has_looked = len(asked["messages"]) > 2
            wish = ("grade", {"score": 7, "comments": "Fine."}) if has_looked else ("command", {"command": "ls"})
            return await calls(wish)(request, asked)
        answers = sum(message["role"] == "assistant" for message in asked["messages"])
        return await turns[answers](request, asked)

    with serving(play) as server:
        words = (
            "--env",
            "gym-codecraft",
            "--agent",
            "model",
            "--teacher",
            "--model",
            "m",
            "--base-url",
            server.base_url,
        )
        ended = demo(tmp_path, *words, "--json", "out.json", task="1")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert "1/0: reward 7.00, 3 steps" in ended.stdout
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert "The teacher's comments: Fine..\nThe score is: 7." in result["steps"][1]["observation"]


def test_the_scripted_agent_plays_gym_codecraft(tmp_path: Path) -> None:
    """The experts of its five tasks, graded by the automatic graders."""
    ended = demo(tmp_path, "--env", "gym-codecraft", "--agent", "scripted", key="", task="")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert 5 == ended.stdout.count("/0: reward 10.00")


@pytest.mark.parametrize(("agent", "said"), [("naive", "hello-world/0: reward 0.00"), ("scripted", ": reward 1.00")])
def test_agents_without_a_model(agent: str, said: str, tmp_path: Path) -> None:
    """They need no key."""
    ended = demo(tmp_path, "--agent", agent, key="")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert said in ended.stdout and "tokens" not in ended.stdout


def test_what_was_played_until_ctrl_c_is_written(tmp_path: Path) -> None:
    """It has been paid for."""
    requests: list[Asked] = []

    async def once(request: Any, asked: Asked) -> Any:
        requests.append(asked)
        return await (says(sh("submit")) if len(requests) == 1 else slowly(says("late"), 30.0))(request, asked)

    words = ["demo", "--backend", "local", "--task", "hello-world", "--episodes", "2", "--num-envs", "1"]
    with serving(once) as server:
        words += ["--agent", "model", "--model", "m", "--base-url", server.base_url, "--json", "out.json"]
        key = os.environ | {"OPENAI_API_KEY": KEY}
        playing = subprocess.Popen([sys.executable, "-m", "codecraft_async", *words], cwd=tmp_path, env=key)
        try:
            for _ in range(600):
                if len(requests) == 2 or playing.poll() is not None:
                    break
                time.sleep(0.05)
            playing.send_signal(signal.SIGINT)
            assert 128 + signal.SIGINT == playing.wait(30)
        finally:
            playing.kill()
    assert ["hello-world/0"] == [each["plan"]["name"] for each in json.loads((tmp_path / "out.json").read_text())]


def test_a_human_plays_and_leaves(tmp_path: Path) -> None:
    """What is pasted is done; the end of the input ends the demo, and is no error."""
    ended = demo(tmp_path, "--agent", "human", "--episodes", "2", typed=f"{EXPERT}\n.\nsubmit\nls\n", key="")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert "hello-world/0: reward 1.00, 2 steps" in ended.stdout
    assert "hello-world/1" not in ended.stdout and "1 of 1" in ended.stdout


def one_line(folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the program in this process, in *folder*; it must fail with one line on stderr, which is returned."""
    patch.chdir(folder)
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL"):
        patch.delenv(name, raising=False)
    assert 1 == main(["demo", "--backend", "local", "--task", "hello-world", *words])
    line, end = capsys.readouterr().err.split("\n")
    assert "" == end and KEY not in line
    return line


def test_a_server_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what it said, and the status is 1."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(fails(401, "Incorrect API key provided")) as server:
        words = ("--agent", "model", "--model", "m", "--base-url", server.base_url)
        line = one_line(tmp_path, monkeypatch, capsys, *words)
    assert line.startswith("codecraft demo: 1 of 1 episodes were not played to their end: KeyRejected: model 'm' at")
    assert "check the key (OPENAI_API_KEY in the environment or in .env)" in line


def test_a_budget_that_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was not played is counted."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    words = ("--agent", "model", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--max-tokens", "10")
    line = one_line(tmp_path, monkeypatch, capsys, *words)
    assert line.startswith("codecraft demo: 1 episodes were not played: the budget is used up: 0 of 10 tokens are used")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--agent=model", "--model=m"), "no key: set OPENAI_API_KEY in the environment or in .env"),
        (("--agent=model", "--base-url=http://127.0.0.1:9/v1"), "no model is named: give one, or set OPENAI_MODEL"),
        (("--agent=model", "--model=m", "--base-url=nowhere"), "the base URL is no http or https address"),
        (("--agent=naive", "--model=m"), "--model and --base-url are for --teacher and --agent model, model-tools, l"),
        (("--model=m",), "--model and --base-url are for --teacher and --agent model, model-tools, langchain"),
        (("--env=gym-codecraft",), "--env gym-codecraft needs --agent: one of naive, human, scripted, model"),
        (("--agent=naive", "--teacher"), "--teacher is for --env gym-codecraft: other tasks have graders of their own"),
        (("--agent=naive", "--env=gym-codecraft"), "no task 'hello-world' in gym-codecraft"),
        (("--agent=naive", "--category=git"), "no task 'hello-world' in builtin, git"),
        (("--agent=naive", "--category=poetry"), "builtin has no category 'poetry'; its categories: "),
        (("--agent=naive", "--rounds=2"), "--rounds is for the scripts, without --agent; agents have --episodes"),
        (("--agent=naive", "--record=here"), "--record is for the scripts, without --agent; agents have --json"),
    ],
)
def test_what_is_missing_is_told_before_a_sandbox_is_started(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one line, with what to do."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is nothing that could start one
    assert one_line(tmp_path, monkeypatch, capsys, *words).startswith(f"codecraft demo: {said}")


def test_langchain_that_is_not_installed(tmp_path: Path) -> None:
    """The extra is named."""
    (tmp_path / "langchain_core.py").write_text("raise ImportError('hidden by a test', name='langchain_core')\n")
    ended = demo(tmp_path, "--agent", "langchain", "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    assert (1, "") == (ended.returncode, ended.stdout)
    assert (
        "codecraft demo: LangChain is not installed (langchain_core is missing): "
        "pip install 'codecraft-async[langchain]'\n"
    ) == ended.stderr
