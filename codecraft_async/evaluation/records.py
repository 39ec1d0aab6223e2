"""What an agent did in an episode and what came of it, as values and in InterCode's log schema."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from codecraft_async.evaluation.errors import LogError
from codecraft_async.llm import Usage

__all__ = ["SUCCESS", "EpisodeLog", "Turn", "as_log", "episode_from", "json_value", "printed"]

SUCCESS: Final = 1.0
"""The reward of an episode that counts as solved, as in InterCode."""
_BLOCKED: Final = "blocked"
_FINISHED: Final = ("terminated", "truncated")


@dataclass(frozen=True, slots=True)
class Turn:
    """An action, what was observed, what the state was worth then, and whether the action ran without an error.

    An answer in which no action was found is a turn as well: it is not run, worth 0 and not valid. `observation` is
    None where a log has none.
    """

    action: str
    observation: str | None
    reward: float
    valid: bool | None = True
    thought: str = ""
    step: str = ""
    """The step of a plan that the action is for."""


@dataclass(frozen=True, slots=True)
class EpisodeLog:
    """One episode on one task, as it stands in a log.

    `end` is "terminated" or "truncated" for an episode that was played; "fault", "agent_failed" and "out_of_time" say
    nothing of the agent's work, and `error` says what happened. `max_reward` is what the log's summary says, where it
    says so, else the highest reward of a turn.
    """

    environment: str
    dataset: str
    task_id: int | str
    query: str
    turns: tuple[Turn, ...]
    turns_max: int | None = None
    hardness: str = ""
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sample: int = 0
    end: str = "terminated"
    error: str = ""
    corrupt_gold: bool = False
    """The gold failed: no agent could have solved the task."""
    usage: Usage = Usage()  # noqa: RUF009  # immutable
    wall_s: float = 0.0
    stated_max: float | None = None

    @property
    def key(self) -> str:
        """What the episode is called in its log: the task, and the number of the sample if it is not the first."""
        return f"{self.task_id}/{self.sample}" if self.sample else str(self.task_id)

    @property
    def max_reward(self) -> float:
        """The best that a turn was worth; 0 if there was none."""
        if self.stated_max is not None:
            return self.stated_max
        return max((turn.reward for turn in self.turns), default=0.0)

    @property
    def best_turn(self) -> int | None:
        """The first turn, from 0, that was worth most; None if there was none."""
        rewards = [turn.reward for turn in self.turns]
        return rewards.index(max(rewards)) if rewards else None

    @property
    def counts(self) -> bool:
        """Whether it says something of the agent: it was played, and the task can be solved."""
        return self.end in _FINISHED and not self.corrupt_gold

    @property
    def is_success(self) -> bool:
        """Whether the task was solved: the highest reward is 1."""
        return self.counts and self.max_reward >= SUCCESS


def as_log(episode: EpisodeLog) -> dict[str, Any]:
    """Return the episode in InterCode's schema, and what that has no place for under names of its own."""
    turns = episode.turns
    history: dict[str, Any] = {
        "actions": [turn.action for turn in turns],
        "observations": [turn.observation for turn in turns],
        "rewards": [turn.reward for turn in turns],
        "valid_action": [turn.valid for turn in turns],
    }
    beside = {"thoughts": [turn.thought for turn in turns], "steps": [turn.step for turn in turns]}
    history |= {name: values for name, values in beside.items() if any(values)}
    entry = {
        "environment": episode.environment,
        "dataset": episode.dataset,
        "task_id": episode.task_id,
        "query": episode.query,
        "turn_history": history,
        "summary": {
            "max_reward": episode.max_reward,
            "max_reward_idx": episode.best_turn,
            "turns_taken": len(turns),
            "turns_max": episode.turns_max,
        },
        "info": episode.info,
        "sample": episode.sample,
        "end": episode.end,
        "error": episode.error,
        "corrupt_gold": episode.corrupt_gold,
        "usage": {
            "prompt_tokens": episode.usage.prompt_tokens,
            "completion_tokens": episode.usage.completion_tokens,
            "is_estimate": episode.usage.is_estimate,
        },
        "wall_s": episode.wall_s,
    }
    if episode.hardness:
        entry["hardness"] = episode.hardness
    return cast("dict[str, Any]", json_value(entry))


def episode_from(entry: object, *, where: str, key: str = "") -> EpisodeLog:
    """Return the episode that an entry of a log tells of, in any of the forms that InterCode's programs write.

    Those are the schema of its experiments, with or without ``valid_action`` and ``max_reward_idx``, lists in which
    a blocked call of a model has no observation, and the files of its environments' trajectories.

    Raises:
        LogError: It is none of these; the message begins with *where*.
    """
    fields = _object(entry, where)
    try:
        if "trajectory" in fields:
            return _from_trajectory(fields, where)
        return _from_experiment(fields, where, key)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, LogError):
            raise
        raise LogError(f"{where}: {error}") from None


