"""`CodeEnv`: one coding task at a time, in one sandbox, as a gymnasium environment with text in and text out."""

from __future__ import annotations

import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NoReturn, Unpack

import gymnasium
from gymnasium.error import ResetNeeded

from codecraft_async._branching import Cutting, Shared, cut
from codecraft_async._choice import choose_tasks, next_task
from codecraft_async._episode import Episode, NoEpisode
from codecraft_async._faces import Faces
from codecraft_async._outcome import Outcome
from codecraft_async._recovery import RecoverableEpisode, Recovery, recovery_of
from codecraft_async._render import Screen
from codecraft_async._rules import RuleOptions, Rules
from codecraft_async._shaping import DenseEpisode, Potential, grading_sandboxes
from codecraft_async._tenant import Tenant
from codecraft_async._track import Asked, Opening, Track, open_track
from codecraft_async.actions import MAX_ACTION_CHARS, SUBMIT
from codecraft_async.recorder import Recorder
from codecraft_async.runtime import Runtime, snapshot_of
from codecraft_async.sampling import learn, make_sampler
from codecraft_async.spaces import Unicode
from codecraft_curriculum import Curriculum, LookAhead, Sampler, Task
from codecraft_pool import (
    AcquireTimeout,
    Checkpoint,
    Launcher,
    LaunchError,
    PoolError,
    RequestRefused,
    SandboxLost,
)

Info = dict[str, Any]
ResetFaults = Literal["raise", "info"]
_RESET_ATTEMPTS = 3
RESET_LIMIT_S = 900.0  # hundreds of environments may start at once, and a daemon makes a few sandboxes a second


