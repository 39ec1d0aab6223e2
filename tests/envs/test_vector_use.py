"""One call at a time, on one loop, until the vector environment is closed."""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError

from codecraft_async._loop import LoopThread
from codecraft_async.vector import AsyncioVectorEnv

from .vector_envs import CLOSES, AsyncWanderer, Gate, Scripted, Wanderer, scripted

pytestmark = pytest.mark.anyio


async def test_second_call_is_refused() -> None:
    """While a call is in progress, any other raises, by whatever door; the first goes on."""
    gate = Gate(2)
    async with scripted(2, step=gate) as vec:
        await vec.areset()
        call = asyncio.create_task(vec.astep(("a", "b")))
        await gate.filled()
        for other in (vec.astep(("c", "d")), vec.areset()):
            with pytest.raises(AlreadyPendingCallError, match="a pending call to `step` to complete") as caught:
                await other
            assert "step" == caught.value.name
        for direct in (vec.render, partial(vec.get_attr, "steps"), partial(vec.set_attr, "steps", 1)):
            with pytest.raises(AlreadyPendingCallError):
                direct()
        gate.open.set()
        assert ("step 1 a", "step 1 b") == (await call)[0]
        assert (1, 1) == vec.get_attr("steps")


def test_second_thread_is_refused() -> None:
    """While one thread is in a step, another thread's step raises."""
    begun, go_on = threading.Event(), threading.Event()

    async def step(env: Scripted, action: str) -> None:
        begun.set()
        assert await asyncio.to_thread(go_on.wait, 20)

    vec = scripted(2, step=step)
    vec.reset()
    with ThreadPoolExecutor(1) as other:
        call = other.submit(vec.step, ("a", "b"))
        assert begun.wait(20)
        with pytest.raises(AlreadyPendingCallError):
            vec.step(("c", "d"))
        go_on.set()
        assert ("step 1 a", "step 1 b") == call.result(20)[0]
    vec.close()


def test_another_loop_is_refused() -> None:
    """Resources belong to the loop of the first use: another loop, or the synchronous face, is told so."""
    vec = scripted(2)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(vec.areset())
    with pytest.raises(RuntimeError, match=r"was first used on .* and belongs to it"):
        asyncio.run(vec.astep(("a", "b")))
    for call in (vec.reset, partial(vec.step, ("a", "b")), vec.close):
        with pytest.raises(RuntimeError, match="in use on an event loop of the caller's"):
            call()
    assert (0, 0) == vec.get_attr("steps")
    loop.run_until_complete(vec.aclose())
    loop.close()


def test_asynchronous_face_after_the_synchronous() -> None:
    """Once the loop thread drives it, another loop cannot."""
    vec = scripted(2)
    vec.reset()
    with pytest.raises(RuntimeError, match="was first used on"):
        asyncio.run(vec.areset())
    assert ("step 1 a", "step 1 b") == vec.step(("a", "b"))[0]
    vec.close()


async def test_synchronous_face_beside_a_running_loop() -> None:
    """In a thread with a running loop (a notebook's), the synchronous face works."""
    vec = scripted(2)
    assert ("reset 1",) * 2 == vec.reset()[0]
    assert ("step 1 a", "step 1 b") == vec.step(("a", "b"))[0]
    vec.close()


NOTEBOOK = [
    "vec = scripted(2)",
    "observations, info = vec.reset(seed=1)",
    "observations, *_ = vec.step(('end', 'b'))",
    "handle = vec.envs[1]; alone, *_ = handle.step('c')",
    "vec.step_async(('d', 'e')); observations, *_ = vec.step_wait(timeout=20)",
    "steps = vec.get_attr('steps')",
    "vec.close()",
    "other = scripted(2)",
    "await other.areset()",
    "awaited, *_ = await other.astep(('f', 'g'))",
    "await other.aclose()",
]


async def test_cells_of_a_notebook() -> None:
    """Cells that a running loop executes one after the other, as a notebook's kernel does, can use either face."""
    names: dict[str, Any] = {"scripted": scripted}
    for cell in NOTEBOOK:
        compiled = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        done = eval(compiled, names)  # which gives a coroutine for a cell that awaits
        if inspect.isawaitable(done):
            await done
    assert ("reset 2", "step 3 e") == names["observations"]
    assert ("step 2 c", (0, 3)) == (names["alone"], names["steps"])
    assert ("step 1 f", "step 1 g") == names["awaited"]


