"""An event loop in a thread of its own, for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

__all__ = ["CLEAN_UP_S", "CLOSE_S", "LoopThread", "Started"]

T = TypeVar("T")

# How long an interrupted caller waits for the coroutine it has cancelled.
CLEAN_UP_S = 10.0
# How long `close` waits for the thread to end, and, inside it, how long cancelled tasks may take to end.
CLOSE_S = 10.0
_CANCEL_S = 5.0
# How long a waiting thread may overlook a signal that came between the interpreter's last look and the wait itself.
_SIGNALS_S = 0.25

_logger = logging.getLogger(__name__)


class LoopThread:
    """Owns one daemon thread that runs one event loop until `close`, garbage collection or interpreter exit.

    It is a uvloop; with `uvloop=False` it is asyncio's own.
    """

    def __init__(self, *, uvloop: bool = True, name: str = "codecraft-loop") -> None:
        self._core = _Core(_new_loop(uvloop), name)
        # The thread refers to the core only, so that this object can be collected while the thread runs.
        self._finalizer = weakref.finalize(self, self._core.let_go)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that runs in the thread."""
        return self._core.loop

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._core.closing

    @property
    def is_current(self) -> bool:
        """Whether the caller is in this very thread, which must not wait for itself."""
        return self._core.thread.ident == threading.get_ident()

    def run(self, coro: Coroutine[Any, Any, T], *, timeout_s: float | None = None) -> T:
        """Run `coro` on the loop and return its result; for any thread but the loop's own.

        An exception that interrupts the waiting thread (KeyboardInterrupt, say), or the end of `timeout_s`, cancels
        the coroutine, waits up to `CLEAN_UP_S` for it to end, and is then raised.

        Raises:
            RuntimeError: this is the loop's own thread, the loop thread is closed, or this is a forked child.
            TimeoutError: the coroutine took longer than `timeout_s`.
            concurrent.futures.CancelledError: the coroutine was cancelled, as `close` does.
        """
        call = _Call(self._core, coro)
        try:
            self._core.submit(call)
            if not call.wait(timeout_s):
                raise TimeoutError(f"the coroutine {coro!r} did not end within {timeout_s} s and was cancelled")
        except BaseException:
            self._core.abandon(call)
            raise
        try:
            return call.result()
        finally:
            # An error's traceback holds this frame: without this, frame, call and error would form a cycle.
            del call

    def start(self, coro: Coroutine[Any, Any, T]) -> Started[T]:
        """Run `coro` on the loop without waiting for it; for any thread but the loop's own.

        Raises:
            RuntimeError: as `run`.
        """
        call = _Call(self._core, coro)
        try:
            self._core.submit(call)
        except BaseException:
            self._core.abandon(call)
            raise
        return Started(self._core, call)

    def close(self, *, timeout_s: float = CLOSE_S) -> None:
        """Cancel what still runs, let it end, and end the thread; every later call does nothing.

        From the loop's own thread, or in a forked child, it does not wait.

        Raises:
            TimeoutError: the thread did not end within `timeout_s`; it goes on trying.
        """
        self._finalizer.detach()
        self._core.close(timeout_s)

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "running"
        return f"<LoopThread {self._core.thread.name!r} {state}, {len(self._core.calls)} calls>"


