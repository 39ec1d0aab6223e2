"""Records in JSON, one per line, and the table that they make."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_TEXTS = ("tea", "a, b", 'say "hi"', "two\nlines", "", "caf\u00e9")


def flat(rng: random.Random, /) -> Sequence[Case]:
    """Return records that all have the same names and plain values."""
    return [_case([{"id": number, "name": rng.choice(("x", "y")), "n": rng.randint(1, 99)} for number in range(6)])]


def nested(rng: random.Random, /) -> Sequence[Case]:
    """Return records with objects and lists in them."""
    records: list[dict[str, object]] = [
        {
            "id": number,
            "user": {"name": f"n{rng.randint(1, 99)}", "home": {"city": rng.choice(("Bern", "Oslo"))}},
            "tags": [rng.choice(("a", "b", "c")) for _ in range(2)],
        }
        for number in range(5)
    ]
    return [_case(records)]


def uneven(rng: random.Random, /) -> Sequence[Case]:
    """Return records that lack names of others, and values of every kind."""
    values: list[object] = [True, False, None, 1.5, -3, *_TEXTS]
    records: list[dict[str, object]] = []
    for number in range(8):
        record: dict[str, object] = {f"c{name}": rng.choice(values) for name in rng.sample(range(6), 3)}
        records.append({"id": number, **record, "list": [{"k": rng.choice(values)}] * rng.randint(0, 2)})
    return [_case(records)]


def _case(records: Sequence[dict[str, object]]) -> Case:
    rows = [_flat(record) for record in records]
    names = sorted({name for row in rows for name in row})
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    given = "".join(json.dumps(record) + "\n" for record in records)
    return Case(Match(text.getvalue(), "exact"), stdin=given.encode())


def _flat(value: object, name: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {name: value if isinstance(value, str) else "" if value is None else json.dumps(value)}
    return {key: cell for inner, child in items for key, cell in _flat(child, f"{name}.{inner}".strip(".")).items()}
