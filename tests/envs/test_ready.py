"""First-ready batches: what `async_reset`, `send`, `recv` and `arecv` give, and in which order."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from codecraft_async.vector import AsyncioVectorEnv

from .ready_envs import Puppet, Reuser, inside, let_go, puppets, settle, started
from .vector_envs import SPACES, AsyncWanderer, Wanderer, assert_same, env_tasks

pytestmark = pytest.mark.anyio


async def test_first_finished_is_first_delivered() -> None:
    """Batches of a fixed size have the environments in the order in which they finished, and say which they are."""
    async with await started(4, batch_size=2) as vec:
        vec.send(("a", "b", "c", "d"), [0, 1, 2, 3])
        await settle()
        await let_go(vec, [3, 1, 0])
        observations, rewards, terminations, truncations, infos = await vec.arecv()
        assert ("3: step d", "1: step b") == observations
        assert_same(np.array([1.0, 1.0]), rewards)
        assert_same(np.array([False, False]), terminations)
        assert_same(np.array([False, False]), truncations)
        assert_same(
            {
                "call": np.array(["step", "step"], dtype=object),
                "_call": np.array([True, True]),
                "length": np.array([1, 1]),
                "_length": np.array([True, True]),
                "env_id": np.array([3, 1], dtype=np.int32),
            },
            infos,
        )
        await let_go(vec, [2])
        assert ("0: step a", "2: step c") == (await vec.arecv())[0]


async def test_slow_environment_delays_nobody() -> None:
    """While one environment takes its time, the others are stepped again and again; its result comes when it comes."""
    async with await started(3) as vec:
        vec.send(("slow", "go", "go"))
        for turn in range(5):
            await settle()
            await let_go(vec, [2, 1])
            assert [2, 1] == (await vec.arecv(2))[-1]["env_id"].tolist(), turn
            vec.send(("go", "go"))  # to those just received, in that order
        await settle()
        await let_go(vec, [0])
        assert ("0: step slow",) == (await vec.arecv(1))[0]
        assert [False, True, True] == vec.outstanding.tolist()
        assert ["step slow"] == inside(vec)[0].calls[1:]


async def test_min_get_takes_what_is_there() -> None:
    """With `min_get` a batch has everything that is ready, as soon as that is enough, up to `batch_size`."""
    async with await started(5) as vec:
        vec.send(["go"] * 5)
        receiving = asyncio.create_task(vec.arecv(4, min_get=2))
        await settle()
        await let_go(vec, [4])
        assert not receiving.done()
        await let_go(vec, [0])
        assert [4, 0] == (await receiving)[-1]["env_id"].tolist()
        await let_go(vec, [3, 2, 1])
        assert [3, 2] == (await vec.arecv(2, min_get=1))[-1]["env_id"].tolist()
        assert [1] == (await vec.arecv(2, min_get=1))[-1]["env_id"].tolist()


async def test_send_while_another_task_receives() -> None:
    """Actions may be sent while somebody waits for results, and count towards them."""
    async with await started(3) as vec:
        vec.send(["a"], [2])
        receiving = asyncio.create_task(vec.arecv(3, min_get=1))
        await settle()
        vec.send(["b"], [0])
        await settle()
        await let_go(vec, [0])
        assert ("0: step b",) == (await receiving)[0]


async def test_concurrency_limit_serves_in_order() -> None:
    """With `max_concurrency`, calls begin in the order in which they were sent, each when another has ended."""
    async with await started(4, max_concurrency=2) as vec:
        vec.send(["go"] * 4, [3, 2, 1, 0])
        await settle()
        assert [False, False, True, True] == [env.waiting for env in inside(vec)]
        await let_go(vec, [2])
        assert [False, True, False, True] == [env.waiting for env in inside(vec)]
        await let_go(vec, [3, 1, 0])
        assert [2, 3, 1, 0] == (await vec.arecv(4))[-1]["env_id"].tolist()


async def test_actions_go_to_everybody_after_a_step() -> None:
    """Without ids, actions belong to the last batch received, or to all after a `reset` or a `step`."""
    async with puppets(3, eager=True) as vec:
        await vec.areset()
        vec.send(["a", "b", "c"])
        await vec.arecv(3)
        vec.send(["d"], [1])
        await vec.arecv(1)
        vec.send(["e"])
        assert ("1: step e",) == (await vec.arecv(1))[0]
        assert ("0: step f", "1: step g", "2: step h") == (await vec.astep(("f", "g", "h")))[0]
        vec.send(["i", "j", "k"])
        assert ("0: step i", "1: step j", "2: step k") == (await vec.arecv())[0]


async def test_resets_of_some() -> None:
    """`async_reset` takes ids or a mask, seeds and options; results have reward 0, no flags, and the reset's info."""
    async with puppets(4, eager=True) as vec:
        vec.async_reset(seed=5)
        assert [0, 1, 2, 3] == (await vec.arecv())[-1]["env_id"].tolist()
        options = {"level": 2}
        vec.async_reset([3, 1], seed=[7, None], options=options)
        observations, rewards, terminations, truncations, infos = await vec.arecv(2)
        assert ("3: reset", "1: reset") == observations
        assert [0.0, 0.0] == rewards.tolist()
        assert not terminations.any() and not truncations.any()
        assert ["reset", "reset"] == infos["call"].tolist()
        vec.async_reset(seed=20, options={"reset_mask": np.array([False, False, True, False]), "level": 3})
        assert [2] == (await vec.arecv(1))[-1]["env_id"].tolist()
        vec.async_reset(np.array([0], dtype=np.int64), seed=30)
        await vec.arecv(1)
        assert [[5, 30], [6, None], [7, 22], [8, 7]] == [env.seeds for env in inside(vec)]
        assert [None, {"level": 2}] == inside(vec)[1].options
        assert [None, {"level": 3}] == inside(vec)[2].options
        assert {"level": 2} == options