class CodeEnv(gymnasium.Env[str, str]):
    """A coding task in a sandbox.

    An action is a `str`: a command for the task's shell, run in the workspace, each in a shell of its own (or, with
    ``shell="persistent"``, all of an episode in one, which keeps directory, variables and functions); the action
    ``submit`` ends the episode: every process is ended, the task's grader looks at what is left, and its score is the
    reward (in [0, 1]; 0 at every other step). With another ``actions``, commands, files to write and the end come as
    models write them: see `codecraft_async.actions`. An observation is a `str`: the instruction after a reset,
    afterwards what the command printed, stdout and stderr in the order of writing.

    `info` has the same keys, each of one type, after every reset and step: see `codecraft_async.Outcome`. A lost
    sandbox or a grader that failed is no reward: the episode ends truncated, with ``info["fault"]`` there and
    ``info["valid"]`` False.

    `reset` and `step` work anywhere; `areset`, `astep` and `aclose` are for a running event loop. One environment uses
    one of the two faces. Before its first use it can be pickled and copied (`copy.deepcopy`); afterwards
    `abranch_from` copies its episode.

    Args:
        task: The id of the one task to give; by default all of the curriculum's are given.
        curriculum: "builtin", a `Curriculum`, or the path of a task file, a folder of tasks or a curriculum.json.
        backend: "auto", "docker", "local", or a launcher, which stays open.
        sampler: "sequential", "uniform", "weighted" (by difficulty), "adaptive" (by success), or a `Sampler`: which
            task comes next where ``options["task"]`` does not say.
        render_mode: None, "ansi" or "human".
        runtime: Sandboxes shared with other environments; owned by the caller. By default the environment has its own.
        reset_faults: What a reset does that can have no sandbox. "raise": it raises. "info": it returns an empty
            observation with ``info["fault"]``, and the next step ends the episode, whatever the action; the reset after
            that tries again. For batches, where one environment's fault must not end the others' episodes.
        reset_limit_s: How long a reset waits for a sandbox; a daemon that is away may come back meanwhile.
        record: Where to write a line for each reset and step: a path (see `Recorder`), or a `Recorder`, which others
            may share and which stays open. ``codecraft replay`` plays the episodes again.
        recover: Whether an episode goes on in another sandbox when its own is lost; a `Recovery` says how.
        max_episode_steps: Truncate after so many steps; by default the task's own number.
        wall_budget_s: Truncate once the episode has lasted so long, thinking included; a command is killed there.
        cpu_budget_s: Truncate once its commands have used so much CPU time; a command is killed there. What commands
            leave running in the background is not counted between them (nor, in fresh shells, during others): only
            `wall_budget_s` puts an end to that.
        max_observation_chars: Longer output is cut in its middle, which is said there.
        ansi: "keep" terminal sequences in observations, or "strip" them (and what progress bars wrote over).
        shell: "fresh" or "persistent".
        actions: "shell", "json", "fenced", "tool_calls", or an `ActionParser`.
        malformed_reward: Paid for an action that cannot be read; the observation says what is wrong with it.
        malformed_retries: So many such actions in a row do not count as steps.
        allow_reset: Whether the agent may ask for the workspace as it was at the beginning.
        reward: "sparse", or "dense": progress is paid at each step, see `codecraft_async._shaping`.
        gamma: The learner's discount, for "dense".

    Raises:
        UnknownTask, TaskFileError: The task or the curriculum cannot be had.
        ValueError: Another argument is wrong; says which and what is allowed.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012  # declared so by gymnasium

    def __init__(
        self,
        *,
        task: str | None = None,
        curriculum: str | Curriculum = "builtin",
        backend: str | Launcher = "auto",
        sampler: str | Sampler = "sequential",
        render_mode: str | None = None,
        runtime: Runtime | None = None,
        reset_faults: ResetFaults = "raise",
        reset_limit_s: float = RESET_LIMIT_S,
        record: str | Path | Recorder | Track | None = None,
        recover: bool | Recovery = False,
        **rules: Unpack[RuleOptions],
    ) -> None:
        super().__init__()
        self._faces = Faces(type(self).__name__)  # first, for where it cannot be pickled, it says why
        if reset_faults not in ("raise", "info"):
            raise ValueError(f"reset_faults is {reset_faults!r}; it must be 'raise' or 'info'")
        if not reset_limit_s > 0:
            raise ValueError(f"reset_limit_s is {reset_limit_s}; it must be a time in seconds over 0")
        self.rules = Rules(**rules)
        self.curriculum = choose_tasks(curriculum, task)
        self.render_mode = render_mode
        self._screen = None if render_mode is None else Screen(render_mode)
        self.action_space = Unicode(MAX_ACTION_CHARS)
        self.observation_space = Unicode(self.rules.max_observation_chars)
        self._sampler = make_sampler(sampler, self.curriculum)
        self._raises = reset_faults == "raise"
        self._owns_runtime = runtime is None
        needed = 1 + grading_sandboxes(self.rules, 1)
        self.runtime = runtime or Runtime(backend, list(self.curriculum.values()), max_sandboxes=needed)
        if self.runtime.max_sandboxes < needed:
            raise ValueError("a dense reward grades copies: the runtime needs more sandboxes than environments")
        self._tenant = Tenant(self.runtime, limit_s=reset_limit_s)
        self._potential = Potential(self._tenant.lend) if self.rules.reward == "dense" else None
        self._recovery = recovery_of(recover)
        self._track, self._own_recorder = open_track(record, curriculum)
        self._episode: Episode | RecoverableEpisode | NoEpisode | None = None
        self._latest: Outcome | None = None
        self._cutting: Shared[Cutting] = Shared()

    # --- the asynchronous face ---

    async def areset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Start an episode; ``options={"task": id}`` chooses its task. Return (instruction, info).

        Cancellation leaves no episode; the next reset works.

        Raises:
            UnknownTask: The curriculum has no such task.
            LaunchError, AcquireTimeout, SandboxLost, RequestRefused: No sandbox can be had (unless
                ``reset_faults="info"``).
            EpisodeError: The task's own set-up failed.
            AlreadyPendingCallError: Another call is in progress.
        """
        began = time.perf_counter()
        with self._faces.turn("reset"):
            super().reset(seed=seed)
            task = next_task(self.curriculum, self._sampler, self.np_random, options or {})
            self._episode = None
            self._episode, outcome = await self._begin_somewhere(task)
        self._show_start(outcome, began, task, Asked(seed, options))
        return outcome.observation, outcome.info

    async def _begin_somewhere(self, task: Task) -> tuple[Episode | RecoverableEpisode | NoEpisode, Outcome]:
        """Begin in the sandbox at hand, or in another one should that be lost."""
        error: PoolError | None = None
        for _ in range(_RESET_ATTEMPTS):
            try:
                return await self._begin(task)
            except (SandboxLost, RequestRefused) as exc:
                self._tenant.leave()  # the pool replaces it
                error = exc
            except (LaunchError, AcquireTimeout) as exc:
                error = exc
                break
        assert error is not None
        if self._raises:
            raise error
        none = NoEpisode(task, error)
        return none, none.begin()

    async def _begin(self, task: Task) -> tuple[Episode | RecoverableEpisode, Outcome]:
        sandbox, snapshot = await self._tenant.move(task), snapshot_of(task.workspace)
        if self._potential is None:
            episode = Episode(task, sandbox, self.rules, snapshot)
        else:
            episode = DenseEpisode(task, sandbox, self.rules, snapshot, self._potential)
        outcome = await episode.begin(restore_s=self._tenant.restore_s)
        return self._lasting(episode), outcome

    def _lasting(self, episode: Episode, checkpoint: Checkpoint | None = None) -> Episode | RecoverableEpisode:
        """Return an episode that begins (at *checkpoint*, if not at the task's beginning) as one that outlives its
        sandbox, where that is wanted."""
        if self._recovery is None:
            return episode
        return RecoverableEpisode(episode, self._recovery, self._tenant.move, checkpoint=checkpoint)

    def _look_ahead(self) -> None:
        """Have a sandbox made ready for the next episode while whoever acts thinks."""
        if isinstance(self._sampler, LookAhead):
            task = self._sampler.peek(deepcopy(self.np_random))
            if task is not None:
                self._tenant.move_soon(task)

    async def astep(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Run a command, or grade; return (observation, reward, terminated, truncated, info).

        Cancellation kills the command; the episode goes on. A submission is final: after one that was cancelled the
        next step grades, whatever its action.

        Raises:
            TypeError: The action is no text.
            ResetNeeded: There is no episode.
            AlreadyPendingCallError: Another call is in progress.
        """
        if not isinstance(action, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code is not all typed
            raise TypeError(
                f"an action is text, a shell command or {SUBMIT!r}; this one is of type {type(action).__name__}"
            )
        began = 0.0 if self._track is None else time.perf_counter()
        with self._faces.turn("step"):
            episode = self._episode
            if episode is None:
                raise ResetNeeded("there is no episode: call reset() before step(), and after an episode has ended")
            outcome = await episode.step(action)
        if outcome.terminated or outcome.truncated:
            self._episode = None
            if not outcome.info["valid"]:
                self._tenant.leave()
            else:  # one that was cut off has the score 0: a task that nobody finishes must not pass for a new one
                learn(self._sampler, episode.task.id, float(outcome.info["score"]))
            self._look_ahead()
        self._latest = outcome
        if self._screen is not None:
            self._screen.show_step(action, outcome)
        if self._track is not None:
            self._track.step(action, outcome, took_s=time.perf_counter() - began)
        return outcome.observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.info

    async def abranch_from(self, other: gymnasium.Env[Any, Any]) -> tuple[str, Info]:
        """Leave the episode at hand, and go on from where *other*'s is, apart from it. Return its last (text, info).

        Files, task, steps and what is left of the budgets are the same. What runs and the state of a persistent shell
        are no part of it, which ``info["branch"]`` tells: ``processes`` (int) that ran there, and ``shell`` (bool),
        whether there may have been such state. *other* goes on undisturbed; several may branch from it at once.
        Cancellation leaves no episode here.

        Raises:
            ResetNeeded: *other* has no episode.
            ValueError, TypeError: *other* is this environment or none of its kind, or has other rules.
            PoolError: The episode cannot be copied, or no sandbox can be had.
            AlreadyPendingCallError: Another call is in progress, here or there.
        """
        origin = self._origin(other)
        origin._faces.bind()
        return await self._grow(await origin._cutting.join(origin._cut))

    def _origin(self, other: gymnasium.Env[Any, Any]) -> CodeEnv:
        origin = other.unwrapped
        if not isinstance(origin, CodeEnv):
            raise TypeError(f"a CodeEnv can be a branch of another CodeEnv, and {other} is none")
        if origin is self:
            raise ValueError("an environment cannot be a branch of itself: give another one")
        return origin

    async def _cut(self) -> Cutting:
        with self._faces.turn("branch"):
            episode = self._episode.episode if isinstance(self._episode, RecoverableEpisode) else self._episode
            if not isinstance(episode, Episode) or self._latest is None:
                raise ResetNeeded("there is no episode to branch from: call its reset() first, and not after its end")
            place = None if self._track is None else self._track.place()
            return await cut(episode, self.rules, self._latest, place)

    async def _grow(self, cutting: Cutting) -> tuple[str, Info]:
        began, task = time.perf_counter(), cutting.episode.task
        with self._faces.turn("branch"):
            cutting.check(self.rules)
            self._episode = None
            sandbox = await self._tenant.move(task, is_empty=True)
            await sandbox.restore(cutting.checkpoint)  # what fails here is restored, or replaced, by the next reset
            episode = cutting.episode.in_sandbox(sandbox)
            if isinstance(episode, DenseEpisode) and self._potential is not None:
                episode.lend_from(self._potential)
            self._episode = self._lasting(episode, cutting.checkpoint)
        outcome = cutting.outcome()
        self._show_start(outcome, began, task, Asked(branch=cutting.place))
        return outcome.observation, outcome.info

    async def aclose(self) -> None:
        """Give the sandbox back, and end it if it is the environment's own. Idempotent."""
        if not self._faces.start_closing(self._abandon):
            return
        self._episode = None
        self._tenant.leave()
        try:
            self._end_recording()
        finally:
            if self._owns_runtime:
                await self.runtime.aclose()

    # --- the synchronous face ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """As `areset`."""
        return self._faces.drive(self.areset(seed=seed, options=options))

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """As `astep`."""
        return self._faces.drive(self.astep(action))

    def branch_from(self, other: gymnasium.Env[Any, Any]) -> tuple[str, Info]:
        """As `abranch_from`."""
        origin = self._origin(other)
        return self._faces.drive(self._grow(origin._faces.drive(origin._cutting.join(origin._cut))))

    def close(self) -> None:
        """As `aclose`; after an asynchronous use whose event loop has ended, it lets go of the sandbox."""
        if not self._faces.drive_last(self.aclose()) and not self._faces.closed:
            self._abandon()

    def render(self) -> str | None:
        """Return the last action and what came of it, coloured ("ansi"); otherwise None."""
        return None if self._screen is None else self._screen.render()

    def __copy__(self) -> NoReturn:
        raise self._faces.cannot_be_copied()  # a shallow copy would share it even before its use

    @property
    def sampler(self) -> Sampler:
        """What picks the tasks; its state can be saved if it is `Resumable`."""
        return self._sampler

    # --- inside ---

    def _abandon(self) -> None:
        """Close where nothing was used yet, or where nothing can be awaited any more."""
        self._faces.closed = True
        self._episode = None
        self._tenant.forget()
        if self._owns_runtime:
            self.runtime.abandon()
        self._end_recording()

    def _end_recording(self) -> None:
        if self._track is not None:
            self._track.let_go()
        if self._own_recorder is not None:
            self._own_recorder.close()

    def _show_start(self, outcome: Outcome, began: float, task: Task, asked: Asked) -> None:
        self._latest = outcome
        if self._screen is not None:
            self._screen.show_reset(outcome)
        if self._track is not None:
            opening = Opening(task, self.curriculum, self._tenant.sandbox, self._tenant.launcher, self.rules, asked)
            self._track.reset(opening, outcome, took_s=time.perf_counter() - began)


__all__ = ["RESET_LIMIT_S", "CodeEnv"]
