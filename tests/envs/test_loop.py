"""The loop thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest

from codecraft_async._loop import LoopThread


@pytest.fixture(name="thread", params=[True, False], ids=["uvloop", "asyncio"])
def _thread(request: pytest.FixtureRequest) -> Iterator[LoopThread]:
    with LoopThread(uvloop=request.param, name="loop-under-test") as thread:
        yield thread


async def answer(value: object = 42) -> object:
    """Suspends once, then returns the value."""
    await asyncio.sleep(0)
    return value


def run_script(script: str) -> str:
    """What a Python program prints that imports the loop thread; it must end well, in time, and without complaints."""
    prelude = "import asyncio, os, signal, sys, threading\nfrom codecraft_async._loop import LoopThread\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", prelude + script],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def test_runs_on_the_asked_loop() -> None:
    """The loop is a uvloop unless asyncio's own is asked for."""
    with LoopThread() as fast, LoopThread(uvloop=False) as plain:
        assert "uvloop" == type(fast.loop).__module__.split(".")[0]
        assert "asyncio" == type(plain.loop).__module__.split(".")[0]


def test_returns_the_result(thread: LoopThread) -> None:
    """The coroutine runs on the loop, in the thread, and its result comes back."""

    async def where() -> tuple[object, str]:
        return asyncio.get_running_loop(), threading.current_thread().name

    assert (thread.loop, "loop-under-test") == thread.run(where())
    assert [0, 1, 2] == [thread.run(answer(value)) for value in range(3)]


def test_raises_the_error(thread: LoopThread) -> None:
    """The coroutine's own exception object comes back."""
    error = ValueError("its own")

    async def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="its own") as caught:
        thread.run(fail())
    assert error is caught.value


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_exceptions_go_to_the_caller(thread: LoopThread, kind: type[BaseException]) -> None:
    """A coroutine that raises an exit exception ends its caller's wait with it, and the loop goes on."""

    async def leave() -> None:
        raise kind("out")

    with pytest.raises(kind, match="out"):
        thread.run(leave())
    assert 42 == thread.run(answer())


def test_context_variables_are_the_callers(thread: LoopThread) -> None:
    """The coroutine sees the context variables of the thread that waits for it."""
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")

    async def look() -> str:
        return variable.get()

    assert "set" == thread.run(look())


def test_many_threads_at_once(thread: LoopThread) -> None:
    """Coroutines of several threads run at the same time, and each thread gets its own result."""
    number = 8
    meeting = asyncio.Barrier(number)

    async def meet(value: int) -> int:
        async with asyncio.timeout(20):
            await meeting.wait()
        return value

    with concurrent.futures.ThreadPoolExecutor(number) as callers:
        assert list(range(number)) == list(callers.map(lambda value: thread.run(meet(value)), range(number)))


def test_own_thread_is_refused(thread: LoopThread) -> None:
    """Waiting in the loop's own thread raises instead of blocking the loop for ever."""

    async def reenter() -> None:
        thread.run(answer())

    with pytest.raises(RuntimeError, match="own thread would block"):
        thread.run(reenter())


def test_works_beside_a_running_loop(thread: LoopThread) -> None:
    """A thread that has a running loop of its own (a notebook's) may wait."""

    async def notebook() -> object:
        return thread.run(answer())

    assert 42 == asyncio.run(notebook())


def test_timeout_cancels(thread: LoopThread) -> None:
    """A coroutine that takes too long is cancelled, and has ended when TimeoutError is raised."""
    ended = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(TimeoutError, match=r"slow.*0\.01 s"):
        thread.run(slow(), timeout_s=0.01)
    assert [True] == ended


def test_self_cancellation_is_an_ordinary_error(thread: LoopThread) -> None:
    """A coroutine that ends as cancelled gives an Exception, not asyncio's BaseException, to synchronous callers."""

    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(concurrent.futures.CancelledError, match="give_up"):
        thread.run(give_up())


def test_close_ends_everything() -> None:
    """Closing cancels tasks, finishes generators and executor jobs, ends thread and loop, and repeats well."""
    thread = LoopThread(name="to-be-closed")
    ended: list[str] = []
    generators: list[AsyncIterator[int]] = []

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def work() -> None:
        generators.append(generate())
        await anext(generators[0])
        await asyncio.to_thread(ended.append, "job")
        background.append(asyncio.create_task(last()))

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("task")

    background: list[asyncio.Task[None]] = []
    thread.run(work())
    thread.close()
    thread.close()
    assert ["generator", "job", "task"] == sorted(ended)
    assert thread.closed
    assert thread.loop.is_closed()
    assert "to-be-closed" not in [other.name for other in threading.enumerate()]


