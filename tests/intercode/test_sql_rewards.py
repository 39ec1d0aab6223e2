"""Rewards of SQL against slow ones that are plainly right, and what is told of queries by their text."""

from __future__ import annotations

import math
from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from itertools import combinations, permutations
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecraft_async.intercode.sql_rewards import (
    Expected,
    comparable,
    kendall_tau,
    match,
    published_reward,
    tables_right,
)
from codecraft_async.intercode.sql_text import Ordering, changes_data, database_of, ordering

EXAMPLES: Final = settings(deadline=None, max_examples=60)
TEXTS: Final = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), max_size=8)
ROWS: Final = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=5)


def slow_tau(first: list[str], second: list[str]) -> float:
    """Kendall's tau-b by its definition: a look at each pair."""
    balance = alike_first = alike_second = pairs = 0
    for one, other in combinations(range(len(first)), 2):
        signs = [(each[one] > each[other]) - (each[one] < each[other]) for each in (first, second)]
        balance += signs[0] * signs[1]
        alike_first += signs[0] == 0
        alike_second += signs[1] == 0
        pairs += 1
    below = (pairs - alike_first) * (pairs - alike_second)
    return balance / math.sqrt(below) if below else math.nan


def slow_reward(rows: list[Any], gold: list[Any]) -> float:
    """The published formula, with lists only."""
    mine, theirs = list(map(str, rows)), list(map(str, gold))
    left, common_mine = list(theirs), list[str]()
    for row in mine:
        if row in left:
            left.remove(row)
            common_mine.append(row)
    left, common_theirs = list(mine), list[str]()
    for row in theirs:
        if row in left:
            left.remove(row)
            common_theirs.append(row)
    either = len(mine) + len(theirs) - len(common_mine)
    iou = len(common_mine) / either if either else 1.0
    tau = slow_tau(common_mine, common_theirs)
    return iou if math.isnan(tau) else round(tau * iou, 2)


@EXAMPLES
@given(TEXTS)
def test_rank_correlation(pairs: list[tuple[str, str]]) -> None:
    """It is Kendall's tau-b, be there ties or not, and not a number where nothing can be compared."""
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert slow_tau(first, second) == pytest.approx(kendall_tau(first, second), nan_ok=True)


@EXAMPLES
@given(ROWS, ROWS)
def test_the_published_formula(rows: list[Any], gold: list[Any]) -> None:
    """It is the overlap of the rows times the correlation of their order."""
    assert slow_reward(rows, gold) == pytest.approx(published_reward(rows, gold))


@pytest.mark.parametrize(
    ("rows", "gold", "score"),
    [
        ([], [], 1.0),
        ([], [(1,)], 0.0),
        ([(1,)], [(1,)], 1.0),
        ([(1,)], [(1.0,)], 0.0),
        ([(1,), (2,)], [(2,), (1,)], -1.0),
        ([(1,), (2,), (3,)], [(1,), (2,)], 0.67),
        ([(1,), (1,)], [(1,)], 0.5),
        ([(9,), (10,)], [(9,), (10,)], 1.0),
        ([(1,), (2,), (3,)], [(2,), (1,), (3,), (4,)], 0.25),
    ],
)
def test_published_rewards(rows: list[Any], gold: list[Any], score: float) -> None:
    """Rows are compared as text, order counts always, and an overlap without an order is not rounded."""
    assert score == published_reward(rows, gold)


def test_rows_that_were_left_out() -> None:
    """They are in common with nothing."""
    assert 0.5 == published_reward([(1,)], [(1,)], left_out=1)


def right_results(rows: list[tuple[int, int]], first: int, count: int | None) -> set[tuple[Any, ...]]:
    """All results that a query of the second column may have which orders by the first one."""
    last = None if count is None else first + count
    ordered = [each for each in permutations(rows) if [row[0] for row in each] == sorted(row[0] for row in rows)]
    return {tuple((row[1],) for row in each[first:last]) for each in ordered}


