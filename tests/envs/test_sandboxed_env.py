"""The environments in real sandboxes: the built-in tasks, gymnasium's checker, and bad input that costs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from codecraft_async import CodeEnv, CodeVectorEnv
from codecraft_async.curriculum import Curriculum, Task, load_curriculum
from codecraft_async.pool import BackendUnavailable

pytestmark = pytest.mark.anyio

BACKENDS = [pytest.param("local"), pytest.param("docker", marks=pytest.mark.docker)]
SCRIPTS = [(task, "expert", task.expert, 1.0) for task in load_curriculum("builtin").values()] + [
    (task, name, script, 0.0) for task in load_curriculum("builtin").values() for name, script in task.failures.items()
]


async def perform(env: CodeEnv, task: Task, script: tuple[str, ...]) -> tuple[float, dict[str, Any]]:
    """Play a script and submit; return the reward and the last info."""
    await env.areset(options={"task": task.id})
    for action in script:
        _, _, terminated, truncated, info = await env.astep(action)
        assert not (terminated or truncated), f"{task.id}: the script ended the episode at {action!r}: {info}"
    _, reward, _, _, info = await env.astep("submit")
    return reward, info


@pytest.mark.parametrize("backend", BACKENDS)
async def test_experts_earn_everything_and_failures_nothing(backend: str) -> None:
    """Each built-in task, in a real sandbox: its expert's script is worth 1.0, each wrong or cheating one 0.0."""
    vector = CodeVectorEnv(4, backend=backend)
    await vector.areset()
    envs = [env.unwrapped for env in vector.envs]
    jobs = list(enumerate(SCRIPTS))
    earned: dict[str, float] = {}

    async def work(env: Any) -> None:
        while jobs:
            _, (task, name, script, _) = jobs.pop()
            reward, info = await perform(env, task, script)
            assert info["valid"], info
            earned[f"{task.id}/{name}"] = reward

    async with asyncio.TaskGroup() as group:
        for env in envs:
            group.create_task(work(env))
    await vector.aclose()
    assert {f"{task.id}/{name}": reward for task, name, _, reward in SCRIPTS} == earned
    assert all(len(task.failures) >= 2 for task in load_curriculum("builtin").values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"actions": "json", "malformed_retries": 2, "malformed_reward": -1.0, "ansi": "strip", "wall_budget_s": 600.0},
        {"reward": "dense", "gamma": 0.9, "shell": "persistent", "cpu_budget_s": 600.0},
    ],
    ids=["default", "json", "dense"],
)
def test_the_single_environment_passes_gymnasiums_checker(backend: str, options: dict[str, Any]) -> None:
    """`check_env`: spaces, seeds, resets, random actions, fresh objects, render modes; without a warning."""
    env = gymnasium.make("codecraft_async:codecraft/Code-v0", backend=backend, **options)
    check_env(env.unwrapped, skip_render_check=backend == "docker")
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_make_vec_runs_commands_in_as_many_sandboxes(backend: str) -> None:
    """The registered vector environment, through its synchronous face: state within an episode, none across."""
    env = gymnasium.make_vec("codecraft_async:codecraft/Code-v0", num_envs=3, backend=backend, task="sort-numbers")
    texts, info = env.reset(seed=1)
    assert 3 == len(texts)
    env.step([f"echo {number} > mine; sleep 300 & echo tmp > /tmp/left" for number in range(3)])
    texts, rewards, _, _, info = env.step(["cat mine /tmp/left; exit 7"] * 3)
    assert ("0\ntmp\n", "1\ntmp\n", "2\ntmp\n") == texts
    assert ([0.0] * 3, [7] * 3) == (rewards.tolist(), info["exit_code"].tolist())
    env.reset()
    texts, *_ = env.step(["ls mine /tmp/left 2>&1 | sort; cat /proc/[0-9]*/comm | grep -c sleep"] * 3)
    missing = "".join(f"ls: cannot access '{path}': No such file or directory\n" for path in ("/tmp/left", "mine"))
    assert (missing + "0\n",) * 3 == texts
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_what_an_agent_does_to_itself_is_no_fault(backend: str) -> None:
    """Time-outs, floods, a closed workspace and a kill of everything are observations; the episode stays valid."""
    builtin = load_curriculum("builtin")["hello-world"]
    limits = type(builtin.limits)(command_limit_s=0.5, max_output_bytes=2000)
    task = Task(
        id="limited",
        title="t",
        category="c",
        instruction="i",
        image=builtin.image,
        workspace=builtin.workspace,
        grader=builtin.grader,
        limits=limits,
        max_steps=50,
    )
    env = CodeEnv(curriculum=Curriculum([task]), backend=backend)
    await env.areset()
    text, *_, info = await env.astep("echo before; sleep 60")
    assert ("before\n\n[killed: it ran longer than 0.5 s]", True) == (text, info["timed_out"])
    text, *_, info = await env.astep("yes")
    assert text.startswith("y\ny\n")
    assert text.endswith("[killed: it printed more than 2000 bytes]")
    assert info["truncated_output"]
    *_, info = await env.astep("kill -9 -1; kill -9 1; echo still")
    assert info["valid"]
    text, *_, info = await env.astep("chmod 000 .; cd /; rm -rf /workspace /tmp 2>/dev/null; echo done")
    assert ("done\n", True) == (text, info["valid"])
    text, *_, info = await env.astep("ls")
    assert text.startswith("cannot run the command: ")
    assert info["valid"]
    _, reward, terminated, _, info = await env.astep("submit")
    assert (0.0, True, True) == (reward, terminated, info["valid"])
    await env.areset()
    text, *_ = await env.astep("ls -d /workspace && touch x && ls")
    assert "/workspace\nx\n" == text
    await env.aclose()


