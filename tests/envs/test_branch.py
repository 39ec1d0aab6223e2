"""Branches: running episodes copied into other slots, by the environments themselves or by deepcopy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError, ResetNeeded

from codecraft_async.vector import AsyncioVectorEnv

from .ready_envs import Puppet, Reuser, inside, let_go, puppets, settle, started
from .vector_envs import MODES, Info, assert_same, env_tasks

pytestmark = pytest.mark.anyio


class Branching(Puppet):
    """Keeps what it was told in its episode, and takes over another's; with `gated`, when it is let go."""

    def __init__(self, index: int = 0, *, eager: bool = True) -> None:
        super().__init__(index, eager=eager)
        self.gated = False
        self.told: list[str] = []

    async def areset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        self.told = []
        return await super().areset(seed=seed, options=options)

    async def astep(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.told.append(action)
        _, reward, terminated, truncated, info = await super().astep(action)
        return " ".join(self.told), reward, terminated, truncated, info

    async def abranch_from(self, other: Branching) -> tuple[str, Info]:
        self.eager, eager = not self.gated, self.eager
        try:
            await self._perform("branch")
        finally:
            self.eager = eager
        self.told = list(other.told)
        return " ".join(self.told), {"call": "branch", "length": len(self.told)}


def branching(number: int, /, **options: Any) -> AsyncioVectorEnv[Any, Any]:
    """A vector environment of so many that can branch."""
    return puppets(number, make=Branching, eager=True, **options)


async def test_group_from_one_prefix() -> None:
    """After a branch all slots are in the same episode, and go on from there each in its own way."""
    async with branching(4) as vec:
        await vec.areset()
        await vec.astep(("one", "x", "x", "x"))
        await vec.astep(("two", "y", "y", "y"))
        observations, infos = await vec.abranch(0, slots=[3, 1, 2])
        assert ("one two",) * 3 == observations
        assert_same(
            {
                "call": np.array(["branch"] * 3, dtype=object),
                "_call": np.array([True] * 3),
                "length": np.array([2] * 3),
                "_length": np.array([True] * 3),
                "env_id": np.array([3, 1, 2], dtype=np.int32),
            },
            infos,
        )
        observations, rewards, *_ = await vec.astep(("a", "b", "c", "d"))
        assert ("one two a", "one two b", "one two c", "one two d") == observations
        assert [1.0] * 4 == rewards.tolist()
        # What a masked reset gives for the others is the last observation of the episode that they are in.
        await vec.abranch(2, slots=[3])
        assert ("0: reset", "one two b", "one two c", "one two c") == (
            await vec.areset(options={"reset_mask": np.array([True, False, False, False])})
        )[0]


@pytest.mark.parametrize("mode", MODES)
async def test_slots_without_an_episode_are_taken_first(mode: str) -> None:
    """With a number, ended episodes give their slots, then environments that need a reset; never one that runs."""
    async with branching(6, autoreset_mode=mode) as vec:
        vec.async_reset([0, 1, 2, 4])
        await vec.arecv(4)
        vec.send(("root", "end", "runs", "end"), [0, 1, 2, 4])
        await vec.arecv(4)
        # In SAME_STEP an episode that has ended has given way to the next, which runs.
        ended = [] if mode == "SameStep" else [1, 4]
        if ended:
            assert [4] == (await vec.abranch(0, slots=[4]))[1]["env_id"].tolist()
            assert [1] == (await vec.abranch(0, 1))[1]["env_id"].tolist()
        assert [3, 5] == (await vec.abranch(0, 2))[1]["env_id"].tolist()
        with pytest.raises(ValueError, match="`branch` of env 0 into 1 slots: only 0 have no running episode; name"):
            await vec.abranch(0, 1)
        vec.send(["on"] * 6, range(6))
        observations, *_, infos = await vec.arecv()
        told = dict(zip(infos["env_id"].tolist(), observations, strict=True))
        assert "runs on" == told[2]
        assert all(told[row] == "root on" for row in [0, 3, 5, *ended])


async def test_too_few_slots() -> None:
    """The error says how many slots there are, and which."""
    async with branching(4) as vec:
        vec.async_reset([1, 2])
        await vec.arecv(2)
        with pytest.raises(ValueError, match=r"into 3 slots: only 2 have no running episode \(envs 0, 3\); name"):
            await vec.abranch(1, 3)
        assert [0, 3] == (await vec.abranch(1, 2))[1]["env_id"].tolist()


async def test_the_others_go_on() -> None:
    """While a branch is made, other environments are sent to and received; those that take part are not."""
    async with branching(4) as vec:
        await vec.areset()
        inside(vec)[1].gated = True
        vec.send(("go", "go"), [0, 3])
        await vec.arecv(2)
        copying = asyncio.create_task(vec.abranch(0, slots=[1]))
        await settle()
        assert [True, True, False, False] == vec.outstanding.tolist()
        for row in (0, 1):
            with pytest.raises(AlreadyPendingCallError, match=rf"env {row} \(in a branch\)"):
                vec.send(("go",), [row])
        with pytest.raises(AlreadyPendingCallError, match=r"in a branch"):
            await vec.astep(("go",) * 4)
        with pytest.raises(AlreadyPendingCallError, match=r"in a branch"):
            await vec.abranch(0, slots=[2])
        with pytest.raises(NoAsyncCallError):
            await vec.arecv(1)
        vec.send(("on",), [3])
        assert ("go on",) == (await vec.arecv(1))[0]
        await let_go(vec, [1])
        assert ("go",) == (await copying)[0]
        assert not vec.outstanding.any()
        vec.send(("a", "b"), [1, 0])
        assert ("go a", "go b") == (await vec.arecv(2))[0]


async def test_concurrency_limit() -> None:
    """Copies count among the calls that `max_concurrency` limits."""
    async with branching(4, max_concurrency=2) as vec:
        await vec.areset()
        for env in inside(vec):
            env.gated = True
        copying = asyncio.create_task(vec.abranch(0, slots=[1, 2, 3]))
        await settle()
        assert [False, True, True, False] == [env.waiting for env in inside(vec)]
        await let_go(vec, [1, 2, 3])
        assert [1, 2, 3] == (await copying)[1]["env_id"].tolist()


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ((9, 1), IndexError, "env_id has 9, but the environments are 0 to 3"),
        ((-1, 1), IndexError, "env_id has -1"),
        ((True, 1), TypeError, "env_id must hold integers, got True"),
        ((0.0, 1), TypeError, "env_id must hold integers, got 0.0"),
        ((0,), ValueError, "takes either n, how many slots, or slots, which they are"),
        ((0, 1, [1]), ValueError, "takes either n"),
        ((0, 0), ValueError, "n must be at least 1, got 0"),
        ((0, True), TypeError, "n must be an integer, got True"),
        ((0, [1]), TypeError, r"n must be an integer, got \[1\]"),
        ((0, None, [0, 1]), ValueError, "slots has 0, the very environment to copy"),
        ((0, None, [1, 1]), ValueError, "slots names 1 more than once"),
        ((0, None, [4]), IndexError, "slots has 4"),
        ((0, None, []), ValueError, "slots is empty"),
        ((0, None, 1), TypeError, "slots must be a sequence"),
        ((1, 1), ResetNeeded, "copies a running episode, and env 1 has none: its episode is over"),
        ((2, 1), ResetNeeded, "and env 2 has none: never reset"),
    ],
)
async def test_refusals(arguments: tuple[Any, ...], kind: type[Exception], text: str) -> None:
    """What cannot be branched is refused before anything is done."""
    async with branching(4) as vec:
        vec.async_reset([0, 1])
        await vec.arecv(2)
        vec.send(("end",), [1])
        await vec.arecv(1)
        with pytest.raises(kind, match=text):
            await vec.abranch(*arguments[:2], slots=arguments[2] if len(arguments) == 3 else None)
        assert not vec.outstanding.any()
        assert all("branch" not in env.calls for env in inside(vec))


