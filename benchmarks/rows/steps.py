"""Environment steps: against `docker exec`, against the floor, what they cost us, and how even they are."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.exec_fan_out import ExecFanOut
from benchmarks.floor import FloorRun
from benchmarks.results import Figure, RowSpec, Target, median_figure, medians, percentile, ratio_figure
from benchmarks.stepping import Steps, open_env, step_for
from codecraft_pool import connect_daemon

OTHERS: Final = {"ls": "ls /", "python": "python3 -c pass"}
_WARM_UP_S: Final = 0.5
# A daemon is still tidying up after the last exec when the last answer is in.
_SETTLE_S: Final = 0.25
_OTHER_ROUNDS: Final = 2

EXEC: Final = RowSpec(
    "step_vs_exec",
    "steps (`true`, a fresh shell each) against aiodocker exec",
    "times",
    Target(">=", 40),
    "VectorEnv.step over all environments, against one exec under way in each of the same containers",
)
FLOOR: Final = RowSpec(
    "step_vs_floor",
    "steps (`true`, a fresh shell each) against fork+exec of `sh -c true` on all cores",
    "times",
    Target(">=", 0.8),
    "the floor is vfork+execve+waitpid in C, one process for each core, nothing around it",
)
OWN: Final = RowSpec(
    "own_cost",
    "own cost per step: Python, frames, loop",
    "ms CPU",
    Target("<", 0.15),
    "CPU time of this process, all threads, per environment step; no guests, no daemon",
)
TAIL: Final = RowSpec(
    "step_tail",
    "a vector step's p99 against its p50",
    "times",
    Target("<", 4),
    "wall time of one vector step, that is of all environments' commands and their barrier",
)
OTHER: Final = tuple(
    RowSpec(
        f"step_{name}_vs_{against}",
        f"steps (`{command}`) against {'aiodocker exec' if against == 'exec' else 'the floor'}",
        "times",
        None,
        "as the rows of `true`; for comparison only, the command's own work is most of it",
    )
    for name, command in OTHERS.items()
    for against in ("exec", "floor")
)
ROWS: Final = (EXEC, FLOOR, OWN, TAIL, *OTHER)


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of each kind, right after one another. Without containers there is no exec."""

    exec_per_s: float | None
    ours: Steps
    floor: FloorRun


def measure(bench: Bench) -> dict[str, Figure]:
    """Measure `true`, and the other commands for comparison, in the same sandboxes."""
    with open_env(bench.options.envs, bench.backend) as env, _exec(bench) as execs:
        rounds = _rounds(bench, env, execs, "true", bench.options.rounds)
        figures = true_figures(rounds, bench.backend)
        for name, command in OTHERS.items():
            if not bench.wants(f"step_{name}_vs_exec", f"step_{name}_vs_floor"):
                continue
            others = _rounds(bench, env, execs, command, min(_OTHER_ROUNDS, bench.options.rounds))
            figures |= ratios(others, bench.backend, f"step_{name}_vs_exec", f"step_{name}_vs_floor")
    return figures


def true_figures(rounds: list[Round], on: str) -> dict[str, Figure]:
    """Return the four figures of the rounds of `true`; without exec, three."""
    tails = [percentile(each.ours.step_s, 99) / percentile(each.ours.step_s, 50) for each in rounds]
    step_s = [seconds for each in rounds for seconds in each.ours.step_s]
    command_s = [seconds for each in rounds for seconds in each.ours.command_s]
    latency = {
        "vector_step_p50_ms": round(percentile(step_s, 50) * 1e3, 2),
        "vector_step_p99_ms": round(percentile(step_s, 99) * 1e3, 2),
        "command_p50_ms": round(percentile(command_s, 50) * 1e3, 3),
        "command_p99_ms": round(percentile(command_s, 99) * 1e3, 3),
        "vector_steps": len(step_s),
    }
    own = median_figure([each.ours.own_cpu_ms for each in rounds], on=on, details={"envs": rounds[0].ours.num_envs})
    all_steps = percentile(step_s, 99) / percentile(step_s, 50)
    tail = Figure(all_steps, tuple(tails), on, latency)
    return ratios(rounds, on, EXEC.name, FLOOR.name) | {OWN.name: own, TAIL.name: tail}


def ratios(rounds: list[Round], on: str, against_exec: str, against_floor: str) -> dict[str, Figure]:
    """Return the ratios to exec, where there is any, and to the floor, under these names."""
    rates = {
        "envs": rounds[0].ours.num_envs,
        **medians(
            ours_per_s=[each.ours.per_s for each in rounds],
            exec_per_s=[each.exec_per_s for each in rounds if each.exec_per_s is not None],
            floor_per_s=[each.floor.per_s for each in rounds],
            floor_cpu_share=[each.floor.cpu_share for each in rounds],
        ),
    }
    found = {against_floor: ratio_figure([(r.ours.per_s, r.floor.per_s) for r in rounds], on=on, details=rates)}
    pairs = [(each.ours.per_s, each.exec_per_s) for each in rounds if each.exec_per_s is not None]
    if pairs:
        found[against_exec] = ratio_figure(pairs, on=on, details=rates)
    return found


def _rounds(bench: Bench, env: Any, execs: ExecFanOut | None, command: str, number: int) -> list[Round]:
    """Return rounds of exec, ours, floor, after a warm-up that is thrown away."""
    bench.tell(f"{command!r} in {env.num_envs} environments")
    _round(bench, env, execs, command, min(bench.options.seconds, _WARM_UP_S))
    return [_round(bench, env, execs, command, bench.options.seconds) for _ in range(number)]


def _round(bench: Bench, env: Any, execs: ExecFanOut | None, command: str, seconds: float) -> Round:
    by_exec = None
    if execs is not None:
        by_exec = bench.run(execs.measure(command, seconds))
        time.sleep(_SETTLE_S)
    return Round(by_exec, step_for(env, command, seconds), bench.floor.measure(command, seconds))


@contextmanager
def _exec(bench: Bench) -> Generator[ExecFanOut | None]:
    """Yield the fan-out over a client of its own; None where there are no containers."""
    if bench.backend != "docker":
        yield None
        return
    stack = AsyncExitStack()
    try:
        yield bench.run(_open_exec(stack, bench.options.envs))
    finally:
        bench.run(stack.aclose())


async def _open_exec(stack: AsyncExitStack, envs: int) -> ExecFanOut:
    daemon = await stack.enter_async_context(await connect_daemon())
    return await ExecFanOut.over_own_containers(daemon, envs)