@pytest.mark.docker
async def test_a_task_may_run_as_root_in_a_container_and_only_there() -> None:
    """Root inside changes the system, in a layer that no other episode sees; locally it is refused with advice."""
    builtin = load_curriculum("builtin")["hello-world"]
    task = replace(builtin, id="as-root", user="root")
    env = CodeEnv(curriculum=Curriculum([task]), backend="docker")
    await env.areset()
    text, *_ = await env.astep(
        "id -u; touch made && ls -l made | cut -d' ' -f3; grep CapEff /proc/self/status; echo x > /usr/x && ls /usr/x"
    )
    assert "0\nroot\nCapEff:\t00000000000000fb\n/usr/x\n" == text
    await env.astep("echo 'print(\"Hello, World!\")' > hello.py")
    _, reward, *_ = await env.astep("submit")
    assert 1.0 == reward
    await env.areset()
    text, *_ = await env.astep("ls /usr/x")
    assert "No such file" in text
    await env.aclose()
    env = CodeEnv(curriculum=Curriculum([task]), backend="local")
    with pytest.raises(BackendUnavailable, match="choose backend='docker'"):
        await env.areset()
    await env.aclose()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_persistent_shell_lasts_for_one_episode(backend: str) -> None:
    """Its state goes from step to step, an end of it is said, and the next episode starts with a new one."""
    env = CodeEnv(backend=backend, shell="persistent")
    instruction, _ = await env.areset()
    assert "keeps its state" in instruction
    await env.astep("cd /tmp; x=5; f() { echo f $1; }")
    assert "5 /tmp f a\n" == (await env.astep("echo $x $PWD $(f a)"))[0]
    observation, _, _, _, info = await env.astep("echo bye; exit 3")
    assert ("bye\n\n[the shell has ended; the next command gets a new one]", 3) == (observation, info["exit_code"])
    assert "[] /workspace\n" == (await env.astep("echo [$x] $PWD; x=6"))[0]
    await env.areset()
    assert "[] /workspace\n" == (await env.astep("echo [$x] $PWD"))[0]
    _, _, terminated, _, info = await env.astep("submit")
    assert (True, True) == (terminated, info["valid"])
    await env.aclose()


def test_a_vector_of_persistent_shells_through_gymnasium() -> None:
    """`make_vec` takes the option, and each environment has a shell of its own."""
    envs = gymnasium.make_vec("codecraft_async:codecraft/Code-v0", num_envs=2, backend="local", shell="persistent")
    try:
        envs.reset(seed=1)
        envs.step(("x=first", "x=second"))
        assert ("first\n", "second\n") == envs.step(("echo $x", "echo $x"))[0]
    finally:
        envs.close()
    with pytest.raises(ValueError, match="'fresh' or 'persistent'"):
        CodeEnv(shell="other")  # type: ignore[arg-type]