def test_synchronous_face_in_its_own_loop_thread() -> None:
    """On the loop thread itself the synchronous face raises instead of blocking, and the asynchronous one works."""
    with LoopThread() as thread:
        vec = scripted(2, loop=thread)

        async def use() -> None:
            await vec.areset()
            with pytest.raises(RuntimeError, match="own thread would block"):
                vec.step(("a", "b"))
            await vec.astep(("a", "b"))

        thread.run(use())
        assert ("step 2 a", "step 2 b") == vec.step(("a", "b"))[0]
        vec.close()
        assert not thread.closed


def test_call_runs_coroutines_to_their_ends() -> None:
    """A call by name that gives coroutines gives their results; all have ended when one fails."""
    vec = scripted(3)
    vec.reset()
    assert "step 1 hello" == vec.call("astep", "hello")[2][0]
    ended = 0

    async def step(env: Scripted, action: str) -> None:
        nonlocal ended
        await asyncio.sleep(0)
        ended += 1
        if ended == 1:
            raise ValueError("first")

    vec.set_attr("on_step", step)
    with pytest.raises(ValueError, match="first"):
        vec.call("astep", "hello")
    assert 3 == ended
    vec.close()


def test_close_repeats_well_and_leaves_no_thread() -> None:
    """Closing closes every environment once and ends all threads, however often it is asked for."""
    before = set(threading.enumerate())
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Wanderer, AsyncWanderer])
    vec.reset()
    assert set(threading.enumerate()) > before
    vec.close()
    vec.close()
    assert vec.closed
    assert [1, 1] == [env.unwrapped.closed for env in vec.envs]  # type: ignore[attr-defined]
    assert before == set(threading.enumerate())


async def test_aclose_repeats_well() -> None:
    """So does `aclose`, also from several tasks at once, and the synchronous `close` after it."""
    before = set(threading.enumerate())
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Wanderer, AsyncWanderer])
    await vec.areset()
    await asyncio.gather(vec.aclose(), vec.aclose())
    await vec.aclose()
    vec.close()
    assert [1, 1] == [env.unwrapped.closed for env in vec.envs]  # type: ignore[attr-defined]
    for thread in set(threading.enumerate()) - before:
        # The worker thread has been told to end, but an event loop does not wait for it.
        thread.join(20)
    assert before == set(threading.enumerate())


def test_with_statement() -> None:
    """A `with` block closes it, also when what is in it raises."""
    with pytest.raises(KeyError), scripted(2) as vec:
        vec.reset()
        raise KeyError
    assert vec.closed
    assert [["closed"], ["closed"]] == [env.unwrapped.ended for env in vec.envs]  # type: ignore[attr-defined]


async def test_call_of_coroutines_on_the_callers_loop() -> None:
    """There `call` cannot wait for coroutines: it says so, leaves none unawaited, and `acall` does it."""
    async with scripted(2) as vec:
        await vec.areset()
        with pytest.raises(RuntimeError, match="await areset, astep, acall and aclose there"):
            vec.call("astep", "x")
        assert ["step 1 x"] * 2 == [result[0] for result in await vec.acall("astep", "x")]


def test_close_without_use() -> None:
    """An environment that was never reset is closed all the same."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Wanderer, AsyncWanderer])
    vec.close()
    assert [1, 1] == [env.unwrapped.closed for env in vec.envs]  # type: ignore[attr-defined]


@pytest.mark.parametrize("close", CLOSES)
def test_close_after_the_callers_loop_has_ended(close: Callable[[Any], None]) -> None:
    """After asynchronous use on a loop that has ended, either face still closes the environments."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Wanderer, AsyncWanderer])
    asyncio.run(vec.areset())
    close(vec)
    assert [1, 1] == [env.unwrapped.closed for env in vec.envs]  # type: ignore[attr-defined]


@pytest.mark.parametrize("used", [False, True])
def test_close_after_the_loop_thread_was_closed(used: bool) -> None:
    """A loop thread that is shared outlives an environment's close; where it was closed first, another one closes."""
    with LoopThread() as thread:
        first, second = scripted(2, loop=thread), scripted(2, loop=thread)
        first.reset()
        first.close()
        assert not thread.closed
        if used:
            second.reset()
            second.send(("a",), [0])
    with pytest.raises(RuntimeError, match="the loop thread is closed"):
        second.reset()
    second.close()
    assert [["closed"]] * 4 == [env.unwrapped.ended for vec in (first, second) for env in vec.envs]  # type: ignore[attr-defined]


