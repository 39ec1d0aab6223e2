"""Graders of structured documents: JSON and CSV files are parsed on the host and compared as values, not as text."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import NoReturn, cast

from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.graders import read_or_grade
from codecraft_curriculum.sandbox import GradingSandbox

__all__ = ["CsvGrader", "JsonGrader", "difference", "parse_json"]

_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class JsonGrader:
    """Passes if a file holds JSON that is equal to `expected` (JSON text).

    The order of keys and white space do not count; the order of lists does, unless `unordered`. Numbers are equal
    within `tolerance` (relative, and absolute near zero), and 1 equals 1.0 but not true. Two equal keys in one object
    are wrong, and so are NaN and infinities.
    """

    path: str
    expected: str
    unordered: bool = False
    tolerance: float = 1e-9
    max_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        parse_json(self.expected)

    @property
    def runs_agent_code(self) -> bool:
        """Nothing is run."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Read the file, parse it here, and compare."""
        data = await read_or_grade(sandbox, self.path, max_bytes=self.max_bytes)
        if isinstance(data, Grade):
            return data
        try:
            value = parse_json(data.decode())
        except ValueError as error:
            return Grade.failure(f"{self.path} is not valid JSON: {excerpt(str(error))}")
        problem = difference(
            parse_json(self.expected), value, unordered=self.unordered, tolerance=self.tolerance, where="the document"
        )
        return Grade.failure(f"{self.path}: {problem}") if problem else Grade.success(f"{self.path} is as expected")


@dataclass(frozen=True, slots=True)
class CsvGrader:
    """Passes if a file holds the same table as `expected` (CSV text, whose first row are the names of the columns).

    How fields are quoted and how lines end does not count; the order of rows does, unless `unordered`. Fields that are
    numbers are compared within `tolerance`, others exactly.
    """

    path: str
    expected: str
    delimiter: str = ","
    unordered: bool = False
    tolerance: float = 1e-9
    max_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1:
            raise ValueError(f"delimiter {self.delimiter!r} is not allowed: give one character")
        if not self._rows(self.expected):
            raise ValueError("expected is empty: give at least the row of the columns' names")

    @property
    def runs_agent_code(self) -> bool:
        """Nothing is run."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Read the file, parse it here, and compare."""
        data = await read_or_grade(sandbox, self.path, max_bytes=self.max_bytes)
        if isinstance(data, Grade):
            return data
        try:
            given = self._rows(data.decode())
        except (ValueError, csv.Error) as error:
            return Grade.failure(f"{self.path} is not valid CSV: {excerpt(str(error))}")
        header, *rows = self._rows(self.expected)
        if not given or given[0] != header:
            return Grade.failure(f"{self.path}: expected the columns {header}, got {excerpt(str(given[:1]))}")
        problem = difference(
            rows,
            given[1:],
            unordered=self.unordered,
            tolerance=self.tolerance,
            where="the table",
            texts_as_numbers=True,
        )
        return Grade.failure(f"{self.path}: {problem}") if problem else Grade.success(f"{self.path} is as expected")

    def _rows(self, text: str) -> list[list[str]]:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True) if row]


def parse_json(text: str) -> object:
    """Return the value of a JSON text that nobody vouches for.

    Raises:
        ValueError: it is no JSON, holds a key twice, a number that is not finite, or is nested too deep.
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check(value, 0)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object has the same key twice")
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _check(value: object, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested over {_MAX_DEPTH} deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is too large")
    if isinstance(value, dict):
        for inner in cast(dict[str, object], value).values():
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in cast(list[object], value):
            _check(inner, depth + 1)


def difference(
    expected: object,
    actual: object,
    *,
    unordered: bool = False,
    tolerance: float = 1e-9,
    where: str = "the value",
    texts_as_numbers: bool = False,
) -> str | None:
    """Return one line about the first difference of two JSON values, or None if there is none."""
    compare = _Comparison(unordered, tolerance, texts_as_numbers)
    return compare.difference(expected, actual, where)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The rules by which two values are compared."""

    unordered: bool
    tolerance: float
    texts_as_numbers: bool

    def difference(self, expected: object, actual: object, where: str) -> str | None:
        if isinstance(expected, dict) and isinstance(actual, dict):
            return self._objects(cast(dict[str, object], expected), cast(dict[str, object], actual), where)
        if isinstance(expected, list) and isinstance(actual, list):
            return self._lists(cast(list[object], expected), cast(list[object], actual), where)
        if self._same(expected, actual):
            return None
        return f"expected {where} to be {excerpt(repr(expected), 60)}, got {excerpt(repr(actual), 60)}"

    def _objects(self, expected: dict[str, object], actual: dict[str, object], where: str) -> str | None:
        for key in expected:
            if key not in actual:
                return f"{where} has no {excerpt(key, 40)}"
        for key in actual:
            if key not in expected:
                return f"{where} should have no {excerpt(key, 40)}"
        for key, value in expected.items():
            problem = self.difference(value, actual[key], f"{key} of {where}")
            if problem:
                return problem
        return None

    def _lists(self, expected: list[object], actual: list[object], where: str) -> str | None:
        if len(expected) != len(actual):
            return f"expected {len(expected)} items in {where}, got {len(actual)}"
        if self.unordered:
            expected, actual = sorted(expected, key=self._key), sorted(actual, key=self._key)
        for number, (ours, theirs) in enumerate(zip(expected, actual, strict=True), 1):
            problem = self.difference(ours, theirs, f"item {number} of {where}")
            if problem:
                return problem
        return None

    def _key(self, value: object) -> str:
        """Return text to sort by, the same for equal values."""
        if isinstance(value, bool) or value is None:
            return json.dumps(value)
        if isinstance(value, int | float):
            return f"{float(value):.6g}"
        if isinstance(value, list):
            keys = [self._key(inner) for inner in cast(list[object], value)]
            return json.dumps(sorted(keys) if self.unordered else keys)
        if isinstance(value, dict):
            table = cast(dict[str, object], value)
            return json.dumps([[key, self._key(table[key])] for key in sorted(table)])
        number = _number(value) if self.texts_as_numbers else None
        return json.dumps(value) if number is None else f"{number:.6g}"

    def _same(self, expected: object, actual: object) -> bool:
        ours, theirs = self._as_number(expected), self._as_number(actual)
        if ours is not None and theirs is not None:
            if isinstance(ours, int) and isinstance(theirs, int):
                return ours == theirs
            return math.isclose(ours, theirs, rel_tol=self.tolerance, abs_tol=self.tolerance)
        return type(expected) is type(actual) and expected == actual

    def _as_number(self, value: object) -> int | float | None:
        if isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            return value
        return _number(value) if self.texts_as_numbers else None


def _number(value: object) -> float | None:
    """Return the number that a field of a table holds, if it holds one."""
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
