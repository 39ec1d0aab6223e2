"""The local launcher: from nothing to the first result."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from benchmarks.bench import Bench, must
from benchmarks.results import Figure, RowSpec, Target, median_figure, percentile
from codecraft_pool import SandboxPool, SandboxSpec

_TIMES: Final = 10  # in each round
_CROWD: Final = 64

FIRST: Final = RowSpec(
    "local_first_result",
    "local launcher: from nothing to the first result, p50",
    "ms",
    Target("<", 15),
    "opens a launcher, starts a sandbox, runs `true` in it; what came before is closed first, and not timed",
)
CROWD: Final = RowSpec(
    "local_start_64",
    "local launcher: 64 sandboxes at once",
    "s",
    Target("<", 1),
    "a pool of 64: prewarm, and `true` in each of them, from nothing",
)
ROWS: Final = (FIRST, CROWD)


def measure(bench: Bench) -> dict[str, Figure]:
    """Start one, again and again; then many at once."""
    return bench.run(_measure(bench))


async def _measure(bench: Bench) -> dict[str, Figure]:
    await _first_result_ms(bench)
    crowds: list[float] = []
    singles: list[float] = []
    for _ in range(bench.options.rounds):
        singles.append(percentile([await _first_result_ms(bench) for _ in range(_TIMES)], 50))
        crowds.append(await _crowd_s(bench))
    return {
        FIRST.name: median_figure(singles, on="local"),
        CROWD.name: median_figure(crowds, on="local", details={"sandboxes": _CROWD}),
    }


async def _first_result_ms(bench: Bench) -> float:
    began = time.perf_counter()
    async with bench.launcher("local") as launcher:
        await must(await launcher.start(SandboxSpec()), "true")
        return (time.perf_counter() - began) * 1e3


async def _crowd_s(bench: Bench) -> float:
    spec = SandboxSpec()
    began = time.perf_counter()
    async with bench.launcher("local") as launcher, SandboxPool(launcher, max_sandboxes=_CROWD) as pool:
        await pool.prewarm(spec, _CROWD)
        leases = [await pool.acquire(spec) for _ in range(_CROWD)]
        await asyncio.gather(*(must(lease.sandbox, "true") for lease in leases))
        return time.perf_counter() - began
