"""Environment steps in persistent shells: no program is started for a shell's own commands."""

from __future__ import annotations

from typing import Final

from benchmarks.bench import Bench
from benchmarks.floor import FloorRun
from benchmarks.results import Figure, RowSpec, Target, medians, ratio_figure
from benchmarks.stepping import Steps, open_env, step_for

_WARM_UP_S: Final = 0.5

SHELL: Final = RowSpec(
    "shell_vs_floor",
    "steps (`true`) in persistent shells against fork+exec of `sh -c true` on all cores",
    "times",
    Target(">=", 1.5),
    'VectorEnv.step over all environments with shell="persistent"; the floor starts a program each time, a shell none',
)
ROWS: Final = (SHELL,)


def measure(bench: Bench) -> dict[str, Figure]:
    """Alternate steps and floor."""
    rounds: list[tuple[Steps, FloorRun]] = []
    with open_env(bench.options.envs, bench.backend, shell="persistent") as env:
        step_for(env, "true", _WARM_UP_S)
        for _ in range(bench.options.rounds):
            ours = step_for(env, "true", bench.options.seconds)
            rounds.append((ours, bench.floor.measure("true", bench.options.seconds)))
    details = {
        "envs": bench.options.envs,
        **medians(
            ours_per_s=[ours.per_s for ours, _ in rounds],
            floor_per_s=[floor.per_s for _, floor in rounds],
            own_cpu_ms=[ours.own_cpu_ms for ours, _ in rounds],
        ),
    }
    pairs = [(ours.per_s, floor.per_s) for ours, floor in rounds]
    return {SHELL.name: ratio_figure(pairs, on=bench.backend, details=details)}