class Started(Generic[T]):
    """A coroutine that `LoopThread.start` has started; it runs on whether or not anybody waits for it."""

    def __init__(self, core: _Core, call: _Call[T]) -> None:
        self._core = core
        self._call = call

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._call not in self._core.calls

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout_s` seconds; whether it has."""
        return self._call.wait(timeout_s)

    def result(self) -> T:
        """What it returned or raised, once it is `done`; `concurrent.futures.CancelledError` if it was cancelled."""
        return self._call.result()

    def cancel(self) -> None:
        """Cancel it, and wait up to `CLEAN_UP_S` for it to end."""
        self._core.abandon(self._call)


class _Core:
    """What the thread and its owner share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.loop = loop
        self.closing = False
        self.calls: set[_Call[Any]] = set()
        # Unlike `closing` set by the loop itself, so that it is true only when `stop` has taken effect.
        self._stopped = False
        self._pid = os.getpid()
        # Reentrant, because a signal handler or a finalizer may close the loop in the midst of a submission.
        self._gate = threading.RLock()
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)
        try:
            self.thread.start()
        except RuntimeError:
            # The system has no thread to give.
            loop.close()
            raise
        except BaseException:
            # The thread is on its way, and closes the loop itself.
            self.close(None)
            raise

    def submit(self, call: _Call[Any]) -> None:
        """Have the loop start `call`; what is accepted here always ends."""
        if self._pid != os.getpid():
            raise RuntimeError(
                f"{self.thread.name}: threads do not survive a fork, so this loop thread exists only in process "
                f"{self._pid}; create a new one in the child (process {os.getpid()})"
            )
        if self.thread.ident == threading.get_ident():
            raise RuntimeError(
                f"{self.thread.name}: waiting for a coroutine in the loop's own thread would block that loop for "
                "ever; await it there (areset, astep, aclose instead of reset, step, close)"
            )
        with self._gate:
            if self.closing:
                raise RuntimeError(f"{self.thread.name}: the loop thread is closed")
            self.calls.add(call)
            self.loop.call_soon_threadsafe(call.start)

    def abandon(self, call: _Call[Any]) -> None:
        """Cancel `call` and wait, for a bounded time, until it has ended."""
        if call not in self.calls:
            call.drop()
            return
        try:
            self.loop.call_soon_threadsafe(call.cancel)
        except RuntimeError:
            # The loop has closed in the meantime, and closing ended the call.
            return
        if not call.wait(CLEAN_UP_S):
            _logger.warning("%s: %r still runs %s s after its cancellation", self.thread.name, call, CLEAN_UP_S)

    def let_go(self) -> None:
        """Close for an owner that is gone; runs at exit, or in whatever thread collects the owner."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.close(CLOSE_S)
        else:
            # Somebody else's loop runs in this thread and must not be held up: the thread ends by itself.
            self.close(None)

    def close(self, timeout_s: float | None) -> None:
        """Have the thread end, and wait for that unless `timeout_s` is None."""
        if self._pid != os.getpid():
            self.closing = True
            return
        with self._gate:
            if not self.closing:
                self.closing = True
                self.loop.call_soon_threadsafe(self._stop)
        if timeout_s is None or self.thread.ident == threading.get_ident():
            return
        self.thread.join(timeout_s)
        if self.thread.is_alive():
            raise TimeoutError(f"{self.thread.name}: the loop thread did not end within {timeout_s} s")

    def _stop(self) -> None:
        self._stopped = True
        self.loop.stop()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._stopped:
                self._until_stopped()
            self._shut_down()
        finally:
            self.closing = True
            for call in tuple(self.calls):
                call.fail(RuntimeError(f"{self.thread.name}: the loop thread ended before {call!r} did"))
            self.loop.close()
            asyncio.set_event_loop(None)

    def _until_stopped(self) -> None:
        try:
            self.loop.run_forever()
        except (KeyboardInterrupt, SystemExit):
            # A task that raises one of these throws it through the loop as well. It belongs to the waiting caller,
            # who gets it from the task; the loop goes on for the others.
            _logger.debug("%s: a task raised an exit exception", self.thread.name, exc_info=True)

    def _shut_down(self) -> None:
        deadline = self.loop.time() + _CANCEL_S
        # The end of one task may start another, such as one that clears up after it; those end here as well.
        while (tasks := asyncio.all_tasks(self.loop)) and self.loop.time() < deadline:
            for task in tasks:
                task.cancel()
            self._complete(asyncio.wait(tasks, timeout=max(0.0, deadline - self.loop.time())))
        for task in tasks:
            _logger.warning("%s: %r ignored its cancellation for %s s", self.thread.name, task, _CANCEL_S)
        self._complete(self.loop.shutdown_asyncgens())
        self._complete(self.loop.shutdown_default_executor())

    def _complete(self, coro: Coroutine[Any, Any, object]) -> None:
        task = self.loop.create_task(coro)
        while not task.done():
            try:
                self.loop.run_until_complete(task)
            except (KeyboardInterrupt, SystemExit):
                continue


class _Call(Generic[T]):
    """One coroutine on its way through the loop, and the thread that waits for it."""

    __slots__ = ("_core", "_coro", "_error", "_pending", "_task")

    def __init__(self, core: _Core, coro: Coroutine[Any, Any, T]) -> None:
        self._core = core
        self._coro = coro
        self._task: asyncio.Task[T] | None = None
        self._error: BaseException | None = None
        # Held until the end. A lock is the cheapest thing to wait for that signals can still interrupt.
        self._pending = threading.Lock()
        self._pending.acquire()

    # In the waiting thread.

    def wait(self, timeout_s: float | None) -> bool:
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        left_s = math.inf if timeout_s is None else max(timeout_s, 0.0)
        while not self._pending.acquire(timeout=min(left_s, _SIGNALS_S)):
            left_s = deadline - time.monotonic()
            if left_s <= 0.0:
                return False
        self._pending.release()
        return True

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        assert self._task is not None
        if self._task.cancelled():
            raise concurrent.futures.CancelledError(f"{self!r} was cancelled, or its loop thread was closed")
        return self._task.result()

    # In the loop's thread.

    def start(self) -> None:
        if self._error is None:
            self._task = self._core.loop.create_task(self._coro)
            self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self.fail(concurrent.futures.CancelledError("cancelled before it began"))

    def fail(self, error: BaseException) -> None:
        self._error = error
        self.drop()
        self._end(None)

    def _end(self, task: asyncio.Task[T] | None) -> None:
        if task is not None and not task.cancelled():
            task.exception()  # retrieved: whoever started it may never ask, and that is no fault of the coroutine's
        calls = self._core.calls
        if self in calls:
            calls.remove(self)
            self._pending.release()

    # In either.

    def drop(self) -> None:
        """Close a coroutine that will never start."""
        if self._task is None:
            self._coro.close()

    def __repr__(self) -> str:
        return f"<call of {getattr(self._coro, '__qualname__', self._coro)}>"


def _new_loop(uvloop: bool) -> asyncio.AbstractEventLoop:
    if not uvloop:
        return asyncio.new_event_loop()
    # Imported only here, so that the other choice works where there is no uvloop.
    from uvloop import new_event_loop

    return new_event_loop()
