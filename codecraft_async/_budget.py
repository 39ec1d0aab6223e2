"""What an episode may use in all: wall time and CPU time."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Literal

from codecraft_pool import CommandResult

_LEAST_S = 0.001
"""The guest counts in milliseconds, and takes 0 for no limit."""


class Budget:
    """Counts down what an episode may use.

    Wall time runs from when this is made, also while the agent thinks: it is how long the sandbox is held. CPU time is
    the sum of what the commands used.
    """

    def __init__(self, wall_s: float | None, cpu_s: float | None, *, clock: Callable[[], float] = monotonic) -> None:
        self.wall_s = wall_s
        self.cpu_s = cpu_s
        self._clock = clock
        self._ends = None if wall_s is None else clock() + wall_s
        self._cpu_left_s = cpu_s

    def spent(self) -> Literal["", "wall_budget", "cpu_budget"]:
        """Return which of the two is used up, or an empty text."""
        if self._ends is not None and self._clock() >= self._ends:
            return "wall_budget"
        if self._cpu_left_s is not None and self._cpu_left_s <= 0:
            return "cpu_budget"
        return ""

    def command_limit_s(self, limit_s: float) -> float:
        """Return *limit_s*, or what is left of the wall time if that is less."""
        return limit_s if self._ends is None else max(_LEAST_S, min(limit_s, self._ends - self._clock()))

    def cpu_limit_s(self) -> float | None:
        """Return what is left of the CPU time; None: there is no end to it."""
        return None if self._cpu_left_s is None else max(_LEAST_S, self._cpu_left_s)

    def charge(self, result: CommandResult) -> None:
        """Count what a command used. One that was killed for its CPU time has used all of it, whatever was measured."""
        if self._cpu_left_s is not None:
            used_s = result.user_s + result.system_s
            self._cpu_left_s = 0.0 if result.cpu_limited else self._cpu_left_s - used_s

    def say(self, which: str) -> str:
        """Return what is told of a budget that is used up."""
        if which == "wall_budget":
            return f"[the episode's wall time of {self.wall_s:g} s is used up]"
        return f"[the episode's CPU time of {self.cpu_s:g} s is used up]"


__all__ = ["Budget"]