@EXAMPLES
@given(ROWS, st.integers(0, 2), st.none() | st.integers(0, 3), st.data())
def test_rows_in_order(rows: list[tuple[int, int]], first: int, count: int | None, data: st.DataObject) -> None:
    """A result pays 1 if it is one that the query may have, whatever comes of ties, and less otherwise."""
    rising = [(row[1],) for row in sorted(rows)]
    falling = [(row[1],) for row in sorted(rows, key=lambda row: (row[0], -row[1]))]
    expected = Expected.ordered(rising, falling, 1, first=first, count=count)
    assert expected is not None
    right = right_results(rows, first, count)
    result = data.draw(st.sampled_from(sorted(right)) | st.lists(st.tuples(st.integers(0, 1)), max_size=5).map(tuple))
    score = match(result, expected, columns=1)
    assert (result in right, True) == (score == 1, 0 <= score <= 1)


@EXAMPLES
@given(ROWS, ROWS)
def test_rows_in_any_order(rows: list[Any], gold: list[Any]) -> None:
    """A result pays 1 if it has the gold's rows as often, its columns being exchanged or not; else the overlap."""
    score = match(rows, Expected.unordered(gold, 2), columns=2)
    exchanged = [row[::-1] for row in rows]
    if Counter(rows) == Counter(gold) or Counter(exchanged) == Counter(gold):
        assert 1 == score
    else:
        common, either = Counter(rows) & Counter(gold), Counter(rows) | Counter(gold)
        assert common.total() / either.total() == score < 1


@EXAMPLES
@given(ROWS, st.integers(0, 5), ROWS)
def test_some_of_the_rows(rows: list[Any], take: int, result: list[Any]) -> None:
    """Where a query wants any so many of its rows, these pay 1 whichever they are."""
    take = min(take, len(rows))
    expected = Expected.unordered([(row[0],) for row in rows], 1, take=take)
    result = [(row[0],) for row in result]
    right = len(result) == take and Counter(result) <= Counter((row[0],) for row in rows)
    assert right == (match(result, expected, columns=1) == 1)


def test_half_is_for_the_order() -> None:
    """All rows the wrong way round pay a half; an empty result needs as many columns as the gold's."""
    rows = [(number,) for number in range(4)]
    expected = Expected.ordered(rows, rows, 1)
    assert expected is not None
    assert [1.0, 0.5, 11 / 12] == [
        match(each, expected, columns=1) for each in (rows, rows[::-1], [*rows[1::-1], *rows[2:]])
    ]
    assert [1.0, 0.0] == [match([], Expected.unordered([], 2), columns=columns) for columns in (2, 1)]


def test_many_columns_are_exchanged_in_bounded_time() -> None:
    """Where all columns are alike, not all of their orders are tried."""
    row = tuple(range(12))
    gold = [tuple((value + shift) % 12 for value in row) for shift in range(12)]
    wrong = [tuple((7 * value + shift) % 12 for value in row) for shift in range(11)] + [row]
    assert match(wrong, Expected.unordered(gold, 12), columns=12) <= 1


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        (1, 1.0, True),
        (Decimal("2.50"), 2.5, True),
        (0.1 + 0.2, 0.3, True),
        (Decimal("1E+3"), 1000, True),
        (2**60, 2**60 + 1, False),
        (1, "1", False),
        (b"text", "text", True),
        (b"\xff", b"\xff", True),
        (datetime(2020, 1, 1), date(2020, 1, 1), True),
        (datetime(2020, 1, 1, 12), date(2020, 1, 1), False),
        (None, "None", False),
        (float("nan"), float("nan"), True),
        ("a", "A", False),
    ],
)
def test_equal_values(one: object, other: object, are_equal: bool) -> None:
    """Numbers are equal by value, whatever their type; text is equal to itself."""
    assert are_equal == (comparable((one,)) == comparable((other,)))


