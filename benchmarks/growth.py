"""Whether something that was looked at again and again grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_MIB: Final = 1 << 20
# What an allocator and a page cache may do without anything being wrong.
_TOLERATED_SHARE: Final = 0.02
_SIGNIFICANT: Final = 2.0  # standard errors


@dataclass(frozen=True, slots=True)
class Growth:
    """A straight line through bytes over steps, and the means of the first and the second half."""

    slope_per_1000_steps: float
    slope_error: float
    first_half: float
    second_half: float
    peak: float

    @property
    def is_flat(self) -> bool:
        """Whether it does not grow: the line does not rise beyond its error, or the halves hardly differ."""
        tolerated = max(_MIB, _TOLERATED_SHARE * self.first_half)
        rises = self.slope_per_1000_steps > _SIGNIFICANT * self.slope_error
        return not (rises and self.second_half - self.first_half > tolerated)

    def as_json(self) -> dict[str, Any]:
        """Return it in KiB, as it stands in the file."""
        return {
            "slope_kib_per_1000_steps": round(self.slope_per_1000_steps / 1024, 3),
            "slope_error_kib": round(self.slope_error / 1024, 3),
            "first_half_kib": round(self.first_half / 1024),
            "second_half_kib": round(self.second_half / 1024),
            "peak_kib": round(self.peak / 1024),
            "flat": self.is_flat,
        }


def growth(steps: Sequence[float], values: Sequence[float]) -> Growth:
    """Fit the line. Needs three looks or more."""
    x = np.asarray(steps, dtype=np.float64) / 1000
    y = np.asarray(values, dtype=np.float64)
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum()) / spread
    residual = y - y.mean() - slope * centred
    error = float(np.sqrt((residual**2).sum() / (len(x) - 2) / spread))
    half = len(y) // 2
    return Growth(slope, error, float(y[:half].mean()), float(y[half:].mean()), float(y.max()))
