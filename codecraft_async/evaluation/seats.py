"""`Seat`: an environment in which each turn of an episode is noted, with what a log wants to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from codecraft_async._outcome import GraderFailed, empty_info, tell_fault
from codecraft_async.agents import AsyncEnv
from codecraft_async.agents.episodes import text_of
from codecraft_async.evaluation.moves import END, Move
from codecraft_async.evaluation.parsers import defined_function
from codecraft_async.evaluation.records import SUCCESS, Turn
from codecraft_async.intercode.base import InterCodeEnv
from codecraft_pool import PoolError

__all__ = ["WORTH", "Play", "Seat"]

WORTH: Final = "worth"
"""The key of `info` under which agents find what their last action was worth; None where it was not scored."""
_OF_EVERY_STEP: Final = frozenset(empty_info("")) - {"reason"} | {"index", "action_executed", WORTH}
_SKIP: Final = "skip"
_SUBMIT: Final = "submit"
_PYTHON, _CTF = "ic_python", "ic_ctf"
_NOT_YET: Final = "That is not right. Keep trying."
_RIGHT: Final = "That is right."


@dataclass(slots=True)
class Play:
    """An episode on its way."""

    turns: list[Turn] = field(default_factory=list[Turn])
    environment: str = ""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the environment said of the last reward."""
    is_scored: bool = False
    """Whether each turn is scored when it is done."""
    corrupt_gold: bool = False


class Seat:
    """Passes resets and steps on to an environment, and notes them in the plays of the episodes' names."""

    NAME: ClassVar[str] = "episode"
    """The reset option that names the episode; the environment does not see it."""

    def __init__(self, env: AsyncEnv, plays: Mapping[str, Play], *, hides_submissions: bool) -> None:
        self._env = env
        self._plays = plays
        self._hides = hides_submissions
        self._play = Play()
        self._info: dict[str, Any] = {}
        self._inner: Any = getattr(env, "unwrapped", env)
        self._name = str(getattr(self._inner, "name", type(self._inner).__name__))
        self._tests_functions = hides_submissions and self._name == _PYTHON
        self._is_scored = self._tests_functions or (isinstance(self._inner, InterCodeEnv) and self._inner.score_steps)

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the episode that the options name."""
        passed = dict(options or {})
        self._play = self._plays[passed.pop(self.NAME)]
        self._play.environment, self._play.is_scored = self._name, self._is_scored
        observation, info = await self._env.areset(seed=seed, options=passed)
        self._info = {**info, WORTH: None}
        return observation, self._info

    async def astep(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do an action, unless it is none, and note it."""
        assert isinstance(action, Move)  # players make them so
        if action.answer is not None:
            self._info = {**self._info, WORTH: 0.0 if self._play.is_scored else None}
            self._note(action, action.answer, 0.0, valid=False)
            return action.answer, 0.0, False, False, self._info
        if action is END and (self._hides or self._play.is_scored):
            return await self._env.astep(_SKIP)
        if self._hides and action is not END and action.startswith(_SUBMIT):
            return await self._try(action, action.removeprefix(_SUBMIT).strip(), _NOT_YET, self._info)
        observation, reward, terminated, truncated, info = await self._env.astep(str(action))
        function = defined_function(action) if self._tests_functions and not (terminated or truncated) else ""
        if function:
            return await self._try(action, function, text_of(observation), info)
        worth = float(info["score"]) if info.get("graded") else float(reward)
        info = self._take(info, worth)
        if info.get("valid", True):
            self._note(action, text_of(observation), worth, valid=_has_run(info))
        return observation, reward, terminated, truncated, info

    async def _try(
        self, action: Move, submission: str, observation: str, info: dict[str, Any]
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Find out what a submission is worth; the episode goes on, unless it is right."""
        try:
            worth, details = await self._inner.ascore(submission)
        except (GraderFailed, PoolError) as error:
            self._info = tell_fault(dict(info), error)
            return "", 0.0, False, True, self._info
        has_run = observation is _NOT_YET or _has_run(info)
        is_right = worth >= SUCCESS or (worth > 0 and self._name == _CTF)  # hints may have cost something
        observation = _RIGHT if is_right and observation is _NOT_YET else observation
        info = self._take({**info, **details, "graded": True}, worth)
        self._note(action, observation, worth, valid=has_run)
        return observation, worth, is_right, False, info

    async def aclose(self) -> None:
        """Leave the environment to its owner."""

    def _take(self, info: dict[str, Any], worth: float) -> dict[str, Any]:
        if info.get("corrupt_gold") and "fault" not in info:
            self._play.corrupt_gold = True  # which the log says: the episode itself goes on
            info = {**info, "valid": True}
        self._info = {**info, WORTH: worth if info.get("graded") else None}
        if info.get("graded"):
            self._play.details = {key: value for key, value in info.items() if key not in _OF_EVERY_STEP}
        return self._info

    def _note(self, action: Move, observation: str, worth: float, *, valid: bool) -> None:
        self._play.turns.append(Turn(str(action), observation, worth, valid, action.thought, action.step))


def _has_run(info: Mapping[str, Any]) -> bool:
    """Return whether an action ran without an error: InterCode's environments say so, else its exit status does."""
    if "action_executed" in info:
        return bool(info["action_executed"])
    return not info.get("malformed") and int(info.get("exit_code", 0)) <= 0  # -1: a submission, which runs nothing
