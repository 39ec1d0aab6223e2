"""A reset that can have no sandbox: an error of `CodeEnv`, and in a batch a fault of one environment only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from codecraft_async import CodeVectorEnv, EpisodeError
from codecraft_async.pool import AcquireTimeout, FakeLauncher, LaunchError, Sandbox, SandboxSpec
from codecraft_pool.pool_kind import Pauses
from tests.envs.code_envs import check_types, lose_sandbox, make, make_task, play, vector
from tests.outage import OutageLauncher, shortened

pytestmark = pytest.mark.anyio


async def test_alone_it_raises() -> None:
    """By default; the environment stays usable, and its next reset works."""
    launcher = OutageLauncher(play)
    env = make(launcher, reset_limit_s=0.05)
    await env.areset()
    launcher.is_out = True
    launcher.sandboxes[0].close()
    with pytest.raises(AcquireTimeout, match="nobody answers"):
        await env.areset()
    launcher.is_out = False
    await env.aclose()


async def test_as_information_it_is_an_episode_of_one_step() -> None:
    """Nothing to read, the fault in info, and whatever is done then ends it: truncated, not valid, worth nothing."""
    launcher = FakeLauncher(play)
    launcher.fail_starts = 1
    env = make(launcher, reset_faults="info")
    text, info = await env.areset()
    assert ("", "answer", False, 0, "") == (text, info["task"], info["valid"], info["steps"], info["truncation"])
    assert {
        "kind": "daemon",
        "sandbox": "",
        "message": "LaunchError: the fake launcher was told to fail this start",
    } == info["fault"]
    check_types(info)
    fault = info["fault"]
    text, reward, terminated, truncated, info = await env.astep("submit")
    assert ("", 0.0, False, True) == (text, reward, terminated, truncated)
    assert (fault, False, 1, "fault", False) == (
        info["fault"],
        info["valid"],
        info["steps"],
        info["truncation"],
        info["graded"],
    )
    check_types(info)
    text, info = await env.areset()
    assert (True, True) == (text.startswith("The answer"), info["valid"])
    assert "hint\n" == (await env.astep("ls"))[0]
    await env.aclose()


async def test_a_sandbox_that_dies_at_every_reset_is_named() -> None:
    """A reset tries several; the last one's end is the fault."""

    async def die(files: Any, argv: list[str]) -> Any:
        launcher.sandboxes[-1].close()
        return await play(files, argv)

    launcher = FakeLauncher(die)
    env = make(launcher, make_task(setup=("true",)), reset_faults="info")
    _, info = await env.areset()
    assert ("sandbox", "fake-2", 3) == (info["fault"]["kind"], info["fault"]["sandbox"], len(launcher.sandboxes))
    await env.aclose()


def lose(env: CodeVectorEnv, launcher: OutageLauncher, row: int) -> None:
    """Have the sandbox of one environment die, and no other one to be had."""
    launcher.is_out = True
    lose_sandbox(env.envs[row].unwrapped)


