"""`Comparison`: two logs of the same tasks, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from statistics import fmean
from typing import Any, Final

from codecraft_async.evaluation.errors import LogError
from codecraft_async.evaluation.records import EpisodeLog, Turn
from codecraft_async.evaluation.statistics import mcnemar_exact

__all__ = ["Comparison", "Difference", "different_rewards"]

TOLERANCE: Final = 0.005 + 1e-9  # 0.88 and 0.875, which was recorded before it was rounded, are 0.005 apart
_NO_TURN: Final = Turn("", None, 0.0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two runs made of the tasks that both have, and that count in both."""

    pairs: int
    only_first: int
    """How many keys the second run does not have, or has nothing that counts for."""
    only_second: int
    solved_by_both: int
    lost: tuple[str, ...]
    """Keys of what only the first run solved."""
    won: tuple[str, ...]
    """Keys of what only the second run solved."""
    first_rate: float
    second_rate: float
    mean_reward_difference: float
    """Of the highest rewards: second minus first, mean over the pairs."""
    p_value: float
    """How likely chance alone splits the pairs that differ at least so unevenly: McNemar's exact test, two-sided."""

    @classmethod
    def of(cls, first: Mapping[str, EpisodeLog], second: Mapping[str, EpisodeLog]) -> Comparison:
        """Compare two logs by the keys of their episodes.

        Raises:
            LogError: They have no task in common, or ask something else under the same key.
        """
        ones = {key: each for key, each in first.items() if each.counts}
        others = {key: each for key, each in second.items() if each.counts}
        shared = [key for key in ones if key in others]
        for key in shared:
            if ones[key].query.strip() != others[key].query.strip():
                raise LogError(f"the two logs are not of the same data: under {key!r} they have different queries")
        if not shared:
            raise LogError("the two logs have no task in common that counts in both")
        lost = tuple(key for key in shared if ones[key].is_success and not others[key].is_success)
        won = tuple(key for key in shared if others[key].is_success and not ones[key].is_success)
        both = sum(ones[key].is_success and others[key].is_success for key in shared)
        return cls(
            pairs=len(shared),
            only_first=len(first) - len(shared),
            only_second=len(second) - len(shared),
            solved_by_both=both,
            lost=lost,
            won=won,
            first_rate=(both + len(lost)) / len(shared),
            second_rate=(both + len(won)) / len(shared),
            mean_reward_difference=fmean(others[key].max_reward - ones[key].max_reward for key in shared),
            p_value=mcnemar_exact(len(lost), len(won)),
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"test": "McNemar, exact, two-sided", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Difference:
    """A turn that was worth something else: `turn` counts from 0; None where one of the two has no such turn."""

    key: str
    turn: int
    action: str
    first: float | None
    second: float | None


def different_rewards(
    first: Mapping[str, EpisodeLog], second: Mapping[str, EpisodeLog], *, tolerance: float = TOLERANCE
) -> list[Difference]:
    """Return the turns whose rewards differ by more than *tolerance*, of the episodes that both logs have.

    This is how a replay is compared with what it replays.
    """
    found: list[Difference] = []
    for key, episode in first.items():
        if key not in second:
            continue
        for number, (one, other) in enumerate(zip_longest(episode.turns, second[key].turns)):
            action = (one or other or _NO_TURN).action
            rewards = (None if one is None else one.reward, None if other is None else other.reward)
            if rewards[0] is None or rewards[1] is None or abs(rewards[0] - rewards[1]) > tolerance:
                found.append(Difference(key, number, action, *rewards))
    return found
