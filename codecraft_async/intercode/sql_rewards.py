"""What the end of an SQL episode is worth beside its gold: the published formula, and an execution match made right."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from itertools import islice
from typing import Any, Final

__all__ = ["Expected", "Tie", "comparable", "kendall_tau", "match", "overlap", "published_reward", "tables_right"]

Row = tuple[Any, ...]
Comparable = tuple[Hashable, ...]

_DIGITS: Final = (
    10  # of numbers that are no whole ones: sums of the same numbers in another order differ after the 15th
)
_ARRANGEMENTS_MAX: Final = 1000
_COMPARED_MAX: Final = 100_000  # rows, over all arrangements: tenths of a second
_MIDNIGHT: Final = time()


def published_reward(rows: Sequence[Row], gold: Sequence[Row], *, left_out: int = 0) -> float:
    """Return InterCode's reward, from -1 to 1: the share of rows in common, times the rank correlation of their order.

    Rows are compared as the text of their tuples. *left_out* is the number of rows that the agent's result had besides
    *rows*; they are in common with nothing.
    """
    mine, theirs = [str(row) for row in rows], [str(row) for row in gold]
    common, every = Counter(mine) & Counter(theirs), Counter(mine) | Counter(theirs)
    total = every.total() + left_out
    iou = common.total() / total if total else 1.0
    if not common:
        return iou
    tau = kendall_tau(_only(mine, common), _only(theirs, common))
    return iou if math.isnan(tau) else round(tau * iou, 2)


def kendall_tau(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Kendall's rank correlation of two texts each, tau-b, which takes ties into account; from -1 to 1.

    NaN where it is not defined: one of them has only equal texts. In n log n steps (Knight 1966).
    """
    pairs = math.comb(len(first), 2)
    ties_first, ties_second = _pairs_tied(first), _pairs_tied(second)
    if ties_first == pairs or ties_second == pairs:
        return math.nan
    both = list(zip(first, second, strict=True))
    discordant = _inversions([number for _, number in sorted(both)])
    balance = pairs - ties_first - ties_second + _pairs_tied(both) - 2 * discordant
    tau = balance / math.sqrt(pairs - ties_first) / math.sqrt(pairs - ties_second)
    return max(-1.0, min(1.0, tau))


def _only(rows: Sequence[str], common: Counter[str]) -> list[str]:
    """Return the rows that are in common, as often as they are, in their order."""
    left = Counter(common)
    kept: list[str] = []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
            kept.append(row)
    return kept


def _pairs_tied(values: Sequence[Hashable]) -> int:
    return sum(math.comb(count, 2) for count in Counter(values).values())


def _inversions(values: Sequence[Any]) -> int:
    """Return how many pairs stand the wrong way round."""
    seen: list[Any] = []
    found = 0
    for value in values:
        found += len(seen) - bisect_right(seen, value)
        insort(seen, value)
    return found


def comparable(row: Row) -> Comparable:
    """Return a row in a form in which equal ones are equal: numbers by value, whatever their type, bytes as text."""
    return tuple(_comparable(value) for value in row)


def _comparable(value: Any) -> Hashable:
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            return str(value).lower()
        whole = int(value)
        return whole if whole == value else float(f"{value:.{_DIGITS}g}")
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return bytes(value)
    if isinstance(value, datetime) and value.time() == _MIDNIGHT:
        return value.date()
    return value if isinstance(value, Hashable) else str(value)


@dataclass(frozen=True, slots=True)
class Tie:
    """Rows that may stand in any order, of which the result has so many."""

    rows: tuple[Comparable, ...]
    take: int


@dataclass(frozen=True, slots=True)
class Expected:
    """What a right result looks like: so many rows of each of `ties`, one after the other if the order matters."""

    ties: tuple[Tie, ...] = ()
    columns: int = 0
    is_ordered: bool = False
    total: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", sum(tie.take for tie in self.ties))

    @classmethod
    def unordered(cls, rows: Sequence[Row], columns: int, *, take: int | None = None) -> Expected:
        """Return what has these rows in any order, or *take* of them."""
        return cls((Tie(tuple(map(comparable, rows)), len(rows) if take is None else take),), columns)

    @classmethod
    def ordered(
        cls, rising: Sequence[Row], falling: Sequence[Row], columns: int, *, first: int = 0, count: int | None = None
    ) -> Expected | None:
        """Return what has the rows of a query in its order, from *first* on, *count* at most (None: all).

        It is told which of them have equal keys by two results: in *rising*, rows with equal keys stand in the order of
        their values, and in *falling* the other way round. None if these are not the same rows.
        """
        up, down = list(map(comparable, rising)), list(map(comparable, falling))
        if Counter(up) != Counter(down):
            return None
        last = len(up) if count is None else first + count
        ties: list[Tie] = []
        for start, end in _blocks(up, down):
            take = min(end, last) - max(start, first)
            if take > 0:
                ties.append(Tie(tuple(up[start:end]), take))
        return cls(tuple(ties), columns, is_ordered=True)


