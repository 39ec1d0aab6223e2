"""`CodeVectorEnv` over fake sandboxes, how environments are registered, and what the package offers."""

from __future__ import annotations

import asyncio
from typing import Any

import gymnasium
import pytest
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode

from codecraft_async import CodeEnv, CodeVectorEnv
from codecraft_async._outcome import fault_text
from codecraft_async.curriculum import (
    UnknownTask,
    load_curriculum,
)
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher
from tests.envs.code_envs import make_task, play, vector

pytestmark = pytest.mark.anyio


async def test_many_environments_step_at_once() -> None:
    """All commands of one step are under way together: each waits for all others to have begun."""
    began = 0
    everyone = asyncio.Event()

    async def meet(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        nonlocal began
        began += 1
        if began == 8:
            everyone.set()
        await everyone.wait()
        return FakeAnswer(b"met")

    env = vector(FakeLauncher(meet), 8)
    await env.areset()
    texts, rewards, terminations, truncations, info = await env.astep(("x",) * 8)
    assert ("met",) * 8 == texts
    assert ["float64", "bool", "bool"] == [str(each.dtype) for each in (rewards, terminations, truncations)]
    assert ["int64", "float64"] == [str(info[key].dtype) for key in ("exit_code", "wall_s")]
    assert ("bool", [True] * 8) == (str(info["valid"].dtype), info["valid"].tolist())
    await env.aclose()


@pytest.mark.parametrize("kinds", [1, 3])
async def test_as_many_at_once_as_wanted(kinds: int) -> None:
    """With `max_concurrency` no more commands run at once, and resets that need other images come through."""
    running, most = 0, 0

    async def count(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        for _ in range(50):
            await asyncio.sleep(0)
        running -= 1
        return FakeAnswer()

    tasks = (make_task(f"t{kind}", image=f"codecraft/{kind}") for kind in range(kinds))
    env = vector(FakeLauncher(count), 4, *tasks, max_concurrency=2)
    await env.areset()
    for _ in range(6):
        await env.astep(("ls", "submit", "ls", "submit"))
    assert 2 == most
    await env.aclose()


async def test_closing_while_sandboxes_start_ends_the_reset() -> None:
    """The reset says that the environment was closed; it is not taken for cancelled."""
    for turns in range(8):
        env = vector(FakeLauncher(play), 2)
        resetting = asyncio.create_task(env.areset())
        for _ in range(turns):
            await asyncio.sleep(0)
        await env.aclose()
        with pytest.raises(ClosedEnvironmentError):
            await resetting


async def test_the_sequential_sampler_covers_the_curriculum() -> None:
    """Environment i of n gets the tasks i, i + n, ...: together, each task once before any twice."""
    env = vector(FakeLauncher(play), 2, *(make_task(f"t{number}") for number in range(5)), autoreset_mode="Disabled")
    seen = [(await env.areset())[1]["task"].tolist() for _ in range(3)]
    assert [["t0", "t1"], ["t2", "t3"], ["t4", "t0"]] == seen
    await env.aclose()


async def test_the_uniform_sampler_follows_the_seed() -> None:
    """The same seed draws the same tasks; environments draw apart."""
    tasks = [make_task(f"t{number}") for number in range(20)]
    draws: list[list[str]] = []
    for _ in range(2):
        env = vector(FakeLauncher(play), 6, *tasks, sampler="uniform")
        draws.append((await env.areset(seed=7))[1]["task"].tolist())
        await env.aclose()
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


async def test_a_lost_sandbox_does_not_disturb_its_siblings() -> None:
    """One environment ends with a fault; the others have their results, and the pool replaces what died."""
    launcher = FakeLauncher(play)
    env = vector(launcher, 3)
    await env.areset()
    launcher.sandboxes[1].close()
    texts, _, _, truncations, info = await env.astep(("ls",) * 3)
    assert 1 == int(truncations.sum())
    assert [not truncated for truncated in truncations.tolist()] == info["valid"].tolist()
    assert 2 == texts.count("hint\n")
    (row,) = truncations.nonzero()[0].tolist()
    assert ("sandbox", "fake-1") == (info["fault"]["kind"][row], info["fault"]["sandbox"][row])
    assert [""] * 2 == [fault_text(info, other) for other in range(3) if other != row]
    assert fault_text(info, row).startswith("sandbox fake-1: SandboxLost: sandbox fake-1 is lost")
    texts, *_, info = await env.astep(("ls",) * 3)
    assert ([True] * 3, "") == (info["valid"].tolist(), fault_text(info, row))
    await env.aclose()


@pytest.mark.parametrize("mode", list(AutoresetMode))
async def test_ended_episodes_start_again_by_every_mode(mode: AutoresetMode) -> None:
    """NEXT_STEP, SAME_STEP and DISABLED, over sandboxes."""
    env = vector(FakeLauncher(play), 2, autoreset_mode=mode)
    await env.areset()
    texts, _, terminations, _, info = await env.astep(("submit", "ls"))
    assert [True, False] == terminations.tolist()
    if mode is AutoresetMode.SAME_STEP:
        assert texts[0].startswith("The answer")
        assert info["final_obs"][0].startswith("score 0")
    if mode is AutoresetMode.DISABLED:
        texts, _ = await env.areset(options={"reset_mask": terminations})
        assert texts[0].startswith("The answer")
        assert "hint\n" == texts[1]
    if mode is AutoresetMode.NEXT_STEP:
        texts, _, terminations, _, _ = await env.astep(("thrown away", "ls"))
        assert texts[0].startswith("The answer")
        assert [False, False] == terminations.tolist()
    await env.aclose()


def test_make_vec_gives_the_native_vector_environment() -> None:
    """The registered id, its options as plain keywords, and the way back from its spec."""
    env = gymnasium.make_vec("codecraft_async:codecraft/Code-v0", num_envs=3, task="hello-world", backend="local")
    assert isinstance(env.unwrapped, CodeVectorEnv)
    assert AutoresetMode.NEXT_STEP is env.metadata["autoreset_mode"]
    assert env.spec is not None
    again = gymnasium.make_vec(env.spec)
    assert (3, "hello-world") == (again.num_envs, again.spec.kwargs["task"] if again.spec else "")
    again.close()
    env.close()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"task": "hello-wrold"}, UnknownTask, "hello-world"),
        ({"curriculum": "/nowhere"}, ValueError, "/nowhere"),
        ({"sampler": "best"}, ValueError, "'sequential', 'uniform', 'weighted', 'adaptive' or a Sampler"),
        ({"max_episode_steps": 0}, ValueError, "at least 1"),
        ({"num_envs": 0}, ValueError, "at least 1"),
        ({"autoreset_mode": "Never"}, ValueError, "Never"),
        ({"max_concurrency": 0}, ValueError, "at least 1"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    """Errors come when the environment is made, before any sandbox starts, in one line."""
    arguments: dict[str, Any] = {"num_envs": 2, "backend": "local"} | options
    with pytest.raises(kind, match=words) as caught:
        CodeVectorEnv(**arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_backend_is_named_at_the_first_reset() -> None:
    """The error lists those that are known."""
    env = CodeEnv(backend="podman")
    with pytest.raises(ValueError, match="'auto', 'docker', 'local'"):
        env.reset()
    env.close()


def test_the_public_modules_re_export_the_same_objects() -> None:
    """`codecraft_async.pool` and `.curriculum` are the packages' own names, all of them."""
    import codecraft_async.curriculum
    import codecraft_async.pool
    import codecraft_curriculum
    import codecraft_pool

    for face, package in (
        (codecraft_async.pool, codecraft_pool),
        (codecraft_async.curriculum, codecraft_curriculum),
    ):
        assert sorted(package.__all__) == sorted(face.__all__)
        assert all(getattr(face, name) is getattr(package, name) for name in package.__all__)


def test_the_built_in_curriculum_is_the_default() -> None:
    """It begins with the tasks that the documents name."""
    env = CodeEnv(backend="local")
    assert [*load_curriculum("builtin")] == [*env.curriculum]
    assert ["hello-world", "git-clone", "sort-numbers", "refactor-sqrt", "review-code"] == [*env.curriculum][:5]
    env.close()
