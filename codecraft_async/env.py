"""`CodeEnv`: one coding task at a time, in one sandbox, as a gymnasium environment with text in and text out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import suppress
from copy import deepcopy
from typing import Any, Literal, TypeVar

import gymnasium
from gymnasium.error import AlreadyPendingCallError, ResetNeeded

from codecraft_async._episode import MAX_ACTION_CHARS, Episode, Outcome
from codecraft_async._loop import LoopThread
from codecraft_async.runtime import Runtime, sandbox_spec, snapshot_of
from codecraft_async.sampling import learn, make_sampler
from codecraft_async.spaces import Unicode
from codecraft_curriculum import (
    Curriculum,
    LookAhead,
    Sampler,
    Task,
    load_curriculum,
)
from codecraft_pool import Launcher, Lease, PoolError, RequestRefused, SandboxLost, SandboxPool

T = TypeVar("T")
Info = dict[str, Any]
ShellMode = Literal["fresh", "persistent"]
SUBMIT = "submit"
MAX_OBSERVATION_CHARS = 16_384
_RESET_ATTEMPTS = 3
_ACQUIRE_LIMIT_S = 900.0  # hundreds of environments may start at once, and a daemon makes a few sandboxes a second
_CLOSE_LIMIT_S = 30.0
_CLOSED = "the environment is closed; make a new one"
_OTHER_LOOP = (
    "the environment's sandboxes belong to another event loop: use it from there, and either reset, step and close "
    "or areset, astep and aclose"
)


class CodeEnv(gymnasium.Env[str, str]):
    """A coding task in a sandbox.

    An action is a `str`: a command for the task's shell, run in the workspace, each in a shell of its own (or, with
    ``shell="persistent"``, all of an episode in one, which keeps directory, variables and functions); the action
    ``submit`` ends the episode: every process is ended, the task's grader looks at what is left, and its score is the
    reward (in [0, 1]; 0 at every other step). An observation is a `str`: the instruction after a reset, afterwards what
    the command printed, stdout and stderr in the order of writing.

    `info` has the same keys, each of one type, after every reset and step: see `Outcome`. A lost sandbox or a grader
    that failed is no reward: the episode ends truncated, with ``info["fault"]`` set and ``info["valid"]`` False.

    `reset` and `step` work anywhere; `areset`, `astep` and `aclose` are for a running event loop. One environment uses
    one of the two faces.

    Args:
        task: The id of the one task to give; by default all of the curriculum's are given.
        curriculum: "builtin", a `Curriculum`, or the path of a task file, a folder of tasks or a curriculum.json.
        backend: "auto", "docker", "local", or a launcher, which stays open.
        sampler: "sequential", "uniform", "weighted" (by difficulty), "adaptive" (by success), or a `Sampler`: which
            task comes next where ``options["task"]`` does not say.
        max_episode_steps: Truncate after so many steps; by default the task's own number.
        shell: "fresh" or "persistent".
        max_observation_chars: Longer output is cut in its middle, which is said there.
        render_mode: None, "ansi" or "human".
        runtime: Sandboxes shared with other environments; owned by the caller. By default the environment has its own.

    Raises:
        UnknownTask, TaskFileError: The task or the curriculum cannot be had.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012  # declared so by gymnasium

    def __init__(
        self,
        *,
        task: str | None = None,
        curriculum: str | Curriculum = "builtin",
        backend: str | Launcher = "auto",
        sampler: str | Sampler = "sequential",
        max_episode_steps: int | None = None,
        max_observation_chars: int = MAX_OBSERVATION_CHARS,
        shell: ShellMode = "fresh",
        render_mode: str | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is {render_mode!r}; it must be None, 'ansi' or 'human'")
        if shell not in ("fresh", "persistent"):
            raise ValueError(f"shell is {shell!r}; it must be 'fresh' or 'persistent'")
        self.curriculum = choose_tasks(curriculum, task)
        self._shell: ShellMode = shell
        self.render_mode = render_mode
        self.action_space = Unicode(MAX_ACTION_CHARS)
        self.observation_space = Unicode(max_observation_chars)
        self._sampler = make_sampler(sampler, self.curriculum)
        self._max_episode_steps = _check_steps(max_episode_steps)
        self._max_observation_chars = max_observation_chars
        self._owns_runtime = runtime is None
        self.runtime = runtime or Runtime(backend, list(self.curriculum.values()), max_sandboxes=1)
        self._loop: LoopThread | None = None
        self._pool: SandboxPool | None = None
        self._lease: Lease | None = None
        self._episode: Episode | None = None
        self._bound: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._calling = ""
        self._shown = ""

    # --- the asynchronous face ---

    async def areset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Start an episode; ``options={"task": id}`` chooses its task. Return (instruction, info).

        Cancellation leaves no episode; the next reset works.

        Raises:
            UnknownTask: The curriculum has no such task.
            LaunchError: No sandbox can be started.
            EpisodeError: The task's own set-up failed.
            AlreadyPendingCallError: Another call is in progress.
        """
        self._bind()
        self._take_turn("reset")
        try:
            super().reset(seed=seed)
            task = self._choose(options or {})
            self._episode = None
            episode, outcome = await self._begin_somewhere(task)
            self._episode = episode
        finally:
            self._calling = ""
        self._show(outcome.observation)
        return outcome.observation, outcome.info

    async def _begin_somewhere(self, task: Task) -> tuple[Episode, Outcome]:
        """Begin in the sandbox at hand, or in another one should that be lost."""
        for _ in range(_RESET_ATTEMPTS - 1):
            try:
                return await self._begin(task)
            except (SandboxLost, RequestRefused):
                self._drop_sandbox()  # the pool replaces it
        return await self._begin(task)

    async def _begin(self, task: Task) -> tuple[Episode, Outcome]:
        self._pool = pool = await self.runtime.pool()
        spec, snapshot = sandbox_spec(task), snapshot_of(task.workspace)
        if self._lease is not None:
            if self._lease.sandbox.spec != spec:
                pool.expect(spec, snapshot)  # else what comes back would be restored, to be ended for it right after
            self._drop_sandbox()
        self._lease = await pool.acquire(spec, snapshot=snapshot, limit_s=_ACQUIRE_LIMIT_S)
        episode = Episode(
            task,
            self._lease.sandbox,
            max_steps=self._max_episode_steps or task.max_steps,
            max_observation_chars=self._max_observation_chars,
            persistent_shell=self._shell == "persistent",
        )
        restored = self._lease.restored
        return episode, await episode.begin(restore_s=0.0 if restored is None else restored.wall_s)

    def _look_ahead(self) -> None:
        """Have a sandbox made ready for the next episode while whoever acts thinks; a hint, which may be wrong."""
        if self._pool is None or not isinstance(self._sampler, LookAhead):
            return
        task = self._sampler.peek(deepcopy(self.np_random))
        if task is None:
            return
        with suppress(PoolError):  # whatever keeps it from being made ready, the next reset will tell
            self._pool.expect(sandbox_spec(task), snapshot_of(task.workspace))
            self._drop_sandbox()

    async def astep(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Run a command, or grade; return (observation, reward, terminated, truncated, info).

        Cancellation kills the command; the episode goes on.

        Raises:
            TypeError: The action is no text.
            ResetNeeded: There is no episode.
            AlreadyPendingCallError: Another call is in progress.
        """
        if not isinstance(action, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code is not all typed
            raise TypeError(
                f"an action is text, a shell command or {SUBMIT!r}; this one is of type {type(action).__name__}"
            )
        self._bind()
        self._take_turn("step")
        try:
            episode = self._episode
            if episode is None:
                raise ResetNeeded("there is no episode: call reset() before step(), and after an episode has ended")
            outcome = await (episode.submit() if action.strip() == SUBMIT else episode.act(action))
        finally:
            self._calling = ""
        if outcome.terminated or outcome.truncated:
            self._episode = None
            if not outcome.info["valid"]:
                self._drop_sandbox()
            elif outcome.info["graded"]:
                learn(self._sampler, episode.task.id, outcome.reward)
            self._look_ahead()
        self._show(f"$ {action}\n{outcome.observation}")
        return outcome.observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.info

    async def aclose(self) -> None:
        """Give the sandbox back, and end it if it is the environment's own. Idempotent."""
        if self._closed:
            return
        if self._bound is not None and self._bound.is_closed():
            self._abandon()
            return
        self._bind()
        self._closed = True
        self._episode = None
        self._drop_sandbox()
        if self._owns_runtime:
            await self.runtime.aclose()

    # --- the synchronous face ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """As `areset`."""
        return self._wait(self.areset(seed=seed, options=options))

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """As `astep`."""
        return self._wait(self.astep(action))

    def close(self) -> None:
        """As `aclose`; after an asynchronous use whose event loop has ended, it lets go of the sandbox."""
        loop, self._loop = self._loop, None
        if loop is not None:
            try:
                loop.run(self.aclose(), timeout_s=_CLOSE_LIMIT_S)
            finally:
                loop.close()
        elif not self._closed:
            if self._bound is not None and not self._bound.is_closed():
                raise RuntimeError("the environment was used on an event loop that still runs: await aclose() there")
            self._abandon()

    def render(self) -> str | None:
        """Return the last command and what it printed ("ansi"); otherwise None."""
        return self._shown if self.render_mode == "ansi" else None

    @property
    def sampler(self) -> Sampler:
        """What picks the tasks; its state can be saved if it is `Resumable`."""
        return self._sampler

    # --- inside ---

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            if self._bound is not None or self._closed:
                work.close()
                raise RuntimeError(_OTHER_LOOP if not self._closed else _CLOSED)
            self._loop = LoopThread()
        return self._loop.run(work)

    def _bind(self) -> None:
        """Belong to the first event loop that is used: connections to sandboxes live on one."""
        running = asyncio.get_running_loop()
        if self._closed:
            raise RuntimeError(_CLOSED)
        if self._bound is None:
            self._bound = running
        elif self._bound is not running:
            raise RuntimeError(_OTHER_LOOP)

    def _take_turn(self, name: str) -> None:
        """Refuse a second call at once: a command must not run beside the grading of the same sandbox.

        Ended by emptying `_calling`; a context manager would cost every step more than all else that is done here.
        """
        if self._calling:
            raise AlreadyPendingCallError(
                f"`{name}` while a call of `{self._calling}` is in progress: one call at a time, or more environments",
                self._calling,
            )
        self._calling = name

    def _choose(self, options: dict[str, Any]) -> Task:
        unknown = set(options) - {"task"}
        if unknown:
            raise ValueError(f"unknown reset option {sorted(unknown)[0]!r}; the one that is known is 'task'")
        task = options.get("task")
        if task is None:
            return self._sampler.next(self.np_random)
        if not isinstance(task, str):
            raise TypeError(
                f"the reset option 'task' is {task!r}; it must be one task's id (a sampler gives different tasks to "
                "different environments)"
            )
        return self.curriculum[task]

    def _abandon(self) -> None:
        """Close where nothing was used yet, or where nothing can be awaited any more."""
        self._closed = True
        self._episode = None
        self._lease = self._pool = None
        if self._owns_runtime:
            self.runtime.abandon()

    def _drop_sandbox(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def _show(self, text: str) -> None:
        self._shown = text
        if self.render_mode == "human":
            sys.stdout.write(f"{text}\n")


def choose_tasks(curriculum: str | Curriculum, task: str | None) -> Curriculum:
    """Return the curriculum that is meant, reduced to *task* if that is given."""
    whole = curriculum if isinstance(curriculum, Curriculum) else load_curriculum(curriculum)
    return whole if task is None else Curriculum([whole[task]], name=whole.name)


def _check_steps(max_episode_steps: int | None) -> int | None:
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"max_episode_steps is {max_episode_steps}; it must be at least 1")
    return max_episode_steps


__all__ = ["SUBMIT", "CodeEnv", "ShellMode", "choose_tasks"]
