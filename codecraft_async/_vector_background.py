"""Resets that run in the background, from the end of an episode until the call that returns their results."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import numpy as np
from gymnasium import Env

from codecraft_async._vector_round import Call, Limit
from codecraft_pool._aio import finish

__all__ = ["BackgroundResets"]


class BackgroundResets:
    """At most one reset under way for each environment, started without seed or options, as every autoreset is.

    It stays under way until a call has waited for the `rest_of` it, or stands `in_place_of` it. Where that call is to
    do something else, it undoes the reset first: the reset is cancelled if it still runs, and the environment's
    generator draws again from where it stood.
    """

    def __init__(self) -> None:
        self._resets: dict[int, _Reset] = {}

    def start(self, call: Call, env: Env[Any, Any], limit: Limit | None) -> None:
        """Start `call`, a reset of `env`."""
        self._resets[call.row] = _Reset(call, env, limit)

    def rest_of(self, row: int) -> Call | None:
        """What is left of the reset of `row`; None if none is under way."""
        return Call(row, partial(self._join, row), True, waits=True) if row in self._resets else None

    def in_place_of(self, call: Call, *, same: bool = False) -> Call:
        """What to do where `call` is asked for: the reset under way if that is the `same`, else `call` without it."""
        reset = self._resets.get(call.row)
        if reset is None:
            return call
        if same and not reset.failed:
            return self.rest_of(call.row) or call
        return Call(call.row, partial(self._replace, call), True)

    @property
    def running(self) -> list[int]:
        """The environments whose resets have not ended, in order."""
        return sorted(row for row, reset in tuple(self._resets.items()) if not reset.task.done())

    async def settle(self) -> None:
        """Wait until every reset has ended; what they gave stays to be waited for."""
        tasks = [reset.task for reset in self._resets.values()]
        if tasks:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """End and forget all resets, and their failures. Those of a loop that has ended have ended with it."""
        resets, self._resets = self._resets, {}
        loop = asyncio.get_running_loop()
        tasks = [reset.task for reset in resets.values() if reset.task.get_loop() is loop]
        for task in tasks:
            task.cancel()  # which has asyncio report no failure of one that has ended
        if tasks:
            await finish(asyncio.wait(tasks))

    async def _join(self, row: int) -> Any:
        # A cancellation here is passed on to the task, and comes back when that has ended.
        try:
            return await self._resets[row].task
        finally:
            self._resets.pop(row, None)

    async def _replace(self, call: Call) -> Any:
        try:
            await self._resets[call.row].undo()
        finally:
            self._resets.pop(call.row, None)
        return await call.function()


class _Reset:
    """One reset under way, and where the environment's generator stood before it."""

    def __init__(self, call: Call, env: Env[Any, Any], limit: Limit | None) -> None:
        # Not through the property, which would make a generator where none was drawn from.
        self._generator: np.random.Generator | None = getattr(env.unwrapped, "_np_random", None)
        self._state = None if self._generator is None else self._generator.bit_generator.state
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(_run(call, limit), name=f"background reset of env {call.row}")

    @property
    def failed(self) -> bool:
        """Whether it has ended without giving anything."""
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)

    async def undo(self) -> None:
        """Leave nothing of it running, and no trace of it in the generator."""
        self.task.cancel()
        if not self.task.done():
            await finish(asyncio.wait([self.task]))
        if self._generator is not None and self._state is not None:
            self._generator.bit_generator.state = self._state


async def _run(call: Call, limit: Limit | None) -> Any:
    return await (call.function() if limit is None else limit.run(call))
