"""Where each environment of a vector environment stands; plain state, no I/O.

A vector environment asks this what to do, does it in one `Round`, and has the outcome taken in here, so that the
state is right however the round ended: well, with failures, or cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from codecraft_async._vector_info import Entry
from codecraft_async._vector_round import Round

__all__ = ["Episodes", "Flaw", "Taken"]

# Stands for the observation of an environment that was never reset.
_UNSEEN = object()


class Flaw(Enum):
    """Why an environment cannot be stepped before it is reset."""

    NEVER_RESET = "never reset"
    CUT_OFF = "cut off by a cancellation"
    FAILED = "failed"
    ENDED = "ended by a step of its own, and autoreset is for steps of all"


@dataclass(frozen=True, slots=True)
class Taken:
    """One step's rewards (float64), flags (bool) and infos; each array of shape (num_envs,), new for each step.

    `ended`: the environments whose episodes this step ended, and whose next step is to be a reset.
    """

    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    infos: list[Entry]
    ended: list[int]


class Episodes:
    """The last observation of each environment, whether its episode is over, and what is wrong with it, if anything."""

    def __init__(self, num_envs: int, mode: AutoresetMode) -> None:
        self.observations: list[Any] = [_UNSEEN] * num_envs
        self.over: list[bool] = [False] * num_envs
        self.flaws: dict[int, Flaw] = dict.fromkeys(range(num_envs), Flaw.NEVER_RESET)
        self._num_envs = num_envs
        self._mode = mode

    @property
    def interrupted(self) -> NDArray[np.bool_]:
        """Which environments were cut off or failed since their last reset, shape (num_envs,)."""
        mask = np.zeros(self._num_envs, dtype=np.bool_)
        mask[[index for index, flaw in self.flaws.items() if flaw in (Flaw.CUT_OFF, Flaw.FAILED)]] = True
        return mask

    def check_step(self) -> None:
        """Raise if a step of all environments makes no sense.

        Raises:
            ResetNeeded: an environment was never reset, was cut off, or failed.
            AssertionError: an episode is over, and autoreset is disabled.
        """
        if self.flaws:
            state = ", ".join(f"env {index} ({flaw.value})" for index, flaw in sorted(self.flaws.items())[:8])
            raise ResetNeeded(
                f"{len(self.flaws)} of {self._num_envs} environments need a reset before the next step: {state}"
                f"{', ...' if len(self.flaws) > 8 else ''}; reset all, or these by options['reset_mask']"
            )
        if self._mode is AutoresetMode.DISABLED and any(self.over):
            ended = [index for index, over in enumerate(self.over) if over]
            raise AssertionError(
                f"the episodes of envs {ended} are over and autoreset_mode is DISABLED: reset them before the next "
                "step with options={'reset_mask': terminated | truncated}"
            )

    def check_own_step(self, index: int) -> None:
        """Raise if a step of one environment alone makes no sense.

        Raises:
            ResetNeeded: it was never reset, was cut off, or failed, or its episode is over.
        """
        flaw = self.flaws.get(index)
        if flaw is not None or self.over[index]:
            state = "its episode is over" if flaw in (None, Flaw.ENDED) else flaw.value
            raise ResetNeeded(f"env {index} needs a reset before its next step: {state}")

    def check_reset(self, rows: Sequence[int]) -> None:
        """Raise if a reset of `rows` leaves an environment without an observation to return.

        Raises:
            ResetNeeded: an environment not in `rows` was never reset.
        """
        chosen = set(rows)
        left_out = [row for row, last in enumerate(self.observations) if last is _UNSEEN and row not in chosen]
        if left_out:
            raise ResetNeeded(
                f"envs {left_out[:8]} were never reset, so a masked reset has no observation to return for "
                "them: reset all environments first"
            )

    def keep_observations(self, rows: Sequence[int]) -> None:
        """Make the last observations of `rows` outlive what their environments do next."""
        for row in rows:
            self.observations[row] = deepcopy(self.observations[row])

    def take_resets(self, outcome: Round) -> list[Entry]:
        """Take in a round of resets; the infos of the environments that were reset, in order."""
        infos: list[Entry] = []
        for index in sorted(outcome.results):
            try:
                observation, info = outcome.results[index]
                infos.append((index, _checked(info)))
            except Exception as error:
                outcome.failures[index] = error
            else:
                self.observations[index] = observation
                self.over[index] = False
                self.flaws.pop(index, None)
        self._take_flaws(outcome)
        return infos

    def take_steps(self, outcome: Round) -> Taken:
        """Take in a round of steps, where those whose episodes were over are resets."""
        taken = Taken(
            np.zeros(self._num_envs, dtype=np.float64),
            np.zeros(self._num_envs, dtype=np.bool_),
            np.zeros(self._num_envs, dtype=np.bool_),
            [],
            [],
        )
        for index in range(self._num_envs):
            if index in outcome.results:
                try:
                    self._take_step(index, outcome.results[index], taken)
                except Exception as error:
                    outcome.failures[index] = error
        self._take_flaws(outcome)
        return taken

    def _take_step(self, index: int, result: Any, taken: Taken) -> None:
        over = False
        if self._mode is AutoresetMode.NEXT_STEP and self.over[index]:
            observation, info = result
        else:
            final = None
            if self._mode is AutoresetMode.SAME_STEP:
                *result, final = result
            observation, reward, terminated, truncated, info = result
            taken.rewards[index] = reward
            taken.terminations[index] = terminated
            taken.truncations[index] = truncated
            if final is not None:
                final_observation, final_info = final
                ending = {"final_obs": final_observation, "final_info": _checked(final_info)}
                taken.infos.append((index, ending))
            over = bool(terminated or truncated)
        taken.infos.append((index, _checked(info)))
        self.observations[index] = observation
        self.over[index] = over
        if over and self._mode is AutoresetMode.NEXT_STEP:
            taken.ended.append(index)

    def take_own_step(self, index: int, outcome: Round) -> None:
        """Take in a step of one environment alone, which is not followed by any autoreset of its own."""
        if index in outcome.results:
            try:
                observation, _, terminated, truncated, info = outcome.results[index]
                _checked(info)
            except Exception as error:
                outcome.failures[index] = error
            else:
                # The step's caller has the observation itself, and may change it.
                self.observations[index] = deepcopy(observation)
                over = bool(terminated or truncated)
                self.over[index] = over and self._mode is not AutoresetMode.SAME_STEP
                if over and self._mode is AutoresetMode.SAME_STEP:
                    self.flaws[index] = Flaw.ENDED
        self._take_flaws(outcome)

    def _take_flaws(self, outcome: Round) -> None:
        self.flaws.update(dict.fromkeys(outcome.cut_off, Flaw.CUT_OFF))
        self.flaws.update(dict.fromkeys(outcome.failures, Flaw.FAILED))


def _checked(info: Any) -> dict[str, Any]:
    if not isinstance(info, dict):
        raise TypeError(f"an environment's info must be a dict, got {type(info).__name__}")
    return cast("dict[str, Any]", info)
