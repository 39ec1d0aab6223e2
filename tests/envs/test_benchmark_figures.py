"""The arithmetic of the benchmark: ratios, targets, growth, and where a bar in the picture ends."""

from __future__ import annotations

import math
from typing import Literal

import pytest

from benchmarks.floor import FloorRun
from benchmarks.growth import growth
from benchmarks.plot import margin
from benchmarks.results import Figure, Row, RowSpec, Target, median_figure, medians, ratio_figure, rounded
from benchmarks.rows import steps
from benchmarks.rows.scaling import fall
from benchmarks.rows.steps import Round
from benchmarks.stepping import Steps

MIB = 1 << 20


def _round(ours: float, floor: float, by_exec: float | None = None) -> Round:
    """A round of one step of two environments."""
    taken = Steps(2, step_s=(2 / ours,), command_s=(0.001, 0.003), own_cpu_s=0.0004)
    return Round(by_exec, taken, FloorRun(floor, 1.0))


def test_ratios_are_those_within_rounds() -> None:
    """A ratio is the median of the rounds' ratios, not the ratio of the medians."""
    figure = ratio_figure([(100, 10), (300, 100), (500, 20)], on="docker")
    assert (10.0, 3.0, 25.0) == figure.rounds
    assert 10.0 == figure.value


def test_figures_of_steps() -> None:
    """Steps are compared with exec and with the floor, and the details hold the rates."""
    found = steps.true_figures([_round(100, 200, 10), _round(300, 1000, 100), _round(500, 500, 20)], "docker")
    by_exec = found["step_vs_exec"]
    assert (10.0, 0.5) == (by_exec.value, found["step_vs_floor"].value)
    assert {"ours_per_s": 300.0, "exec_per_s": 20.0, "floor_per_s": 500.0}.items() <= by_exec.details.items()
    assert 0.2 == pytest.approx(found["own_cost"].value)
    assert (2.0, 3) == (found["step_tail"].details["command_p50_ms"], found["step_tail"].details["vector_steps"])


def test_without_exec_there_is_no_ratio_to_it() -> None:
    """What was not measured is left out, not made up."""
    assert "step_vs_exec" not in steps.true_figures([_round(100, 200)], "local")


def test_tail() -> None:
    """The tail is the p99 of vector steps over their p50."""
    even = Steps(1, step_s=(0.01,) * 99 + (0.03,), command_s=(0.001,), own_cpu_s=0.1)
    found = steps.true_figures([Round(None, even, FloorRun(1, 1.0))], "local")
    assert 1 < found["step_tail"].value < 3


@pytest.mark.parametrize(("few", "many", "by"), [(100, 90, 10), (100, 100, 0), (100, 130, -30)])
def test_fall(few: float, many: float, by: float) -> None:
    """A rate that rises falls by less than nothing."""
    assert by == pytest.approx(fall(few, many))


@pytest.mark.parametrize(
    ("sign", "value", "holds"),
    [("<", 2.9, True), ("<", 3, False), (">", 3, False), (">", 3.1, True), (">=", 3, True), (">=", 2.9, False)],
)
def test_targets(sign: Literal["<", ">", ">="], value: float, holds: bool) -> None:
    """A bound is kept or not as its sign says."""
    target = Target(sign, 3)
    assert holds is target.holds(value)
    assert f"{sign} 3" == str(target)
    assert holds is Row(RowSpec("name", "title", "ms", target, "how"), Figure(value)).holds


def test_no_verdict_without_a_target() -> None:
    """A figure for comparison neither holds nor fails."""
    assert Row(RowSpec("name", "title", "ms", None, "how"), Figure(1.0)).holds is None


def test_margin() -> None:
    """A bar ends at how many times better than its target the value is."""
    assert 2.0 == margin(Target("<", 10), 5)
    assert 0.5 == margin(Target(">=", 10), 5)
    assert math.inf == margin(Target("<", 10), -3)
    assert 0.0 == margin(Target(">=", 10), -3)


def test_medians_leave_out_what_there_is_none_of() -> None:
    """A series without values has no median."""
    assert {"some": 2.0} == medians(some=[1, 2, 3], none=[])
    assert 2.0 == median_figure([1, 2, 3], on="local").value


def test_rounding() -> None:
    """Four digits are kept, wherever the point is."""
    assert [123500.0, 1.235, 0.001235] == [rounded(value) for value in (123456, 1.23456, 0.00123456)]


def test_growth_of_a_leak() -> None:
    """Memory that rises steadily, by more than caches do, is told with its slope."""
    found = growth([1000 * n for n in range(40)], [50 * MIB + n * MIB for n in range(40)])
    assert 1024 == found.as_json()["slope_kib_per_1000_steps"]
    assert not found.is_flat


@pytest.mark.parametrize("wobble", [0, MIB // 4])
def test_growth_of_what_is_flat(wobble: int) -> None:
    """Memory that stays, or goes up and down, does not grow."""
    found = growth([1000 * n for n in range(40)], [50 * MIB + (n % 2) * wobble for n in range(40)])
    assert found.is_flat
    assert found.peak == 50 * MIB + wobble


def test_growth_within_what_caches_do() -> None:
    """A rise that is certain but smaller than what is tolerated is told, and called flat."""
    found = growth([1000 * n for n in range(40)], [50 * MIB + n * 1024 for n in range(40)])
    assert (1.0, True) == (found.as_json()["slope_kib_per_1000_steps"], found.is_flat)
