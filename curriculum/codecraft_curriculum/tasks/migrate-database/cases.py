"""Databases of an address book, and what is in them after they were changed to a new form."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_NAMES = ("Ann Lee", "Bo", "Cem van Dam", "Dora Q. Field", "Eve Li")


def people(rng: random.Random, /) -> Sequence[Case]:
    """Return the new table of people, with their names in two parts."""
    rows = _rows(rng)
    kept = [[number, *_split(name)] for number, name, _, _ in rows]
    return [_case("people", rows, kept)]


def addresses(rng: random.Random, /) -> Sequence[Case]:
    """Return the new table of mail addresses, one row for each."""
    rows = _rows(rng)
    found = [[number, mail.strip().lower()] for number, _, mails, _ in rows for mail in str(mails or "").split(";")]
    unique = sorted({(int(str(number)), mail) for number, mail in found if mail})
    return [_case("addresses", rows, [list(row) for row in unique])]


def calls(rng: random.Random, /) -> Sequence[Case]:
    """Return the calls, of which those of nobody are gone, and the version of the form."""
    rows = _rows(rng)
    made = [[rng.choice([*(row[0] for row in rows), 99]), rng.randint(1, 3_600)] for _ in range(8)]
    kept = sorted([row for row in made if row[0] != 99], key=lambda row: (int(str(row[0])), int(str(row[1]))))
    return [_case("calls", rows, [*kept, ["version", 2]], made)]


def _rows(rng: random.Random) -> list[list[object]]:
    numbers = sorted(rng.sample(range(1, 90), 5))
    mails = [
        None,
        "",
        f"a{rng.randint(1, 99)}@example.org",
        "B@example.org; b2@Example.org ;b@example.org",
        " c@x.example;",
    ]
    rng.shuffle(mails)
    names = rng.sample(_NAMES, 5)
    return [[number, names[place], mails[place], rng.choice([None, "x"])] for place, number in enumerate(numbers)]


def _split(name: object) -> list[object]:
    first, _, last = str(name).rpartition(" ")
    return [first or None, last]


def _case(
    what: str, rows: list[list[object]], expected: list[list[object]], made: list[list[object]] | None = None
) -> Case:
    given = json.dumps({"contacts": rows, "calls": made or []})
    return Case(Match("\n".join(json.dumps(row) for row in expected)), arguments=(what,), stdin=given.encode())