async def test_environments_that_are_busy() -> None:
    """Neither the environment to copy nor a slot may have a call outstanding; slots that have are not chosen."""
    async with await started(4, make=Branching) as vec:
        inside(vec)[0].eager = inside(vec)[3].eager = True
        vec.send(("slow",), [1])
        await settle()
        with pytest.raises(AlreadyPendingCallError, match=r"`branch` needs .* env 1 \(in flight\)"):
            await vec.abranch(1, slots=[2])
        with pytest.raises(AlreadyPendingCallError, match=r"env 1 \(in flight\)"):
            await vec.abranch(0, slots=[2, 1])
        vec.send(("end",), [3])
        await settle()
        with pytest.raises(ValueError, match="only 0 have no running episode"):
            await vec.abranch(0, 1)
        await vec.arecv(1)
        assert [3] == (await vec.abranch(0, 1))[1]["env_id"].tolist()
        await let_go(vec, [1])
        await vec.arecv(1)


async def test_failure_in_one_slot() -> None:
    """The other copies are completed before the failure is raised, which names its slot; that one needs a reset."""
    async with branching(4) as vec:
        await vec.areset()
        await vec.astep(("root", "x", "y", "z"))
        inside(vec)[2].gated = True
        copying = asyncio.create_task(vec.abranch(0, slots=[1, 2, 3]))
        await settle()
        inside(vec)[2].break_down(OSError("no space"))
        with pytest.raises(OSError, match="no space") as caught:
            await copying
        assert ["raised by env 2 in branch"] == caught.value.__notes__
        assert [False, False, True, False] == vec.interrupted.tolist()
        with pytest.raises(ResetNeeded, match=r"env 2 \(failed\)"):
            vec.send(("on",), [2])
        vec.send(("on", "on", "on"), [0, 1, 3])
        assert ("root on",) * 3 == (await vec.arecv(3))[0]
        # A failed slot needs no running episode of its own to be branched into.
        inside(vec)[2].gated = False
        assert [2] == (await vec.abranch(0, 1))[1]["env_id"].tolist()
        assert not vec.interrupted.any()


