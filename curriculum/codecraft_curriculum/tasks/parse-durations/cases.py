"""Durations, and what they are in seconds."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def valid(rng: random.Random, /) -> Sequence[Case]:
    """Return one case of durations that are all well formed."""
    return [_case([_duration(rng) for _ in range(12)], rng)]


def mixed(rng: random.Random, /) -> Sequence[Case]:
    """Return one case in which most lines are malformed, each in a way of its own."""
    number = rng.randint(2, 99)
    wrong = [
        f"{number}s{number}m",
        f"{number}m{number + 1}m",
        f"{number}",
        f"{number}h {number}m",
        f"-{number}s",
        f"{number}.5h",
        f"{number}w",
        f"{number}H",
        f"h{number}",
        f"{number}h{number}",
        f"x{number}s",
        f"{number}sx",
    ]
    return [_case([(text, None) for text in wrong] + [_duration(rng) for _ in range(4)], rng)]


def _duration(rng: random.Random) -> tuple[str, int | None]:
    units = [unit for unit in _UNITS if rng.random() < 0.6] or ["m"]
    parts = [(rng.randint(0, 250), unit) for unit in units]
    return "".join(f"{number}{unit}" for number, unit in parts), sum(number * _UNITS[unit] for number, unit in parts)


def _case(lines: list[tuple[str, int | None]], rng: random.Random) -> Case:
    rng.shuffle(lines)
    words = ["invalid" if seconds is None else str(seconds) for _, seconds in lines]
    return Case(Match("\n".join(words)), stdin="".join(f"{text}\n" for text, _ in lines).encode())
