"""How much is asked of a container daemon at once: limits that find their own width.

A daemon makes so many containers a second and no more; what is asked beyond that waits inside of it and makes each call
slower. So each lane knows what a call takes when hardly another is under way, and compares: with more under way, the
excess over that tells how many of them only wait in the daemon. While these are few, the lane widens by one after each
round of calls; when they are many, it narrows by a fifth, and an error of the daemon's halves it. Now and then a few
calls are let through at the lowest width, to measure again what one takes. TCP's Vegas and BBR work this way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

# So many calls may wait inside of the daemon: fewer would leave it idle between two answers, more only makes each slow.
_FEW_WAITING: Final = 1.5
_MANY_WAITING: Final = 4.0
_NARROWER: Final = 0.8
_HALF: Final = 0.5
# After so many rounds the lane measures again, with so many calls, of which a new one counts for so much.
_ROUNDS: Final = 24
_MEASURED_CALLS: Final = 4
_NEW_SHARE: Final = 0.25


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between which widths a lane stays, and with which it begins."""

    lowest: int
    first: int
    highest: int

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.first <= self.highest:
            raise ValueError(f"a lane's bounds must be 1 <= lowest <= first <= highest, not {self}")


@dataclass(frozen=True, slots=True)
class LaneStats:
    """A lane at one moment: its width, calls under way and waiting, the last window's mean seconds per call, errors."""

    width: int
    busy: int
    waiting: int
    call_s: float
    errors: int


class Width:
    """The width of a lane; knows neither a clock nor an event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._width = float(bounds.first)
        self._alone_s: float | None = None
        self._to_measure = _MEASURED_CALLS
        self._rounds = 0
        self._took_s: list[float] = []
        self._busy: list[int] = []
        self._was_full = False
        self.call_s = 0.0

    @property
    def width(self) -> int:
        """Return how many calls may be under way."""
        return self._bounds.lowest if self._to_measure else int(self._width)

    def ended(self, took_s: float, *, busy: int, was_full: bool) -> None:
        """One call has ended well; *busy* with it were under way, and the lane *was_full* or not."""
        if busy <= self._bounds.lowest:
            known = took_s if self._alone_s is None else self._alone_s
            self._alone_s = known + (took_s - known) * _NEW_SHARE
            self._to_measure = max(0, self._to_measure - 1)
        elif self._to_measure:
            return  # begun before the lane was narrowed to measure
        self._took_s.append(took_s)
        self._busy.append(busy)
        self._was_full |= was_full
        if len(self._took_s) >= self.width:
            self._look()

    def failed(self) -> None:
        """The daemon did not answer, or said that it failed."""
        self._move(self._width * _HALF)
        self._forget()

    def _look(self) -> None:
        """A round is over."""
        self.call_s = sum(self._took_s) / len(self._took_s)
        busy = sum(self._busy) / len(self._busy)
        waiting = busy * (1 - min(1.0, (self._alone_s or self.call_s) / self.call_s)) if self.call_s > 0 else 0.0
        if waiting > _MANY_WAITING:
            self._move(self._width * _NARROWER)
        elif waiting < _FEW_WAITING and self._was_full and not self._to_measure:
            self._move(self._width + 1)  # a lane that was not full would have told nothing of a wider one
        self._rounds += self._was_full
        if self._rounds >= _ROUNDS:
            self._rounds, self._to_measure = 0, _MEASURED_CALLS
        self._forget()

    def _move(self, width: float) -> None:
        self._width = min(max(width, float(self._bounds.lowest)), float(self._bounds.highest))

    def _forget(self) -> None:
        self._took_s.clear()
        self._busy.clear()
        self._was_full = False


class AdaptiveLane:
    """Places for calls, given in the order of asking; as many as the width says."""

    def __init__(self, bounds: Bounds) -> None:
        self._width = Width(bounds)
        self._busy = 0
        self._errors = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def width(self) -> int:
        """Return how many calls may be under way."""
        return self._width.width

    def stats(self) -> LaneStats:
        """Return the lane's state."""
        return LaneStats(self.width, self._busy, len(self._queue), self._width.call_s, self._errors)

    async def enter(self) -> int:
        """Take a place, which `leave` gives back, and return how many are taken. Cancellation leaves none taken."""
        if self._busy < self.width and not self._queue:
            self._busy += 1
            return self._busy
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._free()
            else:
                with suppress(ValueError):  # dropped by who went before, in this very moment
                    self._queue.remove(place)
            raise
        return self._busy

    def leave(self, busy: int, took_s: float | None, *, failed: bool = False) -> None:
        """Give a place back; *busy* is what `enter` returned. *took_s* is None for a call whose time says nothing
        (refused, cancelled)."""
        if failed:
            self._errors += 1
            self._width.failed()
        elif took_s is not None:
            self._width.ended(
                took_s, busy=max(busy, self._busy), was_full=bool(self._queue) or self._busy >= self.width
            )
        self._free()

    def _free(self) -> None:
        self._busy -= 1
        while self._queue and self._busy < self.width:
            place = self._queue.popleft()
            if not place.done():
                self._busy += 1
                place.set_result(None)
