"""Where the demo's agents play: the two environments, and what tells the one from the other for an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from codecraft_async._choice import choose_played, chosen_ids
from codecraft_async.agents import (
    CODE_CRAFT_CHOICES,
    SHELL_CHOICES,
    Agent,
    AsyncEnv,
    CodeCraftDialect,
    Dialect,
    ExpertAgent,
    ShellDialect,
)
from codecraft_async.agents.agent import SUBMIT
from codecraft_async.env import CodeEnv
from codecraft_async.gym_codecraft import CodeCraftEnv, Teacher
from codecraft_async.gym_codecraft.env import tasks_to_prepare
from codecraft_async.gym_codecraft.tasks import DEFAULT, StudentTasks
from codecraft_async.runtime import Runtime
from codecraft_curriculum import Curriculum, Task

STAGES: Final = ("code", "gym-codecraft")
_BUILTIN: Final = "builtin"
_SESSION_STEPS: Final = 60  # for agents that never leave gym-codecraft's environment by themselves


class Stage(Protocol):
    """An environment to play in, and the agents for it."""

    name: str
    option: str
    """What chooses a task in the options of a reset."""
    tasks: Mapping[str, Task]
    prepared: Sequence[Task]
    """The tasks whose images are had first."""
    choices: tuple[str, ...]
    """The actions of the naive agent."""
    last_words: tuple[str, ...]
    """What a human need not end with a dot."""
    dialect: Dialect

    def expert(self) -> Agent:
        """Return an agent that plays the expert's script."""
        ...

    def open(self, runtime: Runtime, teacher: Teacher | None) -> AsyncEnv:
        """Return an environment."""
        ...


class CodeStage:
    """`CodeEnv`: a task is an episode, actions are shell commands, and the tasks' own graders grade."""

    option = "task"
    choices: tuple[str, ...] = SHELL_CHOICES
    last_words: tuple[str, ...] = (SUBMIT,)
    dialect: Dialect = ShellDialect()

    def __init__(self, curriculum: str, names: Sequence[str], category: str | None) -> None:
        self._curriculum: Curriculum = choose_played(curriculum, names, category)
        self.name = self._curriculum.name
        self.tasks: Mapping[str, Task] = self._curriculum
        self.prepared: Sequence[Task] = self._curriculum.tasks

    def expert(self) -> Agent:
        """See `Stage.expert`."""
        return ExpertAgent(self.tasks)

    def open(self, runtime: Runtime, teacher: Teacher | None) -> AsyncEnv:
        """See `Stage.open`; it has no teacher."""
        del teacher
        return CodeEnv(curriculum=self._curriculum, runtime=runtime)


class CodeCraftStage:
    """gym-codecraft's environment: a session is an episode, actions are JSON, and a teacher may grade."""

    option = "task_id"
    choices: tuple[str, ...] = CODE_CRAFT_CHOICES
    last_words: tuple[str, ...] = ()
    dialect: Dialect = CodeCraftDialect()

    def __init__(self, curriculum: str, names: Sequence[str], category: str | None) -> None:
        self.name = "gym-codecraft"
        self._tasks = StudentTasks(DEFAULT if curriculum == _BUILTIN else curriculum)
        tasks = {task_id: each.task for task_id, each in self._tasks.items()}
        self.tasks: Mapping[str, Task] = {
            task_id: tasks[task_id] for task_id in chosen_ids(tasks, names, category, where=self.name)
        }
        self.prepared: Sequence[Task] = tasks_to_prepare(self._tasks)

    def expert(self) -> Agent:
        """See `Stage.expert`."""
        return ExpertAgent(self.tasks, as_json=True)

    def open(self, runtime: Runtime, teacher: Teacher | None) -> AsyncEnv:
        """See `Stage.open`."""
        return CodeCraftEnv(curriculum=self._tasks, runtime=runtime, teacher=teacher, max_episode_steps=_SESSION_STEPS)


def make_stage(name: str, curriculum: str, names: Sequence[str], category: str | None) -> Stage:
    """Return the stage of that name, with the tasks that are meant.

    Raises:
        CurriculumError: The curriculum, a task or the category cannot be had.
    """
    if name == "code":
        return CodeStage(curriculum, names, category)
    return CodeCraftStage(curriculum, names, category)


__all__ = ["STAGES", "Stage", "make_stage"]
