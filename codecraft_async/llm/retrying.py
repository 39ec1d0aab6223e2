"""Whether and when another attempt is made. No I/O, no clock."""

from __future__ import annotations

import random
from dataclasses import dataclass

from codecraft_async.llm.errors import EndpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Up to `max_attempts` attempts, with waits that double from `first_wait_s` to `max_wait_s`, each drawn from its
    upper half, so that calls which failed together do not come back together. An endpoint that says how long to wait is
    obeyed."""

    max_attempts: int = 6
    first_wait_s: float = 0.5
    max_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; it must be at least 1")
        if not 0.0 <= self.first_wait_s <= self.max_wait_s:
            raise ValueError("first_wait_s must be at least 0 and at most max_wait_s")

    def wait_s(self, attempt: int, error: EndpointError, rng: random.Random) -> float | None:
        """Return how long to wait after the *attempt*-th attempt (from 1) ended with *error*; None: give up."""
        if not error.is_retried or attempt >= self.max_attempts:
            return None
        # The exponent is bounded: a float has room for no more.
        most_s = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 60))
        drawn_s = rng.uniform(most_s / 2, most_s)
        if error.retry_after_s is None:
            return drawn_s
        return error.retry_after_s + rng.uniform(0.0, self.first_wait_s)


__all__ = ["RetryPolicy"]