async def test_next_step_resets_by_the_next_action() -> None:
    """In NEXT_STEP the action after the end is put aside for a reset, whose observation and info are delivered."""
    async with puppets(2, eager=True) as vec:
        vec.async_reset()
        await vec.arecv()
        vec.send(("end", "go"))
        observations, _, terminations, _, infos = await vec.arecv()
        assert ("0: step end", "1: step go") == observations
        assert [True, False] == terminations.tolist()
        assert "final_obs" not in infos
        vec.send(("lost", "cut"))
        observations, rewards, terminations, truncations, infos = await vec.arecv()
        assert sorted(observations) == ["0: reset", "1: step cut"]
        by_id = infos["env_id"].argsort()
        assert [0.0, 1.0] == rewards[by_id].tolist()
        assert not terminations.any()
        assert [False, True] == truncations[by_id].tolist()
        assert ["reset", "step"] == infos["call"][by_id].tolist()
        assert "step lost" not in inside(vec)[0].calls


async def test_same_step_resets_at_once() -> None:
    """In SAME_STEP a result that ends an episode has the next one's observation, and `final_obs` and `final_info`."""
    async with puppets(3, eager=True, autoreset_mode="SameStep") as vec:
        vec.async_reset()
        await vec.arecv()
        vec.send(("go", "end"), [2, 1])
        observations, rewards, terminations, _, infos = await vec.arecv(2)
        assert ("2: step go", "1: reset") == observations
        assert [1.0, 1.0] == rewards.tolist()
        assert [False, True] == terminations.tolist()
        assert [None, "1: step end"] == infos["final_obs"].tolist()
        assert [False, True] == infos["_final_obs"].tolist()
        assert [None, "step"] == infos["final_info"]["call"].tolist()
        assert ["step", "reset"] == infos["call"].tolist()
        vec.send(("go",), [1])
        assert ("1: step go",) == (await vec.arecv(1))[0]


async def test_disabled_leaves_resets_to_the_caller() -> None:
    """In DISABLED an ended episode refuses actions until `async_reset`."""
    async with puppets(2, eager=True, autoreset_mode="Disabled") as vec:
        vec.async_reset()
        await vec.arecv()
        vec.send(("end", "go"))
        await vec.arecv()
        with pytest.raises(AssertionError, match=r"the episodes of envs 0 are over and autoreset_mode is DISABLED"):
            vec.send(("go", "go"))
        assert not vec.outstanding.any()
        vec.async_reset([0])
        await vec.arecv(1)
        vec.send(("go", "go"), [0, 1])
        assert 2 == len((await vec.arecv())[0])


