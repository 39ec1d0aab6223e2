"""Fixed lists of actions in a real sandbox, and the very observations and rewards that gym-codecraft's users expect."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import pytest

from codecraft_async.gym_codecraft import CodeCraftEnv
from codecraft_async.pool import Launcher
from tests.gym_codecraft.students import GRADERS, NEW, OLD, write_curriculum
from tests.pool.launchers import BACKENDS, open_backend

pytestmark = pytest.mark.anyio

NO_TASK: Final = "No task started. Please use start action to start a task."
NO_CONTAINER: Final = "No running container: please use `{'action':'reset', 'task_id':'?'}` to choose a task."
FIRST_NEW: Final = (
    "Task 1:\n {'category': 'Shell', 'docker': 'codecraft/base', 'shell': '/bin/sh', 'title': 'Answer', "
    "'description': 'Write 42 into the file answer.'}\n"
)
FIRST_OLD: Final = (
    "Task 1:\n {'category': 'Shell', 'docker': 'codecraft/base', 'shell': '/bin/sh', 'working_dir': '/workspace', "
    "'title': 'Answer', 'description': 'Write 42 into the file answer.', 'test': 'The file answer holds 42.'}\n"
)
Lines = list[tuple[str, str, float, bool]]

NEW_TRANSCRIPT: Final[Lines] = [
    ('{"action": "command", "command": "ls"}', NO_TASK, -1.0, False),
    ('{"action": "write_file", "path": "a", "content": ""}', NO_TASK, -1.0, False),
    ('{"action": "reset"}', NO_TASK, -1.0, False),
    ('{"action": "submit"}', NO_TASK, -1.0, False),
    ('{"action": "close"}', "Task closed.", 0.0, False),
    ('{"action": "dance"}', "Unknown action: dance", -1.0, False),
    ("ls", "Invalid action error: Expecting value: line 1 column 1 (char 0)", -1.0, False),
    ('{"command": "ls"}', "Invalid action error: 'action'", -1.0, False),
    ('{"action": "start"}', "Invalid action error: 'task_id'", -1.0, False),
    ('{"action": "start", "task_id": "7"}', "Task 7 not found.\n", 0.0, False),
    ('{"action": "command", "command": "ls"}', NO_TASK, -1.0, False),
    ('{"action": "start", "task_id": "1"}', FIRST_NEW, 0.0, False),
    ('{"action": "command"}', "Invalid action error: 'command'", -1.0, False),
    ('{"action": "command", "command": "pwd; ls"}', "/workspace\n", 0.0, False),
    ('{"action": "command", "command": "cd /tmp; a=1; pwd"}', "/tmp\n", 0.0, False),
    ('{"action": "command", "command": "pwd; echo \\"a is $a\\""}', "/workspace\na is \n", 0.0, False),
    ('{"action": "command", "command": "echo out; echo err >&2; exit 3"}', "out\nerr\n", 0.0, False),
    ('{"action": "write_file", "content": "x"}', "Invalid action error: 'path'", -1.0, False),
    ('{"action": "write_file", "path": "a/h.txt", "content": "h\\u00e9llo"}', "File a/h.txt written.", 0.0, False),
    ('{"action": "command", "command": "cat a/h.txt"}', "héllo", 0.0, False),
    ('{"action": "reset"}', FIRST_NEW, 0.0, False),
    ('{"action": "command", "command": "ls"}', "", 0.0, False),
    ('{"action": "start", "task_id": "7"}', "Task 7 not found.\n", 0.0, False),
    ('{"action": "command", "command": "printf 42 > answer"}', "", 0.0, False),
    (
        '{"action": "submit"}',
        "Code submitted.\nThe teacher's comments: Good job!.\nThe score is: 10.\nTask closed. Please start a new task.",
        10.0,
        False,
    ),
    ('{"action": "submit"}', NO_TASK, -1.0, False),
    ('{"action": "start", "task_id": "1"}', FIRST_NEW, 0.0, False),
    (
        '{"action": "submit"}',
        "Code submitted.\nThe teacher's comments: The work is not right yet.\nThe score is: 0.\n"
        "Task closed. Please start a new task.",
        0.0,
        False,
    ),
    ('{"action": "start", "task_id": "1"}', FIRST_NEW, 0.0, False),
    ('{"action": "close"}', "Task closed.", 0.0, False),
    ('{"action": "command", "command": "ls"}', NO_TASK, -1.0, False),
    ('{"action": "exit"}', "Exited.", 0.0, True),
    ('{"action": "submit"}', NO_TASK, -1.0, False),
]

OLD_TRANSCRIPT: Final[Lines] = [
    ('{"action": "command", "command": "ls"}', NO_CONTAINER, -1.0, False),
    ('{"action": "submit"}', NO_CONTAINER, -1.0, False),
    ('{"action": "dance"}', NO_CONTAINER, -1.0, False),
    ('{"action": "exit"}', NO_CONTAINER, -1.0, False),
    ("ls", "Invalid action: Expecting value: line 1 column 1 (char 0)", -1.0, False),
    ('{"action": "reset", "task_id": "7"}', "Task 7 not found.\n", 0.0, False),
    ('{"action": "reset", "task_id": "1"}', FIRST_OLD, 0.0, False),
    ('{"action": "dance"}', "Unknown action: dance", -1.0, False),
    ('{"action": "start", "task_id": "1"}', "Unknown action: start", -1.0, False),
    ('{"action": "close"}', "Unknown action: close", -1.0, False),
    ('{"action": "command"}', "Invalid action: 'command'", -1.0, False),
    ('{"action": "command", "command": "pwd"}', "/workspace\n", 0.0, False),
    ('{"action": "submit"}', "Code submitted.", 0.0, False),
    ('{"action": "write_file", "path": "answer", "content": "42"}', "File answer written.", 0.0, False),
    ('{"action": "submit"}', "Code submitted.", 1.0, False),
    ('{"action": "submit"}', "Code submitted.", 0.0, False),
    ('{"action": "command", "command": "cat answer"}', "42", 0.0, False),
    ('{"action": "reset", "task_id": "1"}', FIRST_OLD, 0.0, False),
    ('{"action": "command", "command": "ls"}', "", 0.0, False),
    ('{"action": "exit"}', "Exited.", 0.0, True),
    ('{"action": "exit"}', NO_CONTAINER, -1.0, False),
]


@pytest.fixture(name="launcher", scope="module", params=BACKENDS)
async def _launcher(request: pytest.FixtureRequest) -> AsyncGenerator[Launcher]:
    if request.param == "docker":
        request.getfixturevalue("base_image")
    async with open_backend(request.param) as launcher:
        yield launcher


async def perform(env: CodeCraftEnv, expected: Lines) -> Lines:
    """Play the actions; return what came of each."""
    played: Lines = []
    for action, *_ in expected:
        observation, reward, terminated, truncated, info = await env.astep(action)
        assert env.observation_space.contains(observation)
        assert (False, True, "") == (truncated, info["valid"], info["info"]), info.get("fault")
        played.append((action, observation["obs"], reward, terminated))
    return played


async def test_the_newer_interface(launcher: Launcher, tmp_path: Path) -> None:
    """Every action of the last version, with the mistakes that students make."""
    env = CodeCraftEnv(curriculum=write_curriculum(tmp_path, t1=NEW), graders=GRADERS, backend=launcher)
    observation, _ = await env.areset(seed=1)
    assert observation["obs"].startswith("You are in a place for learning to write programs. There are 1 tasks: 1.")
    assert NEW_TRANSCRIPT == await perform(env, NEW_TRANSCRIPT)
    await env.aclose()


async def test_the_older_interface(launcher: Launcher, tmp_path: Path) -> None:
    """That of the README: `reset` chooses the task, nothing is graded aloud, and a submission ends nothing."""
    path = write_curriculum(tmp_path, t1=OLD)
    env = CodeCraftEnv(curriculum=path, interface="old", graders=GRADERS, backend=launcher)
    observation, _ = await env.areset()
    assert {"obs": "\n"} == observation
    assert OLD_TRANSCRIPT == await perform(env, OLD_TRANSCRIPT)
    await env.aclose()


async def test_what_was_written_for_the_older_interface_runs_on_the_newer(launcher: Launcher, tmp_path: Path) -> None:
    """A `reset` with a task id starts that task, as an action and as a reset of gymnasium's."""
    env = CodeCraftEnv(curriculum=write_curriculum(tmp_path, t1=NEW), graders=GRADERS, backend=launcher)
    observation, info = await env.areset(options={"task_id": "1"})
    assert ({"obs": FIRST_NEW}, "1") == (observation, info["task"])
    observation, *_ = await env.astep('{"action": "reset", "task_id": "1"}')
    assert {"obs": FIRST_NEW} == observation
    observation, _ = await env.areset()
    assert {"obs": FIRST_NEW} == observation
    observation, _ = await env.areset(task_id="7")
    assert {"obs": "Task 7 not found.\n"} == observation
    await env.aclose()
