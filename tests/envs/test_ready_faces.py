"""First-ready batches by either face: scripts, notebooks, threads, other loops, and loops that have ended."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError

from codecraft_async._loop import LoopThread
from codecraft_async.vector import AsyncioVectorEnv

from .ready_envs import inside, puppets, settle
from .vector_envs import CLOSES, MODES, NUM_ENVS, AsyncWanderer, Wanderer, assert_same, factories, scripted

LIMIT_S = 20.0


def wanderers(sort: str, mode: str) -> AsyncioVectorEnv[Any, Any]:
    """A vector environment of wanderers whose infos have one type each."""
    return AsyncioVectorEnv(factories(sort, "box"), autoreset_mode=mode, batch_size=2)


def in_order(batches: list[Any]) -> tuple[Any, ...]:
    """Several batches as one, in the order of the environments, without infos."""
    order = np.concatenate([batch[-1]["env_id"] for batch in batches]).argsort()
    return tuple(np.concatenate([batch[column] for batch in batches])[order] for column in range(4))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sort", ["plain", "async", "mixed"])
def test_the_same_numbers_as_by_step(sort: str, mode: str) -> None:
    """Environments sent to at their own pace live the lives that they live when they are stepped together."""
    together, apart = wanderers(sort, mode), wanderers(sort, mode)
    together.action_space.seed(5)
    expected = together.reset(seed=3)[0]
    apart.async_reset(seed=3)
    assert_same(expected, in_order([apart.recv(), apart.recv(), apart.recv(1)])[0])
    for _ in range(15):
        actions = together.action_space.sample()
        stepped = together.step(actions)
        apart.send(actions[[4, 1, 0]], [4, 1, 0])
        apart.send(actions[[2, 3]], np.array([2, 3]))
        assert_same(stepped[:4], in_order([apart.recv(), apart.recv(), apart.recv(1)]))
        over = stepped[2] | stepped[3]
        if mode == "Disabled" and over.any():
            together.reset(options={"reset_mask": over})
            apart.async_reset(np.flatnonzero(over))
            apart.recv(int(over.sum()))
    together.close()
    apart.close()


def test_script() -> None:
    """In a script everything is a plain call, and closing ends it all."""
    vec = puppets(3, eager=True)
    vec.async_reset()
    assert ("0: reset", "1: reset", "2: reset") == vec.recv()[0]
    vec.send(("a", "b"), [2, 0])
    assert ("2: step a", "0: step b") == vec.recv(2, timeout=LIMIT_S)[0]
    with pytest.raises(NoAsyncCallError):
        vec.recv(1)
    vec.close()
    assert [1, 1, 1] == [env.closed for env in inside(vec)]


@pytest.mark.anyio
async def test_notebook() -> None:
    """In the thread of somebody else's running loop the plain calls work as well, from the first on."""
    vec = puppets(2, eager=True)
    vec.async_reset()
    assert ("0: reset", "1: reset") == vec.recv(timeout=LIMIT_S)[0]
    vec.send(("a", "b"))
    assert ("0: step a", "1: step b") == vec.recv(timeout=LIMIT_S)[0]
    with pytest.raises(RuntimeError, match="use one event loop"):
        vec.send(("a", "b"))
        await vec.arecv()
    vec.close()


@pytest.mark.anyio
async def test_start_before_the_loop_is_settled() -> None:
    """A first `async_reset` on a running loop begins with the call that says whose loop it is, whichever that is."""
    async with puppets(3) as vec:
        vec.async_reset([0])
        vec.async_reset([2])
        await settle()
        assert [[], [], []] == [env.calls for env in inside(vec)]
        with pytest.raises(AlreadyPendingCallError):
            await vec.areset()
        await settle()
        assert [["reset"], [], ["reset"]] == [env.calls for env in inside(vec)]


@pytest.mark.anyio
async def test_closed_before_the_loop_is_settled() -> None:
    """Resets that never began are dropped by closing."""
    vec = puppets(2)
    vec.async_reset()
    await vec.aclose()
    assert [1, 1] == [env.closed for env in inside(vec)]


@pytest.mark.anyio
async def test_other_threads_of_an_asynchronous_use() -> None:
    """What belongs to the caller's loop is refused to other threads, with what to do instead."""
    async with puppets(2, eager=True) as vec:
        await vec.areset()
        calls: list[Callable[[], Any]] = [partial(vec.send, ("a", "b")), vec.recv, vec.async_reset]
        for call in calls:
            with pytest.raises(RuntimeError, match="in use on an event loop of the caller's"):
                await asyncio.to_thread(call)
        with pytest.raises(RuntimeError, match="in use on an event loop of the caller's"):
            vec.recv()
        assert not vec.outstanding.any()


def test_the_loop_threads_own_thread() -> None:
    """On the loop thread itself `send` works, and `recv`, which would block it, is refused."""
    with LoopThread() as thread:
        vec = puppets(2, eager=True, loop=thread)
        vec.async_reset()
        vec.recv(timeout=LIMIT_S)

        async def on_the_loop() -> Any:
            vec.send(("a", "b"))
            with pytest.raises(RuntimeError, match="would block that loop for ever"):
                vec.recv()
            return await vec.arecv()

        assert ("0: step a", "1: step b") == thread.run(on_the_loop(), timeout_s=LIMIT_S)[0]
        vec.close()


