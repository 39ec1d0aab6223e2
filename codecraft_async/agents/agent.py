"""What an agent is, and the agents that need no model: naive and scripted."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from codecraft_async.agents.errors import AgentFailed
from codecraft_curriculum import Task

SUBMIT: Final = "submit"
SHELL_CHOICES: Final = ("ls", SUBMIT)
CODE_CRAFT_CHOICES: Final = tuple(
    json.dumps(action)
    for action in ({"action": "command", "command": "ls"}, {"action": "start", "task_id": "1"}, {"action": "exit"})
)


class Agent(Protocol):
    """Plays one episode at a time: `begin`, then `act` until the environment says that it is over."""

    def begin(self, instruction: str) -> None:
        """Forget the episode before; a new one starts with this *instruction*, which is its first observation."""
        ...

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """Return the next action. The *observation* is what came of the one before, or, first, the instruction.

        After an error or a cancellation the agent needs a `begin`.

        Raises:
            AgentError, LlmError: The agent cannot go on; the episode ends without a reward.
        """
        ...


class NaiveAgent:
    """Picks any of its few actions, whatever it observes. `CODE_CRAFT_CHOICES` are those for gym-codecraft."""

    def __init__(self, choices: Sequence[str] = SHELL_CHOICES, *, seed: int | None = None) -> None:
        if not choices:
            raise ValueError("choices is empty: give at least one action")
        self._choices = tuple(choices)
        self._rng = random.Random(seed)

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        del instruction

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`."""
        del observation, info
        return self._rng.choice(self._choices)


class ScriptedAgent:
    """Plays a list of actions, and after the last one *then*, again and again, if that is given."""

    def __init__(self, actions: Sequence[str], *, then: str | None = None) -> None:
        self._actions = tuple(actions)
        self._then = then
        self._next = 0

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        del instruction
        self._next = 0

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`; `AgentFailed` after the last action if nothing comes then."""
        del observation, info
        if self._next == len(self._actions):
            if self._then is not None:
                return self._then
            raise AgentFailed(f"the script of {len(self._actions)} actions is over, and the episode is not")
        self._next += 1
        return self._actions[self._next - 1]


class ExpertAgent:
    """Plays the expert's script of whatever task it is given, and submits; *as_json* in gym-codecraft's form, and then
    leaves."""

    def __init__(self, tasks: Mapping[str, Task], *, as_json: bool = False) -> None:
        self._tasks = tasks
        self._as_json = as_json
        self._script: ScriptedAgent | None = None

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        del instruction
        self._script = None

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`; `AgentFailed` if the task has no expert."""
        if self._script is None:
            task = self._tasks[info["task"]]
            if not task.expert:
                raise AgentFailed(f"task {task.id!r} has no expert: give one in [proof] of its file")
            self._script = ScriptedAgent(_as_json(task.expert) if self._as_json else (*task.expert, SUBMIT))
        return await self._script.act(observation, info)


def _as_json(commands: Sequence[str]) -> list[str]:
    actions = [{"action": "command", "command": command} for command in commands]
    return [json.dumps(action) for action in (*actions, {"action": SUBMIT}, {"action": "exit"})]


__all__ = ["CODE_CRAFT_CHOICES", "SHELL_CHOICES", "SUBMIT", "Agent", "ExpertAgent", "NaiveAgent", "ScriptedAgent"]