def test_tables() -> None:
    """What the gold or the agent changed is compared, and nothing else."""
    loaded = {"d.a": "1", "d.b": "1", "d.c": "1"}
    gold = {**loaded, "d.a": "2", "d.new": "1"}
    assert (1.0, []) == tables_right(loaded, gold, dict(gold))
    assert (0.0, ["d.a", "d.new"]) == tables_right(loaded, gold, loaded)
    assert (0.5, ["d.new"]) == tables_right(loaded, gold, {**loaded, "d.a": "2"})
    assert (["d.b", "d.new"]) == tables_right(loaded, gold, {"d.a": "2", "d.c": "1"})[1]
    assert (1.0, []) == tables_right(loaded, loaded, loaded)


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("SELECT a FROM t", Ordering("SELECT a FROM t")),
        ("SELECT a FROM t ORDER BY b DESC, c LIMIT 3;", Ordering("SELECT a FROM t", "b DESC, c", 0, 3)),
        ("SELECT a FROM t order  by b\nLIMIT 2, 5", Ordering("SELECT a FROM t", "b", 2, 5)),
        ("SELECT a FROM t LIMIT 5 OFFSET 2 ", Ordering("SELECT a FROM t", "", 2, 5)),
        (
            "SELECT 'ORDER BY', `limit` FROM (SELECT a FROM t ORDER BY b LIMIT 1) x /* ORDER BY */",
            Ordering("SELECT 'ORDER BY', `limit` FROM (SELECT a FROM t ORDER BY b LIMIT 1) x /* ORDER BY */"),
        ),
        ("SELECT 'it''s; \\' ORDER BY 1' FROM t ORDER BY 1", Ordering("SELECT 'it''s; \\' ORDER BY 1' FROM t", "1")),
        ("(SELECT 1 LIMIT 1) UNION (SELECT 2) ORDER BY 1", Ordering("(SELECT 1 LIMIT 1) UNION (SELECT 2)", "1")),
        ("SELECT a FROM t ORDER BY b FOR UPDATE", None),
        ("SELECT a FROM t LIMIT ?", None),
        ("SELECT a FROM t LIMIT (SELECT 1)", None),
    ],
)
def test_orders(query: str, parts: Ordering | None) -> None:
    """ORDER BY and LIMIT count at the top level only; what is not understood is said to be so."""
    assert parts == ordering(query)


def test_a_query_with_its_ties_in_order() -> None:
    """It has no limit, and more keys; a comment at the end of the old ones does not swallow them."""
    parts = ordering("SELECT a, b FROM t ORDER BY b -- so\n LIMIT 1", sqlite=True)
    assert parts is not None
    assert "SELECT a, b FROM t\nORDER BY b -- so\n, 1 DESC, 2 DESC" == parts.whole(2, descending=True)


@pytest.mark.parametrize(
    ("statement", "changes"),
    [
        ("SELECT replace(a, 'x', 'y') FROM t", False),
        ("  -- first\n(select 1)", False),
        ("SHOW TABLES", False),
        ("use d", False),
        ("", False),
        ("REPLACE INTO t VALUES (1)", True),
        ("WITH x AS (SELECT 1) DELETE FROM t", True),
        ("WITH x AS (SELECT 'delete') SELECT 1", False),
        ("drop table t", True),
        ("/*!DROP TABLE t*/", True),
        ("/*M! DROP TABLE t */", True),
        ("CALL p()", True),
    ],
)
def test_statements_that_change_data(statement: str, changes: bool) -> None:
    """They are known by their words."""
    assert changes == changes_data(statement)


@pytest.mark.parametrize(
    ("statement", "database"),
    [
        ("use d", "d"),
        (" USE `a``b` ;", "a`b"),
        ("USE d; DROP TABLE t", None),
        ("SELECT 1", None),
        ("used d", None),
        ("USE d$1", "d$1"),
    ],
)
def test_the_database_that_is_chosen(statement: str, database: str | None) -> None:
    """By USE, and nothing beside it."""
    assert database == database_of(statement)
