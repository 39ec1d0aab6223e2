"""A regression over two modules: one of them changed what it returns, and the other still expects what was there."""

from __future__ import annotations

from codecraft_curriculum.swe.sample import Sample, commit

_CONFIG = "[pytest]\naddopts = -q\ntestpaths = tests\n"
_CONVERT_FIRST = '''
"""Converts lengths and weights."""

FACTORS = {"mm": 0.001, "cm": 0.01, "m": 1.0, "km": 1000.0, "g": 0.001, "kg": 1.0, "t": 1000.0}


def convert(value, unit, target):
    """Return *value*, in *unit*, as a number of *target*."""
    return value * FACTORS[unit] / FACTORS[target]
'''
_CONVERT = '''
"""Converts lengths and weights."""

from fractions import Fraction

LENGTHS = {"mm": Fraction(1, 1000), "cm": Fraction(1, 100), "m": Fraction(1), "km": Fraction(1000)}
WEIGHTS = {"g": Fraction(1, 1000), "kg": Fraction(1), "t": Fraction(1000)}


class UnitError(ValueError):
    """Two units that do not measure the same, or one that is not known."""


def convert(value, unit, target):
    """Return *value*, in *unit*, as an exact number of *target*."""
    for known in (LENGTHS, WEIGHTS):
        if unit in known and target in known:
            return Fraction(value) * known[unit] / known[target]
    raise UnitError(f"{unit} cannot be converted to {target}")
'''
_REPORT = '''
"""Tables of parts with their sizes."""

from units.convert import convert


def line(name, value, unit, target):
    """Return a line such as ``bolt: 2.5 cm``; a unit that does not fit is shown as it is."""
    try:
        shown = convert(value, unit, target)
    except KeyError:
        return f"{name}: {value} {unit}"
    return f"{name}: {shown:g} {target}"


def total(parts, target):
    """Return the sum of (value, unit) pairs in *target*, as a float; what does not fit is left out."""
    result = 0.0
    for value, unit in parts:
        try:
            result += convert(value, unit, target)
        except KeyError:
            continue
    return result


def table(parts, target):
    """Return a line for each (name, value, unit), and the sum."""
    lines = [line(*part, target) for part in parts]
    return "\\n".join([*lines, f"total: {total([part[1:] for part in parts], target):g} {target}"])
'''
_FIXED_CONVERT = _CONVERT.replace(
    "            return Fraction(value) * known[unit] / known[target]\n",
    "            return Fraction(str(value)) * known[unit] / known[target]\n",
)
_FIXED_REPORT = (
    _REPORT.replace("from units.convert import convert\n", "from units.convert import UnitError, convert\n")
    .replace("except KeyError", "except UnitError")
    .replace("        shown = convert(value, unit, target)\n", "        shown = float(convert(value, unit, target))\n")
    .replace("    result = 0.0\n", "    result = 0\n")
    .replace("    return result\n", "    return float(result)\n")
)
_CONFTEST = """
import pytest


@pytest.fixture
def parts():
    return [("bolt", 25, "mm"), ("rod", 1.2, "m")]
"""
_TEST_CONVERT = """
from fractions import Fraction

import pytest

from units.convert import UnitError, convert


@pytest.mark.parametrize(("value", "unit", "target"), [(1, "km", "m"), (5000, "kg", "t")])
def test_exact(value, unit, target):
    assert convert(value, unit, target) == Fraction(value) * (1000 if unit == "km" else Fraction(1, 1000))


def test_units_that_do_not_fit():
    with pytest.raises(UnitError):
        convert(1, "m", "kg")
"""
_NEW_TEST_CONVERT = (
    _TEST_CONVERT
    + """

@pytest.mark.parametrize("value", [0.1, 1.2, "2.5"])
def test_decimals_are_exact(value):
    assert convert(value, "m", "mm") == Fraction(str(value)) * 1000
"""
)
_TEST_REPORT = """
from units.report import total


def test_total_of_nothing():
    assert total([], "m") == 0
"""
_NEW_TEST_REPORT = """
from units.report import line, table, total


def test_total_of_nothing():
    assert total([], "m") == 0


def test_total(parts):
    result = total([part[1:] for part in parts], "m")
    assert isinstance(result, float)
    assert result == 1.225


def test_total_leaves_out_what_does_not_fit():
    assert total([(1, "m"), (3, "kg")], "cm") == 100


def test_line_of_another_kind():
    assert line("flour", 2, "kg", "m") == "flour: 2 kg"


def test_table(parts):
    assert table(parts, "cm") == "bolt: 2.5 cm\\nrod: 120 cm\\ntotal: 122.5 cm"
"""

SAMPLE = Sample(
    name="units",
    problem="""
Reports are broken since conversions are exact

Since `convert` returns fractions and raises `UnitError`, reports do not work any more:

    >>> from units.report import line, total
    >>> line("bolt", 25, "mm", "cm")          # should be 'bolt: 2.5 cm'
    >>> line("flour", 2, "kg", "m")           # should be 'flour: 2 kg'
    >>> total([(1, "m"), (3, "kg")], "cm")    # should leave out the flour: 100.0

On some versions of Python the first one fails, and the other two do everywhere. And conversions are not exact for
numbers such as 0.1: `convert(0.1, "m", "mm")` should be 100. The result of `convert` should stay a `Fraction`, and
`total` should return a float.
""",
    history=(
        commit(
            "Convert lengths and weights",
            {"src/units/__init__.py": "", "src/units/convert.py": _CONVERT_FIRST, "pytest.ini": _CONFIG},
        ),
        commit("Reports", {"src/units/report.py": _REPORT, "tests/test_report.py": _TEST_REPORT}),
        commit(
            "Exact conversions, and an error of their own",
            {"src/units/convert.py": _CONVERT, "tests/test_convert.py": _TEST_CONVERT, "tests/conftest.py": _CONFTEST},
        ),
    ),
    fix={"src/units/convert.py": _FIXED_CONVERT, "src/units/report.py": _FIXED_REPORT},
    tests={"tests/test_convert.py": _NEW_TEST_CONVERT, "tests/test_report.py": _NEW_TEST_REPORT},
    fail_to_pass=(
        "tests/test_convert.py::test_decimals_are_exact[0.1]",
        "tests/test_convert.py::test_decimals_are_exact[1.2]",
        "tests/test_report.py::test_total_leaves_out_what_does_not_fit",
        "tests/test_report.py::test_line_of_another_kind",
    ),
    pass_to_pass=(
        "tests/test_convert.py::test_exact[1-km-m]",
        "tests/test_convert.py::test_exact[5000-kg-t]",
        "tests/test_convert.py::test_units_that_do_not_fit",
        "tests/test_convert.py::test_decimals_are_exact[2.5]",
        "tests/test_report.py::test_total_of_nothing",
    ),
    test_cmd="PYTHONPATH=src python3 -m pytest",
    later=(commit("Stones and feet will come later", {"README.md": "# units\n"}),),
)
