"""What gym-codecraft does wrong, each with a test of what is done here instead; and actions that make no sense."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any, Final

import pytest
from gymnasium.error import ResetNeeded

from codecraft_async import EpisodeError
from codecraft_async.curriculum import Curriculum, Task, TaskLimits, Workspace, WorkspaceFile
from codecraft_async.gym_codecraft import CodeCraftEnv, workbench
from codecraft_async.gym_codecraft.interface import MAX_JSON_CHARS
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher, LaunchError, SandboxLost
from tests.envs.code_envs import Crashes, ReturnsANumber, make_task, play
from tests.gym_codecraft.students import OLD, act, fake_env, write_curriculum
from tests.pool.launchers import open_backend

pytestmark = pytest.mark.anyio

NO_TASK: Final = "No task started. Please use start action to start a task."


async def local_env(launcher: Any, **changes: Any) -> CodeCraftEnv:
    """An environment in a real sandbox, with its one task started."""
    env = CodeCraftEnv(curriculum=Curriculum([make_task(**changes)]), backend=launcher)
    await env.areset(options={"task_id": "answer"})
    return env


async def test_files_are_written_byte_by_byte() -> None:
    """Text that is not ASCII arrives whole, whatever its length in bytes; an empty file is one."""
    async with open_backend("local") as launcher:
        env = await local_env(launcher)
        for content in ("héllo", "日本語\n" * 30_000, "\N{GRINNING FACE}", "a\r\nb\0c", ""):
            assert ("File é.txt written.", 0.0) == await act(env, "write_file", path="é.txt", content=content)
            shown, _ = await act(env, "command", command="sha256sum < é.txt; wc -c < é.txt")
            assert str(len(content.encode())) == shown.split()[-1]
        await env.aclose()


async def test_an_absolute_path_is_what_it_says() -> None:
    """It is not put under the workspace: it is written there, or refused with the places that can be written."""
    async with open_backend("local") as launcher:
        env = await local_env(launcher)
        assert ("File /tmp/a/b written.", 0.0) == await act(env, "write_file", path="/tmp/a/b", content="x")
        assert ("File /workspace/c written.", 0.0) == await act(env, "write_file", path="/workspace/c", content="y")
        assert ("xy", 0.0) == await act(env, "command", command="cat /tmp/a/b c; test ! -e tmp && test ! -e workspace")
        places = "/workspace, /home/agent, /tmp, /var/tmp, /dev/shm"
        for path in ("/etc/passwd", "../up", "/workspace/../usr/x", "/workspace", "."):
            said, reward = await act(env, "write_file", path=path, content="x")
            assert (
                f"Invalid action error: {path} is not in the workspace: only files below {places} can be written",
                -1.0,
            ) == (said, reward)
        await env.aclose()


async def test_what_cannot_be_written_says_why() -> None:
    """A directory in the way, a file for a directory, a link out of the tree: the student's doing, without a fault."""
    async with open_backend("local") as launcher:
        env = await local_env(launcher)
        await act(env, "command", command="mkdir d; touch f; ln -s /etc out")
        for path, why in (("d", "Is a directory"), ("f/g", "Not a directory"), ("a" * 300, "File name too long")):
            said, reward = await act(env, "write_file", path=path, content="x")
            assert (f"Invalid action error: {path} cannot be written: {why}", -1.0) == (said, reward)
        said, reward = await act(env, "write_file", path="out/passwd", content="x")
        assert said.startswith("Invalid action error: out/passwd cannot be written: ")
        assert -1.0 == reward
        await env.aclose()


async def test_a_working_directory_is_where_commands_run_and_files_go(tmp_path: Path) -> None:
    """An older file may name one; it is made if it can be, and said to be the task's fault if not."""
    tasks = {"t1": dict(OLD, working_dir="/tmp/it's here"), "t2": dict(OLD, working_dir="/usr/none")}
    async with open_backend("local") as launcher:
        env = CodeCraftEnv(curriculum=write_curriculum(tmp_path, **tasks), interface="old", backend=launcher)
        await env.areset(task_id="1")
        assert ("File a written.", 0.0) == await act(env, "write_file", path="a", content="x")
        assert ("/tmp/it's here\nx", 0.0) == await act(env, "command", command="pwd; cat a")
        *_, info = await env.astep('{"action": "reset", "task_id": "2"}')
        assert 'its set-up "mkdir -p -- /usr/none" ended with 1' in info["fault"]["message"].replace("'", '"')
        await env.aclose()


