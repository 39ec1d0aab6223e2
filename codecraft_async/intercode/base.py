"""What all InterCode environments have in common: data, episodes, `submit` and `skip`, sandboxes, and their faults.

A new one is a subclass with three methods::

    class LuaEnv(InterCodeEnv):
        default_image = "registry.local/lua"

        async def execute_action(self, action: str) -> str:
            result = await self.sandbox.run(["lua", "-e", action], merge_stderr=True, limit_s=self.command_limit_s)
            self.info["action_executed"] = result.exit_code == 0
            return result.stdout.decode(errors="replace")

        async def get_reward(self) -> tuple[float, dict[str, Any]]:
            return float(self.observation == self.gold), {"agent_obs": self.observation, "eval_obs": self.gold}

    env = InterCodeVectorEnv(64, env=LuaEnv, data_path="lua.json")
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import gymnasium
import numpy as np

from codecraft_async._faces import Faces
from codecraft_async._observation import clip
from codecraft_async._outcome import GraderFailed, Outcome, tell_fault
from codecraft_async._render import Screen
from codecraft_async._tenant import Tenant
from codecraft_async.intercode.episodes import LOG, Episodes, Info, Preprocess
from codecraft_async.runtime import Runtime
from codecraft_async.sampling import make_sampler
from codecraft_async.spaces import Unicode
from codecraft_curriculum import Dataset, Sampler, TaskLimits, load_dataset
from codecraft_pool import ImageProgress, Launcher, PoolError, Recipe

__all__ = ["InterCodeEnv", "Preprocess"]

MAX_ACTION_CHARS: Final = 65_536
MAX_OBSERVATION_CHARS: Final = 65_536


class InterCodeEnv(Episodes, gymnasium.Env[str, str]):
    """One agent that acts on one row of a dataset at a time, in a sandbox that every reset makes new.

    An action is run and its output observed, with reward 0, until one that begins with ``submit`` pays what the state
    is worth, or ``skip`` gives up; either ends the episode. Without data it is interactive: no query, nothing is paid.

    `info` has, after every reset and step, the keys of `Outcome`, and ``index`` (int64, of the row; -1 without data),
    ``action_executed`` (bool) and ``corrupt_gold`` (bool, the gold failed: the episode tells nothing of the agent, so
    ``valid`` is False too); after a submission ``agent_obs`` and ``eval_obs``, ``reward`` and what the subclass adds. A
    lost sandbox or a reward that could not be computed is a fault: the episode ends truncated, with ``info["fault"]``.

    `reset` and `step` work anywhere; `areset`, `astep`, `ascore` and `aclose` are for a running event loop. One
    environment uses one of the two faces.

    Args:
        image_name: The image of the sandboxes, or a recipe that makes it, such as a `FileTree`; each subclass has one
            of its own by default.
        data_path: A file that `load_dataset` reads, or a `Dataset`; None: interactive.
        preprocess: Given a row as a dict, returns actions to be run after each reset.
        traj_dir: A directory that gets a file for each submitted episode, in ``logs_{name}``.
        verbose: Log what happens, on stderr.
        sampler: Picks rows where `reset` is given no ``index``: "uniform" (by the environment's seed), "sequential",
            or a `Sampler` of `dataset.curriculum()`.
        trust_pickle: Read *data_path* also if it is a pickle, which can run any code.
        score_steps: After every action, tell what a submission would pay: ``info["score"]``, with ``graded``.
        command_limit_s: How long one action may run, in seconds.
        max_episode_steps: Truncate after so many actions; by default never.
        max_observation_chars: Longer output is cut in its middle, which is said there.
        backend: "auto", "docker", "local", or a launcher, which stays open.
        limits: What a sandbox may use.
        render_mode: None, "ansi" or "human".
        progress: Told how an image is pulled or built.
        runtime: Sandboxes shared with other environments; owned by the caller. By default it has its own.
        reset_faults: What a reset does that can have no sandbox, "raise" or "info": as `CodeEnv`'s.
        reset_limit_s: How long a reset may wait for a sandbox, in seconds; an image may have to be made first.

    Raises:
        ValueError, TaskFileError: An argument is wrong; says which and what is allowed.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012  # declared so by gymnasium

    def __init__(
        self,
        image_name: str | Recipe | None = None,
        *,
        data_path: str | Path | Dataset | None = None,
        preprocess: Preprocess | None = None,
        traj_dir: str | Path | None = None,
        verbose: bool = False,
        sampler: str | Sampler = "uniform",
        trust_pickle: bool = False,
        score_steps: bool = False,
        command_limit_s: float = 10.0,
        max_episode_steps: int | None = None,
        max_observation_chars: int = MAX_OBSERVATION_CHARS,
        backend: str | Launcher = "auto",
        limits: TaskLimits | None = None,
        render_mode: str | None = None,
        progress: ImageProgress | None = None,
        runtime: Runtime | None = None,
        reset_faults: Literal["raise", "info"] = "raise",
        reset_limit_s: float = 900.0,
    ) -> None:
        for option, value in {"command_limit_s": command_limit_s, "max_episode_steps": max_episode_steps}.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{option} is {value}; it must be more than 0, and finite")
        self.dataset = open_dataset(data_path, trust_pickle=trust_pickle, names=self.field_names)
        self.command_limit_s = command_limit_s
        self.render_mode = render_mode
        self.action_space = Unicode(MAX_ACTION_CHARS)
        self.observation_space = Unicode(max_observation_chars)
        self._preprocess = preprocess
        self._traj_dir = traj_dir
        self._score_steps = score_steps
        self._max_steps = max_episode_steps
        self._max_chars = max_observation_chars
        self._raises = reset_faults == "raise"
        self._place = self.sandbox_task(image_name, limits)
        self._owns_runtime = runtime is None
        self.runtime = runtime or Runtime(
            backend,
            [self._place],
            max_sandboxes=2 if self.evaluates else 1,
            progress=progress,
            recipes=self.recipes(image_name),
        )
        self._tenant = Tenant(self.runtime, limit_s=reset_limit_s)
        self._sampler = None if self.dataset is None else make_sampler(sampler, self.dataset.curriculum())
        self._faces = Faces(type(self).__name__)
        self._screen = None if render_mode is None else Screen(render_mode)
        self._playing = False
        self.info, self.trajectory = {}, []
        if verbose:
            _be_verbose()

    # --- the asynchronous face ---

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None, index: int | None = None
    ) -> tuple[str, Info]:
        """Begin an episode on the row *index* (or ``options={"index": ...}``), else on one that the sampler picks.

        Return the query and info. Cancellation leaves no episode under way; the next reset works.

        Raises:
            IndexError: There is no such row.
            LaunchError: No sandbox can be had; says why and what to do.
            EpisodeError: What prepares the episode failed.
            ValueError, TypeError: The options are none; says which are known.
            AlreadyPendingCallError: Another call is in progress.
        """
        with self._faces.turn("reset"):
            chosen = _chosen(options or {}, index)
            super().reset(seed=seed)
            self._playing = False
            self.record = self._pick(chosen, self.np_random)
            self._steps, self.trajectory, self.submission = 0, [], ""
            self.observation = "" if self.record is None else self.query
            self._not_begun = None
            try:
                await self._begin()
            except PoolError as exc:
                if self._raises:
                    raise
                self._not_begun = exc
                tell_fault(self.info, exc)
            self._playing = True
            outcome = Outcome(clip(self.observation, self._max_chars), self.info)
        if self._screen is not None:
            self._screen.show_reset(outcome)
        return outcome.observation, outcome.info

    async def astep(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Run an action, or submit, or skip; return (observation, reward, terminated, truncated, info).

        Cancellation kills what the action started; the episode goes on.

        Raises:
            TypeError: The action is no text.
            ResetNeeded: No episode is under way.
            OSError: The trajectory's file cannot be written.
            AlreadyPendingCallError: Another call is in progress.
        """
        if not isinstance(action, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code is not all typed
            raise TypeError(f"an action is text; this one is of type {type(action).__name__}")
        with self._faces.turn("step"):
            if not self._playing:
                raise gymnasium.error.ResetNeeded("no episode is under way: call reset first")
            self.info = self._new_info()
            try:
                outcome = await self._act(action)
            except (GraderFailed, PoolError) as exc:
                await self.leave_container()
                outcome = self._fault(exc)
            outcome.info["steps"] = np.int64(self._steps)
            if self._steps == self._max_steps and not (outcome.terminated or outcome.truncated):
                outcome.truncated, outcome.info["truncation"] = True, "max_episode_steps"
            if outcome.terminated or outcome.truncated:
                self._playing = False
        if self._screen is not None:
            self._screen.show_step(action, outcome)
        return outcome.observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.info

    async def ascore(self, submission: str = "") -> tuple[float, Info]:
        """Return what ``submit`` and *submission* would pay now, and what its info would say; the episode goes on.

        Raises:
            ResetNeeded: No episode is under way.
            GraderFailed: The reward could not be computed.
            SandboxLost: The sandbox died.
        """
        with self._faces.turn("score"):
            if not self._playing:
                raise gymnasium.error.ResetNeeded("no episode is under way: call reset first")
            self.submission = submission
            try:
                return await self._reward()
            finally:
                self.submission = ""

    async def aclose(self) -> None:
        """Give the sandbox back, and end it if it is the environment's own. Idempotent."""
        if not self._faces.start_closing(self._abandon):
            return
        try:
            await self.leave_container()
        finally:
            self._tenant.leave()
            if self._owns_runtime:
                await self.runtime.aclose()

    # --- the synchronous face ---

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None, index: int | None = None
    ) -> tuple[str, Info]:
        """As `areset`."""
        return self._faces.drive(self.areset(seed=seed, options=options, index=index))

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """As `astep`."""
        return self._faces.drive(self.astep(action))

    def score(self, submission: str = "") -> tuple[float, Info]:
        """As `ascore`."""
        return self._faces.drive(self.ascore(submission))

    def close(self) -> None:
        """As `aclose`; after an asynchronous use whose event loop has ended, it lets go of the sandbox."""
        if not self._faces.drive_last(self.aclose()) and not self._faces.closed:
            self._abandon()

    def render(self) -> str | None:
        """Return the last action and what came of it ("ansi"); otherwise None."""
        return None if self._screen is None else self._screen.render()

    def _abandon(self) -> None:
        """Close where nothing was used yet, or where nothing can be awaited any more."""
        self._faces.closed = True
        self._tenant.forget()
        if self._owns_runtime:
            self.runtime.abandon()


def open_dataset(
    data_path: str | Path | Dataset | None, *, trust_pickle: bool, names: Mapping[str, str]
) -> Dataset | None:
    """Return the data that is meant; what is open already is used as it is."""
    if data_path is None or isinstance(data_path, Dataset):
        return data_path
    return load_dataset(data_path, trust_pickle=trust_pickle, names=names)


def _chosen(options: dict[str, Any], index: int | None) -> int | None:
    unknown = set(options) - {"index"}
    if unknown:
        raise ValueError(f"unknown reset option {sorted(unknown)[0]!r}; the one that is known is 'index'")
    chosen = options.get("index") if index is None else index
    if chosen is not None and (isinstance(chosen, bool) or not isinstance(chosen, int | np.integer)):
        raise TypeError(f"index is {chosen!r}; it must be a whole number, the row of a task")
    return None if chosen is None else int(chosen)


def _be_verbose() -> None:
    if not LOG.handlers:
        from rich.console import Console  # these take a moment, which only those who look on pay
        from rich.logging import RichHandler

        LOG.addHandler(RichHandler(console=Console(stderr=True), show_time=False))
    LOG.setLevel(logging.DEBUG)
