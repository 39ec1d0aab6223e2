"""How alike two texts are, as InterCode measures it: TF-IDF over these two alone, and the cosine between them."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final

__all__ = ["similarity"]

_TOKEN: Final = re.compile(r"\b\w\w+\b")
_IN_ONE: Final = math.log(3 / 2) + 1  # of two texts; 1 if it is in both


def similarity(one: str, other: str) -> float:
    """Return the cosine of the texts' TF-IDF vectors, from 0 to 1: scikit-learn's `TfidfVectorizer`, by its defaults.

    Where neither has a word of two characters or more, they are equal or not.
    """
    counts = [Counter(_TOKEN.findall(text.lower())) for text in (one, other)]
    if not counts[0] and not counts[1]:
        return float(one == other)
    if one == other:
        return 1.0
    weights = [
        {token: count * (1.0 if token in other_counts else _IN_ONE) for token, count in own.items()}
        for own, other_counts in zip(counts, reversed(counts), strict=True)
    ]
    norms = [math.sqrt(sum(weight * weight for weight in each.values())) for each in weights]
    if not all(norms):
        return 0.0
    dot = sum(weight * weights[1].get(token, 0.0) for token, weight in weights[0].items())
    return min(1.0, dot / (norms[0] * norms[1]))