async def test_output_that_is_no_utf_8_is_shown() -> None:
    """It is an observation, not an invalid action."""
    env = fake_env()
    await env.areset(task_id="answer")
    assert ("\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} ok", 0.0) == await act(env, "command", command="binary")
    await env.aclose()


async def test_an_unknown_task_leaves_the_current_one_as_it_is() -> None:
    """Commands go on in it; with no task there is still none, and the next command says so."""
    env = fake_env()
    await env.areset()
    assert ("Task 9 not found.\n", 0.0) == await act(env, "start", task_id="9")
    assert (NO_TASK, -1.0) == await act(env, "command", command="ls")
    await act(env, "start", task_id="answer")
    await act(env, "command", command="write 41")
    assert ("Task 9 not found.\n", 0.0) == await act(env, "start", task_id="9")
    assert ("answer\nhint\n", 0.0) == await act(env, "command", command="ls")
    observation, info = await env.areset(options={"task_id": "9"})
    assert ("Task 9 not found.\n", "answer") == (observation["obs"], info["task"])
    assert ("answer\nhint\n", 0.0) == await act(env, "command", command="ls")
    await env.aclose()


async def test_nothing_waits_for_programs_that_do_not_want_to_end() -> None:
    """A task that is started again has none of the old processes, though they ignore every signal that can be."""
    async with open_backend("local") as launcher:
        env = await local_env(launcher)
        stubborn = "(trap '' TERM HUP INT; while :; do sleep 1000; done) > /dev/null 2>&1 & echo started"
        for begin in ("reset", "start"):
            assert ("started\n", 0.0) == await act(env, "command", command=stubborn)
            await act(env, begin, **({"task_id": "answer"} if begin == "start" else {}))
            assert ("0\n", 0.0) == await act(env, "command", command="cat /proc/[0-9]*/comm | grep -c sleep")
        await env.aclose()


async def test_a_command_has_limits() -> None:
    """It is killed at its time and its output, what it printed is kept, and the task goes on."""
    async with open_backend("local") as launcher:
        env = await local_env(launcher, limits=TaskLimits(command_limit_s=0.5, max_output_bytes=2000))
        assert ("before\n\n[killed: it ran longer than 0.5 s]", 0.0) == await act(
            env, "command", command="echo before; sleep 60"
        )
        said, _ = await act(env, "command", command="yes")
        assert said.endswith("[killed: it printed more than 2000 bytes]")
        assert ("still\n", 0.0) == await act(env, "command", command="echo still")
        await env.aclose()


async def test_a_limit_of_the_users_own_takes_the_place_of_the_tasks() -> None:
    """`command_limit_s` is said in the observation."""
    async with open_backend("local") as launcher:
        env = CodeCraftEnv(curriculum=Curriculum([make_task()]), backend=launcher, command_limit_s=0.2)
        await env.areset(task_id="answer")
        assert ("\n[killed: it ran longer than 0.2 s]", 0.0) == await act(env, "command", command="sleep 60")
        await env.aclose()


async def test_long_output_is_cut_in_its_middle() -> None:
    """Every observation is in the space, and says how much is missing."""
    env = fake_env(max_observation_chars=500)
    await env.areset(task_id="answer")
    said, _ = await act(env, "command", command="flood")
    assert 500 == len(said)
    assert "characters or more left out" in said
    await env.aclose()


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ('["command"]', 'an action is a JSON object such as {"action": "command", ...}, not a list'),
        ("3", 'an action is a JSON object such as {"action": "command", ...}, not a number'),
        ("null", 'an action is a JSON object such as {"action": "command", ...}, not null'),
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("[" * 100_000, "the JSON is nested too deeply"),
        (" " * (MAX_JSON_CHARS + 1), f"an action cannot be longer than {MAX_JSON_CHARS} characters"),
        (json.dumps({"action": "command", "command": "x" * 100_001}), "a command cannot be longer than 100000 char"),
        ('{"action": "command", "command": 3}', "the field 'command' must be text, not a number"),
        ('{"action": "command", "command": null}', "the field 'command' must be text, not null"),
        ('{"action": "command", "command": "echo \\ud800"}', "the field 'command' holds half of a surrogate pair"),
        ('{"action": "command", "command": "echo \\u0000"}', "a command cannot hold a NUL character"),
        ('{"action": "write_file", "path": "", "content": ""}', "the field 'path' must be a path"),
        ('{"action": "write_file", "path": "a\\u0000", "content": ""}', "the field 'path' must be a path"),
        ('{"action": "write_file", "path": "a", "content": {}}', "the field 'content' must be text, not an object"),
        ('{"action": "start", "task_id": true}', "the field 'task_id' must be text, not true or false"),
        ('{"action": "start", "task_id": 1.5}', "the field 'task_id' must be text, not a number"),
    ],
)
async def test_an_action_that_makes_no_sense_costs_1_and_says_why(action: str, said: str) -> None:
    """It is told to the student; the task goes on."""
    env = fake_env()
    await env.areset(task_id="answer")
    observation, reward, terminated, truncated, info = await env.astep(action)
    assert observation["obs"].startswith(f"Invalid action error: {said}")
    assert (-1.0, False, False, True) == (reward, terminated, truncated, info["malformed"])
    assert ("hint\n", 0.0) == await act(env, "command", command="ls")
    await env.aclose()


