"""`CodeEnv` with other notations for actions: malformed ones, files, and resets within an episode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from codecraft_async.actions import Action, Command, Malformed, Reset
from codecraft_async.curriculum import Workspace, WorkspaceFile
from codecraft_async.pool import FakeLauncher
from tests.envs.code_envs import check_types, make, make_local, make_task, play, vector

pytestmark = pytest.mark.anyio


def call(name: str, **arguments: str) -> str:
    return json.dumps({"action": name, **arguments})


async def test_an_episode_in_json() -> None:
    """The instruction shows the form; files are written, commands run, and the end is graded."""
    env = make(FakeLauncher(play), actions="json")
    text, _ = await env.areset()
    assert text.startswith("The answer\n\nWrite 42 into answer.\n\nAnswer with one JSON object")
    assert text.endswith("Commands run in /workspace in a shell of its own.")
    text, *_, info = await env.astep(call("write_file", path="/workspace/answer", content="42"))
    assert ("wrote 2 bytes to /workspace/answer", -1, 1) == (text, info["exit_code"], info["steps"])
    check_types(info)
    assert "answer\nhint\n" == (await env.astep(call("run", command="ls")))[0]
    text, reward, terminated, *_ = await env.astep(call("submit"))
    assert ("score 1", 1.0, True) == (text, reward, terminated)
    await env.aclose()


@pytest.mark.parametrize(
    ("actions", "command"),
    [
        ("shell", "ls"),
        ("json", '{"action": "run", "command": "ls"}'),
        ("fenced", "I look.\n```bash\nls\n```"),
        ("tool_calls", '<tool_call>{"name": "run", "arguments": {"command": "ls"}}</tool_call>'),
    ],
)
async def test_every_notation_reaches_the_same_shell(actions: str, command: str) -> None:
    """One command, four ways to write it; a batch is no different."""
    env = vector(FakeLauncher(play), 2, actions=actions)
    await env.areset()
    texts, *_, info = await env.astep((command, command))
    assert (("hint\n", "hint\n"), [False, False]) == (texts, info["malformed"].tolist())
    await env.aclose()


async def test_a_malformed_action_costs_and_helps() -> None:
    """The observation says what was wrong and shows the form; the step counts, the episode goes on."""
    env = make(FakeLauncher(play), actions="fenced", malformed_reward=-0.25)
    await env.areset()
    text, reward, terminated, truncated, info = await env.astep("I would list the files.")
    assert text.startswith(
        "the answer must hold a fenced code block with a shell command: there is none\n\nAnswer with"
    )
    assert "```bash\nls -l\n```" in text
    assert (-0.25, False, False) == (reward, terminated, truncated)
    assert (True, False, True, 1) == (info["malformed"], info["retry"], info["valid"], info["steps"])
    check_types(info)
    text, reward, *_, info = await env.astep("```\nls\n```")
    assert ("hint\n", 0.0, False, 2) == (text, reward, info["malformed"], info["steps"])
    await env.aclose()


async def test_retries_are_free_as_often_as_allowed_in_a_row() -> None:
    """They do not count as steps, but cost their reward; a good action makes the count start again."""
    env = make(FakeLauncher(play), actions="json", malformed_reward=-1.0, malformed_retries=2)
    await env.areset()
    steps: list[tuple[int, bool, float]] = []
    for text in ("x", "x", "x", "x", call("run", command="ls"), "x"):
        _, reward, *_, info = await env.astep(text)
        steps.append((int(info["steps"]), info["retry"], reward))
    assert [(0, True, -1), (0, True, -1), (1, False, -1), (2, False, -1), (3, False, 0), (3, True, -1)] == steps
    await env.aclose()


async def test_malformed_actions_alone_come_to_an_end() -> None:
    """An agent that never finds the form is truncated at its steps, with the free retries on top."""
    env = make(FakeLauncher(play), actions="json", malformed_retries=3)
    await env.areset()
    tries, truncated, info = 0, False, dict[str, Any]()
    while not truncated:
        *_, truncated, info = await env.astep("no")
        tries += 1
    assert (3 + 5, "max_episode_steps", 5) == (tries, info["truncation"], info["steps"])
    await env.aclose()


async def test_the_agent_may_ask_for_the_workspace_as_it_was() -> None:
    """With `allow_reset`: files are back, the set-up has run again, and the episode and its steps go on."""
    task = make_task(setup=("write 7",))
    env = make(FakeLauncher(play), task, actions="json", allow_reset=True)
    text, _ = await env.areset()
    assert '{"action": "reset"} brings the workspace back' in text
    await env.astep(call("write_file", path="junk", content="x"))
    await env.astep(call("run", command="write 42"))
    text, *_, info = await env.astep(call("reset"))
    assert ("the workspace is what it was at the beginning", 3) == (text, info["steps"])
    assert "answer\nhint\n" == (await env.astep(call("run", command="ls")))[0]
    _, reward, *_, info = await env.astep(call("submit"))
    assert (0.0, "wrong") == (reward, info["reason"])
    await env.aclose()


async def test_in_a_shell_reset_is_a_command_unless_it_is_allowed() -> None:
    """Where it is, the instruction says so, and a persistent shell starts anew."""
    env = make(FakeLauncher(play))
    text, _ = await env.areset()
    assert "'reset'" not in text
    assert "" == (await env.astep("reset"))[0]
    await env.aclose()
    env = make(FakeLauncher(play), allow_reset=True, shell="persistent")
    text, _ = await env.areset()
    assert text.endswith("The action 'reset' brings the workspace back to what it is now.")
    await env.astep("write 42")
    await env.astep("reset")
    assert "hint\n" == (await env.astep("ls"))[0]
    await env.aclose()


class Resets:
    """A parser that knows nothing of what is allowed."""

    def parse(self, text: str) -> Action | Malformed:
        return Reset() if text == "again" else Command(text)


async def test_a_reset_that_is_not_allowed_is_malformed() -> None:
    """Whatever a parser of the user's own says."""
    env = make(FakeLauncher(play), actions=Resets())
    text, _ = await env.areset()
    assert "Commands run in /workspace" in text
    text, *_, info = await env.astep("again")
    assert ("the workspace cannot be reset here", True) == (text, info["malformed"])
    await env.aclose()


