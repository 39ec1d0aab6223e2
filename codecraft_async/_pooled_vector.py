"""A vector environment whose environments share one pool of sandboxes."""

from __future__ import annotations

from codecraft_async._vector_round import Call
from codecraft_async.runtime import Runtime
from codecraft_async.vector import AsyncioVectorEnv

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
        self._warm = True

    async def _close_all(self) -> None:
        try:
            await super()._close_all()
        finally:
            await self.runtime.aclose()
