"""Measurements, and what a package makes of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match


def means(rng: random.Random, /) -> Sequence[Case]:
    """Return lists of numbers, and the mean of each without its extremes."""
    return [_case([f"{_mean(numbers):.3f}" for numbers in lists], lists) for lists in [_lists(rng)]]


def old_name(rng: random.Random, /) -> Sequence[Case]:
    """Return the same for the old name, whose use warns once for each call, at the line of the caller."""
    lists = _lists(rng)
    warning = "DeprecationWarning caller calc is deprecated: use trimmed_mean"
    return [_case([f"{_mean(numbers):.3f} {warning}" for numbers in lists], lists)]


def reports(rng: random.Random, /) -> Sequence[Case]:
    """Return what the program of the package prints: mean and spread of each list, and the best list."""
    lists = _lists(rng)
    lines = [
        f"{number} mean {_mean(numbers):.3f} spread {_spread(numbers):.3f}" for number, numbers in enumerate(lists)
    ]
    best = max(range(len(lists)), key=lambda number: (_mean(lists[number]), -number))
    return [_case([*lines, f"best {best}"], lists)]


def _case(lines: list[str], lists: list[list[int]]) -> Case:
    given = "".join(" ".join(map(str, numbers)) + "\n" for numbers in lists)
    return Case(Match("\n".join(lines)), stdin=given.encode())


def _lists(rng: random.Random) -> list[list[int]]:
    return [[rng.randint(-99, 999) for _ in range(rng.randint(3, 8))] for _ in range(4)]


def _mean(numbers: list[int]) -> float:
    inner = sorted(numbers)[1:-1]
    return sum(inner) / len(inner)


def _spread(numbers: list[int]) -> float:
    mean = _mean(numbers)
    return max(abs(number - mean) for number in numbers)
