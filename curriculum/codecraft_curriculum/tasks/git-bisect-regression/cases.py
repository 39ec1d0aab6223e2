"""Goods with their prices, and the tax on each."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_RATES = {
    "books": 7,
    "bread": 7,
    "lamps": 19,
    "paint": 19,
    "tools": 19,
    "train": 7,
    "candles": 19,
    "pencils": 19,
    "ropes": 19,
    "soap": 19,
    "umbrellas": 19,
    "wool": 7,
}


def taxes(rng: random.Random, /) -> Sequence[Case]:
    """Return prices of which some have a tax of exactly half a cent too much."""
    given = [(rng.choice(list(_RATES)), cents) for cents in (50, 150, 250, 100 * rng.randint(3, 99) + 50)]
    given += [(goods, rng.randint(1, 99_999)) for goods in _RATES]
    lines = [str((cents * _RATES[goods] + 50) // 100) for goods, cents in given]
    return [Case(Match("\n".join(lines)), stdin="".join(f"{goods} {cents}\n" for goods, cents in given).encode())]
