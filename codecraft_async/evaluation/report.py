"""`Report`: what a log comes to, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from statistics import fmean
from typing import Any, Final

from codecraft_async.evaluation.records import EpisodeLog
from codecraft_async.evaluation.statistics import wilson
from codecraft_async.llm import Prices, Usage

__all__ = ["Group", "Report", "label", "order_of"]

_ORDER: Final = ("easy", "medium", "hard", "extra")


@dataclass(frozen=True, slots=True)
class Group:
    """Some episodes. Those that tell nothing of the agent (faults, golds that fail) are in `not_counted` only."""

    name: str
    episodes: int
    """How many count."""
    successes: int
    """How many of them have the highest reward 1."""
    success_rate: float | None
    low: float | None
    """Bounds of the rate's 95 % interval, by Wilson's formula."""
    high: float | None
    mean_reward: float | None
    """Mean of the episodes' highest rewards."""
    mean_turns: float | None
    turns: int
    invalid_actions: int
    error_rate: float | None
    """Share of the turns whose action was not valid, of those of which the log says."""
    not_counted: int

    @classmethod
    def of(cls, name: str, episodes: Iterable[EpisodeLog]) -> Group:
        """Return the group of these episodes."""
        every = list(episodes)
        counted = [each for each in every if each.counts]
        turns = [turn for each in counted for turn in each.turns]
        told = [turn.valid for turn in turns if turn.valid is not None]
        invalid = told.count(False)
        successes = sum(each.is_success for each in counted)
        low, high = wilson(successes, len(counted)) if counted else (None, None)
        return cls(
            name=name,
            episodes=len(counted),
            successes=successes,
            success_rate=successes / len(counted) if counted else None,
            low=low,
            high=high,
            mean_reward=fmean(each.max_reward for each in counted) if counted else None,
            mean_turns=len(turns) / len(counted) if counted else None,
            turns=len(turns),
            invalid_actions=invalid,
            error_rate=invalid / len(told) if told else None,
            not_counted=len(every) - len(counted),
        )


@dataclass(frozen=True, slots=True)
class Report:
    """All episodes of one log, or of several together.

    Success is a highest reward of 1, as in InterCode. `turns_to_success` says how many episodes were solved by their
    first turn, their second, and so on.
    """

    name: str
    total: Group
    by_difficulty: tuple[Group, ...]
    by_dataset: tuple[Group, ...]
    turns_to_success: Mapping[int, int]
    ends: Mapping[str, int]
    """How many episodes ended so; "corrupt_gold" for those whose gold failed."""
    usage: Usage
    cost: float | None
    """Of the tokens, if prices are known."""
    wall_s: float
    """Of all episodes together, one after the other."""
    tasks: int
    solved_tasks: int
    """How many tasks were solved in at least one of their episodes."""

    @classmethod
    def of(cls, name: str, episodes: Iterable[EpisodeLog], *, prices: Prices | None = None) -> Report:
        """Return the report of these episodes."""
        every = list(episodes)
        usage = sum((each.usage for each in every), Usage())
        solved = [each for each in every if each.is_success]
        to_success = Counter(_turns_to_success(each) for each in solved)
        ends = Counter("corrupt_gold" if each.corrupt_gold else each.end for each in every)
        return cls(
            name=name,
            total=Group.of("all", every),
            by_difficulty=_groups(every, [each.hardness for each in every]),
            by_dataset=_groups(every, [label(each) for each in every]),
            turns_to_success=dict(sorted(to_success.items())),
            ends=dict(sorted(ends.items())),
            usage=usage,
            cost=None if prices is None else prices.cost(usage),
            wall_s=sum(each.wall_s for each in every),
            tasks=len({(each.dataset, each.task_id) for each in every}),
            solved_tasks=len({(each.dataset, each.task_id) for each in solved}),
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        content = asdict(self)
        content["turns_to_success"] = {str(turns): count for turns, count in self.turns_to_success.items()}
        return {"success": "highest reward of the episode is 1", "interval": "Wilson, 95 %", **content}


def label(episode: EpisodeLog) -> str:
    """Return what a data set is called: the name of its file, which also names InterCode's file systems."""
    return PurePath(episode.dataset).stem or episode.environment


def order_of(name: str) -> tuple[int, str]:
    """Return where a difficulty stands among others: known ones in their order, then all others."""
    return (_ORDER.index(name), "") if name in _ORDER else (len(_ORDER), name)


def _groups(episodes: Sequence[EpisodeLog], names: Sequence[str]) -> tuple[Group, ...]:
    members: dict[str, list[EpisodeLog]] = {}
    for name, episode in zip(names, episodes, strict=True):
        members.setdefault(name, []).append(episode)
    return tuple(Group.of(name, members[name]) for name in sorted(members, key=order_of) if name)


def _turns_to_success(episode: EpisodeLog) -> int:
    best = episode.best_turn
    return len(episode.turns) if best is None else best + 1
