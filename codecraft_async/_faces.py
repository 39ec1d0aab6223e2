"""The synchronous and the asynchronous face of an environment: the event loop it belongs to, one call at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError

from codecraft_async._loop import LoopThread

__all__ = ["Faces"]

T = TypeVar("T")
_CLOSE_LIMIT_S = 30.0
_STARTING = threading.Lock()  # not one of each environment's own: such could not be pickled


class Faces:
    """Runs an environment's coroutines for callers of either kind.

    The first call decides: `drive` has them run on a loop thread of its own, `turn` belongs to the loop that runs.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._thread: LoopThread | None = None
        self._bound: asyncio.AbstractEventLoop | None = None
        self._pending = ""
        self.closed = False

    def __getstate__(self) -> dict[str, Any]:
        if self._thread is not None or self._bound is not None:
            raise self.cannot_be_copied()
        return self.__dict__.copy()

    def cannot_be_copied(self) -> TypeError:
        """Return the error for a copy of an environment that would be in the sandbox of the original."""
        return TypeError(
            f"a {self._owner} that was used holds a sandbox, and can be neither copied nor pickled: make another one"
        )

    @property
    def is_stranded(self) -> bool:
        """Whether nothing can be awaited: no loop was used yet, or the one that was has been closed."""
        return self._bound is None or self._bound.is_closed()

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* on the loop thread and return its result.

        Raises:
            ClosedEnvironmentError: The environment is closed.
            RuntimeError: It is in use on an event loop of the caller's.
        """
        thread = self._thread
        if thread is None:
            try:
                thread = self._start()
            except BaseException:
                work.close()
                raise
        return thread.run(work)

    def _start(self) -> LoopThread:
        with _STARTING:
            if self._thread is None:
                if self.closed or self._bound is not None:
                    raise self._is_closed() if self.closed else self._is_elsewhere()
                self._thread = LoopThread(name=f"{self._owner}-loop")
            return self._thread

    def drive_last(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run *work* on the loop thread and end the thread; False, and *work* is dropped, if there is none."""
        thread, self._thread = self._thread, None
        if thread is None:
            work.close()
            if not self.is_stranded and not self.closed:
                raise RuntimeError(f"{self._owner} was used on an event loop that still runs: await aclose() there")
            return False
        try:
            thread.run(work, timeout_s=_CLOSE_LIMIT_S)
        finally:
            thread.close()
        return True

    def start_closing(self, abandon: Callable[[], None]) -> bool:
        """Whether closing takes something that is awaited: not once closed, nor where only *abandon* can be done.

        Raises:
            RuntimeError: The environment belongs to another event loop.
        """
        if self.closed:
            return False
        if self.is_stranded:
            abandon()
            return False
        self.bind()
        self.closed = True
        return True

    def turn(self, name: str) -> Faces:
        """Take the turn until the end of the ``with`` that this is for: no command may run beside the grading of its
        sandbox. (A generator as the context manager would cost every step more than all else that is done for it.)

        Raises:
            ClosedEnvironmentError: The environment is closed.
            AlreadyPendingCallError: Another call is in progress.
            RuntimeError: The environment belongs to another event loop.
        """
        self.bind()
        if self._pending:
            what = f"{self._owner}: `{name}` while a call of `{self._pending}` is in progress"
            raise AlreadyPendingCallError(f"{what}: one call at a time, or more environments", self._pending)
        self._pending = name
        return self

    def __enter__(self) -> None:
        """The turn was taken by `turn`."""

    def __exit__(self, *exc_info: object) -> None:
        self._pending = ""

    def bind(self) -> None:
        """Belong to the running loop from now on, for connections to sandboxes live on one.

        Raises:
            ClosedEnvironmentError, RuntimeError: As `turn`.
        """
        if self.closed:
            raise self._is_closed()
        running = asyncio.get_running_loop()
        if self._bound is not running:
            if self._bound is not None:
                raise self._is_elsewhere()
            self._bound = running

    def _is_closed(self) -> ClosedEnvironmentError:
        return ClosedEnvironmentError(f"{self._owner} is closed; make a new one")

    def _is_elsewhere(self) -> RuntimeError:
        return RuntimeError(
            f"the sandboxes of {self._owner} belong to another event loop: use it from there, and either reset, step "
            "and close, or areset, astep and aclose"
        )