def test_closed_is_refused() -> None:
    """A closed loop thread says so, and leaves no coroutine behind that was never awaited."""
    thread = LoopThread()
    thread.close()
    with pytest.raises(RuntimeError, match="the loop thread is closed"):
        thread.run(answer())


def test_close_frees_waiting_threads() -> None:
    """A thread that waits when another closes is told."""
    thread = LoopThread()
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    with concurrent.futures.ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(thread.run, wait())
        assert begun.wait(20)
        thread.close()
        assert isinstance(waiting.exception(20), concurrent.futures.CancelledError)


def test_close_from_the_own_thread_does_not_wait() -> None:
    """A coroutine may close its own loop thread, which then ends when it can."""
    thread = LoopThread(name="closes-itself")

    async def close() -> str:
        thread.close()
        return "closed"

    assert "closed" == thread.run(close())
    thread.close()
    assert "closes-itself" not in [other.name for other in threading.enumerate()]


def test_collection_ends_the_thread() -> None:
    """A loop thread that nobody refers to any more ends."""
    thread = LoopThread(name="collected")
    thread.run(answer())
    seen = weakref.ref(thread)
    (running,) = (other for other in threading.enumerate() if other.name == "collected")
    del thread
    gc.collect()
    assert seen() is None
    running.join(20)
    assert not running.is_alive()


def test_repr_tells_the_state() -> None:
    """The repr says whether it runs."""
    thread = LoopThread(name="shown")
    assert "<LoopThread 'shown' running, 0 calls>" == repr(thread)
    thread.close()
    assert "<LoopThread 'shown' closed, 0 calls>" == repr(thread)


def test_keyboard_interrupt_cleans_up_first() -> None:
    """Ctrl-C cancels the coroutine, waits for its clean-up, and is raised; the loop thread stays usable."""
    script = """
thread = LoopThread()
async def interrupted():
    try:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.05)
        print("cleaned up")
async def fine():
    return "usable"
try:
    thread.run(interrupted())
except KeyboardInterrupt:
    print("interrupted")
print(thread.run(fine()))
thread.close()
"""
    assert ["cleaned up", "interrupted", "usable"] == run_script(script).splitlines()


def test_no_interrupt_is_overlooked() -> None:
    """A signal that arrives just as the thread begins to wait, when no system call is there to interrupt, counts."""
    script = """
thread = LoopThread()
async def hang():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    await asyncio.Event().wait()
caught = 0
for _ in range(60):
    try:
        thread.run(hang())
    except KeyboardInterrupt:
        caught += 1
thread.close()
print(caught)
"""
    assert "60\n" == run_script(script)


def test_forked_child_is_told() -> None:
    """In a forked child, where the thread does not exist, running raises, closing is harmless, and a new one works."""
    script = """
thread = LoopThread()
async def fine():
    return "fine"
print(thread.run(fine()), flush=True)
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of exactly this
child = os.fork()
if not child:
    coro = fine()
    try:
        thread.run(coro)
    except RuntimeError as error:
        assert "do not survive a fork" in str(error), error
    thread.close()
    with LoopThread() as own:
        print("child", own.run(fine()))
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("parent", thread.run(fine()))
"""
    assert ["fine", "child fine", "parent fine"] == run_script(script).splitlines()


def test_close_waits_for_what_the_end_of_a_task_starts(caplog: pytest.LogCaptureFixture) -> None:
    """A task that another one starts when it is cancelled ends before the loop is closed."""
    thread = LoopThread(name="heirs")
    ended: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def clear_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("heir")

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            kept.append(asyncio.create_task(clear_up()))
            ended.append("work")

    async def start() -> None:
        kept.append(asyncio.create_task(work()))
        await asyncio.sleep(0)

    thread.run(start())
    thread.close()
    assert ["work"] == ended[:1]
    assert all(task.done() for task in kept) and 2 == len(kept)
    assert [] == caplog.records


def test_interpreter_exit_closes() -> None:
    """A loop thread that was never closed lets its tasks clean up at exit, and does not hold up the exit."""
    script = """
thread = LoopThread()
async def last():
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("cleaned up")
async def start():
    global task
    task = asyncio.create_task(last())
    await asyncio.sleep(0)
thread.run(start())
"""
    started = time.monotonic()
    assert "cleaned up\n" == run_script(script)
    assert time.monotonic() - started < 30
