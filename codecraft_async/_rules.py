"""The rules of an episode: what an agent may send, what it is shown, how long it may go on, and what is paid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypedDict, cast, get_args

from codecraft_async._observation import AnsiMode
from codecraft_async.actions import ActionParser, action_parser

ShellMode = Literal["fresh", "persistent"]
RewardMode = Literal["sparse", "dense"]
MAX_OBSERVATION_CHARS = 16_384


class RuleOptions(TypedDict, total=False):
    """The options of `CodeEnv` and `CodeVectorEnv` that make the rules of an episode; see `CodeEnv`."""

    max_episode_steps: int | None
    wall_budget_s: float | None
    cpu_budget_s: float | None
    max_observation_chars: int
    ansi: AnsiMode
    shell: ShellMode
    actions: str | ActionParser
    malformed_reward: float
    malformed_retries: int
    allow_reset: bool
    reward: RewardMode
    gamma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`RuleOptions`, all of them, checked.

    Raises:
        ValueError: One is not allowed; says which and what is.
    """

    max_episode_steps: int | None = None
    wall_budget_s: float | None = None
    cpu_budget_s: float | None = None
    max_observation_chars: int = MAX_OBSERVATION_CHARS
    ansi: AnsiMode = "keep"
    shell: ShellMode = "fresh"
    actions: str | ActionParser = "shell"
    malformed_reward: float = 0.0
    malformed_retries: int = 0
    allow_reset: bool = False
    reward: RewardMode = "sparse"
    gamma: float = 1.0
    parser: ActionParser = field(init=False)

    def __post_init__(self) -> None:
        choices = {"ansi": AnsiMode, "shell": ShellMode, "reward": RewardMode}
        for name, kind in choices.items():
            value, allowed = cast("str", getattr(self, name)), get_args(kind)
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be {' or '.join(map(repr, allowed))}")
        for name, least in {"max_episode_steps": 1, "max_observation_chars": 1, "malformed_retries": 0}.items():
            number = cast("int | None", getattr(self, name))
            if number is not None and number < least:
                raise ValueError(f"{name} is {number}; it must be at least {least}")
        for name in ("wall_budget_s", "cpu_budget_s"):
            budget = cast("float | None", getattr(self, name))
            if budget is not None and not 0 < budget < math.inf:
                raise ValueError(f"{name} is {budget}; it must be a time in seconds over 0, or None for no limit")
        if not math.isfinite(self.malformed_reward):
            raise ValueError(f"malformed_reward is {self.malformed_reward}; it must be a finite number")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}; it must lie in [0, 1]: the discount that the learner uses")
        object.__setattr__(self, "parser", action_parser(self.actions, allow_reset=self.allow_reset))


__all__ = ["MAX_OBSERVATION_CHARS", "RewardMode", "RuleOptions", "Rules", "ShellMode"]