async def test_actions_of_strange_names_are_unknown() -> None:
    """Also where the name is no text, or one that an object of Python has."""
    env = fake_env()
    await env.areset(task_id="answer")
    odd = ((None, "null"), (["start"], '["start"]'), ("__class__", "__class__"), ("Submit", "Submit"), ("\ud800", "?"))
    for action, said in odd:
        observation, reward, *_ = await env.astep(json.dumps({"action": action}))
        assert (f"Unknown action: {said}", -1.0) == (observation["obs"], reward)
    await env.aclose()


async def test_a_whole_number_is_a_task_id() -> None:
    """Models write 1 where "1" is meant."""
    env = fake_env(curriculum=Curriculum([make_task("1")]))
    await env.areset()
    said, reward = await act(env, "start", task_id=1)
    assert (True, 0.0) == (said.startswith("Task 1:\n {"), reward)
    await env.aclose()


async def test_starting_no_task_gives_the_welcome_text() -> None:
    """`null` closes the task that was under way."""
    env = fake_env()
    welcome, _ = await env.areset()
    await act(env, "start", task_id="answer")
    assert (welcome["obs"], 0.0) == await act(env, "start", task_id=None)
    said, reward = await act(env, "command", command="ls")
    assert (NO_TASK, -1.0) == (said, reward)
    await env.aclose()


async def test_a_reset_of_gymnasiums_begins_the_current_task_again() -> None:
    """After a task was closed there is none, and the welcome text is shown."""
    env = fake_env()
    welcome, info = await env.areset(seed=3)
    assert "" == info["task"]
    await act(env, "start", task_id="answer")
    await act(env, "command", command="write 42")
    observation, info = await env.areset()
    assert ("answer", 0) == (info["task"], info["steps"])
    assert observation["obs"].startswith("Task answer:\n {'category': 'test', 'docker': 'codecraft/base'")
    assert ("hint\n", 0.0) == await act(env, "command", command="ls")
    await act(env, "close")
    observation, info = await env.areset()
    assert (welcome, "") == (observation, info["task"])
    await env.aclose()


async def test_a_lost_sandbox_is_no_reward() -> None:
    """The episode ends truncated, the fault is in info, and a reset begins the task in another sandbox."""
    launcher = FakeLauncher(play)
    env = fake_env(launcher)
    await env.areset(task_id="answer")
    for action in ("command", "write_file", "submit"):
        launcher.sandboxes[-1].close()
        fields = {"command": "ls", "path": "a", "content": ""}
        observation, reward, terminated, truncated, info = await env.astep(json.dumps({"action": action, **fields}))
        assert ({"obs": ""}, 0.0, False, True) == (observation, reward, terminated, truncated)
        assert ("sandbox", launcher.sandboxes[-1].id) == (info["fault"]["kind"], info["fault"]["sandbox"])
        assert (False, "fault") == (info["valid"], info["truncation"])
        said, _ = await act(env, "command", command="ls")
        assert NO_TASK == said
        _, info = await env.areset()
        assert ("answer", True, False) == (info["task"], info["valid"], "fault" in info)
    assert 4 == len(launcher.sandboxes)
    await env.aclose()


