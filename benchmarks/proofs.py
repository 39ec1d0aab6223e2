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
    """Counts over several environments, of episodes and of restores, those of sandboxes that golds ran in among them:
    `clean` ones were as a new sandbox, `different` ones not, and `failed` ones could not be compared.
    """

    episodes: int = 0
    clean: int = 0
    different: int = 0
    failed: int = 0

    def add(self, pool: SandboxPool) -> None:
        """Count what *pool* has restored and proved."""
        stats = pool.stats()
        self.clean += stats.proofs - stats.failed_proofs - stats.proof_errors
        self.different += stats.failed_proofs
        self.failed += stats.proof_errors

    def take(self, *, episodes: int, different: int) -> None:
        """Count so many episodes that were all looked at, of which some had found what was not as new."""
        self.episodes += episodes
        self.clean += episodes - different
        self.different += different

    @property
    def missing(self) -> int:
        """How many episodes were not followed by a proof that all is as new."""
        return self.different + self.failed + max(0, self.episodes - self.clean - self.different - self.failed)

    @asynccontextmanager
    async def of(self, env: EnvT, episodes: int) -> AsyncGenerator[EnvT]:
        """Yield *env* for so many episodes, then have it give back all of its sandboxes, count the proofs, close it."""
        try:
            yield env
            self.episodes += episodes
            await env.areset()
            pool = await env.runtime.pool()
            await _restored(pool)
            self.add(pool)
        finally:
            await env.aclose()

    def as_details(self) -> dict[str, Any]:
        """Return the counts."""
        return {"episodes": self.episodes, "clean": self.clean, "different": self.different, "failed": self.failed}


async def _restored(pool: SandboxPool) -> None:
    """Return when no restore is under way."""
    try:
        async with asyncio.timeout(_SETTLE_LIMIT_S):
            while pool.stats().restoring:  # noqa: ASYNC110  # a pool says nothing by itself
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise BenchmarkError(f"restores did not come to their end within {_SETTLE_LIMIT_S:g} s: {pool!r}") from None
