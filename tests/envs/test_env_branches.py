"""Branches of a `CodeEnv`: two futures of one episode, in sandboxes of their own."""

from __future__ import annotations

import asyncio
from typing import Any

import gymnasium
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, ResetNeeded

from codecraft_async import CodeEnv
from codecraft_async.pool import FakeLauncher, LaunchError, PoolError
from codecraft_async.runtime import Runtime
from tests.envs.code_envs import check_types, lose_sandbox, make, make_task, play, vector

pytestmark = pytest.mark.anyio


def two(**options: Any) -> tuple[CodeEnv, CodeEnv]:
    """Two environments, each with sandboxes of its own."""
    return make(FakeLauncher(play), **options), make(FakeLauncher(play), **options)


@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_branch_goes_on_from_the_same_files_and_steps(is_shared: bool) -> None:
    """Whether the two share a pool or not; what either does from then on is its own."""
    task = make_task()
    runtime = Runtime(FakeLauncher(play), [task], max_sandboxes=2) if is_shared else None
    one, other = (make(FakeLauncher(play), task, runtime=runtime) for _ in range(2))
    await one.areset()
    await one.astep("write 42")
    text, info = await other.abranch_from(one)
    assert ("", 1, "answer") == (text, info["steps"], info["task"])
    await one.astep("write 41")
    text, *_, info = await other.astep("ls")
    assert ("answer\nhint\n", 2) == (text, info["steps"])
    check_types(info)
    assert [0.0, 1.0] == [(await env.astep("submit"))[1] for env in (one, other)]
    for env in (one, other):
        await env.aclose()
    if runtime is not None:
        await runtime.aclose()


async def test_a_branch_tells_what_it_has_not() -> None:
    """Only its first info does; the rest of that is the original's last one."""
    one, other = two()
    await one.areset()
    *_, last = await one.astep("false")
    _, info = await other.abranch_from(one)
    assert {"processes": 0, "shell": False} == info.pop("branch")
    assert last == info
    info["steps"] = None
    assert 1 == last["steps"]
    await one.aclose()
    await other.aclose()


async def test_a_branch_leaves_the_episode_that_was_there() -> None:
    """Its sandbox is used for the branch: no more are needed than environments."""
    env = vector(FakeLauncher(play), 2)
    await env.areset()
    await env.astep(("write 41", "write 42"))
    one, other = (each.unwrapped for each in env.envs)
    assert isinstance(one, CodeEnv)
    await one.abranch_from(other)
    _, rewards, *_ = await env.astep(("submit", "submit"))
    assert [1.0, 1.0] == rewards.tolist()
    await env.aclose()


async def test_the_step_limit_of_a_branch_is_the_originals() -> None:
    """A branch is no way to longer episodes."""
    one, other = two(max_episode_steps=2)
    await one.areset()
    await one.astep("ls")
    await other.abranch_from(one)
    *_, truncated, info = await other.astep("ls")
    assert (True, "max_episode_steps") == (truncated, info["truncation"])
    await one.aclose()
    await other.aclose()


async def test_branches_of_branches_and_from_the_first_observation() -> None:
    """Any number, at any time of an episode."""
    envs = [make(FakeLauncher(play)) for _ in range(3)]
    first, _ = await envs[0].areset()
    text, info = await envs[1].abranch_from(envs[0])
    assert (first, 0, True) == (text, info["steps"], "branch" in info)
    await envs[1].astep("write 42")
    await envs[2].abranch_from(envs[1])
    assert 1.0 == (await envs[2].astep("submit"))[1]
    for env in envs:
        await env.aclose()


async def test_dense_rewards_of_a_branch_are_paid_once() -> None:
    """What its past was paid is not paid again; it is graded in its own environment's sandboxes."""
    one, other = two(reward="dense")
    await one.areset()
    assert 1.0 == (await one.astep("write 42"))[1]
    await other.abranch_from(one)
    await one.aclose()
    assert [-1.0, 0.0] == [(await other.astep(action))[1] for action in ("write 41", "submit")]
    await other.aclose()


async def test_a_branch_recovers_to_where_it_began() -> None:
    """Of what was before it nothing is done again."""
    one, other = two(recover=True)
    await one.areset()
    await one.astep("write 42")
    await other.abranch_from(one)
    await other.astep("ls")
    lose_sandbox(other)
    _, reward, *_, info = await other.astep("submit")
    assert (1.0, 1, 3) == (reward, info["recovery"]["replayed"], info["steps"])
    await one.aclose()
    await other.aclose()


