"""Calls in two halves, as gymnasium's AsyncVectorEnv has them, without its faults."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector.async_vector_env import AsyncState

from codecraft_async.vector import AsyncioVectorEnv, WaitTimeout

from .vector_envs import MODES, Scripted, Wanderer, assert_same, factories, oracle, plays, scripted

pytestmark = pytest.mark.anyio

HALVES: dict[str, tuple[Any, ...]] = {"reset": (), "step": (("a", "b"),), "call": ("has_wrapper_attr", "steps")}


class Held:
    """Keeps environments in a step until a test's thread lets them go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = 0
        self._inside: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._opened = False

    async def __call__(self, *_: Any) -> None:
        go_on = asyncio.Event()
        self._inside.append((asyncio.get_running_loop(), go_on))
        self.begun.set()
        try:
            if not self._opened:
                await go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def open(self) -> None:
        self._opened = True
        for loop, go_on in self._inside:
            loop.call_soon_threadsafe(go_on.set)


def play_in_halves(vec: Any, mode: str) -> list[Any]:
    """Every result of a session, each call started and then waited for."""
    session = plays(vec, mode)
    results: list[Any] = []
    name, keywords = next(session)
    while True:
        getattr(vec, f"{name}_async")(**keywords)
        results.append(getattr(vec, f"{name}_wait")())
        try:
            name, keywords = session.send(results[-1])
        except StopIteration:
            return results


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sort", ["plain", "async", "mixed"])
def test_halves_make_a_whole(sort: str, mode: str) -> None:
    """`reset_async` and `reset_wait`, `step_async` and `step_wait` give SyncVectorEnv's results."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(factories(sort, "dict"), autoreset_mode=mode)
    assert_same(oracle(mode, "dict"), play_in_halves(vec, mode))
    vec.close()


async def test_the_caller_goes_on_meanwhile() -> None:
    """A started step runs while its caller, here in a thread with a running loop, does something else."""
    held = Held()
    vec = scripted(2, step=held)
    vec.reset()
    vec.step_async(("a", "b"))
    assert await asyncio.to_thread(held.begun.wait, 20)
    held.open()
    assert ("step 1 a", "step 1 b") == vec.step_wait(timeout=20)[0]
    vec.close()


@pytest.mark.parametrize("pending", HALVES)
@pytest.mark.parametrize("wanted", HALVES)
def test_wrong_halves(pending: str, wanted: str) -> None:
    """What AsyncVectorEnv refuses is refused with its errors, and what was started can still be had."""
    vec = scripted(2)
    vec.reset()
    with pytest.raises(
        NoAsyncCallError, match=f"Calling `{wanted}_wait` without any prior call to `{wanted}_async`"
    ) as none:
        getattr(vec, f"{wanted}_wait")()
    assert wanted == none.value.name
    getattr(vec, f"{pending}_async")(*HALVES[pending])
    assert AsyncState(pending) is vec._state  # pyright: ignore[reportPrivateUsage]  # as AsyncVectorEnv has it
    with pytest.raises(
        AlreadyPendingCallError,
        match=f"Calling `{wanted}_async` while waiting for a pending call to `{pending}` to complete",
    ) as already:
        getattr(vec, f"{wanted}_async")(*HALVES[wanted])
    assert pending == already.value.name
    if wanted != pending:
        with pytest.raises(NoAsyncCallError):
            getattr(vec, f"{wanted}_wait")()
    getattr(vec, f"{pending}_wait")()
    assert AsyncState.DEFAULT is vec._state  # pyright: ignore[reportPrivateUsage]
    vec.step(("a", "b"))
    vec.close()


def test_whole_calls_are_refused_in_between() -> None:
    """Between the halves of a call every other one is refused, though the environments may have ended theirs."""
    vec = scripted(2)
    vec.reset()
    vec.step_async(("a", "b"))
    others: list[Callable[[], Any]] = [
        vec.reset,
        partial(vec.step, ("c", "d")),
        vec.render,
        partial(vec.get_attr, "steps"),
        partial(vec.set_attr, "steps", 9),
        partial(vec.envs[0].step, "c"),
        vec.envs[0].reset,
    ]
    for other in others:
        with pytest.raises(AlreadyPendingCallError, match="pending call to `step`"):
            other()
    assert ("step 1 a", "step 1 b") == vec.step_wait()[0]
    vec.close()


def test_first_halves_check_what_they_are_given() -> None:
    """Wrong seeds, masks and actions are refused at once, and leave nothing pending."""
    vec = scripted(2)
    with pytest.raises(ValueError, match=r"must match num_envs=2 but got length=3"):
        vec.reset_async(seed=[1, 2, 3])
    vec.reset_async(seed=[1, None])
    vec.reset_wait()
    options = {"reset_mask": np.array([True, False]), "level": 1}
    vec.reset_async(None, options)
    assert ("reset 2", "reset 1") == vec.reset_wait()[0]
    assert ["reset_mask", "level"] == list(options)
    with pytest.raises(TypeError, match="must be a numpy array"):
        vec.reset_async(options={"reset_mask": [True, False]})
    with pytest.raises(ValueError, match="got 1"):
        vec.step_async(("a",))
    with pytest.raises(TypeError, match="got one str"):
        vec.step_async("ab")
    assert ("step 1 a", "step 1 b") == vec.step(("a", "b"))[0]
    vec.close()


def test_timeout_loses_nothing() -> None:
    """A wait that times out raises both sorts of TimeoutError; the next wait has this step's results, not old ones."""
    held = Held()
    vec = scripted(2, step=held)
    vec.reset()
    vec.step_async(("a", "b"))
    for _ in range(2):
        with pytest.raises(WaitTimeout, match=r"`step_wait` has timed out after 0.01 second\(s\)") as caught:
            vec.step_wait(timeout=0.01)
        assert isinstance(caught.value, multiprocessing.TimeoutError)
        assert isinstance(caught.value, TimeoutError)
    held.open()
    assert ("step 1 a", "step 1 b") == vec.step_wait()[0]
    assert ("step 2 c", "step 2 d") == vec.step(("c", "d"))[0]
    vec.close()


