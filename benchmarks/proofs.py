"""Whether sandboxes were clean after every episode: each restore of a run, compared with a new sandbox, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from benchmarks.results import BenchmarkError
from codecraft_async.intercode import InterCodeVectorEnv
from codecraft_pool import SandboxPool

EVERY: Final = 1
"""The option `prove_every` of environments whose restores are all to be proved."""
_SETTLE_LIMIT_S: Final = 120.0
_PAUSE_S: Final = 0.02

EnvT = TypeVar("EnvT", bound=InterCodeVectorEnv)


@dataclass(slots=True)
class Proofs:
    """Counts over several environments. `different` restores were not like a new sandbox; `failed` could not be
    compared.
    """

    restores: int = 0
    proved: int = 0
    different: int = 0
    failed: int = 0

    def add(self, pool: SandboxPool) -> None:
        """Count what *pool* has restored and proved."""
        stats = pool.stats()
        self.restores += stats.restored
        self.proved += stats.proofs - stats.failed_proofs - stats.proof_errors
        self.different += stats.failed_proofs
        self.failed += stats.proof_errors

    @asynccontextmanager
    async def of(self, env: EnvT) -> AsyncGenerator[EnvT]:
        """Yield *env*, then have it give back all of its sandboxes, count their proofs as well, and close it."""
        try:
            yield env
            await env.areset()
            pool = await env.runtime.pool()
            await _restored(pool)
            self.add(pool)
        finally:
            await env.aclose()

    def as_details(self) -> dict[str, Any]:
        """Return the counts."""
        return {"restores": self.restores, "proved": self.proved, "different": self.different, "failed": self.failed}


async def _restored(pool: SandboxPool) -> None:
    """Return when no restore is under way."""
    try:
        async with asyncio.timeout(_SETTLE_LIMIT_S):
            while pool.stats().restoring:
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise BenchmarkError(f"restores did not come to their end within {_SETTLE_LIMIT_S:g} s: {pool!r}") from None
