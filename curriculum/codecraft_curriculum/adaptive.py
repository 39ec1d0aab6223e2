"""An adaptive curriculum: tasks that an agent sometimes solves, and those at which it changes, come more often."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import cast

from codecraft_curriculum.chance import RandomSource, draw_weighted
from codecraft_curriculum.curriculum import Curriculum
from codecraft_curriculum.errors import SamplerStateError
from codecraft_curriculum.samplers import Drawing

__all__ = ["AdaptiveSampler"]

_PRIOR_EPISODES = 2.0  # as if each task had been played twice, once with success: nothing is certain after one episode


class AdaptiveSampler(Drawing):
    """Draws tasks by what an agent has lately earned for them.

    Of the last `window` rewards of a task, with p their mean (as if two more, 0 and 1, were among them) and d the
    difference between the means of their later and their earlier half, the task's interest is ::

        4 p (1 - p) + |d|

    and its probability is ``explore / n + (1 - explore) * interest / sum of all interests``, n being the number of
    tasks. The first term is learnability: highest where success is a coin's toss, near 0 where it is certain or
    hopeless (Tzannetos et al. 2023, arXiv:2304.12877; Rutherford et al. 2024, arXiv:2408.15099). The second is
    absolute learning progress over a window, which also brings back what is being forgotten (Matiisen et al. 2017,
    arXiv:1707.00183). A task that was never played has the interest 1.

    In a vector of environments all share one such sampler; which environment asks first then depends on how long
    episodes take, so the same seed gives the same tasks only if episodes end in the same order.

    Raises:
        ValueError: `window` is below 2, or `explore` not in (0, 1].
    """

    __slots__ = ("_explore", "_interests", "_rewards", "_window")

    kind = "adaptive"

    def __init__(
        self, curriculum: Curriculum, *, window: int = 20, explore: float = 0.2, seed: int | None = None
    ) -> None:
        super().__init__(curriculum, seed=seed)
        if window < 2:
            raise ValueError(f"window is {window}: give at least 2 episodes")
        if not 0.0 < explore <= 1.0:
            raise ValueError(f"explore is {explore}: give a number above 0, at most 1, so that no task is forgotten")
        self._window = window
        self._explore = explore
        self._rewards: dict[str, deque[float]] = {task_id: deque(maxlen=window) for task_id in curriculum}
        self._interests = dict.fromkeys(curriculum, 1.0)

    def update(self, task_id: str, reward: float, /) -> None:
        """Take in the score of an episode that ended without a fault, 0 if it was cut off.

        Rewards out of [0, 1] count as its ends.

        Raises:
            UnknownTask: the curriculum has no such task.
            ValueError: the reward is no number.
        """
        task_id = self._curriculum[task_id].id
        if math.isnan(reward):
            raise ValueError(f"the reward of {task_id!r} is not a number")
        self._rewards[task_id].append(min(1.0, max(0.0, float(reward))))
        self._interests[task_id] = _interest(self._rewards[task_id])

    def probabilities(self) -> dict[str, float]:
        """Return how probable each task is now."""
        total = math.fsum(self._interests.values())
        floor = self._explore / len(self._interests)
        return {
            task_id: floor + (1.0 - self._explore) * interest / total for task_id, interest in self._interests.items()
        }

    def state_dict(self) -> dict[str, object]:
        """Return all that changes, as what JSON can hold."""
        return {**super().state_dict(), "rewards": {task_id: list(seen) for task_id, seen in self._rewards.items()}}

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        """Go on where a state was taken."""
        loaded = self._read_rewards(state.get("rewards"))
        super().load_state_dict(state)
        self._rewards = loaded
        self._interests = {task_id: _interest(seen) for task_id, seen in loaded.items()}

    def _read_rewards(self, given: object) -> dict[str, deque[float]]:
        rewards = cast(dict[str, object], given) if isinstance(given, dict) else {}
        loaded: dict[str, deque[float]] = {}
        for task_id in self._curriculum:
            seen = rewards.get(task_id, [])
            values = cast(list[object], seen) if isinstance(seen, list) else [None]
            numbers = [float(value) for value in values if isinstance(value, int | float)]
            if len(numbers) != len(values) or not all(0.0 <= number <= 1.0 for number in numbers):
                raise SamplerStateError(f"the rewards of {task_id!r} are no list of numbers from 0 to 1")
            loaded[task_id] = deque(numbers, maxlen=self._window)
        return loaded

    def _draw(self, rng: RandomSource) -> int:
        return draw_weighted(list(self.probabilities().values()), rng)


def _interest(rewards: deque[float]) -> float:
    """Return learnability and learning progress together; see `AdaptiveSampler`."""
    if not rewards:
        return 1.0
    chance = (math.fsum(rewards) + _PRIOR_EPISODES / 2) / (len(rewards) + _PRIOR_EPISODES)
    seen = list(rewards)
    half = len(seen) // 2
    progress = math.fsum(seen[-half:]) / half - math.fsum(seen[:half]) / half if half else 0.0
    return 4.0 * chance * (1.0 - chance) + abs(progress)
