"""Case sources that come with the package: task files name them in a check of type ``program``."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.matching import Match
from codecraft_curriculum.program import Case, CaseSource

__all__ = ["BUILTIN_CASE_SOURCES", "square_root_arguments", "square_root_lines"]

_LINES = 12


def square_root_lines(rng: random.Random, /) -> Sequence[Case]:
    """Return two cases: numbers on standard input, and the square root of each, or ``ValueError`` if it has none."""
    return [_square_root_case(_numbers(rng)) for _ in range(2)]


def square_root_arguments(rng: random.Random, /) -> Sequence[Case]:
    """Return two cases: one number as the argument, and the line ``square root of x is y`` with six decimals."""
    cases: list[Case] = []
    for _ in range(2):
        number = rng.randint(2, 99_999) / rng.choice([1, 2, 4, 8])
        line = f"square root of {number!r} is {math.sqrt(number):.6f}"
        cases.append(Case(Match(line, "stripped"), arguments=(repr(number),)))
    return cases


def _numbers(rng: random.Random) -> list[float]:
    """Return magnitudes from 1e-12 to 1e12, zero, and one negative number, shuffled."""
    numbers = [math.ldexp(1.0 + rng.random(), rng.randint(-40, 40)) for _ in range(_LINES)]
    numbers += [0.0, float(rng.randint(2, 999)) ** 2, -1.0 - rng.randint(0, 999) / 8]
    rng.shuffle(numbers)
    return numbers


def _square_root_case(numbers: list[float]) -> Case:
    words = ["ValueError" if number < 0 else repr(math.sqrt(number)) for number in numbers]
    given = "".join(f"{number!r}\n" for number in numbers)
    return Case(Match("\n".join(words), "numbers", tolerance=1e-8), stdin=given.encode())


BUILTIN_CASE_SOURCES: Mapping[str, CaseSource] = FrozenMapping(
    {"square-root-lines": square_root_lines, "square-root-arguments": square_root_arguments}
)
"""The names that task files may use without the caller's passing `case_sources`."""
