"""The registered id: gymnasium's own ways to make and use the environment, one or many, and what it needs."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError
from gymnasium.utils.env_checker import check_env

import codecraft_async  # registers
from codecraft_async.curriculum import Curriculum
from codecraft_async.gym_codecraft import CodeCraftEnv, CodeCraftVectorEnv, EnvLogger
from codecraft_async.gym_codecraft.demo import SCRIPT, main
from codecraft_async.gym_codecraft.progress import PullLines
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher, connect_daemon
from codecraft_async.runtime import Runtime
from codecraft_async.vector import AsyncioVectorEnv
from codecraft_pool.owner import Owner
from tests.envs.code_envs import make_task, play
from tests.gym_codecraft.students import NEW, act, fake_env, write_curriculum
from tests.pool.launchers import BACKENDS, containers_of, open_backend

ID = "gym_codecraft/CodeCraft-v0"


@pytest.mark.filterwarnings("default")  # the checker warns of what it would like, and raises what it insists on
def test_the_environment_passes_gymnasiums_checker() -> None:
    """Spaces, seeds, random actions, fresh objects, render modes; importing the package has registered the id."""
    assert codecraft_async.__version__
    env = gymnasium.make(ID, backend="local")
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_episode_through_gymnasiums_wrappers(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Made by its id, limited in time by gymnasium, logged, closed."""
    if backend == "docker":
        request.getfixturevalue("base_image")
    env = EnvLogger(gymnasium.make(ID, backend=backend, max_episode_steps=3), tmp_path / "env.log")
    _, info = env.reset(options={"task_id": "1"})
    assert "1" == info["task"]
    env.step('{"action": "write_file", "path": "hello.py", "content": "print(\'Hello, World!\')"}')
    observation, reward, terminated, truncated, info = env.step('{"action": "submit"}')
    assert (10.0, False, False, True) == (reward, terminated, truncated, info["valid"])
    assert env.observation_space.contains(observation)
    assert (True, True) == env.step('{"action": "exit"}')[2:4]
    env.close()


def test_experts_earn_everything_in_our_own_tasks() -> None:
    """Each of the five tasks, played by its expert's script."""

    async def earn() -> dict[str, float]:
        earned: dict[str, float] = {}
        async with open_backend("local") as launcher:
            env = CodeCraftEnv(backend=launcher)
            for task_id, task in env.tasks.items():
                await env.areset(task_id=task_id)
                for command in task.task.expert:
                    await act(env, "command", command=command)
                _, earned[task_id] = await act(env, "submit")
            await env.aclose()
        return earned

    assert dict.fromkeys("12345", 10.0) == asyncio.run(earn())


def test_many_students_work_at_once() -> None:
    """The registered vector environment: one pool, each environment its own task and sandbox."""
    env = gymnasium.make_vec(ID, num_envs=3, backend="local")
    observations, _ = env.reset(seed=1)
    assert 3 == len(observations["obs"])
    start = ['{"action": "start", "task_id": "1"}', '{"action": "start", "task_id": "3"}', '{"action": "exit"}']
    observations, _, terminations, _, info = env.step(start)
    assert [False, False, True] == terminations.tolist()
    assert ["1", "3", ""] == list(info["task"])
    observations, rewards, *_ = env.step(['{"action": "command", "command": "ls"}'] * 3)
    assert ("", "input.txt\n") == observations["obs"][:2]
    assert observations["obs"][2].startswith("You are in a place for learning")  # begun anew in place of the step
    assert [0.0, 0.0, 0.0] == rewards.tolist()
    env.close()


@pytest.mark.anyio
async def test_students_are_answered_as_soon_as_they_are_ready() -> None:
    """One whose command takes long keeps no other waiting."""
    vector = CodeCraftVectorEnv(2, backend=FakeLauncher(play), curriculum=Curriculum([make_task()]), batch_size=1)
    await vector.areset(options={"task_id": "answer"})
    vector.send([f'{{"action": "command", "command": "{command}"}}' for command in ("hang", "ls")])
    observations, *_, infos = await vector.arecv()
    assert (("hint\n",), [1]) == (observations["obs"], infos["env_id"].tolist())
    await vector.aclose()