async def test_a_sandbox_that_cannot_be_had_is_a_fault_of_the_daemon() -> None:
    """For an action it is data; for a reset it is raised, as there is no episode to tell of."""
    launcher = FakeLauncher(play)
    env = fake_env(launcher)
    await env.areset()
    launcher.fail_starts = 1
    observation, reward, _, truncated, info = await env.astep('{"action": "start", "task_id": "answer"}')
    assert ({"obs": ""}, 0.0, True) == (observation, reward, truncated)
    assert ("daemon", "") == (info["fault"]["kind"], info["fault"]["sandbox"])
    assert "told to fail" in info["fault"]["message"]
    launcher.fail_starts = 1
    with pytest.raises(LaunchError, match="told to fail"):
        await env.areset()
    observation, _ = await env.areset()
    assert observation["obs"].startswith("Task answer:")
    await env.aclose()


@pytest.mark.parametrize("grader", [Crashes(), ReturnsANumber()])
async def test_a_teacher_that_fails_is_no_reward(grader: Any) -> None:
    """Nor one that gives something that is no grade."""
    env = fake_env(curriculum=Curriculum([make_task(grader=grader)]))
    await env.areset(task_id="answer")
    observation, reward, _, truncated, info = await env.astep('{"action": "submit"}')
    assert ({"obs": ""}, 0.0, True, False) == (observation, reward, truncated, info["valid"])
    assert "grader" == info["fault"]["kind"]
    await env.aclose()


async def test_cancelling_a_command_kills_it_and_the_task_goes_on() -> None:
    """A turn that was cancelled is over."""
    env = fake_env()
    await env.areset(task_id="answer")
    step = asyncio.create_task(act(env, "command", command="hang"))
    await asyncio.sleep(0.01)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert ("hint\n", 0.0) == await act(env, "command", command="ls")
    await env.aclose()