def _blocks(up: Sequence[Comparable], down: Sequence[Comparable]) -> Iterator[tuple[int, int]]:
    """Yield the shortest stretches in which both have the same rows: between them the order is fixed."""
    start, balance, uneven = 0, Counter[Comparable](), 0
    for at, (mine, theirs) in enumerate(zip(up, down, strict=True)):
        for row, change in ((mine, 1), (theirs, -1)):
            uneven += (balance[row] == 0) - (balance[row] == -change)
            balance[row] += change
        if not uneven:
            yield start, at + 1
            start = at + 1


def match(rows: Sequence[Row], expected: Expected, *, columns: int) -> float:
    """Return what a result is worth, from 0 to 1; 1 if it is right, be its columns in another order.

    Otherwise the share of rows that are right, of all that either has; where the order matters, half of that is paid
    for the rows, and the other half for the share of pairs of them that stand in the right order.
    """
    mine = list(map(comparable, rows))
    if not mine and not expected.total:
        return float(columns == expected.columns)
    score = overlap(mine, expected)
    if score < 1 and columns == expected.columns > 1 and len(mine) == expected.total:
        for order in islice(_arrangements(mine, expected), 1 + _COMPARED_MAX // len(mine)):
            if overlap([tuple(row[place] for place in order) for row in mine], expected) == 1:
                return 1.0
    return score


def overlap(rows: Sequence[Comparable], expected: Expected) -> float:
    """Return what a result is worth with its columns as they are."""
    places: defaultdict[Comparable, deque[int]] = defaultdict(deque)
    for number, tie in enumerate(expected.ties):
        for row in tie.rows:
            places[row].append(number)
    left = [tie.take for tie in expected.ties]
    found: list[int] = []
    for row in rows:
        queue = places[row]
        while queue and not left[queue[0]]:
            queue.popleft()
        if queue:
            left[queue[0]] -= 1
            found.append(queue.popleft())
    either = len(rows) + expected.total - len(found)
    share = len(found) / either if either else 1.0
    if not expected.is_ordered:
        return share
    pairs = math.comb(len(found), 2) - _pairs_tied(found)
    return share * (1 - _inversions(found) / pairs / 2) if pairs else share


def _arrangements(rows: Sequence[Comparable], expected: Expected) -> Iterator[tuple[int, ...]]:
    """Yield the orders of columns in which each column's values are among those that are expected there."""
    every = [row for tie in expected.ties for row in tie.rows]
    wanted = [Counter(column) for column in zip(*every, strict=True)]
    given = [Counter(column) for column in zip(*rows, strict=True)]
    fits = [[place for place, column in enumerate(given) if column <= values] for values in wanted]
    tried = 0

    def extend(order: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        nonlocal tried
        tried += 1
        if tried > _ARRANGEMENTS_MAX:
            return
        if len(order) == len(fits):
            yield order
            return
        for place in fits[len(order)]:
            if place not in order:
                yield from extend((*order, place))

    return extend(())


def tables_right(
    loaded: Mapping[str, str], gold: Mapping[str, str], mine: Mapping[str, str]
) -> tuple[float, list[str]]:
    """Return the share of tables that are as the gold makes them, of all that it or the agent changed; and the others.

    Each maps tables to digests: as they were *loaded*, after the *gold*, and now.
    """
    names = {*loaded, *gold, *mine}
    changed = {name for name in names if not loaded.get(name) == gold.get(name) == mine.get(name)}
    wrong = sorted(name for name in changed if gold.get(name) != mine.get(name))
    return (1 - len(wrong) / len(changed) if changed else 1.0), wrong