async def test_use_after_close() -> None:
    """Every use after closing raises ClosedEnvironmentError."""
    vec = scripted(2)
    await vec.areset()
    await vec.aclose()
    with pytest.raises(ClosedEnvironmentError):
        await vec.areset()
    with pytest.raises(ClosedEnvironmentError):
        await vec.astep(("a", "b"))
    for call in (vec.reset, partial(vec.step, ("a", "b")), vec.render, partial(vec.get_attr, "steps")):
        with pytest.raises(ClosedEnvironmentError, match="AsyncioVectorEnv is closed"):
            call()
    used = scripted(2)
    used.reset()
    used.close()
    with pytest.raises(ClosedEnvironmentError):
        used.step(("a", "b"))
    for on_this_loop in (used.areset(), used.astep(("a", "b")), used.acall("steps"), used.envs[0].areset()):
        with pytest.raises(ClosedEnvironmentError):
            await on_this_loop


async def test_every_environment_is_closed_though_some_fail() -> None:
    """One environment's failure to close keeps none of the others from being closed."""

    async def fail() -> None:
        raise OSError("stuck")

    vec = scripted(3)
    await vec.areset()
    vec.envs[1].unwrapped.aclose = fail  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="stuck") as caught:
        await vec.aclose()
    assert ["raised by env 1 in close"] == caught.value.__notes__
    assert vec.closed
    assert [["closed"], [], ["closed"]] == [env.unwrapped.ended for env in vec.envs]  # type: ignore[attr-defined]


async def test_aclose_cancels_the_call_in_progress() -> None:
    """Closing during a step cancels it: its caller is told, and nothing is left running."""
    gate = Gate(2)
    vec = scripted(2, step=gate)
    await vec.areset()
    call = asyncio.create_task(vec.astep(("a", "b")))
    await gate.filled()
    await vec.aclose()
    assert 2 == gate.cancelled
    with pytest.raises(ClosedEnvironmentError, match="was closed while a call of `step` was in progress"):
        await call
    assert [["closed"], ["closed"]] == [env.unwrapped.ended for env in vec.envs]  # type: ignore[attr-defined]


async def test_cancelled_aclose_closes_all_the_same() -> None:
    """A cancellation of `aclose` is delivered once everything is closed."""
    gate = Gate(2)
    vec = scripted(2)
    await vec.areset()
    vec.set_attr("aclose", gate)
    call = asyncio.create_task(vec.aclose())
    await gate.filled()
    call.cancel()
    await asyncio.sleep(0)
    assert not call.done()
    gate.open.set()
    await asyncio.wait([call])
    assert call.cancelled()
    assert vec.closed
    assert 0 == gate.cancelled


def test_forgotten_close_warns() -> None:
    """A used environment that is collected unclosed warns, and its loop thread ends; an unused one is silent."""
    before = set(threading.enumerate())
    vec = scripted(2)
    vec.reset()
    (running,) = set(threading.enumerate()) - before
    with pytest.warns(ResourceWarning, match="unclosed AsyncioVectorEnv"):
        del vec
        gc.collect()
    running.join(20)
    assert not running.is_alive()
    scripted(2)
    gc.collect()


def test_keyboard_interrupt_in_a_step() -> None:
    """Ctrl-C in a synchronous step cuts the environments off, cleans up, and leaves the vector environment usable."""
    script = """
import asyncio, signal, threading, gymnasium
from codecraft_async.spaces import Unicode
from codecraft_async.vector import AsyncioVectorEnv

class Env(gymnasium.Env):
    observation_space = action_space = Unicode(9)
    async def areset(self, *, seed=None, options=None):
        return "reset", {}
    async def astep(self, action):
        if action == "wait":
            try:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.02)
                print("cleaned up")
        return action, 0.0, False, False, {}

vec = AsyncioVectorEnv([Env] * 2)
vec.reset()
try:
    vec.step(("go", "wait"))
except KeyboardInterrupt:
    print("interrupted", vec.interrupted.tolist())
print(vec.reset(options={"reset_mask": vec.interrupted})[0])
print(vec.step(("go", "go"))[0])
vec.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert ["cleaned up", "interrupted [False, True]", "('go', 'reset')", "('go', 'go')"] == done.stdout.splitlines()
