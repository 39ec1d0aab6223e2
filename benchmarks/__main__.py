"""How fast it all is, in one table: ``python -m benchmarks``.

``--help`` says what can be chosen; README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console

from benchmarks.bench import Bench, Options
from benchmarks.floor import Floor, open_floor
from benchmarks.plot import as_svg
from benchmarks.registry import measure_all, row_names
from benchmarks.results import BenchmarkError
from benchmarks.soak import SoakPlan, as_lines, soak
from benchmarks.table import Machine, Method, as_json, as_markdown, as_notes, as_table, cpu_name, now
from codecraft_pool import PoolError

_FILE_WIDTH: Final = 150
_PROBE_S: Final = 0.5
_ENVS: Final = 64
_SOAK_ENVS: Final = 32


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line asks for."""

    options: Options
    json: Path
    plot: Path
    markdown: Path | None
    soak: SoakPlan | None


def run(arguments: Arguments, console: Console) -> int:
    """Measure, show and write down; return 0, or 1 if something failed that should have worked.

    Raises:
        PoolError, BenchmarkError: It cannot be measured here; says why.
        OSError: A file cannot be written.
    """
    load_before = os.getloadavg()
    known = _known(arguments.json)
    with open_floor() as floor, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        bench = Bench(arguments.options, floor, runner, lambda text: console.print(f"  {text}", highlight=False))
        if arguments.soak is not None:
            return _soak(bench, arguments, known, console)
        before = _probe(floor)
        rows = measure_all(bench)
        machine = _machine(bench, load_before, (before, _probe(floor)))
        method = Method(bench.backend, bench.options.envs, bench.options.rounds, bench.options.seconds, floor.kind)
    console.print(as_table(rows, f"{method.envs} environments, backend {method.backend}"))
    for line in as_notes(rows, machine, method):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _write(arguments.json, {**as_json(rows, machine, method), "soak": known.get("soak", {})})
    arguments.plot.write_text(as_svg(rows, machine))
    if arguments.markdown is not None:
        arguments.markdown.write_text(as_markdown(rows, machine, method))
    console.print(f"written: {arguments.json}, {arguments.plot}", highlight=False, soft_wrap=True)
    return int(any(row.failed for row in rows))


def _soak(bench: Bench, arguments: Arguments, known: dict[str, Any], console: Console) -> int:
    """Run long and look for growth; the report joins what is in the file already."""
    assert arguments.soak is not None
    report = soak(bench, arguments.soak)
    for line in as_lines(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _write(arguments.json, {**known, "soak": {**known.get("soak", {}), report["backend"]: report}})
    return int(not report["clean"])


def _known(file: Path) -> dict[str, Any]:
    """Return what is in the file already: a table and a soak are made apart and stand in one.

    Raises:
        BenchmarkError: It is something else, which is not to be overwritten.
    """
    if not file.exists():
        return {}
    try:
        known: dict[str, Any] = json.loads(file.read_text())
        if known.keys() <= {"rows", "machine", "method", "soak"}:
            return known
    except (ValueError, AttributeError):
        pass
    raise BenchmarkError(f"{file} is not a file of this benchmark; remove it or name another one with --json")


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def _probe(floor: Floor) -> float:
    return round(floor.measure("true", _PROBE_S).cpu_share, 3)


def _machine(bench: Bench, load_before: tuple[float, float, float], shares: tuple[float, ...]) -> Machine:
    daemon = bench.daemon
    return Machine(
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        load_before=load_before,
        floor_shares=shares,
        at=now(),
        engine=None if daemon is None else daemon.version,
        storage_driver=None if daemon is None else daemon.storage_driver,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description="How fast it all is, against others, in one table.")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="this row; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and end")
    parser.add_argument("--backend", choices=("auto", "docker", "local"), default="auto", help="default: %(default)s")
    parser.add_argument("--envs", type=int, metavar="N", help=f"environments; default: {_ENVS}, in a soak {_SOAK_ENVS}")
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.5, metavar="S", help="of each stretch; default: %(default)s")
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), metavar="FILE")
    parser.add_argument("--plot", type=Path, default=Path("bench-results.svg"), metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, for a document")
    parser.add_argument("--soak", action="store_true", help="no table: run long, and look for growth and leftovers")
    parser.add_argument("--steps", type=int, default=20_000, metavar="N", help="of a soak; default: %(default)s")
    parser.add_argument("--resets", type=int, default=2_000, metavar="N", help="of a soak; default: %(default)s")
    return parser


def parse(argv: Sequence[str] | None) -> Arguments:
    """Return the arguments; what is wrong with them ends the program with one line that says so."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.list:
        sys.stdout.write("\n".join(row_names()) + "\n")
        parser.exit()
    if given.envs is None:
        given.envs = _SOAK_ENVS if given.soak else _ENVS
    for name in given.only:
        if name not in row_names():
            parser.error(f"--only is {name!r}; the rows are {', '.join(row_names())}")
    for name in ("envs", "rounds", "steps", "resets"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be at least 1")
    if not 0 < given.seconds <= 3600:
        parser.error(f"--seconds is {given.seconds:g}; it must be more than 0 and at most 3600")
    for name in ("json", "plot", "markdown"):
        file: Path | None = getattr(given, name)
        if file is not None and not file.parent.is_dir():
            parser.error(f"--{name} is {str(file)!r}, but there is no folder {str(file.parent)!r}; make it first")
    options = Options(
        backend=given.backend,
        envs=given.envs,
        rounds=given.rounds,
        seconds=given.seconds,
        only=tuple(given.only),
    )
    plan = SoakPlan(steps=given.steps, resets=given.resets) if given.soak else None
    return Arguments(options, given.json, given.plot, given.markdown, plan)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0, or 1 with one line on standard error."""
    arguments = parse(argv)
    try:
        # A file or a pipe has no width of its own; the table needs this much.
        return run(arguments, Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH))
    except (PoolError, BenchmarkError, OSError) as exc:
        sys.stderr.write(f"benchmarks: {' '.join(str(exc).split())}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("benchmarks: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
