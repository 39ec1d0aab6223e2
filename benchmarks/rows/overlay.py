"""Throwing away what was installed: the reset of a sandbox whose whole root is a layer of its own."""

from __future__ import annotations

import time
from typing import Final

from benchmarks.bench import Bench, must
from benchmarks.results import BenchmarkError, Figure, RowSpec, Target, median_figure, percentile
from codecraft_pool import SandboxSpec

_FILES: Final = 1000
_TIMES: Final = 3  # in each round
_INSTALL: Final = (
    f"mkdir /usr/lib/made && i=0; while [ $i -lt {_FILES} ]; do echo $i > /usr/lib/made/f$i; i=$((i + 1)); done"
)

OVERLAY: Final = RowSpec(
    "reset_overlay",
    "overlay reset after 1,000 files were installed under /usr, p50",
    "ms",
    Target("<", 10),
    'wall time of Sandbox.restore with SandboxSpec(reset="overlay", user="root"); then a look that they are gone',
)
ROWS: Final = (OVERLAY,)


def measure(bench: Bench) -> dict[str, Figure]:
    """Install and reset, again and again."""
    bench.need_docker("a reset by overlay")
    return bench.run(_measure(bench, SandboxSpec(reset="overlay", user="root")))


async def _measure(bench: Bench, spec: SandboxSpec) -> dict[str, Figure]:
    rounds: list[float] = []
    async with bench.sandbox(spec) as sandbox:
        for _ in range(bench.options.rounds):
            times: list[float] = []
            for _ in range(_TIMES):
                await must(sandbox, _INSTALL)
                began = time.perf_counter()
                await sandbox.restore()
                times.append((time.perf_counter() - began) * 1e3)
                if (await sandbox.run("test -e /usr/lib/made")).exit_code == 0:
                    raise BenchmarkError(f"what was installed in {sandbox.id} is still there after its reset")
            rounds.append(percentile(times, 50))
    return {OVERLAY.name: median_figure(rounds, on=bench.backend, details={"files": _FILES})}
