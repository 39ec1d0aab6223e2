"""What the benchmark finds, as values, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from rich import box
from rich.table import Table

# What the floor gets of an idle machine's cores: all but the time it takes to start and to stop it.
QUIET_SHARE: Final = 0.85


class BenchmarkError(Exception):
    """A measurement that would mean nothing; says why in one line."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Vector steps of one measurement: each one's wall time and, of all environments, each command's, in seconds.

    `own_cpu_s` is the CPU time of this process alone, in all.
    """

    num_envs: int
    step_s: tuple[float, ...]
    command_s: tuple[float, ...]
    own_cpu_s: float

    @property
    def per_s(self) -> float:
        """Environment steps per second."""
        return self.num_envs * len(self.step_s) / sum(self.step_s)

    @property
    def own_cpu_ms(self) -> float:
        """CPU milliseconds of this process per environment step."""
        return self.own_cpu_s * 1e3 / (self.num_envs * len(self.step_s))


@dataclass(frozen=True, slots=True)
class FloorRun:
    """Commands per second, and which part of all cores' time they got; the rest went to others, or idle."""

    per_s: float
    cpu_share: float


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of each kind, right after one another."""

    exec_per_s: float | None
    ours: Steps
    floor: FloorRun

    @property
    def ratio_exec(self) -> float | None:
        """How many times as many commands as by exec; None without exec."""
        return None if self.exec_per_s is None else self.ours.per_s / self.exec_per_s

    @property
    def ratio_floor(self) -> float:
        """How many times as many commands as by plain fork and exec on the host."""
        return self.ours.per_s / self.floor.per_s


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured. `load_before` holds the load averages over 1, 5 and 15 minutes before the start."""

    cpu: str
    cores: int
    kernel: str
    python: str
    load_before: tuple[float, float, float]
    launcher: str
    engine: str | None
    storage_driver: str | None


@dataclass(frozen=True, slots=True)
class Method:
    """How it was measured."""

    backend: str
    envs: int
    seconds: float
    rounds: int
    exec: str
    ours: str
    floor: str
    latency: str
    figures: str


def summarize(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return the figures of one command: medians over the rounds; latencies and ranges over all of them."""
    steps = [seconds for each in rounds for seconds in each.ours.step_s]
    commands = [seconds for each in rounds for seconds in each.ours.command_s]
    execs = [each.exec_per_s for each in rounds if each.exec_per_s is not None]
    ratios = [each.ratio_exec for each in rounds if each.ratio_exec is not None]
    ours = [each.ours.per_s for each in rounds]
    floors = [each.floor.per_s for each in rounds]
    return {
        "exec_per_s": _rounded(_median(execs), 2),
        "ours_per_s": _rounded(_median(ours), 1),
        "floor_per_s": _rounded(_median(floors), 1),
        "p50_ms": _percentile_ms(steps, 50),
        "p99_ms": _percentile_ms(steps, 99),
        "ratio_exec": _rounded(_median(ratios), 3),
        "ratio_floor": _rounded(_median([each.ratio_floor for each in rounds]), 3),
        "ratio_exec_rounds": [round(ratio, 3) for ratio in ratios],
        "ratio_floor_rounds": [round(each.ratio_floor, 3) for each in rounds],
        "command_p50_ms": _percentile_ms(commands, 50),
        "command_p99_ms": _percentile_ms(commands, 99),
        "own_cpu_ms": _rounded(_median([each.ours.own_cpu_ms for each in rounds]), 4),
        "floor_cpu_share": _rounded(_median([each.floor.cpu_share for each in rounds]), 3),
        "steps": len(steps),
    }


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _percentile_ms(seconds: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(seconds, percent)) * 1e3, 3)


def as_json(summaries: Mapping[str, dict[str, Any]], machine: Machine, method: Method) -> dict[str, Any]:
    """Return what goes into the file: each command by its name, then `machine` and `method`."""
    block = {**asdict(machine), "was_busy": was_busy(summaries)}
    return {**summaries, "machine": block, "method": asdict(method)}


def was_busy(summaries: Mapping[str, dict[str, Any]]) -> bool:
    """Whether others used the machine so much that the figures mean little.

    The floor alone would use every core; what it did not get, others had. Short commands get past those others, long
    ones do not, so the ratios are off as well, and not all in the same direction.
    """
    return any(figures["floor_cpu_share"] < QUIET_SHARE for figures in summaries.values())


def as_table(summaries: Mapping[str, dict[str, Any]], title: str) -> Table:
    """Return the figures for a terminal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("command", no_wrap=True)
    headings = ("exec/s\n(a)", "ours/s\n(b)", "floor/s\n(c)", "b/a", "b/c", "p50 ms", "p99 ms", "own CPU\nms/step")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for command, figures in summaries.items():
        table.add_row(
            command,
            _shown(figures["exec_per_s"], "{:.1f}"),
            f"{figures['ours_per_s']:.0f}",
            f"{figures['floor_per_s']:.0f}",
            _with_range(figures["ratio_exec"], figures["ratio_exec_rounds"], "{:.1f}"),
            _with_range(figures["ratio_floor"], figures["ratio_floor_rounds"], "{:.2f}"),
            f"{figures['p50_ms']:.1f}",
            f"{figures['p99_ms']:.1f}",
            f"{figures['own_cpu_ms']:.3f}",
        )
    return table


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _with_range(value: float | None, rounds: Sequence[float], form: str) -> str:
    if value is None:
        return "-"
    return f"{form.format(value)}\n[dim]{form.format(min(rounds))}..{form.format(max(rounds))}[/dim]"


def as_notes(summaries: Mapping[str, dict[str, Any]], machine: Machine, method: Method) -> list[str]:
    """Return what has to be known to read the table, in lines."""
    load = ", ".join(f"{value:.2f}" for value in machine.load_before)
    shares = ", ".join(f"{figures['floor_cpu_share']:.0%}" for figures in summaries.values())
    lines = [
        machine.launcher,
        f"{machine.cores} cores, {machine.cpu}; kernel {machine.kernel}; Python {machine.python}",
    ]
    lines.append(f"load average before: {load}; of all cores' time, the floor got {shares}")
    if was_busy(summaries):
        lines.append("the machine was busy with other things: these figures mean little, run it again on a quiet one")
    lines += [f"(a) {method.exec}", f"(b) {method.ours}", f"(c) {method.floor}"]
    lines += [f"p50, p99: {method.latency}", method.figures]
    return lines
