"""A vector environment whose environments share one pool of sandboxes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from codecraft_async._vector_round import Call
from codecraft_async.runtime import Runtime
from codecraft_async.vector import AsyncioVectorEnv
from codecraft_pool import LaunchError

__all__ = ["PooledVectorEnv"]


class PooledVectorEnv(AsyncioVectorEnv[tuple[str, ...], tuple[str, ...]]):
    """Starts all sandboxes of `runtime` before the first reset, and ends them when it is closed."""

    runtime: Runtime
    """What the environments share; set by the subclass before its environments are made."""
    _warm = False

    async def _before_reset(self) -> None:
        """Start the sandboxes, before the first reset.

        Raises:
            LaunchError: They cannot be started; says why and what to do.
        """
        if self._warm:
            return
        outcome = await self._perform("start of the sandboxes", [Call(0, self.runtime.prewarm, True)])
        if outcome.cancelled is None and self._closer is None and outcome.failures:
            raise outcome.failures[0]  # which no single environment is to blame for
        self._deliver(outcome, "reset")
        self._warm = await self._had_any()

    async def _had_any(self) -> bool:
        return (await self.runtime.pool()).stats().started > 0

    def _reset_call(self, row: int, seed: int | None, options: dict[str, Any] | None) -> Call:
        call = super()._reset_call(row, seed, options)
        return call if self._warm else call._replace(function=partial(self._reset_cold, call.function))

    async def _reset_cold(
        self, reset: Callable[[], Awaitable[tuple[str, dict[str, Any]]]]
    ) -> tuple[str, dict[str, Any]]:
        """A reset before any sandbox has been had.

        Raises:
            LaunchError: None can be; says why.
        """
        observation, info = await reset()
        if "fault" in info and not await self._had_any():
            raise LaunchError(f"no sandbox could be started: {info['fault']['message']}")
        self._warm = True
        return observation, info

    async def _close_all(self) -> None:
        try:
            await super()._close_all()
        finally:
            await self.runtime.aclose()
