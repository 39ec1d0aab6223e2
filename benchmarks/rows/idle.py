"""What a pool costs while nobody asks anything of it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.parties import find_parties
from benchmarks.results import Figure, RowSpec, Target, median_figure, medians, rounded
from codecraft_pool import SandboxSpec

_SETTLE_S: Final = 1.0
_STRETCH_S: Final = 2.0

IDLE: Final = RowSpec(
    "idle_cpu",
    "CPU of one core that an idle pool (of --envs) takes",
    "%",
    Target("<", 1),
    "CPU time of this process, the guests, their shims, dockerd and containerd in stretches of 2 s; the daemon may "
    "serve others meanwhile, and that is in it",
)
ROWS: Final = (IDLE,)


def measure(bench: Bench) -> dict[str, Figure]:
    """Keep a pool warm and look on."""
    return bench.run(_measure(bench))


async def _measure(bench: Bench) -> dict[str, Figure]:
    daemon_before = await _daemon_percent(bench)
    async with bench.pool(SandboxSpec(), bench.options.envs):
        bench.tell(f"{bench.options.envs} sandboxes, idle")
        parties = await find_parties(bench)
        others = {"guests": parties.guests, "shims": parties.shims, "daemon": parties.daemon}
        shares: dict[str, list[float]] = {name: [] for name in ("driver", *others)}
        await asyncio.sleep(_SETTLE_S)
        for _ in range(bench.options.rounds):
            began = time.perf_counter()
            driver_s = time.process_time()
            before = {name: processes.cpu_ns(pids) for name, pids in others.items()}
            looking_s = time.process_time() - driver_s
            await asyncio.sleep(_STRETCH_S)
            driver_s = time.process_time() - driver_s - looking_s
            elapsed_s = time.perf_counter() - began
            shares["driver"].append(100 * driver_s / elapsed_s)
            for name, pids in others.items():
                shares[name].append((processes.cpu_ns(pids) - before[name]) / 1e7 / elapsed_s)
    sums = [sum(values) for values in zip(*shares.values(), strict=True)]
    details = {
        "sandboxes": bench.options.envs,
        "daemon_percent_without_them": daemon_before,
        **medians(**{f"{name}_percent": values for name, values in shares.items()}),
    }
    return {IDLE.name: median_figure(sums, on=bench.backend, details=details)}


async def _daemon_percent(bench: Bench) -> float | None:
    """Return what the daemon uses before there is a pool, so that it can be told what others ask of it."""
    pids = (await find_parties(bench)).daemon
    if not pids:
        return None
    began, before = time.perf_counter(), processes.cpu_ns(pids)
    await asyncio.sleep(_STRETCH_S)
    return rounded((processes.cpu_ns(pids) - before) / 1e7 / (time.perf_counter() - began))