async def test_a_reset_in_a_lost_sandbox_is_a_fault() -> None:
    """As any other action in it."""
    launcher = FakeLauncher(play)
    env = make(launcher, allow_reset=True)
    await env.areset()
    launcher.sandboxes[0].close()
    *_, truncated, info = await env.astep("reset")
    assert (True, "sandbox", "fake-0") == (truncated, info["fault"]["kind"], info["fault"]["sandbox"])
    await env.aclose()


async def test_a_set_up_that_fails_the_second_time_is_a_fault() -> None:
    """Nothing that an agent has done could have kept it from running."""
    runs = 0

    async def once(files: Any, argv: list[str]) -> Any:
        nonlocal runs
        runs += argv[-1] == "ls"
        return await play(files, ["false" if argv[-1] == "ls" and runs > 1 else "true"])

    env = make(FakeLauncher(once), make_task(setup=("ls",)), allow_reset=True)
    await env.areset()
    *_, truncated, info = await env.astep("reset")
    assert (True, "sandbox", "fake-0") == (truncated, info["fault"]["kind"], info["fault"]["sandbox"])
    assert "its set-up 'ls' ended with 1" in info["fault"]["message"]
    await env.aclose()


async def test_files_are_written_as_the_agent_and_nowhere_else() -> None:
    """In a real sandbox: binary content, missing directories, and refusals that name no sandbox."""
    task = make_task(workspace=Workspace({"link": WorkspaceFile(b"x")}))
    env = make_local(task, actions="json", max_episode_steps=20)
    await env.areset()
    content = {"content": "AP8K", "encoding": "base64"}
    assert "wrote 3 bytes to a/b" == (await env.astep(call("write_file", path="a/b", **content)))[0]
    text, *_ = await env.astep(call("run", command="od -An -tx1 a/b; stat -c %U a a/b | sort -u | wc -l; ln -s /usr l"))
    assert " 00 ff 0a\n1\n" == text
    for path in ("../x", "/etc/passwd", "l/x", "a", "x/../../y"):
        text, *_, info = await env.astep(call("write_file", path=path, content="x"))
        assert text.startswith("cannot write the file: "), path
        assert ("sandbox" not in text, True, False) == (True, info["valid"], info["malformed"])
    await env.aclose()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"malformed_retries": -1}, "malformed_retries is -1; it must be at least 0"),
        ({"malformed_reward": float("nan")}, "malformed_reward is nan; it must be a finite number"),
        ({"actions": "yaml"}, "actions is 'yaml'; it must be 'shell', 'json', 'fenced', 'tool_calls' or"),
        ({"max_observation_chars": 0}, "max_observation_chars is 0; it must be at least 1"),
        ({"reset_faults": "ignore"}, "reset_faults is 'ignore'; it must be 'raise' or 'info'"),
    ],
)
async def test_a_wrong_option_is_named(options: dict[str, Any], words: str) -> None:
    """When the environment is made, before any sandbox starts."""
    with pytest.raises(ValueError, match=words):
        make(FakeLauncher(play), **options)