def test_cancelled_between_the_halves() -> None:
    """A started step can be given up: environments are cut off, it is said which, and a reset mends them."""
    held = Held()
    vec = scripted(2, where=1, step=held)
    vec.reset()
    vec.cancel_async()
    vec.step_async(("a", "b"))
    assert held.begun.wait(20)
    vec.cancel_async()
    assert 1 == held.cancelled
    assert [False, True] == vec.interrupted.tolist()
    with pytest.raises(NoAsyncCallError):
        vec.step_wait()
    assert ("step 1 a", "reset 2") == vec.reset(options={"reset_mask": vec.interrupted})[0]
    vec.close()


def test_cancelled_before_it_has_begun() -> None:
    """A step that is given up while the loop is busy with other things leaves nothing behind."""
    vec = scripted(2)
    vec.reset()
    begun, busy = threading.Event(), threading.Event()

    def occupy() -> None:
        begun.set()
        busy.wait(20)

    vec._loop_thread().loop.call_soon_threadsafe(occupy)  # pyright: ignore[reportPrivateUsage]
    assert begun.wait(20)
    vec.step_async(("a", "b"))
    threading.Timer(0.05, busy.set).start()
    vec.cancel_async()
    gc.collect()  # a coroutine that nobody awaited would warn
    assert ("reset 2",) * 2 == vec.reset()[0]
    vec.close()


def test_cancelled_while_a_thread_waits() -> None:
    """The waiting thread is told, another that would wait as well is refused, and the turn is free afterwards."""
    held = Held()
    vec = scripted(2, step=held)
    vec.reset()
    vec.step_async(("a", "b"))
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(vec.step_wait)
        assert held.begun.wait(20)
        while not vec._waiting.locked():  # pyright: ignore[reportPrivateUsage]  # else this thread could be the first
            time.sleep(0.001)
        with pytest.raises(AlreadyPendingCallError, match="`step_wait` in another thread"):
            vec.step_wait()
        vec.cancel_async()
        with pytest.raises(CancelledError):
            waiting.result(20)
    assert ("reset 2",) * 2 == vec.reset()[0]
    vec.close()


def test_failures_in_second_halves() -> None:
    """The first failure by index is raised by the wait, with notes on the others; nothing stays pending."""

    async def fail(env: Scripted, action: str) -> None:
        raise ValueError(action)

    vec = scripted(3, step=fail)
    vec.reset()
    vec.step_async(("a", "b", "c"))
    with pytest.raises(ValueError, match="a") as caught:
        vec.step_wait()
    assert 3 == len(caught.value.__notes__)
    assert vec.interrupted.all()
    vec.reset()
    vec.close()


