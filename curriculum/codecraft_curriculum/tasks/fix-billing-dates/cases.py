"""Dates, and what the functions of a billing module return for them."""

from __future__ import annotations

import calendar
import json
import random
from collections.abc import Callable, Sequence
from datetime import date, timedelta

from codecraft_curriculum import Case, Match

_Call = tuple[list[object], str]


def months(rng: random.Random, /) -> Sequence[Case]:
    """Return a case of add_months, and one of quarter."""
    return [_case("add_months", _add_months, rng), _case("quarter", _quarter, rng)]


def days(rng: random.Random, /) -> Sequence[Case]:
    """Return a case of next_workday, and one of shared_days."""
    return [_case("next_workday", _next_workday, rng), _case("shared_days", _shared_days, rng)]


def _case(name: str, call: Callable[[random.Random, int], _Call], rng: random.Random) -> Case:
    calls = [call(rng, number) for number in range(24)]
    rng.shuffle(calls)
    given = "".join(json.dumps(arguments) + "\n" for arguments, _ in calls)
    return Case(Match("\n".join(result for _, result in calls)), arguments=(name,), stdin=given.encode())


def _day(rng: random.Random) -> date:
    return date(rng.randint(1999, 2040), 1, 1) + timedelta(rng.randrange(365))


def _add_months(rng: random.Random, number: int) -> _Call:
    day = [_day(rng), date(rng.choice([2000, 2023, 2024]), 1, 31)][number % 2]
    step = [rng.randint(-30, 30), 11, 2 - day.month, 1][number % 4]
    if number < 2:
        day, step = [(date(2024, 1, 31), 1), (date(2000, 3, 31), -1)][number]
    place = day.year * 12 + day.month - 1 + step
    year, month = place // 12, place % 12 + 1
    last = calendar.monthrange(year, month)[1]
    return [str(day), step], str(date(year, month, min(day.day, last)))


def _quarter(rng: random.Random, number: int) -> _Call:
    day = date(rng.randint(1999, 2040), number % 12 + 1, rng.randint(1, 28))
    return [str(day)], f"{day.year}-Q{(day.month - 1) // 3 + 1}"


def _next_workday(rng: random.Random, number: int) -> _Call:
    day = _day(rng)
    day += timedelta((number - day.weekday()) % 7)  # each day of the week comes
    holidays = [str(day + timedelta(after)) for after in range(1, 6) if rng.random() < 0.4]
    following = day + timedelta(1)
    while following.weekday() >= 5 or str(following) in holidays:
        following += timedelta(1)
    return [str(day), holidays], str(following)


def _shared_days(rng: random.Random, number: int) -> _Call:
    start = _day(rng)
    end = start + timedelta(rng.randint(0, 40))
    other = [end, end + timedelta(1), start - timedelta(rng.randint(0, 30)), start][number % 4]
    until = other + timedelta(rng.randint(0, 40))
    shared = sum(1 for step in range((end - start).days + 1) if other <= start + timedelta(step) <= until)
    return [str(start), str(end), str(other), str(until)], str(shared)
