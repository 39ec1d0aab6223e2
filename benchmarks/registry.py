"""Every measurement there is, in the order of the table, and how one is carried out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.bench import Bench
from benchmarks.results import BenchmarkError, Figure, Row, RowSpec, Unavailable
from benchmarks.rows import (
    acquire,
    docker_start,
    idle,
    intercode_bash,
    intercode_bash_times,
    intercode_sql,
    local_start,
    nitrobox,
    overlay,
    restore,
    scaling,
    shells,
    steps,
    swerex,
)
from codecraft_pool import BackendUnavailable, PoolError


@dataclass(frozen=True, slots=True)
class Measurement:
    """One or several rows that are measured together. `measure` may leave out those that do not apply."""

    rows: tuple[RowSpec, ...]
    measure: Callable[[Bench], dict[str, Figure]]


MEASUREMENTS: Final = (
    Measurement(steps.ROWS, steps.measure),
    Measurement(shells.ROWS, shells.measure),
    Measurement(scaling.ROWS, scaling.measure),
    Measurement(restore.ROWS_SMALL, restore.measure_small),
    Measurement(restore.ROWS_LARGE, restore.measure_large),
    Measurement(overlay.ROWS, overlay.measure),
    Measurement(acquire.ROWS, acquire.measure),
    Measurement(local_start.ROWS, local_start.measure),
    Measurement(docker_start.ROWS, docker_start.measure),
    Measurement(idle.ROWS, idle.measure),
    Measurement(nitrobox.ROWS, nitrobox.measure),
    Measurement(swerex.ROWS, swerex.measure),
    Measurement(intercode_bash.ROWS, intercode_bash.measure),
    Measurement(intercode_bash_times.ROWS, intercode_bash_times.measure),
    Measurement(intercode_sql.ROWS_RATE, intercode_sql.measure_rate),
    Measurement(intercode_sql.ROWS_RESET, intercode_sql.measure_reset),
)


def row_names() -> list[str]:
    """Return the names of all rows."""
    return [spec.name for measurement in MEASUREMENTS for spec in measurement.rows]


def measure_all(bench: Bench, measurements: Sequence[Measurement] = MEASUREMENTS) -> list[Row]:
    """Return the rows that are asked for. One that cannot be measured says why; the others go on."""
    found: list[Row] = []
    for measurement in measurements:
        wanted = [spec for spec in measurement.rows if bench.wants(spec.name)]
        if wanted:
            bench.tell(f"{wanted[0].name}: {wanted[0].title}")
            found += _measure(bench, measurement, wanted)
    return found


def _measure(bench: Bench, measurement: Measurement, wanted: Sequence[RowSpec]) -> list[Row]:
    try:
        figures = measurement.measure(bench)
    except (Unavailable, BackendUnavailable) as exc:
        return [Row(spec, None, _line(exc)) for spec in wanted]
    except Exception as exc:  # minutes of other rows are not to be lost with it; the exit status tells
        return [Row(spec, None, _line(exc), failed=True) for spec in wanted]
    left_out = "it needs containers, and the sandboxes measured are none"
    return [Row(spec, figures.get(spec.name), "" if spec.name in figures else left_out) for spec in wanted]


def _line(error: Exception) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    said = " ".join(str(error).split())
    return said if isinstance(error, Unavailable | BenchmarkError | PoolError) else f"{type(error).__name__}: {said}"
