"""Actions with what an agent says beside them, and agents whose actions are known beforehand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Self

from codecraft_async.agents import ScriptedAgent
from codecraft_async.evaluation.records import EpisodeLog
from codecraft_async.evaluation.tasks import EvalTask
from codecraft_async.intercode.mbpp import CorruptGold, FunctionTask

__all__ = ["END", "GoldAgent", "Move", "MovesAgent", "ReplayAgent", "gold_actions"]

_BLOCKED: Final = "blocked"
_NOT_RUN: Final = re.compile(r"No \w+ code was found|Format your SQL command as follows:")


class Move(str):
    """An action. With an `answer` it is none: it is not run, the answer is observed, and it counts as a turn."""

    __slots__ = ("answer", "step", "thought")

    answer: str | None
    thought: str
    step: str

    def __new__(cls, action: str, *, answer: str | None = None, thought: str = "", step: str = "") -> Self:
        """Return the action, with the agent's thought, and the step of its plan that it is for."""
        move = super().__new__(cls, action)
        move.answer, move.thought, move.step = answer, thought, step
        return move

    @classmethod
    def of(cls, action: str) -> Move:
        """Return an action as one that can be sent to a sandbox: halves of surrogate pairs become question marks."""
        move = action if isinstance(action, Move) else cls(action)
        if move.isascii() or (text := move.encode("utf-8", "replace").decode()) == move:
            return move
        return cls(text, answer=move.answer, thought=move.thought, step=move.step)


END: Final = Move("submit")
"""What an agent returns that has nothing more to do, whether or not submissions are its own."""


class MovesAgent(ScriptedAgent):
    """Plays a list of actions, and then ends its episode."""

    def __init__(self, moves: Sequence[str]) -> None:
        super().__init__(moves, then=END)


class GoldAgent(MovesAgent):
    """Does what the task's gold says, and submits."""

    def __init__(self, task: EvalTask, environment: str) -> None:
        super().__init__(gold_actions(task, environment))


class ReplayAgent(MovesAgent):
    """Does again what a log says. Answers in which no action was found are not run, as they were not then."""

    def __init__(self, episode: EpisodeLog) -> None:
        super().__init__(
            [
                Move(turn.action, answer=turn.observation if _was_not_run(turn.observation) else None)
                for turn in episode.turns
                if turn.action != _BLOCKED
            ]
        )


def gold_actions(task: EvalTask, environment: str) -> list[str]:
    """Return the actions that solve a task of the *environment* (``ic_bash`` and so on) by its gold.

    Raises:
        ValueError: The task has no gold.
    """
    gold = task.gold
    if gold in ("", None):
        raise ValueError(f"task {task.id} has no gold")
    if environment == "ic_ctf":
        return [f"submit {gold}"]
    if environment == "ic_python":
        try:
            function = FunctionTask.from_row(task.row()).tested_function()
        except CorruptGold:
            function = ""
        return [str(gold), f"submit {function}".strip()]
    if environment == "ic_swe":
        return [_applying(str(gold))]
    if isinstance(gold, list | tuple):
        return [";".join(map(str, gold))] if environment == "ic_bash" else [str(each) for each in gold]
    return [str(gold)]


def _applying(patch: str) -> str:
    """Return the command that applies a patch, byte for byte."""
    end = "END_OF_PATCH"
    while end in patch:
        end += "_"
    return f"git apply --whitespace=nowarn <<'{end}'\n{patch.removesuffix(chr(10))}\n{end}"


def _was_not_run(observation: str | None) -> bool:
    return observation is not None and _NOT_RUN.match(observation) is not None
