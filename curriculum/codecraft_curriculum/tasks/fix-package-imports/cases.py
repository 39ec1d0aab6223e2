"""Parcels, and what sending them costs."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_ZONES = {"home": (300, 50), "near": (550, 80), "far": (1200, 210)}


def parcels(rng: random.Random, /) -> Sequence[Case]:
    """Return two lists of parcels, with the price of each and the sum."""
    return [_case(_some(rng)) for _ in range(2)]


def labels(rng: random.Random, /) -> Sequence[Case]:
    """Return parcels for the functions of the package, called by name."""
    given = _some(rng)
    lines = [f"{zone.upper()}-{grams}g {_price(zone, grams)}" for zone, grams in given]
    return [Case(Match("\n".join(lines)), stdin="".join(f"{zone} {grams}\n" for zone, grams in given).encode())]


def _some(rng: random.Random) -> list[tuple[str, int]]:
    """Return parcels, of which some weigh exactly as much as a price is for."""
    weights = [500 * rng.randint(1, 9) + more for more in (0, 0, 1, -1)] + [rng.randint(1, 20_000) for _ in range(4)]
    return [(rng.choice(list(_ZONES)), grams) for grams in weights]


def _case(given: list[tuple[str, int]]) -> Case:
    prices = [_price(zone, grams) for zone, grams in given]
    lines = [f"{zone.upper()}-{grams}g {price}" for (zone, grams), price in zip(given, prices, strict=True)]
    stdin = "".join(f"{zone} {grams}\n" for zone, grams in given)
    return Case(Match("\n".join([*lines, f"total {sum(prices)}"])), stdin=stdin.encode())


def _price(zone: str, grams: int) -> int:
    base, step = _ZONES[zone]
    return base + step * ((grams + 499) // 500)
