"""`evaluate`: agents play tasks in many environments at once, and each episode becomes an entry of a log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from codecraft_async.agents import Agent, AsyncEnv, EpisodePlan, EpisodeResult, run_episodes
from codecraft_async.agents.episodes import usage_of
from codecraft_async.evaluation.errors import ModelRefused
from codecraft_async.evaluation.moves import END, Move
from codecraft_async.evaluation.records import SUCCESS, EpisodeLog
from codecraft_async.evaluation.seats import Play, Seat
from codecraft_async.evaluation.tasks import EvalTask
from codecraft_async.llm import EndpointUnreachable, KeyRejected, QuotaExhausted, Usage
from codecraft_async.vector import AsyncioVectorEnv

__all__ = ["EvalRules", "Evaluation", "evaluate"]

_FAULT: Final = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRules:
    """How episodes are played.

    An agent has `max_turns` turns. Where its actions are scored as they are done, its episode ends as soon as one is
    worth `stop_at` (None: never for that); where they are not, the last thing that is done is a submission.
    """

    max_turns: int = 10
    stop_at: float | None = SUCCESS
    hidden_submissions: bool = False
    """What an agent submits, and in Python each function that it defines, is judged without ending the episode, until
    it is worth 1."""
    limit_s: float = 3600.0
    """How long an episode may take, in seconds."""
    attempts: int = 2
    """How often an episode that ends in a fault is played in all."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "limit_s", "attempts"):
            value: float = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of the tasks: episodes by their names, in the order of the tasks, and what was not played, with why."""

    episodes: dict[str, EpisodeLog]
    left: tuple[EvalTask, ...] = ()
    stopped: str = ""


async def evaluate(
    env: AsyncioVectorEnv[Any, Any] | Sequence[AsyncEnv],
    make_agent: Callable[[EvalTask], Agent],
    tasks: Iterable[EvalTask],
    *,
    rules: EvalRules | None = None,
    dataset: str = "",
    on_episode: Callable[[EpisodeLog], None] | None = None,
) -> Evaluation:
    """Play each of *tasks* once, as many at once as *env* has environments, with an agent of its own for each.

    *env* is a vector environment, or environments with `areset` and `astep`. With ``score_steps=True`` each action's
    reward in the log is what a submission would have paid after it; otherwise actions earn 0, and the submission that
    ends the episode is its last turn. An episode that ends in a fault is played again after all others.

    *on_episode* is called as soon as an episode is over, and for faults with the last attempt only. When a budget is
    used up, or the endpoint refuses all calls (`ModelRefused`), nothing more is begun, and the rest is `left`.
    Cancellation ends all steps under way.

    Raises:
        ValueError: Two tasks have the same name.
        LaunchError: No sandbox can be had.
    """
    rules = rules or EvalRules()
    envs = cast("Sequence[AsyncEnv]", env.envs if isinstance(env, AsyncioVectorEnv) else env)
    run = _Run(list(tasks), make_agent, rules, dataset, on_episode)
    seats = [Seat(each, run.plays, hides_submissions=rules.hidden_submissions) for each in envs]
    for attempt in range(rules.attempts):
        waiting, run.again, run.is_last = run.again, [], attempt == rules.attempts - 1
        batch = await run_episodes(seats, run.player, map(_plan, waiting), limit_s=rules.limit_s, on_result=run.take)
        run.left += [run.tasks[plan.name] for plan in batch.left]
        if batch.stopped or not run.again:
            return run.outcome(batch.stopped)
    return run.outcome("")


class _Run:
    """What has come of the tasks so far."""

    def __init__(
        self,
        tasks: list[EvalTask],
        make_agent: Callable[[EvalTask], Agent],
        rules: EvalRules,
        dataset: str,
        on_episode: Callable[[EpisodeLog], None] | None,
    ) -> None:
        self.tasks = {task.name: task for task in tasks}
        if len(self.tasks) < len(tasks):
            raise ValueError("the same task is there twice: give each time that it is played a sample of its own")
        self.plays: dict[str, Play] = {}
        self.again = tasks
        self.left: list[EvalTask] = []
        self.is_last = False
        self._make_agent = make_agent
        self._rules = rules
        self._dataset = dataset
        self._on_episode = on_episode
        self._episodes: dict[str, EpisodeLog] = {}

    def player(self, plan: EpisodePlan) -> Agent:
        play = self.plays[plan.name] = Play()
        return _Player(self._make_agent(self.tasks[plan.name]), play, self._rules)

    def take(self, result: EpisodeResult) -> None:
        play, task = self.plays.pop(result.plan.name), self.tasks[result.plan.name]
        if result.end == _FAULT and not self.is_last:
            self.again.append(task)
            return
        episode = EpisodeLog(
            environment=play.environment,
            dataset=self._dataset,
            task_id=task.id,
            query=task.query,
            turns=tuple(play.turns),
            turns_max=self._rules.max_turns,
            hardness=task.hardness,
            info=play.details,
            sample=task.sample,
            end=result.end,
            error=result.error,
            corrupt_gold=play.corrupt_gold,
            usage=result.usage,
            wall_s=round(result.wall_s, 4),
        )
        self._episodes[task.name] = episode
        if self._on_episode is not None:
            self._on_episode(episode)

    def outcome(self, stopped: str) -> Evaluation:
        played = {name: self._episodes[name] for name in self.tasks if name in self._episodes}
        return Evaluation(played, (*self.left, *self.again), stopped)


class _Player:
    """Lets an agent have its turns, and ends the episode for it."""

    def __init__(self, agent: Agent, play: Play, rules: EvalRules) -> None:
        self._agent = agent
        self._play = play
        self._rules = rules

    @property
    def usage(self) -> Usage:
        """What the agent's model used."""
        return usage_of(self._agent)

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        self._agent.begin(instruction)

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`."""
        turns, stop_at = self._play.turns, self._rules.stop_at
        is_solved = bool(turns) and self._play.is_scored and stop_at is not None and turns[-1].reward >= stop_at
        if is_solved or len(turns) >= self._rules.max_turns:
            return END
        try:
            action = await self._agent.act(observation, info)
        except (EndpointUnreachable, KeyRejected, QuotaExhausted) as error:
            raise ModelRefused(str(error)) from error
        return action if isinstance(action, Move) else Move(action)


def _plan(task: EvalTask) -> EpisodePlan:
    return EpisodePlan(task.name, {**task.options, Seat.NAME: task.name}, seed=task.sample)