def _from_experiment(fields: Mapping[str, Any], where: str, key: str) -> EpisodeLog:
    history = _object(fields.get("turn_history"), f"{where}: turn_history")
    summary = _object(fields.get("summary", {}), f"{where}: summary")
    usage = _object(fields.get("usage", {}), f"{where}: usage")
    stated = summary.get("max_reward")
    return EpisodeLog(
        environment=str(fields.get("environment", "")),
        dataset=str(fields.get("dataset", "")),
        task_id=_task_id(fields.get("task_id", key), where),
        query=str(fields.get("query", "")),
        turns=tuple(_turns(history, where)),
        turns_max=None if summary.get("turns_max") is None else int(summary["turns_max"]),
        hardness=str(fields.get("hardness", "")),
        info=_object(fields.get("info") or {}, f"{where}: info"),
        sample=int(fields.get("sample", 0)),
        end=str(fields.get("end", "terminated")),
        error=str(fields.get("error", "")),
        corrupt_gold=bool(fields.get("corrupt_gold", False)),
        usage=Usage(
            int(usage.get("prompt_tokens", 0)),
            int(usage.get("completion_tokens", 0)),
            bool(usage.get("is_estimate", False)),
        ),
        wall_s=float(fields.get("wall_s", 0.0)),
        stated_max=None if stated is None else _reward(stated, where),
    )


def _turns(history: Mapping[str, Any], where: str) -> list[Turn]:
    actions, rewards = _list(history, "actions", where), _list(history, "rewards", where)
    if len(actions) != len(rewards):
        raise LogError(f"{where}: {len(actions)} actions, but {len(rewards)} rewards")
    # A call of a model that failed has an action and a reward, and nothing else.
    had = len(actions) - sum(action == _BLOCKED for action in actions)
    columns: dict[str, list[Any]] = {}
    for name in ("observations", "valid_action", "thoughts", "steps"):
        values = _list(history, name, where) if name in history else []
        if len(values) not in (0, had, len(actions)):
            raise LogError(f"{where}: {len(actions)} actions, but {len(values)} {name}")
        skips = len(values) == had < len(actions)
        rest = iter(values)
        columns[name] = [None if not values or (skips and action == _BLOCKED) else next(rest) for action in actions]
    return [
        Turn(
            action=str(action),
            observation=None if columns["observations"][number] is None else str(columns["observations"][number]),
            reward=_reward(rewards[number], where),
            valid=None if columns["valid_action"][number] is None else bool(columns["valid_action"][number]),
            thought=str(columns["thoughts"][number] or ""),
            step=str(columns["steps"][number] or ""),
        )
        for number, action in enumerate(actions)
    ]


def _from_trajectory(fields: Mapping[str, Any], where: str) -> EpisodeLog:
    steps = [_object(step, f"{where}: trajectory") for step in _list(fields, "trajectory", where)]
    reward = _reward(fields.get("reward", 0.0), where)
    turns = [Turn(str(step.get("action", "")), str(step.get("observation", "")), 0.0, None) for step in steps]
    submission = Turn("submit", turns[-1].observation if turns else None, reward)
    return EpisodeLog(
        environment=str(fields.get("environment", "")),
        dataset="",
        task_id=_task_id(fields.get("query_idx", ""), where),
        query=str(fields.get("query", "")),
        turns=(*turns, submission),
        info=_object(fields.get("info") or {}, f"{where}: info"),
        stated_max=reward,
    )


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise LogError(f"{where}: expected an object")
    return cast("Mapping[str, Any]", value)


def _list(fields: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise LogError(f"{where}: {name}: expected a list")
    return value  # pyright: ignore[reportUnknownVariableType]


def _reward(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LogError(f"{where}: {value!r} is no reward")
    return float(value)


def _task_id(value: object, where: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise LogError(f"{where}: {value!r} is no task_id")
    return value


def json_value(value: object) -> object:
    """Return *value* as JSON can hold it: only UTF-8 texts, plain numbers, no NaN."""
    if isinstance(value, str):
        return printed(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Mapping):
        return {printed(str(key)): json_value(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [json_value(each) for each in value]
    if hasattr(value, "item"):  # numpy's
        return json_value(cast(Any, value).item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else str(value)
    return printed(str(value))


def printed(text: str) -> str:
    """Return *text* with what UTF-8 cannot hold as escapes: a sandbox may have printed anything."""
    return text.encode("utf-8", "backslashreplace").decode()