@pytest.mark.parametrize("pending", HALVES)
@pytest.mark.parametrize("terminate", [False, True])
def test_close_between_the_halves(pending: str, terminate: bool) -> None:
    """Closing ends what was started and never waited for; afterwards every half says that all is closed."""
    vec = scripted(2)
    vec.reset()
    getattr(vec, f"{pending}_async")(*HALVES[pending])
    vec.close(timeout=20, terminate=terminate)
    assert [["closed"], ["closed"]] == [env.unwrapped.ended for env in vec.envs]  # type: ignore[attr-defined]
    for name, arguments in HALVES.items():
        with pytest.raises(ClosedEnvironmentError):
            getattr(vec, f"{name}_async")(*arguments)
        with pytest.raises(ClosedEnvironmentError):
            getattr(vec, f"{name}_wait")()


def test_close_cuts_off_what_was_started() -> None:
    """A step that would never end is cancelled by closing; a thread that waits for it is told."""
    held = Held()
    vec = scripted(2, step=held)
    vec.reset()
    vec.step_async(("a", "b"))
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(vec.step_wait)
        assert held.begun.wait(20)
        vec.close()
        with pytest.raises(ClosedEnvironmentError):
            waiting.result(20)
    assert 2 == held.cancelled


class ClosedOnTheWay(AsyncioVectorEnv[Any, Any]):
    """Is being closed by the time that a step, which was accepted, reaches the loop."""

    def _begin_step(self, actions: Any) -> Any:
        work = super()._begin_step(actions)
        thread = self._loop_thread()
        self.closing = thread.start(self.aclose())
        for _ in range(5):
            thread.run(asyncio.sleep(0))
        return work


def test_started_but_not_begun_when_closing() -> None:
    """A step whose thread comes to it when all is being closed never begins."""
    vec = ClosedOnTheWay([Scripted] * 2)
    vec.reset()
    vec.step_async(("a", "b"))
    assert vec.closing.wait(20)
    assert [0, 0] == [env.unwrapped.steps for env in vec.envs]  # type: ignore[attr-defined]
    with pytest.raises(ClosedEnvironmentError):
        vec.step_wait()
    vec.close()


def test_a_failure_that_nobody_came_back_for(caplog: pytest.LogCaptureFixture) -> None:
    """Closing makes it moot; asyncio does not report it behind the user's back."""

    async def fail(env: Scripted, action: str) -> None:
        raise ValueError(action)

    vec = scripted(1, step=fail)
    vec.reset()
    vec.step_async(("a",))
    started = vec._started  # pyright: ignore[reportPrivateUsage]
    assert started is not None
    assert started.wait(20)
    del started
    vec.close()
    del vec
    gc.collect()
    assert not [text for text in caplog.messages if "never retrieved" in text]


async def test_call_async_runs_coroutines_and_functions() -> None:
    """`call_async` and `acall` give what `call` gives: attributes, results of functions, results of coroutines."""
    vec = scripted(3)
    vec.reset()
    for name, arguments in (("resets", ()), ("get_wrapper_attr", ("steps",)), ("astep", ("hello",))):
        vec.call_async(name, *arguments)
        assert 3 == len(vec.call_wait())
    assert (1, 1, 1) == vec.get_attr("steps")
    vec.call_async("nonsense")
    with pytest.raises(AttributeError, match="nonsense"):
        vec.call_wait()
    vec.close()
    async with scripted(2) as other:
        await other.areset()
        assert ("step 1 x", "step 1 x") == tuple(result[0] for result in await other.acall("astep", "x"))
        assert (1, 1) == await other.acall("steps")


async def test_acall_leaves_no_coroutine_unawaited() -> None:
    """If one environment has no such method, the coroutines of the others are closed."""
    async with scripted(2) as vec:
        await vec.areset()
        vec.envs[0].unwrapped.special = vec.envs[0].unwrapped.areset  # type: ignore[attr-defined]
        with pytest.raises(AttributeError, match="special") as caught:
            await vec.acall("special")
        assert "raised by env 1 in call" in caught.value.__notes__


async def test_halves_beside_the_asynchronous_face() -> None:
    """On a loop of the caller's, tasks take the place of halves, and the error says so."""
    async with scripted(2) as vec:
        await vec.areset()
        with pytest.raises(RuntimeError, match="in use on an event loop of the caller's"):
            vec.step_async(("a", "b"))
        assert ("step 1 a", "step 1 b") == (await vec.astep(("a", "b")))[0]


def test_plain_environments_in_halves() -> None:
    """Environments without coroutines are stepped in the worker thread, not in the caller's."""
    threads: set[int] = set()

    class Noting(Wanderer):
        def step(self, action: Any) -> Any:
            threads.add(threading.get_ident())
            return super().step(action)

    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv([Noting] * 2)
    vec.reset_async(seed=3)
    vec.reset_wait()
    vec.step_async(("a", "b"))
    vec.step_wait()
    assert 1 == len(threads - {threading.get_ident()})
    vec.close()
