"""The rows as a table for a terminal, and as a file."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.table import Table

from benchmarks.results import Row, rounded

# What the floor gets of an idle machine's cores: all but the time it takes to start and to stop it.
QUIET_SHARE: Final = 0.85


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured. `load_before` holds the load averages over 1, 5 and 15 minutes before the start;
    `at`, when (UTC); `floor_shares`, which part of all cores' time a probe of the floor got before and after.
    """

    cpu: str
    cores: int
    kernel: str
    python: str
    load_before: tuple[float, float, float]
    floor_shares: tuple[float, ...]
    at: str
    engine: str | None
    storage_driver: str | None

    @property
    def was_busy(self) -> bool:
        """Whether others used it so much that the figures mean little."""
        return min(self.floor_shares) < QUIET_SHARE


@dataclass(frozen=True, slots=True)
class Method:
    """How it was measured, as far as the rows do not say it themselves."""

    backend: str
    envs: int
    rounds: int
    seconds: float
    floor: str
    figures: str = "medians over the rounds; what is compared is measured in turn, and ratios taken within each round"


def now() -> str:
    """Return the date and time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def cpu_name() -> str:
    """Return what the kernel calls the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def as_json(rows: Sequence[Row], machine: Machine, method: Method) -> dict[str, Any]:
    """Return what goes into the file."""
    block = {**asdict(machine), "was_busy": machine.was_busy}
    return {"rows": [row.as_json() for row in rows], "machine": block, "method": asdict(method)}


def as_table(rows: Sequence[Row], title: str) -> Table:
    """Return all rows as one table."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("row", no_wrap=True)
    table.add_column("what", ratio=1)
    for heading in ("value", "lowest..highest", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("holds", no_wrap=True)
    table.add_column("on", no_wrap=True)
    for row in rows:
        what = row.spec.title if row.figure is not None else f"{row.spec.title} [dim]({_why(row)})[/dim]"
        target = "" if row.spec.target is None else str(row.spec.target)
        on = "" if row.figure is None else row.figure.on
        table.add_row(row.spec.name, what, _value(row), _range(row), target, _holds(row), on)
    return table


def as_markdown(rows: Sequence[Row], machine: Machine, method: Method) -> str:
    """Return the table for a document."""
    lines = ["| row | what | value | lowest..highest | target | holds | on |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        holds = {True: "yes", False: "**no**", None: ""}[row.holds]
        target = "" if row.spec.target is None else str(row.spec.target)
        what = row.spec.title if row.figure is not None else f"{row.spec.title} ({_reason(row)})"
        on = "" if row.figure is None else row.figure.on
        cells = (f"`{row.spec.name}`", what, _value(row), _range(row), target, holds, on)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    busy = "; **it was busy with other things, so these figures mean little**" if machine.was_busy else ""
    where = f"{machine.at}: {_machine(machine)}; {method.envs} environments, {method.rounds} rounds{busy}."
    return "\n".join([where, "", *lines]) + "\n"


def _machine(machine: Machine) -> str:
    engine = f"; Docker Engine {machine.engine}, {machine.storage_driver}" if machine.engine else ""
    return f"{machine.cores} cores, {machine.cpu}; kernel {machine.kernel}; Python {machine.python}{engine}"


def _why(row: Row) -> str:
    return _reason(row).replace("[", "\\[")


def _reason(row: Row) -> str:
    return f"failed: {row.reason}" if row.failed else f"not measured: {row.reason}"


def _value(row: Row) -> str:
    return "-" if row.figure is None else f"{rounded(row.figure.value):g} {row.spec.unit}"


def _range(row: Row) -> str:
    if row.figure is None or not row.figure.rounds:
        return ""
    return f"{rounded(min(row.figure.rounds)):g}..{rounded(max(row.figure.rounds)):g}"


def _holds(row: Row) -> str:
    return {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}[row.holds]


def as_notes(rows: Sequence[Row], machine: Machine, method: Method) -> list[str]:
    """Return what has to be known to read the table, in lines."""
    load = ", ".join(f"{value:.2f}" for value in machine.load_before)
    shares = ", ".join(f"{share:.0%}" for share in machine.floor_shares)
    lines = [
        _machine(machine),
        f"load average before: {load}; of all cores' time, a probe of the floor got {shares} (before, after)",
    ]
    if machine.was_busy:
        lines.append("the machine was busy with other things: these figures mean little, run it again on a quiet one")
    lines += [f"{method.figures}; floor: {method.floor}", ""]
    lines += [f"{row.spec.name}: {row.spec.how}" for row in rows if row.figure is not None]
    return lines
