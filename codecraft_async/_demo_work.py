"""What the demo plays: every script of a curriculum, several times, dealt to whichever environment is free."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codecraft_async.actions import SUBMIT
from codecraft_curriculum import Curriculum, CurriculumError, RandomSource, Task

EXPERT = "expert"
_IDLE = "true"


@dataclass(frozen=True, slots=True)
class Script:
    """The actions of one episode, the last of which submits: a task's expert, or one of its failures."""

    task: str
    name: str
    actions: tuple[str, ...]
    is_expert: bool


@dataclass(frozen=True, slots=True)
class Played:
    """How an episode went. `reason` is the grader's and may quote what the sandbox holds: only for showing."""

    script: Script
    reward: float
    steps: int
    reset_s: float
    grading_s: float | None
    """None if it was not graded."""
    reason: str
    fault: str


def scripts_of(task: Task) -> list[Script]:
    """Return the task's scripts, the expert's first if there is one."""
    scripts = [Script(task.id, EXPERT, (*task.expert, SUBMIT), True)] if task.expert else []
    return scripts + [Script(task.id, name, (*actions, SUBMIT), False) for name, actions in task.failures.items()]


class WorkList:
    """All scripts of a curriculum, *rounds* times, in an order that *seed* fixes.

    As a `Sampler` it gives the task of the next script; whoever has reset to a task takes a script of it. Once every
    script is dealt, what it gives is only there to keep an environment busy.

    Raises:
        CurriculumError: No task has a script.
    """

    def __init__(self, curriculum: Curriculum, *, rounds: int, seed: int) -> None:
        by_task = [scripts_of(task) for task in curriculum.values()]
        if not any(by_task):
            raise CurriculumError(
                f"{curriculum.name}: none of its tasks has a script to play; give one 'expert' or 'failures' in [proof]"
            )
        rng = random.Random(seed)
        order: list[Script] = []
        for scripts in by_task:
            # Task by task: what is graded together should take about as long, for each step waits for the slowest.
            order += rng.sample(scripts * rounds, len(scripts) * rounds)
        self._curriculum = curriculum
        self._order = deque(order)
        self._dealt: dict[str, deque[Script]] = {task: deque() for task in curriculum}
        self.scripts = len(order) // rounds
        self.total = len(order)

    def next(self, rng: RandomSource, /) -> Task:
        """Return the task of the next script; `rng` is not used."""
        del rng
        if not self._order:
            return self._curriculum.tasks[0]
        script = self._order.popleft()
        self._dealt[script.task].append(script)
        return self._curriculum[script.task]

    def peek(self, rng: RandomSource, /) -> Task:
        """Return the task of the next script; `rng` is not used."""
        del rng
        return self._curriculum[self._order[0].task] if self._order else self._curriculum.tasks[0]

    def take(self, task: str) -> Script | None:
        """Return a script for an episode of *task* that has just begun; None if all have been taken."""
        dealt = self._dealt[task]
        return dealt.popleft() if dealt else None


class Seat:
    """One environment's player: knows the script, says the next action, and counts."""

    def __init__(self) -> None:
        self.is_over = True
        self._script: Script | None = None
        self._reset_s = 0.0
        self._steps = 0

    @property
    def is_playing(self) -> bool:
        """Whether the steps count: an episode is on, and it has a script."""
        return not self.is_over and self._script is not None

    def begin(self, script: Script | None, *, reset_s: float) -> None:
        """Start an episode."""
        self.is_over = False
        self._script = script
        self._reset_s = reset_s
        self._steps = 0

    def action(self) -> str:
        """Return the next action; any, if the episode is over and the step is to be a reset."""
        return self._script.actions[self._steps] if self._script is not None and not self.is_over else _IDLE

    def end_step(self, *, reward: float, is_over: bool, info: Mapping[str, Any]) -> Played | None:
        """Take in what a step came to; return the episode if it has a script and is over."""
        self._steps += 1
        self.is_over = is_over
        if not is_over or self._script is None:
            return None
        is_cut_off = self._steps < len(self._script.actions)
        return Played(
            script=self._script,
            reward=reward,
            steps=self._steps,
            reset_s=self._reset_s,
            grading_s=float(info["wall_s"]) if info["graded"] else None,
            reason=f"cut off after {self._steps} steps, its max_steps" if is_cut_off else info["reason"],
            fault=info["fault"],
        )


__all__ = ["EXPERT", "Played", "Script", "Seat", "WorkList", "scripts_of"]