async def test_step_of_some() -> None:
    """A `step` with ids sends to these, and delivers the first batch that is ready, whoever is in it."""
    async with await started(4, batch_size=2) as vec:
        vec.send(("slow", "go"), [0, 1])
        stepping = asyncio.create_task(vec.astep(("go",), [3]))
        await settle()
        await let_go(vec, [1, 3])
        assert ("1: step go", "3: step go") == (await stepping)[0]
        await let_go(vec, [0])
        with pytest.raises(gymnasium.error.AlreadyPendingCallError, match=r"env 0 \(ready\)"):
            await vec.astep(("go", "go"), [0, 2])
        await vec.arecv(1)
        with pytest.raises(gymnasium.error.NoAsyncCallError, match="asks for 2 results, but 1 can come"):
            await vec.astep(("go",), [0])
        assert not vec.outstanding.any()


async def test_step_of_some_by_the_plain_call() -> None:
    """The plain `step` takes ids as well."""
    vec = puppets(3, eager=True, batch_size=1)
    vec.reset()
    observations, *_, infos = vec.step(("go",), [2])
    assert ("2: step go",) == observations
    assert [2] == infos["env_id"].tolist()
    vec.close()


async def test_cancelled_arecv_loses_nothing() -> None:
    """Whoever is cancelled while waiting leaves what was ready, and what becomes ready, to the next call."""
    async with await started(3) as vec:
        vec.send(["a", "b", "c"])
        for _ in range(3):
            receiving = asyncio.create_task(vec.arecv(3))
            await settle()
            receiving.cancel()
            await asyncio.wait([receiving])
            assert receiving.cancelled()
        await let_go(vec, [1])
        receiving = asyncio.create_task(vec.arecv(2))
        await settle()
        # In the very turn in which the last result comes.
        inside(vec)[2].let_go()
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        await let_go(vec, [0])
        delivered = () if receiving.cancelled() else receiving.result()[0]
        assert ("1: step b", "2: step c", "0: step a") == delivered + (await vec.arecv(3 - len(delivered)))[0]
        assert [0, 0, 0] == [env.cut_off for env in inside(vec)]


async def test_timeout_loses_nothing() -> None:
    """A `recv` whose time is over says how many results came, and leaves them where they are."""
    async with await started(3) as vec:
        vec.send(["a", "b", "c"])
        await settle()
        await let_go(vec, [2])
        with pytest.raises(
            TimeoutError, match=r"within 0.01 s 1 of 2 results came; they stay ready .* those of the 2 in"
        ):
            await vec.arecv(2, timeout=0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await vec.arecv(2)
        assert ("2: step c",) == (await vec.arecv(3, min_get=1, timeout=0))[0]
        with pytest.raises(TimeoutError):
            await vec.arecv(1, timeout=0)
        await let_go(vec, [1, 0])
        assert ("1: step b", "0: step a") == (await vec.arecv(2, timeout=0))[0]


async def test_close_in_flight() -> None:
    """Closing cuts off what is in flight, ends whoever waits for results, and closes every environment."""
    vec = await started(3, max_concurrency=2)
    vec.send(["a", "b", "c"])
    receiving = asyncio.create_task(vec.arecv(1))
    await settle()
    await vec.aclose()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="was closed while a call of `recv`"):
        await receiving
    assert [1, 1, 0] == [env.cut_off for env in inside(vec)]
    assert [1, 1, 1] == [env.closed for env in inside(vec)]
    assert [] == env_tasks()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        vec.send(["a"], [0])
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        vec.async_reset()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        await vec.arecv(1)


async def test_close_in_the_moment_of_arrival() -> None:
    """Whoever has just been woken by a result when everything is closed is told so."""
    for turns in range(4):
        vec = await started(1)
        vec.send(["a"])
        receiving = asyncio.create_task(vec.arecv())
        await settle()
        inside(vec)[0].let_go()
        for _ in range(turns):
            await asyncio.sleep(0)
        await vec.aclose()
        await asyncio.wait([receiving])
        error = receiving.exception()
        assert isinstance(error, gymnasium.error.ClosedEnvironmentError) or (
            error is None and ("0: step a",) == receiving.result()[0]
        )