@pytest.mark.anyio
async def test_environments_of_one_runtime_share_its_sandboxes() -> None:
    """`AsyncioVectorEnv` steps them concurrently; who shares a runtime closes it."""
    launcher = FakeLauncher(play)
    runtime = Runtime(launcher, [], max_sandboxes=2)
    vector: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([lambda: fake_env(launcher, runtime=runtime)] * 2)
    await vector.areset(options={"task_id": "answer"})
    observations, rewards, _, _, infos = await vector.astep(('{"action": "command", "command": "ls"}', "no JSON"))
    assert ("hint\n", "Invalid action error: Expecting value: line 1 column 1 (char 0)") == observations["obs"]
    assert ([0.0, -1.0], [False, True]) == (rewards.tolist(), infos["malformed"].tolist())
    assert np.int64 == infos["exit_code"].dtype
    await vector.aclose()
    assert 2 == len(launcher.sandboxes)
    await runtime.aclose()


@pytest.mark.anyio
async def test_students_work_at_the_same_time() -> None:
    """Commands that end only once all have begun do end."""
    barrier = asyncio.Barrier(8)

    async def meet(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        await barrier.wait()
        return FakeAnswer(b"met")

    vector = CodeCraftVectorEnv(8, backend=FakeLauncher(meet), curriculum=Curriculum([make_task()]))
    await vector.areset(options={"task_id": "answer"})
    observations, *_ = await vector.astep(('{"action": "command", "command": "meet"}',) * 8)
    assert ("met",) * 8 == observations["obs"]
    await vector.aclose()


@pytest.mark.anyio
async def test_one_environment_without_a_sandbox_does_not_end_the_others_episodes() -> None:
    """Its reset says so in info, its next step is the end of its episode, and the reset after that works."""
    launcher = FakeLauncher(play)
    vector = CodeCraftVectorEnv(2, backend=launcher, curriculum=Curriculum([make_task()]))
    await vector.areset()
    start = '{"action": "start", "task_id": "answer"}'
    await vector.astep((start, start))
    launcher.fail_starts = 1
    launcher.sandboxes[0].close()
    ls = '{"action": "command", "command": "ls"}'
    _, _, _, truncations, infos = await vector.astep((ls, ls))
    assert ([True, False], "sandbox") == (truncations.tolist(), infos["fault"]["kind"][0])
    _, _, _, truncations, infos = await vector.astep((ls, ls))
    assert ([False, False], "daemon") == (truncations.tolist(), infos["fault"]["kind"][0])
    _, rewards, _, truncations, infos = await vector.astep((ls, ls))
    assert ([True, False], [0.0, 0.0]) == (truncations.tolist(), rewards.tolist())
    _, _, _, _, infos = await vector.astep((ls, ls))
    assert [True, True] == infos["valid"].tolist()
    await vector.aclose()


def test_the_synchronous_face_and_the_end_of_it() -> None:
    """Reset, step and close from a script; afterwards everything says that it is closed."""
    env = fake_env(render_mode="ansi", max_episode_steps=2)
    assert "" == env.render()
    env.reset(task_id="answer")
    env.step('{"action": "command", "command": "ls"}')
    assert "hint" in (env.render() or "")
    _, _, terminated, truncated, info = env.step("")
    assert (False, True, "max_episode_steps") == (terminated, truncated, info["truncation"])
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step("")):
        with pytest.raises(ClosedEnvironmentError, match="CodeCraftEnv is closed; make a new one"):
            call()


