"""A long run: does anything grow while it goes on, and is anything left when it is over?"""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.growth import growth
from benchmarks.leftovers import Belongings, belongings, left_of
from benchmarks.parties import Parties, find_parties
from benchmarks.results import BenchmarkError
from benchmarks.stepping import open_env
from benchmarks.table import now
from codecraft_async._outcome import fault_text

_LOOKS: Final = 60
_WARM_UP_SHARE: Final = 0.1  # of the looks: allocators and caches fill up first
# Files, output and a process that goes on: what there is to be cleaned up, and to leak.
_COMMAND: Final = "mkdir -p d; head -c 20000 /dev/zero > d/f$$; ls -la d; sleep 300 >/dev/null 2>&1 </dev/null &"


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """How long: steps and resets of all environments together."""

    steps: int
    resets: int


@dataclass(frozen=True, slots=True)
class Look:
    """Bytes of resident memory after so many steps."""

    steps: int
    driver: int
    guests: int
    shims: int
    daemon: int


def soak(bench: Bench, plan: SoakPlan) -> dict[str, Any]:
    """Step and reset, look at memory meanwhile and at what is left afterwards, and return the report.

    Raises:
        BenchmarkError: An environment lost its sandbox or its command.
    """
    began = time.perf_counter()
    before = bench.run(belongings(bench))
    envs = bench.options.envs
    with open_env(envs, bench.backend) as env:
        parties = bench.run(find_parties(bench))
        during = bench.run(belongings(bench))
        bench.tell(f"{plan.steps} steps and {plan.resets} resets of {envs} environments, backend {bench.backend}")
        looks = _run(env, plan, parties)
    left = bench.run(left_of(bench, before, during))
    return report(bench.backend, envs, plan, looks, left, time.perf_counter() - began)


def _run(env: Any, plan: SoakPlan, parties: Parties) -> list[Look]:
    rounds, resets = math.ceil(plan.steps / env.num_envs), math.ceil(plan.resets / env.num_envs)
    looks: list[Look] = []
    reset = looked = 0
    for number in range(1, rounds + 1):
        info = env.step((_COMMAND,) * env.num_envs)[-1]
        if info["exit_code"].any() or not info["valid"].all():
            row = next(i for i in range(env.num_envs) if info["exit_code"][i] or not info["valid"][i])
            why = fault_text(info, row) or "it failed"
            raise BenchmarkError(f"environment {row} after {number} vector steps: {why}")
        while reset < resets * number // rounds:
            env.reset()
            reset += 1
        if looked < _LOOKS * number // rounds:
            looked = _LOOKS * number // rounds
            looks.append(_look(number * env.num_envs, parties))
    return looks


def _look(steps: int, parties: Parties) -> Look:
    rss = processes.rss_bytes
    return Look(steps, rss([os.getpid()]), rss(parties.guests), rss(parties.shims), rss(parties.daemon))


def report(
    backend: str, envs: int, plan: SoakPlan, looks: list[Look], left: Belongings, seconds: float
) -> dict[str, Any]:
    """Return what the looks and the leftovers come to.

    Raises:
        BenchmarkError: There are too few looks to say anything.
    """
    counted = looks[int(len(looks) * _WARM_UP_SHARE) :]
    if len(counted) < 4:
        raise BenchmarkError(f"{len(counted)} looks say nothing about growth; ask for more --steps")
    steps = [look.steps for look in counted]
    memory = {
        name: growth(steps, values)
        for name in ("driver", "guests", "shims", "daemon")
        if any(values := [getattr(look, name) for look in counted])
    }
    flat = all(each.is_flat for each in memory.values())
    return {
        "backend": backend,
        "at": now(),
        "envs": envs,
        **asdict(plan),
        "seconds": round(seconds, 1),
        "memory": {name: each.as_json() for name, each in memory.items()},
        "left": left.as_json(),
        "flat": flat,
        "clean": flat and not left.anything,
    }


def as_lines(report: dict[str, Any]) -> list[str]:
    """Return the report for a terminal."""
    lines = [
        f"soak, backend {report['backend']}: {report['steps']} steps and {report['resets']} resets of "
        f"{report['envs']} environments in {report['seconds']} s"
    ]
    for name, memory in report["memory"].items():
        lines.append(
            f"  {name}: {memory['first_half_kib']} -> {memory['second_half_kib']} KiB (first half, second half), slope "
            f"{memory['slope_kib_per_1000_steps']:g} +- {memory['slope_error_kib']:g} KiB per 1,000 steps: "
            f"{'flat' if memory['flat'] else 'it grows'}"
        )
    left = {what: found for what, found in report["left"].items() if found}
    lines.append(f"  left behind: {left or 'nothing'}")
    return lines
