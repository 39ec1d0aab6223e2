"""The statistics of the reports: intervals of rates, and tests of paired outcomes. No I/O, nothing but arithmetic."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Z_95", "mcnemar_exact", "wilson"]

Z_95: Final = 1.959963984540054
"""The 0.975 quantile of the normal distribution, for intervals that hold in 95 of 100 cases."""


def wilson(successes: int, trials: int, *, z: float = Z_95) -> tuple[float, float]:
    """Return the score interval of a rate: lower and upper bound, in [0, 1]; (0, 1) without trials.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927), 209-212; without correction for continuity.

    Raises:
        ValueError: There are more successes than trials, or fewer than none.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is no rate")
    if trials == 0:
        return 0.0, 1.0
    rate, weight = successes / trials, z * z / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials))
    # The bounds are exactly 0 and 1 at the ends, where floats may miss them.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return how likely chance alone splits the pairs that differ at least so unevenly: a two-sided p value.

    The exact form of Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947), 153-157: pairs that differ fall to either side with probability 1/2, so the
    smaller count is binomial; the two-sided value is twice its lower tail, at most 1.

    Raises:
        ValueError: A count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"{min(only_first, only_second)} is no count of pairs")
    pairs, least = only_first + only_second, min(only_first, only_second)
    tail = ways = 1
    for count in range(least):
        ways = ways * (pairs - count) // (count + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << pairs))