async def test_cancelling_a_start_leaves_no_task_under_way() -> None:
    """Its sandbox is given back, and the next reset begins the task that was asked for."""
    hangs = [True]

    async def first_hangs(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        if argv[-1] == "set up" and hangs[0]:
            await asyncio.sleep(999)
        return FakeAnswer(argv[-1].encode())

    launcher = FakeLauncher(first_hangs)
    env = fake_env(launcher, curriculum=Curriculum([make_task(setup=("set up",))]))
    await env.areset()
    start = asyncio.create_task(act(env, "start", task_id="answer"))
    await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (NO_TASK, -1.0) == await act(env, "command", command="x")
    hangs[0] = False
    observation, _ = await env.areset()
    assert observation["obs"].startswith("Task answer:")
    assert ("x", 0.0) == await act(env, "command", command="x")
    pool = await env.runtime.pool()
    assert (1, 0) == (pool.stats().leased, pool.stats().waiting)
    await env.aclose()


async def test_cancelling_a_submission_leaves_the_task_as_it_was() -> None:
    """It can be submitted again, and is then graded."""
    waits = [True]

    class Ponders:
        async def agrade(self, sandbox: Any, task: Task, transcript: Any) -> Any:
            if waits[0]:
                await asyncio.sleep(999)
            return await task.grader.grade(sandbox)

    env = fake_env(teacher=Ponders())
    await env.areset(task_id="answer")
    await act(env, "command", command="write 42")
    submission = asyncio.create_task(act(env, "submit"))
    await asyncio.sleep(0.01)
    submission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submission
    waits[0] = False
    _, reward = await act(env, "submit")
    assert 10.0 == reward
    await env.aclose()


async def test_a_task_whose_set_up_fails_is_the_tasks_fault() -> None:
    """It is said with the command and its end."""
    env = fake_env(curriculum=Curriculum([make_task(setup=("false",))]))
    with pytest.raises(EpisodeError, match="task 'answer': its set-up 'false' ended with 1"):
        await env.areset(task_id="answer")
    await env.aclose()


async def test_a_sandbox_lost_in_the_set_up_is_replaced() -> None:
    """A reset tries other sandboxes, and gives up in the end."""
    launcher = FakeLauncher()
    deaths = [2]

    async def die(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        if deaths[0] > 0:
            deaths[0] -= 1
            launcher.sandboxes[-1].close()
        return FakeAnswer()

    launcher = FakeLauncher(die)
    env = fake_env(launcher, curriculum=Curriculum([make_task(setup=("true",))]))
    observation, _ = await env.areset(task_id="answer")
    assert (True, 3) == (observation["obs"].startswith("Task answer:"), len(launcher.sandboxes))
    deaths[0] = 100
    with pytest.raises(SandboxLost):
        await env.areset()
    await env.aclose()


async def test_workspaces_can_be_kept_on_the_host(tmp_path: Path) -> None:
    """Each task that ends leaves a copy: files and directories, never links, devices or others' permission bits."""
    async with open_backend("local") as launcher:
        task = make_task(workspace=Workspace({"a/b.txt": WorkspaceFile(b"data")}))
        env = CodeCraftEnv(curriculum=Curriculum([task]), backend=launcher, keep_workspaces=tmp_path / "kept")
        await env.areset(task_id="answer")
        await act(env, "command", command="mkdir -m 777 empty; echo run > x; chmod 4777 x; ln -s /etc/passwd l")
        await act(env, "command", command="ln a/b.txt a/c; mkfifo p; sleep 900 &")
        assert ["l: a link", "p: a fifo"] == await env.asave_workspace(tmp_path / "now")
        assert ["a", "empty", "x"] == sorted(path.name for path in (tmp_path / "now").iterdir())
        with pytest.raises(FileExistsError):
            await env.asave_workspace(tmp_path / "now")
        await act(env, "submit")
        (kept,) = (tmp_path / "kept").iterdir()
        assert kept.name.startswith("answer-")
        assert (b"data", b"data", b"run\n") == tuple((kept / name).read_bytes() for name in ("a/b.txt", "a/c", "x"))
        assert 0o700 == (kept / "x").stat().st_mode & 0o7777 & ~0o077
        with pytest.raises(ResetNeeded, match="no task is under way"):
            await env.asave_workspace(tmp_path / "later")
        await env.aclose()


async def test_a_copy_of_a_workspace_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that take no room in the sandbox cannot fill the host's disk; what is left out is said."""
    monkeypatch.setattr(workbench, "_SAVED_FILE_BYTES", 1000)
    monkeypatch.setattr(workbench, "_SAVED_BYTES", 2500)
    async with open_backend("local") as launcher:
        env = await local_env(launcher, workspace=Workspace({}))
        await act(
            env, "command", command="for i in 1 2 3; do truncate -s 900 f$i; done; truncate -s 1G huge; echo 1 > z"
        )
        assert ["f3: too large", "huge: too large"] == await env.asave_workspace(tmp_path / "copy")
        assert ["f1", "f2", "z"] == sorted(os.listdir(tmp_path / "copy"))
        await env.aclose()


async def test_paths_that_are_too_long_for_the_host_are_left_out(tmp_path: Path) -> None:
    """A program makes them by going into directory after directory; the grade is given, and the rest is kept."""
    deep = "import os\nfor _ in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('f', 'w')"
    async with open_backend("local") as launcher:
        env = CodeCraftEnv(
            curriculum=Curriculum([make_task(workspace=Workspace({}))]), backend=launcher, keep_workspaces=tmp_path
        )
        await env.areset(task_id="answer")
        await act(env, "command", command=f'python3 -c "{deep}"; printf 42 > answer')
        (left_out, *_) = await env.asave_workspace(tmp_path / "copy")
        said, reward = await act(env, "submit")
        await env.aclose()
    assert (10.0, True) == (reward, "The score is: 10." in said)
    assert re.fullmatch("d{80}...: the path is too long", left_out)
    assert ["42", "42"] == [path.read_text() for path in tmp_path.glob("*/answer")]  # noqa: ASYNC240


async def test_a_workspace_that_cannot_be_kept_costs_no_grade(tmp_path: Path) -> None:
    """The sandbox that dies right after the grade takes its files along, and nothing else."""
    launcher = FakeLauncher(play)

    class Kills:
        runs_agent_code = False

        async def grade(self, sandbox: Any) -> Any:
            grade = await make_task().grader.grade(sandbox)
            sandbox.close()
            return grade

    task: Task = make_task(grader=Kills())
    env = fake_env(launcher, curriculum=Curriculum([task]), keep_workspaces=tmp_path)
    await env.areset(task_id="answer")
    await act(env, "command", command="write 42")
    said, reward = await act(env, "submit")
    assert (10.0, True) == (reward, "The score is: 10." in said)
    await env.aclose()
    assert [] == os.listdir(tmp_path)
