"""Carts, and what they cost."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_GOODS = ("tea", "bread", "soap", "lamp", "rope", "ink", "salt", "chalk")


def separate(rng: random.Random, /) -> Sequence[Case]:
    """Return a case with several carts in one run, all of them cheap and with exact prices."""
    carts = [[(good, rng.randint(1, 3), 100 * rng.randint(1, 9)) for good in _some(rng, 3)] for _ in range(4)]
    return [_case(carts)]


def thresholds(rng: random.Random, /) -> Sequence[Case]:
    """Return a case with carts of just below, exactly, and above the sum that earns a discount."""
    carts = [[(rng.choice(_GOODS), 1, 10_000 + 100 * step)] for step in (-1, 0, 1, rng.randint(2, 50))]
    return [_run_alone(cart) for cart in carts]


def cents(rng: random.Random, /) -> Sequence[Case]:
    """Return carts whose prices cannot be added as binary fractions and then cut to cents."""
    prices = [[("salt", 1, 29)], [("soap", 1, 115)], [("lamp", 1, 10_005 + 100 * rng.randint(1, 99))]]
    prices += [[(good, rng.randint(1, 9), rng.randint(1, 999)) for good in _some(rng, 5)] for _ in range(3)]
    return [_run_alone(cart) for cart in prices]


def _some(rng: random.Random, number: int) -> list[str]:
    return rng.sample(_GOODS, number)


def _run_alone(cart: list[tuple[str, int, int]]) -> Case:
    return _case([cart])


def _case(carts: list[list[tuple[str, int, int]]]) -> Case:
    lines: list[str] = []
    totals: list[str] = []
    for cart in carts:
        lines += [f"{good} {pieces} {price // 100}.{price % 100:02}" for good, pieces, price in cart] + ["done"]
        total = sum(pieces * price for _, pieces, price in cart)
        due = (total * 9 + 5) // 10 if total >= 10_000 else total
        totals.append(f"{len(cart)} items: {due // 100}.{due % 100:02}")
    return Case(Match("\n".join(totals)), stdin="".join(f"{line}\n" for line in lines).encode())
