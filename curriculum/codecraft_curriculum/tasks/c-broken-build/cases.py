"""Numbers, and what a small C program says about them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match


def numbers(rng: random.Random, /) -> Sequence[Case]:
    """Return a list of numbers; the program prints them from the last to the first, their mean square, and a label."""
    given = [rng.randint(-999, 999) for _ in range(rng.randint(3, 40))]
    root = math.sqrt(math.fsum(number * number for number in given) / len(given))
    lines = [*map(str, reversed(given)), f"rms {root:.3f}", f"[{len(given)} NUMBERS]"]
    return [Case(Match("\n".join(lines), "numbers", tolerance=1e-3), stdin=" ".join(map(str, given)).encode())]