@pytest.mark.parametrize("sort", [Wanderer, AsyncWanderer])
@pytest.mark.parametrize("kind", SPACES)
async def test_every_space(kind: str, sort: type[Wanderer]) -> None:
    """Partial batches hold what the environment gave, as gymnasium batches it, in arrays of their own."""
    ids = [4, 0, 2]
    alone = [Wanderer(kind) for _ in range(5)]
    async with AsyncioVectorEnv[Any, Any]([lambda: sort(kind)] * 5) as vec:
        await vec.areset(seed=1)
        for index, env in enumerate(alone):
            env.reset(seed=1 + index)
        vec.action_space.seed(3)
        actions = list(iterate(vec.action_space, vec.action_space.sample()))[:3]
        space: Any = vec.single_action_space
        out: Any = create_empty_array(space, n=3)
        vec.send(concatenate(space, actions, out), ids)
        observations, rewards, terminations, truncations, infos = await vec.arecv(3)
        order = infos["env_id"].tolist()
        assert sorted(ids) == sorted(order)
        stepped = {row: alone[row].step(action) for row, action in zip(ids, actions, strict=True)}
        space, out = vec.single_observation_space, create_empty_array(vec.single_observation_space, n=3)
        assert_same(concatenate(space, [stepped[row][0] for row in order], out), observations)
        assert_same(np.array([float(stepped[row][1]) for row in order]), rewards)
        assert_same(np.array([stepped[row][2] for row in order]), terminations)
        assert_same(np.array([stepped[row][3] for row in order]), truncations)
        merged: dict[str, Any] = {}
        sized: gymnasium.vector.VectorEnv[Any, Any, Any] = gymnasium.vector.VectorEnv()
        sized.num_envs = 3
        for index, row in enumerate(order):
            merged = sized._add_info(merged, stepped[row][4], index)  # pyright: ignore[reportPrivateUsage]
        assert sorted([*merged, "env_id"]) == sorted(infos)
        for key, value in merged.items():
            assert_same(value, infos[key], key)


async def test_batches_are_copies() -> None:
    """Neither the environment's own array nor a batch delivered before shares memory with a batch."""

    async with AsyncioVectorEnv[Any, Any]([Reuser] * 2) as vec:
        vec.async_reset()
        first = (await vec.arecv())[0]
        vec.send(np.ones((2, 1), dtype=np.float32), [0, 1])
        second = (await vec.arecv())[0]
        assert_same(np.zeros((2, 1), dtype=np.float32), first)
        second[:] = 7
        assert [1.0] == inside(vec)[0].place.tolist()


async def test_plain_environments_do_not_wait_for_each_other() -> None:
    """Environments without coroutines step in worker threads: one that blocks does not hold up another."""
    go_on = threading.Event()

    class Blocking(Wanderer):
        def step(self, action: Any) -> Any:
            assert action != "block" or go_on.wait(20)
            return super().step(action)

    async with AsyncioVectorEnv[Any, Any]([Blocking] * 3) as vec:
        await vec.areset(seed=1)
        vec.send(("block", "go", "go"))
        assert [1, 2] == sorted((await vec.arecv(2))[-1]["env_id"].tolist())
        go_on.set()
        assert [0] == (await vec.arecv(1))[-1]["env_id"].tolist()


async def test_plain_environments_within_a_limit() -> None:
    """With `max_concurrency` no more worker threads than that are in environments at once."""
    inside_now: list[int] = []
    most: list[int] = []

    class Counting(Wanderer):
        def step(self, action: Any) -> Any:
            inside_now.append(1)
            most.append(len(inside_now))
            threading.Event().wait(0.001)
            inside_now.pop()
            return super().step(action)

    async with AsyncioVectorEnv[Any, Any]([Counting] * 6, max_concurrency=2) as vec:
        await vec.areset(seed=1)
        vec.send(["go"] * 6)
        assert 6 == len((await vec.arecv())[0])
    assert max(most) <= 2


async def test_close_waits_for_a_plain_environment() -> None:
    """A plain environment in the midst of a step is waited for, and closed after it."""
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()
    go_on = threading.Event()
    closed_at: list[int] = []

    class Blocking(Wanderer):
        def step(self, action: Any) -> Any:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(20)
            return super().step(action)

        def close(self) -> None:
            closed_at.append(len(self.actions))

    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Blocking])
    await vec.areset(seed=1)
    vec.send(("a",))
    await begun.wait()
    closing = asyncio.create_task(vec.aclose())
    await settle()
    assert not closing.done()
    go_on.set()
    await closing
    assert [1] == closed_at


async def test_context_of_the_sender() -> None:
    """A call runs with the context variables of whoever sent it, also when it had to wait for its turn."""
    who = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    class Asking(Puppet):
        async def astep(self, action: str) -> Any:
            seen.append(who.get())
            return await super().astep(action)

    async with puppets(2, make=Asking, eager=True, max_concurrency=1) as vec:
        await vec.areset()
        for name, row in (("first", 0), ("second", 1)):
            who.set(name)
            vec.send(["go"], [row])
        await vec.arecv()
    assert ["first", "second"] == seen
