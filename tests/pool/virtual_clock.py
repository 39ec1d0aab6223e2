"""A clock that tests move: time passes when they say so, and timers go off on the way."""

from __future__ import annotations

from collections.abc import Callable


class VirtualTimer:
    """A timer of a `VirtualClock`."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        """Have it not go off."""
        self.is_cancelled = True


class VirtualClock:
    """Tells the time that a test gave it. `timers_set` counts the timers that were ever set."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers_set = 0
        self._timers: list[VirtualTimer] = []

    def time(self) -> float:
        """Return the time."""
        return self.now

    def call_at(self, when: float, callback: Callable[[], None], /) -> VirtualTimer:
        """Have *callback* called once the time is *when*."""
        timer = VirtualTimer(when, callback)
        self._timers.append(timer)
        self.timers_set += 1
        return timer

    def pending(self) -> list[float]:
        """Return when the timers that are set will go off, as seconds from now."""
        return sorted(timer.when - self.now for timer in self._timers if not timer.is_cancelled)

    def advance(self, seconds: float) -> None:
        """Let time pass; every timer goes off at its own time."""
        end = self.now + seconds
        while True:
            self._timers = [timer for timer in self._timers if not timer.is_cancelled]
            first = min(self._timers, key=lambda timer: timer.when, default=None)
            if first is None or first.when > end:
                break
            self._timers.remove(first)
            self.now = max(self.now, first.when)
            first.callback()
        self.now = end
