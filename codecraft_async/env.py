"""`CodeEnv`: one coding task at a time, in one sandbox, as a gymnasium environment with text in and text out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from copy import deepcopy
from typing import Any, Literal, TypeVar, Unpack

import gymnasium
from gymnasium.error import AlreadyPendingCallError, ResetNeeded

from codecraft_async._choice import choose_tasks, make_sampler
from codecraft_async._episode import Episode, NoEpisode
from codecraft_async._loop import LoopThread
from codecraft_async._outcome import Outcome
from codecraft_async._render import Screen
from codecraft_async._rules import RuleOptions, Rules
from codecraft_async._shaping import DenseEpisode, Potential, grading_sandboxes
from codecraft_async.actions import MAX_ACTION_CHARS, SUBMIT
from codecraft_async.runtime import Runtime, sandbox_spec, snapshot_of
from codecraft_async.spaces import Unicode
from codecraft_curriculum import Curriculum, LookAhead, Sampler, Task
from codecraft_pool import (
    AcquireTimeout,
    Launcher,
    LaunchError,
    Lease,
    PoolError,
    RequestRefused,
    SandboxLost,
    SandboxPool,
    SandboxSpec,
)

T = TypeVar("T")
Info = dict[str, Any]
ResetFaults = Literal["raise", "info"]
_RESET_ATTEMPTS = 3
RESET_LIMIT_S = 900.0  # hundreds of environments may start at once, and a daemon makes a few sandboxes a second
_LEND_LIMIT_S = 120.0
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
    reward (in [0, 1]; 0 at every other step). With another ``actions``, commands, files to write and the end come as
    models write them: see `codecraft_async.actions`. An observation is a `str`: the instruction after a reset,
    afterwards what the command printed, stdout and stderr in the order of writing.

    `info` has the same keys, each of one type, after every reset and step: see `codecraft_async.Outcome`. A lost
    sandbox or a grader that failed is no reward: the episode ends truncated, with ``info["fault"]`` there and
    ``info["valid"]`` False.

    `reset` and `step` work anywhere; `areset`, `astep` and `aclose` are for a running event loop. One environment uses
    one of the two faces.

    Args:
        task: The id of the one task to give; by default all of the curriculum's are given.
        curriculum: "builtin", a `Curriculum`, or the path of a task file, a folder of tasks or a curriculum.json.
        backend: "auto", "docker", "local", or a launcher, which stays open.
        sampler: "sequential", "uniform", or a `Sampler`: which task comes next where ``options["task"]`` does not say.
        render_mode: None, "ansi" or "human".
        runtime: Sandboxes shared with other environments; owned by the caller. By default the environment has its own.
        reset_faults: What a reset does that can have no sandbox. "raise": it raises. "info": it returns an empty
            observation with ``info["fault"]``, and the next step ends the episode, whatever the action; the reset after
            that tries again. For batches, where one environment's fault must not end the others' episodes.
        reset_limit_s: How long a reset waits for a sandbox; a daemon that is away may come back meanwhile.
        max_episode_steps: Truncate after so many steps; by default the task's own number.
        wall_budget_s: Truncate once the episode has lasted so long, thinking included; a command is killed there.
        cpu_budget_s: Truncate once its commands have used so much CPU time; a command is killed there.
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
        **rules: Unpack[RuleOptions],
    ) -> None:
        if reset_faults not in ("raise", "info"):
            raise ValueError(f"reset_faults is {reset_faults!r}; it must be 'raise' or 'info'")
        if not reset_limit_s > 0:
            raise ValueError(f"reset_limit_s is {reset_limit_s}; it must be a time in seconds over 0")
        self.rules = Rules(**rules)
        self.curriculum = choose_tasks(curriculum, task)
        self.render_mode = render_mode
        self.action_space = Unicode(MAX_ACTION_CHARS)
        self.observation_space = Unicode(self.rules.max_observation_chars)
        self._sampler = make_sampler(sampler, self.curriculum)
        self._raises = reset_faults == "raise"
        self._reset_limit_s = reset_limit_s
        self._owns_runtime = runtime is None
        needed = 1 + grading_sandboxes(self.rules, 1)
        self.runtime = runtime or Runtime(backend, list(self.curriculum.values()), max_sandboxes=needed)
        if self.runtime.max_sandboxes < needed:
            raise ValueError("a dense reward grades copies: the runtime needs more sandboxes than environments")
        self._potential = Potential(self._lend) if self.rules.reward == "dense" else None
        self._loop: LoopThread | None = None
        self._pool: SandboxPool | None = None
        self._lease: Lease | None = None
        self._episode: Episode | NoEpisode | None = None
        self._bound: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._calling = ""
        self._screen = None if render_mode is None else Screen(render_mode)

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
        self._bind()
        self._take_turn("reset")
        try:
            super().reset(seed=seed)
            task = self._choose(options or {})
            self._episode = None
            self._episode, outcome = await self._begin_somewhere(task)
        finally:
            self._calling = ""
        if self._screen is not None:
            self._screen.show_reset(outcome)
        return outcome.observation, outcome.info

    async def _begin_somewhere(self, task: Task) -> tuple[Episode | NoEpisode, Outcome]:
        """Begin in the sandbox at hand, or in another one should that be lost."""
        error: PoolError | None = None
        for _ in range(_RESET_ATTEMPTS):
            try:
                return await self._begin(task)
            except (SandboxLost, RequestRefused) as exc:
                self._drop_sandbox()  # the pool replaces it
                error = exc
            except (LaunchError, AcquireTimeout) as exc:
                error = exc
                break
        assert error is not None
        if self._raises:
            raise error
        none = NoEpisode(task, error)
        return none, none.begin()

    async def _begin(self, task: Task) -> tuple[Episode, Outcome]:
        self._pool = pool = await self.runtime.pool()
        spec, snapshot = sandbox_spec(task), snapshot_of(task.workspace)
        if self._lease is not None:
            if self._lease.sandbox.spec != spec:
                pool.expect(spec, snapshot)  # else what comes back would be restored, to be ended for it right after
            self._drop_sandbox()
        self._lease = await pool.acquire(spec, snapshot=snapshot, limit_s=self._reset_limit_s)
        sandbox = self._lease.sandbox
        if self._potential is None:
            episode = Episode(task, sandbox, self.rules, snapshot)
        else:
            episode = DenseEpisode(task, sandbox, self.rules, snapshot, self._potential)
        restored = self._lease.restored
        return episode, await episode.begin(restore_s=0.0 if restored is None else restored.wall_s)

    async def _lend(self, spec: SandboxSpec) -> Lease:
        """Return another sandbox, for a grading."""
        pool = await self.runtime.pool()
        return await pool.acquire(spec, limit_s=_LEND_LIMIT_S)

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
            outcome = await episode.step(action)
        finally:
            self._calling = ""
        if outcome.terminated or outcome.truncated:
            self._episode = None
            if not outcome.info["valid"]:
                self._drop_sandbox()
            self._look_ahead()
        if self._screen is not None:
            self._screen.show_step(action, outcome)
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
        """Return the last action and what came of it, coloured ("ansi"); otherwise None."""
        return None if self._screen is None else self._screen.render()

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


__all__ = ["RESET_LIMIT_S", "CodeEnv"]