async def test_several_branch_at_once_and_share_one_copy() -> None:
    """One that is cancelled meanwhile harms no other."""
    envs = [make(FakeLauncher(play)) for _ in range(4)]
    await envs[0].areset()
    await envs[0].astep("write 42")
    first, second, third = (asyncio.create_task(env.abranch_from(envs[0])) for env in envs[1:])
    await asyncio.sleep(0)
    first.cancel()
    results = [await branch for branch in (second, third)]
    assert [1, 1] == [info["steps"] for _, info in results]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert [1.0, 1.0, 1.0] == [(await env.astep("submit"))[1] for env in (envs[0], *envs[2:])]
    for env in envs:
        await env.aclose()


async def test_what_cannot_be_branched_from_is_refused() -> None:
    """Each with what to do; the environment that asked keeps its episode."""
    one, other = two()
    await other.areset()
    with pytest.raises(ResetNeeded, match="no episode to branch from"):
        await other.abranch_from(one)
    with pytest.raises(ValueError, match="a branch of itself"):
        await other.abranch_from(other)
    plain: Any = gymnasium.Wrapper(other)
    with pytest.raises(ValueError, match="a branch of itself"):
        await other.abranch_from(plain)
    with pytest.raises(TypeError, match="a CodeEnv can be a branch of another CodeEnv"):
        await other.abranch_from(gymnasium.Env())
    await one.areset()
    stranger = make(FakeLauncher(play), max_episode_steps=3)
    await stranger.areset()
    with pytest.raises(ValueError, match="max_episode_steps is None where it comes from, and 3 here"):
        await stranger.abranch_from(one)
    for env in (one, other, stranger):
        assert "hint\n" == (await env.astep("ls"))[0]
        await env.aclose()
    with pytest.raises(ClosedEnvironmentError, match="is closed"):
        await other.abranch_from(one)


async def test_calls_in_progress_are_not_disturbed() -> None:
    """Neither here nor there; the error names the call."""
    one, other = two()
    await one.areset()
    step = asyncio.create_task(one.astep("hang"))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyPendingCallError, match="`branch` while a call of `step`"):
        await other.abranch_from(one)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    await one.aclose()
    await other.aclose()


async def test_a_branch_that_gets_no_sandbox_leaves_no_episode_and_harms_none() -> None:
    """The original goes on, and the other one can be reset."""
    one, launcher = make(FakeLauncher(play)), FakeLauncher(play)
    other = make(launcher)
    await one.areset()
    launcher.fail_starts = 1
    with pytest.raises(LaunchError):
        await other.abranch_from(one)
    with pytest.raises(ResetNeeded):
        await other.astep("ls")
    await other.areset()
    for env in (one, other):
        assert "hint\n" == (await env.astep("ls"))[0]
        await env.aclose()


async def test_a_cancelled_branch_leaves_no_episode_and_returns_its_sandbox() -> None:
    """At every moment of it."""
    for patience in range(12):
        one, other = two()
        await one.areset()
        work = asyncio.create_task(other.abranch_from(one))
        for _ in range(patience):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait([work])
        assert "hint\n" == (await one.astep("ls"))[0]
        await other.areset()
        assert "hint\n" == (await other.astep("ls"))[0]
        await one.aclose()
        await other.aclose()


def test_branches_without_an_event_loop() -> None:
    """Each environment has a thread of its own; the copy goes from one to the other."""
    one, other = two()
    one.reset()
    one.step("write 42")
    _, info = other.branch_from(one)
    assert (1, 1.0) == (info["steps"], other.step("submit")[1])
    one.close()
    other.close()


async def test_a_shell_is_no_part_of_a_real_branch() -> None:
    """Its files are, with modes and links; directory, variables and what it had started are not, which info tells."""
    one, other = (CodeEnv(backend="local", shell="persistent") for _ in range(2))
    await one.areset()
    await one.astep("mkdir d; cd d; x=5; printf '#!/bin/sh\\necho ran' > f; chmod 755 f; ln -s f g; sleep 99 &")
    _, info = await other.abranch_from(one)
    assert {"processes": 2, "shell": True} == info["branch"]
    assert "/workspace [] ran\n" == (await other.astep("echo $PWD [$x] $(d/g)"))[0]
    assert "/workspace/d [5] ran\n" == (await one.astep("echo $PWD [$x] $(./g)"))[0]
    await one.aclose()
    await other.aclose()


async def test_changes_of_the_system_cannot_be_copied() -> None:
    """A root user's are in no checkpoint; the error says what to do, and the episode goes on."""
    task = make_task(user="root")
    one, other = (make(FakeLauncher(play), task) for _ in range(2))
    await one.areset()
    with pytest.raises(PoolError, match="cannot be forked: its commands have changed the root file system"):
        await other.abranch_from(one)
    assert "hint\n" == (await one.astep("ls"))[0]
    await one.aclose()
    await other.aclose()
