"""Borrowing a sandbox that is warm."""

from __future__ import annotations

import time
from typing import Final

from benchmarks.bench import Bench, all_idle
from benchmarks.results import Figure, RowSpec, Target, median_figure, percentile
from codecraft_pool import Lease, SandboxPool, SandboxSpec

_WARM: Final = 8
_TIMES: Final = 25  # in each round, of each sandbox

ACQUIRE: Final = RowSpec(
    "acquire_warm",
    "warm acquire, p99",
    "ms",
    Target("<", 1),
    "SandboxPool.acquire while at least one sandbox is idle; all are lent, given back and idle again in between",
)
ROWS: Final = (ACQUIRE,)


def measure(bench: Bench) -> dict[str, Figure]:
    """Borrow all, give all back, again and again."""
    return bench.run(_measure(bench))


async def _measure(bench: Bench) -> dict[str, Figure]:
    spec = SandboxSpec()
    rounds: list[list[float]] = []
    async with bench.pool(spec, _WARM) as pool:
        for _ in range(bench.options.rounds):
            times: list[float] = []
            for _ in range(_TIMES):
                times += await _borrow_all(pool, spec)
            rounds.append(times)
    every = [time_ms for times in rounds for time_ms in times]
    details = {"p50_ms": round(percentile(every, 50), 4), "acquires": len(every)}
    return {ACQUIRE.name: median_figure([percentile(t, 99) for t in rounds], on=bench.backend, details=details)}


async def _borrow_all(pool: SandboxPool, spec: SandboxSpec) -> list[float]:
    await all_idle(pool, _WARM)
    times: list[float] = []
    leases: list[Lease] = []
    for _ in range(_WARM):
        began = time.perf_counter()
        leases.append(await pool.acquire(spec))
        times.append((time.perf_counter() - began) * 1e3)
    for lease in leases:
        lease.release()
    return times