async def test_info_that_is_none() -> None:
    """What `abranch_from` returns is checked as what a reset returns is."""

    class Odd(Branching):
        async def abranch_from(self, other: Branching) -> Any:
            return "o", None

    async with puppets(2, make=Odd, eager=True) as vec:
        await vec.areset()
        with pytest.raises(TypeError, match="info must be a dict, got NoneType"):
            await vec.abranch(0, slots=[1])
        assert [False, True] == vec.interrupted.tolist()


async def test_cancelled_branch() -> None:
    """A cancelled branch cuts its copies off and waits for them; what it had not come to stays as it was."""
    async with branching(4, max_concurrency=2) as vec:
        await vec.areset()
        await vec.astep(("root", "x", "y", "z"))
        for row in (1, 2, 3):
            inside(vec)[row].gated = True
        copying = asyncio.create_task(vec.abranch(0, slots=[1, 2, 3]))
        await settle()
        await let_go(vec, [1])
        for _ in range(2):
            copying.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([copying])
        assert copying.cancelled()
        assert [] == env_tasks()
        assert [0, 0, 1, 1] == [env.cut_off for env in inside(vec)]
        assert [False, False, True, True] == vec.interrupted.tolist()
        assert not vec.outstanding.any()
        vec.send(("on", "on"), [0, 1])
        assert ("root on",) * 2 == (await vec.arecv(2))[0]


async def test_close_during_a_branch() -> None:
    """Closing cuts off the copies, and the branch says that it was closed."""
    vec = branching(3)
    await vec.areset()
    inside(vec)[1].gated = True
    copying = asyncio.create_task(vec.abranch(0, slots=[1, 2]))
    await settle()
    await vec.aclose()
    with pytest.raises(ClosedEnvironmentError, match="was closed while a call of `branch`"):
        await copying
    assert [1, 1, 1] == [env.closed for env in inside(vec)]
    with pytest.raises(ClosedEnvironmentError):
        await vec.abranch(0, 1)


def test_script() -> None:
    """The plain call does the same on the loop thread."""
    vec = branching(3)
    vec.reset()
    vec.step(("root", "x", "y"))
    assert ("root", "root") == vec.branch(0, slots=[1, 2])[0]
    assert ("root a", "root b", "root c") == vec.step(("a", "b", "c"))[0]
    vec.close()


