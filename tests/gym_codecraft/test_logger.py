"""`EnvLogger`: its lines, that they are there whatever happens afterwards, and that they steer no terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from codecraft_async.gym_codecraft import EnvLogger
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher
from codecraft_async.vector import AsyncioVectorEnv
from tests.gym_codecraft.students import fake_env

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - INFO - "


def lines_of(path: Path) -> list[str]:
    """The log's lines, with the time taken off where there is one."""
    return [re.sub(f"^{STAMP}", "> ", line) for line in path.read_text().splitlines()]


async def steering(files: FakeFiles, argv: list[str]) -> FakeAnswer:
    """A program that would clear the screen."""
    return FakeAnswer(b"a\x1b[2Jb\n\tc\xff")


def test_what_is_done_is_in_the_log(tmp_path: Path) -> None:
    """Actions, observations, and rewards that are not 0, each with its time."""
    path = tmp_path / "logs" / "env.log"
    env = EnvLogger(fake_env(), path)
    env.reset(options={"task_id": "answer"})
    env.step('{"action": "command", "command": "ls"}')
    env.step("ls")
    env.close()
    env.close()
    assert [
        "> Observation: Task answer:",
        " {'category': 'test', 'docker': 'codecraft/base', 'shell': '/bin/sh', 'title': 'The answer', "
        "'description': 'Write 42 into answer.'}",
        "",
        '> Action: {"action": "command", "command": "ls"}',
        "> Observation: hint",
        "",
        "> Action: ls",
        "> Observation: Invalid action error: Expecting value: line 1 column 1 (char 0)",
        "> Reward: -1.0",
    ] == lines_of(path)


def test_a_logger_that_is_closed_says_so(tmp_path: Path) -> None:
    """As the environment itself does."""
    env = EnvLogger(fake_env(), tmp_path / "env.log")
    env.reset()
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError, match=r"env\.log is closed, and so is the environm"):
        env.step("ls")


@pytest.mark.anyio
async def test_the_asynchronous_face_is_logged_as_well(tmp_path: Path) -> None:
    """Also in a vector environment; the log goes on where an older one ended."""
    path = tmp_path / "env.log"
    for _ in range(2):
        vector: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([lambda: EnvLogger(fake_env(), path)])
        await vector.areset(options={"task_id": "answer"})
        await vector.astep(('{"action": "exit"}',))
        await vector.aclose()
    assert 2 == lines_of(path).count("> Observation: Exited.")


def test_a_wrapper_that_knows_no_event_loop_is_not_passed_by(tmp_path: Path) -> None:
    """What it does, such as counting steps, would not be done: there is no asynchronous face then."""
    env = EnvLogger(gymnasium.wrappers.TimeLimit(fake_env(), 1), tmp_path / "env.log")
    assert not hasattr(env, "astep")
    env.reset()
    assert env.step('{"action": "close"}')[3]
    env.close()


def test_a_log_steers_no_terminal(tmp_path: Path) -> None:
    """Escapes are spelt out; new lines and tabs are what they are."""
    env = EnvLogger(fake_env(FakeLauncher(steering)), tmp_path / "env.log")
    env.reset(options={"task_id": "answer"})
    env.step('{"action": "command", "command": "x"}')
    env.close()
    assert ["> Observation: a\\x1b[2Jb", "\tc\N{REPLACEMENT CHARACTER}"] == lines_of(tmp_path / "env.log")[-2:]


def test_a_killed_process_leaves_all_it_did_in_the_log(tmp_path: Path) -> None:
    """Not a line is lost or halved, though nothing was closed."""
    program = """
import os, signal, sys, gymnasium
from codecraft_async.gym_codecraft import EnvLogger
class Echo(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        return "begun", {}
    def step(self, action):
        return action, 1.0, False, False, {}
env = EnvLogger(Echo(), sys.argv[1])
env.reset()
for number in range(100):
    env.step(f"{number} " + "x" * 5000)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "env.log")], check=False, timeout=60)
    lines = lines_of(tmp_path / "env.log")
    assert (-9, 301, "> Reward: 1.0") == (ended.returncode, len(lines), lines[-1])
    assert f"> Observation: 99 {'x' * 5000}" == lines[-2]


def test_the_usual_place_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`logs/env.log` below the working directory, as gym-codecraft has it."""
    monkeypatch.chdir(tmp_path)
    env = EnvLogger(fake_env())
    env.close()
    assert ["env.log"] == os.listdir("logs")
