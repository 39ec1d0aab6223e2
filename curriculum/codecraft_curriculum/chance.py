"""Chance for samplers: of the caller's generator, or of one of the sampler's own that can be saved as JSON."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, SupportsIndex, cast

__all__ = ["Chance", "RandomSource", "draw_weighted"]

_FINE = 1 << 53  # as many steps as a float has between 0.5 and 1


class RandomSource(Protocol):
    """The part of ``numpy.random.Generator`` that samplers use."""

    def integers(self, low: int, /) -> SupportsIndex:
        """Return a whole number from 0 to below `low`."""
        ...


class Chance:
    """A seeded `RandomSource` of its own, whose state is plain data."""

    __slots__ = ("_random",)

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integers(self, low: int, /) -> int:
        """Return a whole number from 0 to below `low`."""
        return self._random.randrange(low)

    def copy(self) -> Chance:
        """Return one that will draw the same, and leaves this one as it is."""
        other = Chance(0)
        other._random.setstate(self._random.getstate())
        return other

    def state(self) -> list[object]:
        """Return what JSON can hold of the state."""
        version, words, gauss = self._random.getstate()
        return [version, list(words), gauss]

    def load(self, state: object) -> None:
        """Go on where a state was taken.

        Raises:
            ValueError: it is none.
        """
        try:
            version, words, gauss = cast(tuple[int, list[int], float | None], state)
            self._random.setstate((version, tuple(words), gauss))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no state of a generator: {error}") from None


def draw_weighted(weights: Sequence[float], rng: RandomSource) -> int:
    """Return an index, drawn with probabilities that are as the weights, of which one must be above 0."""
    sums = list(accumulate(weights))
    point = int(rng.integers(_FINE)) / _FINE * sums[-1]
    return next(index for index, total in enumerate(sums) if point < total)