@pytest.mark.anyio
async def test_one_face_and_one_call_at_a_time() -> None:
    """A synchronous call in the midst of an asynchronous use says what to do, and so does a second call at once."""
    env = fake_env()
    await env.areset(task_id="answer")
    with pytest.raises(RuntimeError, match="belong to another event loop"):
        env.step("")
    with pytest.raises(RuntimeError, match="await aclose"):
        env.close()
    first = asyncio.create_task(act(env, "command", command="hang"))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyPendingCallError, match="`reset` while a call of `step` is in progress"):
        await env.areset()
    first.cancel()
    await asyncio.wait([first])
    with pytest.raises(TypeError, match="an action is a JSON text; this one is of type dict"):
        await env.astep({"action": "exit"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await env.aclose()
    await env.aclose()


def test_closing_after_the_loop_has_ended_lets_go() -> None:
    """Where `aclose` was forgotten on a loop that is gone."""
    env = fake_env()
    asyncio.run(_reset(env))
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.reset()
    env = fake_env()
    asyncio.run(_reset(env))
    asyncio.run(env.aclose())
    with pytest.raises(ClosedEnvironmentError):
        asyncio.run(_reset(env))


async def _reset(env: CodeCraftEnv) -> None:
    await env.areset(task_id="answer")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interface": "newer"}, "interface is 'newer'; it must be 'new' or 'old'"),
        ({"max_score": 0.0}, "max_score is 0.0; it must be more than 0"),
        ({"command_limit_s": float("inf")}, "command_limit_s is inf"),
        ({"grade_limit_s": 0.0}, "grade_limit_s is 0.0; it must be more than 0"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0"),
        ({"render_mode": "rgb_array"}, "render_mode is 'rgb_array'"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], said: str) -> None:
    """With the option, its value and what is allowed."""
    with pytest.raises(ValueError, match=said):
        fake_env(**options)


def test_wrong_reset_options_are_refused() -> None:
    """They are a program's mistake, not a student's."""
    env = fake_env()
    with pytest.raises(ValueError, match="unknown reset option 'task'; the one that is known is 'task_id'"):
        env.reset(options={"task": "answer"})
    with pytest.raises(TypeError, match="the task_id is 3; it must be text"):
        env.reset(options={"task_id": 3})
    env.close()


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_pull_is_shown_in_its_place_on_a_terminal() -> None:
    """`status: progress`, over what was there; lines that are none of a layer's stand for themselves."""
    stream = Terminal()
    lines = PullLines(stream)
    lines.layer("a1", "Downloading", 5_000_000, 10_000_000)
    lines.layer("a1", "Pulling", None, None)
    lines.line("done")
    lines.layer("a1", "Extracting", 2_000_000, None)
    assert "\rDownloading: 50 %\rPulling          \ndone\n\rExtracting: 2.0 MB" == stream.getvalue()


def test_a_pull_is_a_line_for_each_state_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, where nothing else is asked for."""
    lines = PullLines()
    for current in (1, 2, 3):
        lines.layer("a1", "Downloading", current, 3)
    lines.layer("a1", "Complete", None, None)
    assert "a1 Downloading\na1 Complete\n" == capsys.readouterr().err


@pytest.mark.docker
@pytest.mark.anyio
async def test_images_that_are_here_are_not_pulled_and_nothing_stays_behind(base_image: str, tmp_path: Path) -> None:
    """No registry is asked; one that cannot be had is a fault of its task alone; a closed environment has nothing."""

    class NoPull:
        def layer(self, layer_id: str, status: str, current: int | None, total: int | None) -> None:
            raise AssertionError(f"{layer_id} {status}")

        def line(self, text: str) -> None:
            raise AssertionError(text)

    del base_image
    async with await connect_daemon() as daemon:
        curriculum = write_curriculum(tmp_path, t1=NEW, t2=dict(NEW, docker="no.such.registry.invalid/image:1"))
        env = CodeCraftEnv(curriculum=curriculum, backend="docker", progress=NoPull())
        await env.areset()
        for _ in range(2):
            await act(env, "start", task_id="1")
        pool = await env.runtime.pool()
        assert 1 == pool.stats().started
        observation, _, _, truncated, info = await env.astep(json.dumps({"action": "start", "task_id": "2"}))
        assert ({"obs": ""}, True, "daemon") == (observation, truncated, info["fault"]["kind"])
        assert "no.such.registry.invalid/image:1" in info["fault"]["message"]
        assert (await act(env, "start", task_id="1"))[0].startswith("Task 1:")
        await env.aclose()
        assert [] == await containers_of(daemon, Owner.current())


def test_the_example_of_the_readme_runs() -> None:
    """As it stands."""
    text = (Path(codecraft_async.__file__).parent / "gym_codecraft" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(example, "README", "exec"), {})


def test_the_demonstration_earns_what_it_should(capsys: pytest.CaptureFixture[str]) -> None:
    """Three tasks, and four mistakes on purpose."""
    assert 0 == main(["--backend", "local"])
    shown = capsys.readouterr().out
    assert "earned 26" == shown.splitlines()[-1]
    assert len(SCRIPT) == sum(line.startswith('> {"action"') for line in shown.splitlines())
