"""Belonging to one event loop, and doing one thing at a time: what keeps an environment's calls apart."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from gymnasium.error import AlreadyPendingCallError

from codecraft_async._loop import LoopThread

T = TypeVar("T")
_CLOSED = "the environment is closed; make a new one"
_OTHER_LOOP = (
    "the environment's sandboxes belong to another event loop: use it from there, and either reset, step and close "
    "or areset, astep and aclose"
)


class OneLoop:
    """Belongs to the first event loop that it is used on: the caller's, or that of a thread of its own."""

    def __init__(self) -> None:
        self._loop: LoopThread | None = None
        self._bound: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._calling = ""

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            if self._bound is not None or self._closed:
                work.close()
                raise RuntimeError(_OTHER_LOOP if not self._closed else _CLOSED)
            self._loop = LoopThread()
        return self._loop.run(work)

    def _bind(self) -> None:
        """Belong to the first event loop that is used: connections to sandboxes live on one."""
        running = asyncio.get_running_loop()
        if self._closed:
            raise RuntimeError(_CLOSED)
        if self._bound is None:
            self._bound = running
        elif self._bound is not running:
            raise RuntimeError(_OTHER_LOOP)

    def _take_turn(self, name: str) -> None:
        """Refuse a second call at once: a command must not run beside the grading of the same sandbox.

        Ended by emptying `_calling`; a context manager would cost every step more than all else that is done here.
        """
        if self._calling:
            raise AlreadyPendingCallError(
                f"`{name}` while a call of `{self._calling}` is in progress: one call at a time, or more environments",
                self._calling,
            )
        self._calling = name


__all__ = ["OneLoop"]
