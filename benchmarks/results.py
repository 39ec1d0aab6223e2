"""What the benchmark asks and what it finds: targets, rows, figures, and what the arithmetic on them is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


class BenchmarkError(Exception):
    """A measurement that went wrong or would mean nothing; says why in one line."""


class Unavailable(Exception):
    """Why something cannot be measured on this machine, or with this version, in one line; nobody's fault."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a figure is to keep."""

    sign: Literal["<", ">", ">="]
    bound: float

    def holds(self, value: float) -> bool:
        """Whether *value* keeps the bound."""
        if self.sign == "<":
            return value < self.bound
        return value > self.bound if self.sign == ">" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class RowSpec:
    """One line of the table before it is measured. `target` is None where the figure is there for comparison only."""

    name: str
    title: str
    unit: str
    target: Target | None
    how: str


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured: the value, the same of each round (its noise), where (`on`), and whatever else is known."""

    value: float
    rounds: tuple[float, ...] = ()
    on: str = ""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Without a figure, `reason` says why; `failed` if it should have been possible."""

    spec: RowSpec
    figure: Figure | None
    reason: str = ""
    failed: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether the target is kept; None where there is no figure, or no target."""
        if self.figure is None or self.spec.target is None:
            return None
        return self.spec.target.holds(self.figure.value)

    def as_json(self) -> dict[str, Any]:
        """Return the row as it stands in the file."""
        figure = self.figure
        return {
            "name": self.spec.name,
            "value": None if figure is None else rounded(figure.value),
            "unit": self.spec.unit,
            "target": None if self.spec.target is None else str(self.spec.target),
            "holds": self.holds,
            "title": self.spec.title,
            "on": None if figure is None else figure.on,
            "rounds": [] if figure is None else [rounded(value) for value in figure.rounds],
            "details": {} if figure is None else dict(figure.details),
            "reason": self.reason or None,
            "how": self.spec.how,
        }


def rounded(value: float) -> float:
    """Return *value* with four significant digits: more would only be noise."""
    return float(f"{value:.4g}")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return that percentile of *values*."""
    return float(np.percentile(values, percent))


def median_figure(rounds: Sequence[float], *, on: str, details: Mapping[str, Any] | None = None) -> Figure:
    """Return the median of the rounds' values, with all of them."""
    return Figure(statistics.median(rounds), tuple(rounds), on, details or {})


def ratio_figure(pairs: Sequence[tuple[float, float]], *, on: str, details: Mapping[str, Any] | None = None) -> Figure:
    """Return the median of the rounds' ratios, first to second; never the ratio of medians."""
    return median_figure([first / second for first, second in pairs], on=on, details=details)


def medians(**series: Sequence[float]) -> dict[str, float]:
    """Return the median of each series, for the details of a row."""
    return {name: rounded(statistics.median(values)) for name, values in series.items() if values}
