"""Episodes: an agent and an environment, one after the other or hundreds at once, and what came of them as values."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from codecraft_async._episode import EpisodeError
from codecraft_async.agents.agent import Agent
from codecraft_async.agents.errors import AgentError, AgentLeft
from codecraft_async.llm import BudgetExceeded, LlmError, Usage

EpisodeEnd = Literal["terminated", "truncated", "fault", "agent_failed", "out_of_time"]


class AsyncEnv(Protocol):
    """What an episode needs of an environment: `CodeEnv`, gym-codecraft's, or a handle of a vector environment."""

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        ...

    async def astep(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do an action."""
        ...

    async def aclose(self) -> None:
        """Give the sandbox back; episodes do not call it."""
        ...


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """An episode to play: a name, which is its identity in logs and caches, and how the environment is reset."""

    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class EpisodeStep:
    """An action, what was observed after it, and what it earned."""

    action: str
    observation: str
    reward: float


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """How an episode went.

    `end` says why it is over. Only a "terminated" or "truncated" one `counts`; a fault, an agent that failed and an
    episode that ran out of time say nothing about the agent's work, and `error` says what happened.
    """

    plan: EpisodePlan
    task: str
    end: EpisodeEnd
    reward: float
    """Of all steps together."""
    steps: tuple[EpisodeStep, ...]
    instruction: str
    reason: str
    """The grader's; it may quote what was expected, and is not for the agent."""
    error: str
    usage: Usage
    """What the agent's model used, if it has one and counts (`ModelAgent.usage`)."""
    wall_s: float

    @property
    def counts(self) -> bool:
        """Whether the reward means something."""
        return self.end in ("terminated", "truncated")


@dataclass(frozen=True, slots=True)
class EpisodeBatch:
    """What came of many plans: results in the order of the plans, and the plans that were not played, with why."""

    results: tuple[EpisodeResult, ...]
    left: tuple[EpisodePlan, ...] = ()
    stopped: str = ""


class _Play:
    """An episode on its way."""

    def __init__(self, plan: EpisodePlan, agent: Agent) -> None:
        self.plan = plan
        self.agent = agent
        self.began = time.perf_counter()
        self.steps: list[EpisodeStep] = []
        self.task = self.instruction = self.reason = ""

    def result(self, end: EpisodeEnd, error: str = "") -> EpisodeResult:
        return EpisodeResult(
            plan=self.plan,
            task=self.task,
            end=end,
            reward=sum(step.reward for step in self.steps),
            steps=tuple(self.steps),
            instruction=self.instruction,
            reason=self.reason,
            error=error,
            usage=usage_of(self.agent),
            wall_s=time.perf_counter() - self.began,
        )


async def run_episode(
    env: AsyncEnv, agent: Agent, plan: EpisodePlan | None = None, *, limit_s: float = 3600.0
) -> EpisodeResult:
    """Play one episode to its end, *limit_s* seconds at most.

    What goes wrong with the agent (`AgentError`), its model (`LlmError`) or the sandbox is a result, not an exception,
    and so is a task whose set-up fails; whatever else an agent raises is a mistake in its code and comes as it is.
    Cancellation ends the step under way; the environment can be reset.

    Raises:
        LaunchError: No sandbox can be had: later episodes would fare no better.
    """
    play = _Play(plan or EpisodePlan(), agent)
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            try:
                return await _play(env, play)
            except (AgentError, LlmError) as error:
                return play.result("agent_failed", f"{type(error).__name__}: {error}")
            except EpisodeError as error:
                return play.result("fault", str(error))
    except TimeoutError:
        if not limit.expired():
            raise
        return play.result("out_of_time", f"the episode took longer than {limit_s:g} s")


async def _play(env: AsyncEnv, play: _Play) -> EpisodeResult:
    first, info = await env.areset(seed=play.plan.seed, options=dict(play.plan.options))
    observation = play.instruction = text_of(first)
    play.task = str(info.get("task", ""))
    if not info.get("valid", True):
        return play.result("fault", fault_of(info))
    play.agent.begin(observation)
    while True:
        action = await play.agent.act(observation, info)
        after, reward, terminated, truncated, info = await env.astep(action)
        observation = text_of(after)
        if not info.get("valid", True):
            return play.result("fault", fault_of(info))
        play.steps.append(EpisodeStep(action, observation, float(reward)))
        play.task = str(info.get("task", play.task))
        if terminated or truncated:
            play.reason = str(info.get("reason", ""))
            return play.result("terminated" if terminated else "truncated")


async def run_episodes(
    envs: Sequence[AsyncEnv],
    make_agent: Callable[[EpisodePlan], Agent],
    plans: Iterable[EpisodePlan],
    *,
    limit_s: float = 3600.0,
    on_result: Callable[[EpisodeResult], None] | None = None,
) -> EpisodeBatch:
    """Play all *plans*, as many at once as there are environments, with an agent of its own for each.

    *on_result* is called as soon as an episode is over: whoever writes results down there can go on after a crash with
    the plans that are missing. When a budget is used up or the human has left, nothing more is begun; the rest, and the
    episodes that ended so, are `left`. Cancellation ends all steps under way.

    Raises:
        LaunchError: No sandbox can be had; all other episodes have ended then.
    """
    if not envs:
        raise ValueError("envs is empty: give at least one environment")
    waiting = deque(enumerate(plans))
    results: dict[int, EpisodeResult] = {}
    left: dict[int, EpisodePlan] = {}
    stopped: list[str] = []

    async def work(env: AsyncEnv) -> None:
        while waiting and not stopped:
            number, plan = waiting.popleft()
            guard = _Guard(make_agent(plan))
            result = await run_episode(env, guard, plan, limit_s=limit_s)
            if guard.stopped:
                stopped.append(guard.stopped)
                left[number] = plan
                continue
            results[number] = result
            if on_result is not None:
                on_result(result)

    try:
        async with asyncio.TaskGroup() as group:
            for env in envs:
                group.create_task(work(env))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the others were cancelled for it, or failed of the same
    left |= dict(waiting)
    return EpisodeBatch(
        tuple(results[number] for number in sorted(results)),
        tuple(left[number] for number in sorted(left)),
        stopped[0] if stopped else "",
    )


class _Guard:
    """Passes everything on to an agent, and remembers what keeps all others from going on as well."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.stopped = ""

    @property
    def usage(self) -> Usage:
        return usage_of(self._agent)

    def begin(self, instruction: str) -> None:
        self._agent.begin(instruction)

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        try:
            return await self._agent.act(observation, info)
        except (AgentLeft, BudgetExceeded) as error:
            self.stopped = str(error)
            raise


def usage_of(agent: Agent) -> Usage:
    """Return what the agent's model used in the episode; nothing if it does not say."""
    usage: object = getattr(agent, "usage", None)
    return usage if isinstance(usage, Usage) else Usage()


def text_of(observation: object) -> str:
    """Return the text of an observation: itself, or what gym-codecraft's has under "obs"."""
    return str(observation["obs"] if isinstance(observation, Mapping) else observation)


def fault_of(info: Mapping[str, Any]) -> str:
    """Return what an info says of its fault, on one line."""
    fault = info.get("fault", "")
    if isinstance(fault, Mapping):
        return f"{fault.get('kind', 'fault')}: {fault.get('message', '')}"
    return str(fault)


__all__ = [
    "AsyncEnv",
    "EpisodeBatch",
    "EpisodeEnd",
    "EpisodePlan",
    "EpisodeResult",
    "EpisodeStep",
    "fault_of",
    "run_episode",
    "run_episodes",
    "text_of",
    "usage_of",
]