class Pole(CartPoleEnv):
    """The cart and pole, with room for a wish to be closed badly."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = 0
        self.close_error: Exception | None = None

    def close(self) -> None:
        super().close()  # type: ignore[no-untyped-call]
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


def poles(number: int, make: Callable[[], gymnasium.Env[Any, Any]] = Pole) -> AsyncioVectorEnv[Any, Any]:
    """A vector environment of plain environments that can be copied."""
    return AsyncioVectorEnv([make] * number, autoreset_mode="Disabled")


async def test_plain_environments_are_copied() -> None:
    """The copies live on as the original does under equal actions, generators included, and apart from each other."""
    async with poles(4) as vec:
        await vec.areset(seed=3)
        observation = (await vec.astep(np.array([1, 0, 1, 0])))[0][0]
        replaced = inside(vec)
        observations, infos = await vec.abranch(0, slots=[3, 1])
        assert_same(np.stack([observation] * 2), observations)
        assert_same({"env_id": np.array([3, 1], dtype=np.int32)}, infos)
        assert [0, 1, 0, 1] == [env.closed for env in replaced]
        assert [True, False, True, False] == [env is old for env, old in zip(inside(vec), replaced, strict=True)]
        stepped = (await vec.astep(np.array([0, 0, 0, 1])))[0]
        assert_same(stepped[0], stepped[1])
        assert not np.array_equal(stepped[0], stepped[3])
        seeded = [env.np_random.random() for env in inside(vec)]
        assert seeded[0] == seeded[1] == seeded[3] != seeded[2]
        copies = inside(vec)
    assert [1, 1, 1, 1] == [env.closed for env in copies]


async def test_wrapped_environments_are_copied() -> None:
    """Wrappers are copied with what they wrap: the step limit goes on where it was."""
    async with poles(2, lambda: gymnasium.make("CartPole-v1", max_episode_steps=3)) as vec:
        await vec.areset(seed=1)
        await vec.astep(np.array([0, 0]))
        await vec.areset(options={"reset_mask": np.array([False, True])})
        await vec.abranch(0, slots=[1])
        assert [False, False] == (await vec.astep(np.array([0, 0])))[3].tolist()
        assert [True, True] == (await vec.astep(np.array([0, 0])))[3].tolist()


async def test_own_array_as_observation() -> None:
    """An environment whose observation is an array that it goes on using has its copy do so with a copy."""

    async with poles(2, Reuser) as vec:
        await vec.areset()
        await vec.astep(np.full((2, 1), 0.5, dtype=np.float32))
        await vec.abranch(0, slots=[1])
        stepped = (await vec.astep(np.array([[1.0], [2.0]], dtype=np.float32)))[0]
        assert [[1.5], [2.5]] == stepped.tolist()


async def test_environments_that_cannot_be_copied() -> None:
    """What deepcopy refuses is an error that names the environment; the slot stays as it was, in need of a reset."""

    class Locked(Pole):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    async with poles(2, Locked) as vec:
        await vec.areset(seed=1)
        before = inside(vec)[1]
        with pytest.raises(TypeError, match=r"env 0 \(<.*Locked.*>\) cannot be copied by copy.deepcopy: cannot pickle"):
            await vec.abranch(0, slots=[1])
        assert before is inside(vec)[1]
        assert [False, True] == vec.interrupted.tolist()


@pytest.mark.parametrize("make", [lambda: Puppet(eager=True), lambda: gymnasium.Wrapper(Puppet(eager=True))])
async def test_coroutines_without_a_way_to_branch(make: Callable[[], Any]) -> None:
    """An environment with coroutines, wrapped or not, is never copied behind its back."""
    async with AsyncioVectorEnv[Any, Any]([lambda: Branching(), make]) as vec:
        vec.async_reset([0])
        await vec.arecv(1)
        with pytest.raises(TypeError, match=r"env 1 .* cannot take over an episode: .* no `abranch_from`"):
            await vec.abranch(0, 1)
        assert not vec.outstanding.any()
        assert not vec.interrupted.any()


async def test_replaced_environment_that_does_not_close() -> None:
    """An environment that fails to close is out of its slot all the same; the error is raised, and the slot flagged."""
    async with poles(2) as vec:
        await vec.areset(seed=1)
        replaced: Any = inside(vec)[1]
        replaced.close_error = OSError("stuck")
        with pytest.raises(OSError, match="stuck") as caught:
            await vec.abranch(0, slots=[1])
        assert ["raised by env 1 in branch"] == caught.value.__notes__
        assert replaced is not inside(vec)[1]
        assert [False, True] == vec.interrupted.tolist()
        await vec.areset(options={"reset_mask": vec.interrupted})
        await vec.astep(np.array([0, 0]))
