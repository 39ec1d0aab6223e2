"""Agents without a model: naive, scripted, the expert, and the human at a terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
from pathlib import Path

import pytest

from codecraft_async.agents import (
    CODE_CRAFT_CHOICES,
    AgentFailed,
    AgentLeft,
    ExpertAgent,
    HumanAgent,
    NaiveAgent,
    ScriptedAgent,
    run_episode,
)
from codecraft_async.agents.dialects import ShellDialect
from codecraft_async.agents.human import Lines, harmless
from codecraft_async.curriculum import Curriculum
from codecraft_async.llm import ToolCall
from codecraft_async.pool import FakeLauncher
from tests.envs.code_envs import make, make_task, play

pytestmark = pytest.mark.anyio


async def test_the_naive_agent_picks_any_of_its_actions() -> None:
    """The same ones for the same seed; gym-codecraft's are its JSON."""
    runs = []
    for _ in range(2):
        agent = NaiveAgent(seed=3)
        agent.begin("Do it.")
        runs.append([await agent.act("", {}) for _ in range(20)])
    assert runs[0] == runs[1] and {"ls", "submit"} == set(runs[0])
    assert ["command", "start", "exit"] == [json.loads(choice)["action"] for choice in CODE_CRAFT_CHOICES]
    with pytest.raises(ValueError, match="choices is empty"):
        NaiveAgent(())


async def test_a_script_is_played_from_its_start_in_every_episode() -> None:
    """After its last action it fails, and the episode counts for nothing."""
    env = make(FakeLauncher(play))
    agent = ScriptedAgent(["ls", "write 42", "submit"])
    assert [1.0, 1.0] == [(await run_episode(env, agent)).reward for _ in range(2)]
    result = await run_episode(env, ScriptedAgent(["ls"]))
    assert ("agent_failed", "AgentFailed: the script of 1 actions is over, and the episode is not") == (
        result.end,
        result.error,
    )
    await env.aclose()


async def test_the_expert_plays_the_task_that_it_is_given() -> None:
    """Whichever comes; a task without one is told."""
    tasks = [make_task("one", expert=("write 42",)), make_task("two", expert=("ls", "write 42")), make_task("three")]
    env = make(FakeLauncher(play), *tasks)
    agent = ExpertAgent(Curriculum(tasks))
    results = [await run_episode(env, agent) for _ in tasks]
    assert [1.0, 1.0, 0.0] == [result.reward for result in results]
    assert [2, 3, 0] == [len(result.steps) for result in results]
    assert "AgentFailed: task 'three' has no expert: give one in [proof] of its file" == results[2].error
    await env.aclose()


class Typist:
    """A human's hands on a pipe, and what the human sees."""

    def __init__(self) -> None:
        self.descriptor, self._hands = os.pipe()
        self.output = io.StringIO()
        self.agent = HumanAgent(descriptor=self.descriptor, output=self.output)

    def type(self, text: str) -> None:
        os.write(self._hands, text.encode())

    def leave(self) -> None:
        os.close(self._hands)

    def close(self) -> None:
        os.close(self.descriptor)


async def test_a_human_pastes_actions_of_several_lines() -> None:
    """Up to the dot, empty lines within included; `submit` needs none; the loop is not held up meanwhile."""
    typist = Typist()
    typist.agent.begin("Do it.")
    acting = asyncio.create_task(typist.agent.act("Do it.", {}))
    await asyncio.sleep(0.01)
    assert not acting.done()
    typist.type("\ncat > f <<'END'\n\ntwo\nEND\n.\r\nls\n")
    assert "cat > f <<'END'\n\ntwo\nEND" == await acting
    acting = asyncio.create_task(typist.agent.act("", {}))
    await asyncio.sleep(0)
    typist.type(".\n")
    assert "ls" == await acting
    typist.type("submit\n")
    assert "submit" == await typist.agent.act("", {})
    typist.type("half a wo")
    typist.leave()
    with pytest.raises(AgentLeft, match="the input has ended"):
        await typist.agent.act("", {})
    typist.close()
    assert typist.output.getvalue().startswith("A line with a single dot ends an action. submit needs none.\n-----")


async def test_what_a_sandbox_prints_does_not_take_over_the_terminal() -> None:
    """Control characters are shown; lines and tabs stay."""
    assert "a\tb\n\\x1b[2J\\x07\\x9b31m" == harmless("a\tb\r\n\x1b[2J\x07\x9b31m")
    typist = Typist()
    typist.leave()
    with pytest.raises(AgentLeft):
        await typist.agent.act("\x1b]0;owned\x07", {})
    typist.close()
    assert "\x1b" not in typist.output.getvalue()


async def test_cancelled_reading_loses_nothing() -> None:
    """The next reader gets the whole line; the descriptor is free."""
    typist = Typist()
    lines = Lines(typist.descriptor)
    reading = asyncio.create_task(lines.next())
    typist.type("ha")
    await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.wait([reading])
    typist.type("lf\nnext\n")
    assert ["half", "next"] == [await lines.next(), await lines.next()]
    typist.leave()
    assert await lines.next() is None
    typist.close()


async def test_lines_of_a_file_and_of_a_terminal(tmp_path: Path) -> None:
    """A regular file cannot be waited for, and need not be."""
    path = tmp_path / "lines"
    path.write_bytes(b"one\n\ntwo")
    descriptor = os.open(path, os.O_RDONLY)
    lines = Lines(descriptor)
    assert ["one", "", "two", None] == [await lines.next() for _ in range(4)]
    os.close(descriptor)
    main, terminal = pty.openpty()
    os.write(main, b"typed\n")
    assert "typed" == await Lines(terminal).next()
    os.close(main)
    os.close(terminal)


async def test_a_file_that_a_model_writes_arrives_byte_for_byte(tmp_path: Path) -> None:
    """Through the command that the call becomes, in a real shell, whatever the content and the name."""
    content = "a 'quote' $HOME `x` \\n %s \"é\"\n\n-- no end"
    for name in ("plain", "with space/and 'quote'", "-n", "$HOME"):
        arguments = json.dumps({"path": name, "content": content})
        command = ShellDialect().from_call(ToolCall("1", "write_file", arguments))
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", command, cwd=tmp_path)
        assert 0 == await process.wait()
        assert content == (tmp_path / name).read_text()


async def test_an_agent_failed_error_is_an_agent_error() -> None:
    """A script that is over fails as agents do."""
    with pytest.raises(AgentFailed, match="the script of 0 actions is over"):
        await ScriptedAgent(()).act("", {})
