"""Playing recorded episodes again, many at once, and comparing what comes with what came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from gymnasium.error import ResetNeeded

from codecraft_async._episode import EpisodeError
from codecraft_async._masks import Masker
from codecraft_async._rules import RuleOptions, Rules
from codecraft_async._shaping import grading_sandboxes
from codecraft_async._track import task_digest
from codecraft_async.env import CodeEnv
from codecraft_async.runtime import Runtime
from codecraft_async.trajectory import (
    EpisodeStart,
    EpisodeStep,
    OnError,
    Problem,
    RecordedEpisode,
    began_at,
    find_parents,
    origins_of,
    read_trajectories,
)
from codecraft_curriculum import Curriculum, CurriculumError, Task, load_curriculum
from codecraft_pool import ImageProgress, Launcher, PoolError

COMPARED_INFO: Final = ("exit_code", "signal", "timed_out", "truncated_output", "malformed", "graded")
_NOT_REPEATED: Final = ("wall_budget", "cpu_budget")  # where an episode met these depends on the machine
_REWARD_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """At `step` (0 is the reset) `name` was `recorded`, and now is `replayed`; texts are as the masks left them."""

    step: int
    name: str
    recorded: object
    replayed: object


@dataclass(slots=True)
class ReplayedEpisode:
    """What playing an episode again came to: how many steps were compared, and what differed.

    `failed` says why it could not be played, or not to its end; `left_out` why its end was not to be played: a fault or
    a budget ended it. Both are empty otherwise. After a step that differs the rest is played as well, unless the
    episode is over.
    """

    episode: RecordedEpisode
    compared: int = 0
    failed: str = ""
    left_out: str = ""
    differences: list[Difference] = field(default_factory=list[Difference])

    @property
    def is_same(self) -> bool:
        """Whether it could be played, and all that was compared is the same."""
        return not self.differences and not self.failed


class NotReplayable(Exception):
    """An episode cannot be played again as it was; says why."""


class Replay:
    """Plays the episodes of recordings again, and compares.

    Args:
        paths: Files, or directories of them.
        backend: "auto", "docker", "local", or a launcher, which stays open.
        curriculum: Where the tasks are; by default where each recording says that they were.
        trust_code: Run the Python files that task files name, as `load_curriculum` does.
        num_envs: How many episodes at once, and sandboxes (twice as many where episodes began as branches of others).
        masker: What is overlooked in observations; by default nothing.
        episodes: Only those whose name begins with one of these; by default all.
        env_options: In place of what was recorded, such as ``{"actions": parser}`` where that is an object.
        on_error: Whether a damaged recording is an error, or what is whole of it is played.
        on_problem: Told every problem of the files that is passed over, once.
        progress: Told how images are pulled or built.
    """

    def __init__(
        self,
        *paths: Path | str,
        backend: str | Launcher = "auto",
        curriculum: str | Curriculum | None = None,
        trust_code: bool = False,
        num_envs: int = 8,
        masker: Masker | None = None,
        episodes: Sequence[str] = (),
        env_options: Mapping[str, Any] | None = None,
        on_error: OnError = "raise",
        on_problem: Callable[[Problem], None] | None = None,
        progress: ImageProgress | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        self._paths = paths
        self._backend = backend
        self._load = partial(load_curriculum, trust_code=trust_code)
        self._curriculum = self._load(curriculum) if isinstance(curriculum, str) else curriculum
        self._num_envs = num_envs
        self._mask = masker or Masker()
        self._names = tuple(episodes)
        self._env_options = dict(env_options or {})
        self._on_error: OnError = on_error
        self._on_problem = on_problem
        self._progress = progress
        self._curricula: dict[str, Curriculum | CurriculumError] = {}
        self._tasks: dict[str, Task] = {}
        self._parents: dict[str, RecordedEpisode] = {}
        self._spare = 0

    async def run(self, on_replayed: Callable[[ReplayedEpisode], None]) -> None:
        """Play them all; *on_replayed* is given each one when it has been played, in the order of that.

        Raises:
            TrajectoryError: A recording cannot be read.
            LaunchError: The sandboxes cannot be started.
        """
        await asyncio.to_thread(self._survey)
        width = self._num_envs * (2 if self._parents else 1) + self._spare
        tasks = list(self._tasks.values())
        runtime = Runtime(self._backend, tasks, max_sandboxes=width, progress=self._progress, prove_every=0)
        source = _Source(self._read())
        try:
            if tasks:
                await runtime.pool()  # what keeps it from being had is no fault of an episode's
            async with asyncio.TaskGroup() as group:
                for _ in range(self._num_envs):
                    group.create_task(self._work(source, runtime, on_replayed))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await runtime.aclose()

    async def _work(self, source: _Source, runtime: Runtime, on_replayed: Callable[[ReplayedEpisode], None]) -> None:
        while (episode := await source.next()) is not None:
            on_replayed(await self._play(episode, runtime))

    # --- what is to be played ---

    def _survey(self) -> None:
        """Find out which tasks there will be, and which episodes others branch from (blocking)."""
        has_branches = False
        for episode in self._read(self._on_problem):
            start = episode.start
            try:
                self._tasks.setdefault(start.task, self._task_of(start))
            except NotReplayable:
                continue  # told when it is its turn
            has_branches |= start.branch is not None
            self._spare = max(self._spare, _grading_sandboxes(start, self._num_envs))
        if has_branches:
            self._parents = find_parents(*self._paths, on_error=self._on_error)

    def _read(self, on_problem: Callable[[Problem], None] | None = None) -> Iterator[RecordedEpisode]:
        for episode in read_trajectories(*self._paths, on_error=self._on_error, on_problem=on_problem):
            if not self._names or episode.start.episode.startswith(self._names):
                yield episode

    def _curriculum_of(self, start: EpisodeStart) -> Curriculum:
        if self._curriculum is not None:
            return self._curriculum
        source = start.curriculum_source
        if not source:
            raise NotReplayable(
                f"its curriculum {start.curriculum!r} was made by a program: say where the tasks are (--curriculum)"
            )
        if source not in self._curricula:
            try:
                self._curricula[source] = self._load(source)
            except CurriculumError as error:
                self._curricula[source] = error
        curriculum = self._curricula[source]
        if isinstance(curriculum, CurriculumError):
            raise NotReplayable(f"its curriculum cannot be had: {curriculum}")
        return curriculum

    def _task_of(self, start: EpisodeStart) -> Task:
        curriculum = self._curriculum_of(start)
        if start.task not in curriculum:
            raise NotReplayable(f"its task {start.task!r} is not in the curriculum {curriculum.name!r}")
        task = curriculum[start.task]
        if task_digest(task) != start.task_digest:
            raise NotReplayable(f"its task {start.task!r} has changed since it was recorded (another digest)")
        return task

    # --- playing ---

    async def _play(self, episode: RecordedEpisode, runtime: Runtime) -> ReplayedEpisode:
        replayed = ReplayedEpisode(episode)
        if not episode.start.info.get("valid", True):
            replayed.left_out = f"not at all: it had no sandbox: {episode.start.info.get('fault')}"
            return replayed
        try:
            async with aclosing(_Player(self._make_env(episode.start, runtime), self._mask)) as player:
                await self._begin(player, episode, runtime, replayed)
                await player.play(episode.steps, replayed)
        except (NotReplayable, PoolError, EpisodeError) as error:
            replayed.failed = str(error)
        except ResetNeeded:
            replayed.failed = "what it is a branch of is over, when it is played again, before the branch begins"
        return replayed

    def _make_env(self, start: EpisodeStart, runtime: Runtime) -> CodeEnv:
        """Return an environment like the one that was recorded, but for its budgets, which no two runs use alike."""
        task = self._task_of(start)
        options: dict[str, Any] = {
            **start.env_options,
            "wall_budget_s": None,
            "cpu_budget_s": None,
            **self._env_options,
        }
        known: dict[str, Any] = {name: value for name, value in options.items() if name in RuleOptions.__annotations__}
        try:
            return CodeEnv(curriculum=Curriculum([task], name=start.curriculum), runtime=runtime, **known)
        except (TypeError, ValueError) as error:
            raise NotReplayable(f"the environment cannot be made as it was: {error}") from error

    async def _begin(
        self, player: _Player, episode: RecordedEpisode, runtime: Runtime, replayed: ReplayedEpisode
    ) -> None:
        """Reset, or become a copy of an episode that is played up to where this one left it."""
        line = [*reversed(origins_of(episode, self._parents)), episode]
        missing = line[0].start.branch
        if missing is not None:
            raise NotReplayable(f"it is a branch of episode {missing.episode}, which is not in the recording")
        before: CodeEnv | None = None
        async with AsyncExitStack() as held:  # one at a time: what the next one is a copy of
            for origin, branch in pairwise(line):
                async with AsyncExitStack() as starting:
                    other = _Player(self._make_env(origin.start, runtime), self._mask)
                    await starting.enter_async_context(aclosing(other))
                    await _start(other.env, origin.start, before)
                    for step in origin.steps[: max(0, began_at(branch) - began_at(origin))]:
                        await other.env.astep(step.action)
                    await held.aclose()
                    held.push_async_exit(starting.pop_all())
                before = other.env
            observation, info = await _start(player.env, episode.start, before)
        player.compare(replayed, 0, episode.start, observation, info)


async def _start(env: CodeEnv, start: EpisodeStart, before: CodeEnv | None) -> tuple[str, dict[str, Any]]:
    if before is not None:
        return await env.abranch_from(before)
    return await env.areset(seed=start.seed, options={"task": start.task})


class _Source:
    """Gives episodes to whoever asks, one at a time; files are read in a thread."""

    def __init__(self, episodes: Iterator[RecordedEpisode]) -> None:
        self._episodes = episodes
        self._turn = asyncio.Lock()

    async def next(self) -> RecordedEpisode | None:
        async with self._turn:
            return await asyncio.to_thread(next, self._episodes, None)


class _Player:
    """Plays steps in an environment of its own."""

    def __init__(self, env: CodeEnv, mask: Masker) -> None:
        self.env = env
        self._mask = mask

    async def aclose(self) -> None:
        await self.env.aclose()

    async def play(self, steps: Sequence[EpisodeStep], replayed: ReplayedEpisode) -> None:
        for step in steps:
            why = _cannot_repeat(step)
            if why:
                replayed.left_out = f"not from step {step.step} on: {why}"
                return
            observation, reward, terminated, truncated, info = await self.env.astep(step.action)
            if not info["valid"]:
                raise NotReplayable(f"the replay failed at step {step.step}: {info['fault']}")
            values = (("reward", reward), ("terminated", terminated), ("truncated", truncated))
            self.compare(replayed, step.step, step, observation, info)
            for name, value in values:
                _note(replayed, step.step, name, getattr(step, name), value)
            replayed.compared += 1
            if (terminated or truncated) and step is not steps[-1]:
                return

    def compare(
        self,
        replayed: ReplayedEpisode,
        number: int,
        recorded: EpisodeStart | EpisodeStep,
        observation: str,
        info: Mapping[str, Any],
    ) -> None:
        """Note how the observation and the info differ."""
        _note(replayed, number, "observation", self._mask(recorded.observation), self._mask(observation))
        for key in COMPARED_INFO:
            if key in recorded.info and key in info:
                _note(replayed, number, f"info[{key!r}]", recorded.info[key], info[key])


def _note(replayed: ReplayedEpisode, number: int, name: str, recorded: Any, now: Any) -> None:
    is_same = abs(recorded - now) <= _REWARD_TOLERANCE if isinstance(recorded, float) else bool(recorded == now)
    if not is_same:
        now = now.item() if hasattr(now, "item") else now
        replayed.differences.append(Difference(number, name, recorded, now))


def _grading_sandboxes(start: EpisodeStart, num_envs: int) -> int:
    return grading_sandboxes(Rules(reward="dense"), num_envs) if start.env_options.get("reward") == "dense" else 0


def _cannot_repeat(step: EpisodeStep) -> str:
    if not step.info.get("valid", True):
        return f"a fault ended it there: {step.info.get('fault', 'of a kind that is not told')}"
    if step.info.get("truncation") in _NOT_REPEATED:
        return f"its {step.info['truncation']} ended it there, which depends on the machine"
    return ""


__all__ = ["COMPARED_INFO", "Difference", "Masker", "Replay", "ReplayedEpisode"]
