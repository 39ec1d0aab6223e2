"""Databases of a club, and what queries of them return."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

from codecraft_curriculum import Case, Match

_Tables = dict[str, list[list[object]]]


def simple(rng: random.Random, /) -> Sequence[Case]:
    """Return a case for each of the first two questions."""
    return [_case(rng, "1.sql", _members_by_city), _case(rng, "2.sql", _without_visit)]


def hard(rng: random.Random, /) -> Sequence[Case]:
    """Return a case for each of the last two questions."""
    return [_case(rng, "3.sql", _best_of_each_course), _case(rng, "4.sql", _running_fees)]


def _case(rng: random.Random, file: str, answer: Callable[[_Tables], list[list[object]]]) -> Case:
    tables = _tables(rng)
    rows = "\n".join(json.dumps(row) for row in answer(tables))
    return Case(Match(rows), arguments=(file,), stdin=json.dumps(tables).encode())


def _tables(rng: random.Random) -> _Tables:
    numbers = rng.sample(range(1, 99), 9)
    members: list[list[object]] = [
        [number, f"M{number}", rng.choice(["Bern", "Oslo", "Lima", None])] for number in numbers
    ]
    courses: list[list[object]] = [[number, f"Course {number}"] for number in range(1, 5)]
    visitors = [
        (number, course) for number in rng.sample(numbers, 6) for course in rng.sample((1, 2, 3), rng.randint(1, 3))
    ]
    days = [f"2024-{rng.randint(1, 4):02}-{rng.randint(1, 28):02}" for _ in visitors]
    visits: list[list[object]] = [
        [*visitor, rng.randint(0, 6), day] for visitor, day in zip(visitors, days, strict=True)
    ]
    fees: list[list[object]] = [
        [f"2024-{rng.randint(1, 4):02}-{rng.randint(1, 28):02}", rng.randint(-500, 2_000)] for _ in range(10)
    ]
    return {"members": members, "courses": courses, "visits": visits, "fees": fees}


def _members_by_city(tables: _Tables) -> list[list[object]]:
    cities = [str(city or "unknown") for _, _, city in tables["members"]]
    counted = {city: cities.count(city) for city in cities}
    return [[city, count] for city, count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]


def _without_visit(tables: _Tables) -> list[list[object]]:
    seen = {visit[0] for visit in tables["visits"]}
    return [[name] for _, name in sorted((int(str(m[0])), m[1]) for m in tables["members"] if m[0] not in seen)]


def _best_of_each_course(tables: _Tables) -> list[list[object]]:
    names = {member[0]: str(member[1]) for member in tables["members"]}
    rows: list[list[object]] = []
    for course, title in tables["courses"]:
        points = [(int(str(visit[2])), names[visit[0]]) for visit in tables["visits"] if visit[1] == course]
        best = max((mark for mark, _ in points), default=None)
        rows += [[title, name, best] for name in sorted(name for mark, name in points if mark == best)]
        rows += [[title, None, None]] if best is None else []
    return rows


def _running_fees(tables: _Tables) -> list[list[object]]:
    months: dict[str, int] = {}
    for day, cents in tables["fees"]:
        months[str(day)[:7]] = months.get(str(day)[:7], 0) + int(str(cents))
    total = 0
    rows: list[list[object]] = []
    for month, cents in sorted(months.items()):
        total += cents
        rows.append([month, cents, total])
    return rows
