"""What becomes of the rate when there are many more environments than cores."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.results import Figure, RowSpec, Target, median_figure, medians
from benchmarks.stepping import open_env, step_for

FEW: Final = 8
_MANY_FOR_EACH: Final = 2  # of the environments asked for: 128 of 64
_WARM_UP_S: Final = 0.5

FALL: Final = RowSpec(
    "scaling",
    "fall of the rate from 8 to 128 (twice --envs) environments",
    "%",
    Target("<", 15),
    "both are open at the same time and stepped in turn with `true`; below zero: it rises",
)
ROWS: Final = (FALL,)


def measure(bench: Bench) -> dict[str, Figure]:
    """Alternate a few and many environments."""
    many = bench.options.envs * _MANY_FOR_EACH
    few = min(FEW, many)
    with open_env(few, bench.backend) as small, open_env(many, bench.backend) as large:
        bench.tell(f"{few} and {many} environments in turn")
        _pair(small, large, _WARM_UP_S)
        pairs = [_pair(small, large, bench.options.seconds) for _ in range(bench.options.rounds)]
    rates = medians(few_per_s=[pair[0] for pair in pairs], many_per_s=[pair[1] for pair in pairs])
    falls = [fall(*pair) for pair in pairs]
    return {FALL.name: median_figure(falls, on=bench.backend, details={"few": few, "many": many, **rates})}


def fall(few_per_s: float, many_per_s: float) -> float:
    """Return by how many per cent the rate is lower with many than with few."""
    return 100 * (1 - many_per_s / few_per_s)


def _pair(small: Any, large: Any, seconds: float) -> tuple[float, float]:
    return step_for(small, "true", seconds).per_s, step_for(large, "true", seconds).per_s