@pytest.mark.parametrize("mode", list(AutoresetMode))
async def test_in_a_batch_the_others_go_on(mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """One environment has no sandbox for its next episode: the other two do not notice, in no mode."""
    monkeypatch.setattr(Pauses, "fail", shortened(Pauses.fail))
    launcher = OutageLauncher(play)
    env = vector(launcher, 3, make_task(max_steps=50), autoreset_mode=mode, reset_limit_s=0.05)
    await env.areset()
    lose(env, launcher, 1)
    seen: list[tuple[str, bool, bool]] = []
    info: dict[str, Any]
    for _ in range(6):
        texts, rewards, terminations, truncations, info = await env.astep(("ls",) * 3)
        assert ("hint\n", "hint\n") == (texts[0], texts[2])
        assert [0.0] * 3 == rewards.tolist()
        assert not terminations.any()
        seen.append((texts[1], bool(truncations[1]), bool(info["valid"][1])))
        if mode is AutoresetMode.DISABLED and truncations.any():
            texts, info = await env.areset(options={"reset_mask": truncations})
            assert ("", False) == (texts[1], bool(info["valid"][1]))
            assert ("daemon", "AcquireTimeout") == (
                info["fault"]["kind"][1],
                info["fault"]["message"][1].partition(":")[0],
            )
            assert [False, True, False] == info["_fault"].tolist()
    ended = ("", True, False)
    assert {
        AutoresetMode.DISABLED: [ended] * 6,
        AutoresetMode.SAME_STEP: [ended] * 6,
        AutoresetMode.NEXT_STEP: [ended, ("", False, False)] * 3,
    }[mode] == seen
    launcher.is_out = False
    info = {"fault": {}}
    async with asyncio.timeout(60):
        while "fault" in info:  # the pool tries again after a pause
            _, info = await env.areset()
    assert [True] * 3 == info["valid"].tolist()
    await env.aclose()


async def _all(env: CodeVectorEnv) -> Any:
    return await env.areset()


async def _first_ready(env: CodeVectorEnv) -> Any:
    env.async_reset()
    return await env.arecv()


async def _alone(env: CodeVectorEnv) -> Any:
    return await env.envs[0].areset()


@pytest.mark.parametrize("begin", [_all, _first_ready, _alone])
@pytest.mark.parametrize("kinds", [1, 2])
async def test_from_the_beginning_it_is_an_error(begin: Callable[[CodeVectorEnv], Awaitable[Any]], kinds: int) -> None:
    """A batch without any sandbox is no batch, however it begins; the next try may work."""
    launcher = FakeLauncher(play)
    launcher.fail_starts = 100
    env = vector(launcher, 2, *(make_task(f"t{kind}", image=f"codecraft/{kind}") for kind in range(kinds)))
    with pytest.raises(LaunchError, match="told to fail"):
        await begin(env)
    launcher.fail_starts = 0
    if begin is _first_ready:
        with pytest.raises(LaunchError, match="told to fail"):
            await env.arecv(1)
    _, info = await env.areset()
    assert [True, True] == info["valid"].tolist()
    await env.aclose()


async def test_after_the_beginning_it_is_none() -> None:
    """Where the others begin first-ready, the one without a sandbox has a fault, and nothing raises."""
    launcher = FakeLauncher(play)
    env = vector(launcher, 3)
    await env.envs[0].areset()
    launcher.fail_starts = 1
    env.async_reset([1, 2])
    *_, info = await env.arecv(2)
    assert [False, True] == sorted(info["valid"].tolist())
    await env.aclose()


async def test_first_ready_begins_with_the_first_sandbox() -> None:
    """One that is slow to start delays no other environment's episode."""
    go_on = asyncio.Event()

    class Slow(FakeLauncher):
        async def start(self, spec: SandboxSpec) -> Sandbox:
            if self.sandboxes:
                await go_on.wait()
            return await super().start(spec)

    env = vector(Slow(play), 2)
    env.async_reset()
    texts, *_ = await env.arecv(1, timeout=60)
    assert texts[0].startswith("The answer")
    go_on.set()
    await env.arecv(1, timeout=60)
    await env.aclose()


async def test_a_broken_task_is_an_error_in_a_batch_too() -> None:
    """It would fail in every sandbox: whoever wrote the task is told, and by which environment."""
    env = vector(FakeLauncher(play), 2, make_task(setup=("false",)))
    with pytest.raises(EpisodeError, match="its set-up 'false' ended with 1"):
        await env.areset()
    assert [True, True] == env.interrupted.tolist()
    await env.aclose()


@pytest.mark.parametrize("limit_s", [0, -1, np.nan])
async def test_a_limit_is_a_time_over_zero(limit_s: float) -> None:
    """Anything else is an error when the environment is made."""
    with pytest.raises(ValueError, match=r"reset_limit_s is .*; it must be a time in seconds over 0"):
        make(FakeLauncher(play), reset_limit_s=limit_s)
