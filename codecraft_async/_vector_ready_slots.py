"""Where each environment of a vector environment stands between `send` and `recv`; plain state, no I/O.

An environment has at most one call outstanding, so neither what is in flight nor what is ready can outgrow the number
of environments. Results are delivered in the order in which they arrived. A failure has its place in that order: what
arrived before it is delivered before it, if that is enough, and nothing that arrived after it is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, cast

from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError
from gymnasium.vector import AutoresetMode

from codecraft_async._vector_episodes import Flaw
from codecraft_async._vector_ready_asked import listed

__all__ = ["Landing", "Phase", "Slots"]


class Phase(Enum):
    """Where an environment stands; whether its episode is over, or it needs a reset, is another matter."""

    AT_REST = "at rest"
    IN_FLIGHT = "in flight"
    READY = "ready"
    BRANCHING = "in a branch"


NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.AT_REST: frozenset({Phase.IN_FLIGHT, Phase.BRANCHING}),
    Phase.IN_FLIGHT: frozenset({Phase.READY}),
    Phase.READY: frozenset({Phase.AT_REST}),
    Phase.BRANCHING: frozenset({Phase.AT_REST}),
}


@dataclass(frozen=True, slots=True, eq=False)
class Landing:
    """How environment `row`'s reset or step (`label`) ended: with an `error` and a flaw, or with everything else.

    `infos` are to be merged in this order; `over` is whether the next step needs a reset first.
    """

    row: int
    label: str
    observation: Any = None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    over: bool = False
    infos: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None
    flaw: Flaw | None = None

    @classmethod
    def of_reset(cls, row: int, label: str, result: Any) -> Landing:
        """What a reset returned, as a step's outcome: reward 0, no flags."""
        observation, info = result
        return cls(row, label, observation, infos=[_checked(info)])

    @classmethod
    def of_step(cls, row: int, mode: AutoresetMode, result: Any) -> Landing:
        """What a step returned; in SAME_STEP with a sixth item, the observation and info that ended an episode."""
        infos: list[dict[str, Any]] = []
        final = None
        if mode is AutoresetMode.SAME_STEP:
            *result, final = result
        observation, reward, terminated, truncated, info = result
        if final is not None:
            infos.append({"final_obs": final[0], "final_info": _checked(final[1])})
        infos.append(_checked(info))
        ended = bool(terminated), bool(truncated)
        over = any(ended) and final is None
        return cls(row, "step", observation, float(reward), *ended, over, infos)

    @classmethod
    def of_failure(cls, row: int, label: str, error: BaseException) -> Landing:
        """A call that raised `error`, which is noted to be this environment's."""
        error.add_note(f"raised by env {row} in {label}")
        return cls(row, label, error=error, flaw=Flaw.FAILED)


class Slots:
    """The phase of every environment, and the queue of what is ready."""

    def __init__(self, num_envs: int) -> None:
        self._phases = [Phase.AT_REST] * num_envs
        self._ready: deque[Landing] = deque()
        self._failures = 0
        self._outstanding = 0
        self._busy = 0

    @property
    def outstanding(self) -> int:
        """How many results are still to be delivered, ready or not."""
        return self._outstanding

    @property
    def ready(self) -> int:
        """How many of them are."""
        return len(self._ready)

    def at_rest(self, row: int) -> bool:
        """Whether the environment has nothing to do and nothing to deliver."""
        return self._phases[row] is Phase.AT_REST

    def check_at_rest(self, rows: Iterable[int], name: str) -> None:
        """Raise if one of `rows` has a call outstanding already.

        Raises:
            AlreadyPendingCallError: says which, where it stands, and what to do.
        """
        if not self._busy:
            return
        busy = [row for row in rows if self._phases[row] is not Phase.AT_REST]
        if busy:
            state = listed([f"env {row} ({self._phases[row].value})" for row in busy])
            raise AlreadyPendingCallError(
                f"`{name}` needs environments at rest, but {state}: each has one call at a time, and the next may "
                "begin when `recv` has delivered the result of the last, or `branch` has returned",
                name,
            )

    def depart(self, rows: Iterable[int]) -> None:
        """Note that calls of `rows` are on their way."""
        for row in rows:
            self._move(row, Phase.IN_FLIGHT)
            self._outstanding += 1

    def land(self, landing: Landing) -> None:
        """Note that a call has ended; its result waits in line."""
        self._move(landing.row, Phase.READY)
        self._ready.append(landing)
        self._failures += landing.error is not None

    def begin_branch(self, rows: Iterable[int]) -> None:
        """Note that `rows` take part in a branch."""
        for row in rows:
            self._move(row, Phase.BRANCHING)

    def end_branch(self, rows: Iterable[int]) -> None:
        """Note that the branch of `rows` is done."""
        for row in rows:
            self._move(row, Phase.AT_REST)

    def check_receivable(self, least: int, most: int, *, sent: int = 0) -> None:
        """Raise if `least` results can never come, even if so many more calls are `sent`.

        Raises:
            NoAsyncCallError: fewer are outstanding.
        """
        can_come = self._outstanding + sent
        if can_come < least:
            wanted = f"{least} results" if least == most else f"at least {least} results"
            raise NoAsyncCallError(
                f"`recv` asks for {wanted}, but {can_come or 'none'} can come, in flight or ready: `send` "
                "actions to more environments (`async_reset` those that need it), or ask for less by batch_size or "
                "min_get",
                "recv",
            )

    def enough(self, least: int) -> bool:
        """Whether `offer` has something to give."""
        return self._failures > 0 or len(self._ready) >= least

    def offer(self, least: int, most: int) -> list[Landing]:
        """What a `recv` gets now: `least` to `most` results in order of arrival, or one failure, or nothing yet.

        It stays here until `deliver`.
        """
        results: list[Landing] = []
        for landing in self._ready:
            if landing.error is not None:
                return results if len(results) >= least else [landing]
            results.append(landing)
            if len(results) == most:
                break
        return results if len(results) >= least else []

    def deliver(self, landings: Iterable[Landing]) -> None:
        """Let go of what `recv` gives."""
        for landing in landings:
            # The first in line, except for a failure that results before it do not make up for.
            self._ready.remove(landing)
            self._move(landing.row, Phase.AT_REST)
            self._outstanding -= 1
            self._failures -= landing.error is not None

    def replace(self, landing: Landing, by: Landing) -> None:
        """Put `by`, a failure, in the place of a result of the same environment."""
        self._ready[self._ready.index(landing)] = by
        self._failures += 1

    def _move(self, row: int, phase: Phase) -> None:
        if phase not in NEXT[self._phases[row]]:
            raise AssertionError(f"env {row} is {self._phases[row].value} and cannot become {phase.value}")
        self._busy += (phase is not Phase.AT_REST) - (self._phases[row] is not Phase.AT_REST)
        self._phases[row] = phase


def _checked(info: Any) -> dict[str, Any]:
    if not isinstance(info, dict):
        raise TypeError(f"an environment's info must be a dict, got {type(info).__name__}")
    return cast("dict[str, Any]", info)