def test_receivers_in_two_threads() -> None:
    """While one thread waits for results, another may send actions but not receive."""
    vec = puppets(2)
    vec.async_reset()
    with ThreadPoolExecutor(1) as other:
        receiving = other.submit(vec.recv, 1, timeout=LIMIT_S)
        wait_until(lambda: vec._receiving)  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(AlreadyPendingCallError, match="`recv` while another `recv` waits"):
            vec.recv(1)
        let_go(vec, 1)
        assert ("1: reset",) == receiving.result(LIMIT_S)[0]
        receiving = other.submit(vec.recv, 1, timeout=LIMIT_S)
        vec.send(("a",), [1])
        let_go(vec, 1)
        assert ("1: step a",) == receiving.result(LIMIT_S)[0]
    vec.close()


def test_senders_in_many_threads() -> None:
    """Threads that send to environments of their own do not disturb each other."""
    vec = puppets(8, eager=True)
    vec.reset()
    for turn in range(20):
        barrier = threading.Barrier(8)

        def send(row: int, barrier: threading.Barrier = barrier, turn: int = turn) -> None:
            barrier.wait(LIMIT_S)
            vec.send((f"{turn}",), [row])

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(send, range(8)))
        observations, *_, infos = vec.recv(timeout=LIMIT_S)
        assert {f"{row}: step {turn}" for row in range(8)} == set(observations)
        assert list(range(8)) == sorted(infos["env_id"])
    vec.close()


def test_time_is_over_in_a_script() -> None:
    """The plain `recv` keeps its time as well, and loses nothing."""
    vec = puppets(2)
    vec.async_reset()
    with pytest.raises(TimeoutError, match=r"within 0.01 s 0 of 2 results came"):
        vec.recv(timeout=0.01)
    for row in range(2):
        let_go(vec, row)
    assert {"0: reset", "1: reset"} == set(vec.recv(timeout=LIMIT_S)[0])
    vec.close()


def test_close_in_flight_in_a_script() -> None:
    """The plain `close` cuts off what is in flight."""
    vec = puppets(2)
    vec.async_reset()
    wait_until(lambda: inside(vec)[1].waiting)
    vec.close()
    assert [(1, 1), (1, 1)] == [(env.cut_off, env.unwrapped.closed) for env in inside(vec)]


@pytest.mark.parametrize("close", CLOSES)
def test_loop_that_ended_in_flight(close: Callable[[Any], None]) -> None:
    """After an asynchronous use that ended with calls in flight, closing closes every environment on another loop."""
    go_on = threading.Event()

    class Blocking(Wanderer):
        def step(self, action: Any) -> Any:
            assert go_on.wait(LIMIT_S)
            return super().step(action)

        def close(self) -> None:
            assert [1] == [len(self.actions)]
            super().close()

    class Sleeping(AsyncWanderer):
        async def astep(self, action: Any) -> Any:
            await asyncio.Event().wait()

    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Blocking, Sleeping])

    async def main() -> None:
        await vec.areset(seed=1)
        vec.send(("a", "b"))
        await settle()
        threading.Timer(0.05, go_on.set).start()

    asyncio.run(main())
    close(vec)
    assert [1, 1] == [env.closed for env in inside(vec)]


def test_dropped_unclosed() -> None:
    """One that is let go of unclosed says so, and nothing else does."""
    vec = scripted(2, step=None)
    vec.reset()
    vec.send(("a", "b"))
    vec.recv(timeout=LIMIT_S)
    with pytest.warns(ResourceWarning, match="unclosed AsyncioVectorEnv"):
        del vec
        gc.collect()


@pytest.mark.anyio
async def test_group_of_tasks() -> None:
    """One task per environment may send, while one task receives and hands out."""
    async with puppets(NUM_ENVS, eager=True) as vec:
        await vec.areset()
        boxes: list[asyncio.Queue[str]] = [asyncio.Queue(1) for _ in range(NUM_ENVS)]
        seen: list[list[str]] = [[] for _ in range(NUM_ENVS)]
        sent = asyncio.Semaphore(0)

        async def act(row: int) -> None:
            for turn in range(10):
                vec.send((f"{turn}",), [row])
                sent.release()
                seen[row].append(await boxes[row].get())

        async def hand_out() -> None:
            for _ in range(10 * NUM_ENVS):
                await sent.acquire()
                observations, *_, infos = await vec.arecv(1)
                boxes[infos["env_id"][0]].put_nowait(observations[0])

        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            group.create_task(hand_out())
            for row in range(NUM_ENVS):
                group.create_task(act(row))
        assert [[f"{row}: step {turn}" for turn in range(10)] for row in range(NUM_ENVS)] == seen


def let_go(vec: AsyncioVectorEnv[Any, Any], row: int) -> None:
    """End a call in the thread of the loop that a synchronous use runs on, as soon as it has begun."""
    puppet = inside(vec)[row]
    wait_until(lambda: puppet.waiting)

    async def on_the_loop() -> None:
        puppet.let_go()

    vec._drive(on_the_loop())  # pyright: ignore[reportPrivateUsage]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    tick = threading.Event()
    for _ in range(2000):
        if true():
            return
        tick.wait(0.01)
    raise AssertionError("it did not happen")
