"""Episodes of InterCode's environments: a row of data, a sandbox, actions, a reward, and what becomes of faults."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import gymnasium
import numpy as np

from codecraft_async._episode import EpisodeError
from codecraft_async._observation import clip
from codecraft_async._outcome import GraderFailed, Outcome, empty_info, tell_fault
from codecraft_async._tenant import LEND_LIMIT_S, Tenant
from codecraft_async.actions import problem_of
from codecraft_async.intercode.trajectories import save_trajectory
from codecraft_async.runtime import Runtime, sandbox_spec
from codecraft_curriculum import Dataset, RandomSource, Record, Sampler, Task, TaskLimits
from codecraft_pool import Recipe, RequestRefused, Sandbox, SandboxLost, Snapshot

__all__ = ["LOG", "Episodes", "Info", "Preprocess"]

Info = dict[str, Any]
Preprocess = Callable[[dict[str, Any]], list[str]]

LOG: Final = logging.getLogger("codecraft_async.intercode")
_NOT_GIVEN: Final = "N/A"
_ATTEMPTS: Final = 3


class Episodes:
    """Episodes on rows of data, each in a sandbox that is as good as new; what subclasses write, and what they use.

    Made by `InterCodeEnv` only, which see.
    """

    name: ClassVar[str] = "ic"
    """What trajectory files and logs call the environment."""
    default_image: ClassVar[str] = "codecraft/base"
    user: ClassVar[Literal["agent", "root"]] = "agent"
    """Whom commands run as: root may change the whole root file system, which every reset makes new."""
    evaluates: ClassVar[bool] = False
    """Whether `get_reward` asks for an `evaluation_sandbox`."""
    field_names: ClassVar[Mapping[str, str]] = {}
    """Other names that data files have for fields, with ours; see `load_dataset`."""

    dataset: Dataset | None
    runtime: Runtime
    command_limit_s: float
    """How long one action may run."""
    observation: str = ""
    """What the last action printed; the query, if there was none."""
    submission: str = ""
    """What stood behind the word ``submit``."""
    record: Record | None = None
    """The row that is played; None without data."""
    info: Info
    """What the step or reset under way will say."""
    trajectory: list[tuple[str, str]]
    """The actions of the episode, with what was observed."""
    _tenant: Tenant
    _place: Task
    _sampler: Sampler | None
    _preprocess: Preprocess | None
    _traj_dir: str | Path | None
    _score_steps: bool
    _max_chars: int
    _steps: int = 0
    _not_begun: Exception | None = None

    # --- what a subclass writes ---

    async def execute_action(self, action: str) -> str:
        """Run an action in `self.sandbox` and return what is to be observed; to be written by a subclass.

        It notes in `self.info` what came of it: ``action_executed`` first of all, which is False unless it says so.

        Raises:
            SandboxLost: The sandbox died, which ends the episode as a fault.
            RequestRefused: The guest cannot do what the action wants, which is observed.
            EpisodeError: The action cannot be run because of the task, or of the environment's own set-up.
        """
        raise NotImplementedError(f"{type(self).__name__} has no execute_action")

    async def get_reward(self) -> tuple[float, Info]:
        """Return what the state is worth, and what `info` is to say of it; to be written by a subclass.

        Whatever it raises makes the episode end with a fault, without a reward.
        """
        raise NotImplementedError(f"{type(self).__name__} has no get_reward")

    async def first_snapshot(self) -> Snapshot | None:
        """Return what the workspace holds at the beginning of an episode on `self.record`; None: nothing."""
        return None

    async def restore_container(self) -> bool:
        """Make the sandbox at hand as good as new, and return whether it is; if not, another takes its place.

        For a subclass whose sandboxes are dear to begin with: by default another one does.
        """
        return False

    async def leave_container(self) -> None:
        """Let go of what is in the sandbox, which is given back after this, or was lost."""

    async def reset_container(self) -> None:
        """Make ready for an episode a sandbox that is as good as new; a subclass may start here what it needs."""

    def get_available_actions(self) -> list[str]:
        """Return actions for an agent to choose from, if a subclass knows some; any text is one anyway."""
        return []

    @classmethod
    def sandbox_task(cls, image_name: str | Recipe | None, limits: TaskLimits | None) -> Task:
        """Return what kind of sandbox the environment needs, as the task that all its rows are to the pool."""
        image = cls.default_image if image_name is None else image_name
        image = image if isinstance(image, str) else image.name
        limits = limits or TaskLimits()
        return Task(id=cls.name, instruction=_NOT_GIVEN, image=image, user=cls.user, shell="/bin/bash", limits=limits)

    @staticmethod
    def recipes(image_name: str | Recipe | None) -> list[Recipe]:
        """Return the recipe that is given as an image, if one is."""
        return [] if image_name is None or isinstance(image_name, str) else [image_name]

    @classmethod
    def shared_options(cls) -> dict[str, Any]:
        """Return arguments of the constructor that the environments of a vector environment are to share."""
        return {}

    # --- what a subclass uses ---

    @property
    def score_steps(self) -> bool:
        """Whether every action is scored, not only submissions."""
        return self._score_steps

    @property
    def query(self) -> str:
        """What the row asks for."""
        return _NOT_GIVEN if self.record is None else self.record.query

    @property
    def gold(self) -> Any:
        """The row's reference answer."""
        return _NOT_GIVEN if self.record is None or self.record.gold == "" else self.record.gold

    @property
    def sandbox(self) -> Sandbox:
        """The agent's sandbox, during an episode."""
        sandbox = self._tenant.sandbox
        if sandbox is None:
            raise gymnasium.error.ResetNeeded("no episode is under way: call reset first")
        return sandbox

    @asynccontextmanager
    async def evaluation_sandbox(
        self, snapshot: Snapshot | None = None, *, limit_s: float = LEND_LIMIT_S
    ) -> AsyncGenerator[Sandbox]:
        """Lend another sandbox of the same kind, as good as new, to run a gold in; its workspace holds *snapshot*.

        *limit_s* is how long to wait for one: there are fewer of them than environments.

        Raises:
            LaunchError, AcquireTimeout: None can be had.
        """
        lease = await self._tenant.lend(sandbox_spec(self._place), snapshot, limit_s=limit_s)
        try:
            yield lease.sandbox
        finally:
            lease.release()

    def save_trajectory(self) -> Path:
        """Write a file of the episode as it is by now, as a submission does, and return its path. Blocking.

        Raises:
            ValueError: The environment was given no `traj_dir`.
            OSError: It cannot be written.
        """
        if self._traj_dir is None:
            raise ValueError("there is no directory for trajectories: give a traj_dir")
        return save_trajectory(self._traj_dir, self.name, self._log_of(float(self.info.get("score", 0.0)), self.info))

    # --- an episode ---

    def _pick(self, index: int | None, rng: RandomSource) -> Record | None:
        if self.dataset is None or self._sampler is None:
            if index is not None:
                raise IndexError(f"row {index} was asked for, but there is no data: give a data_path")
            return None
        if index is None:
            index = int(self._sampler.next(rng).id)
        if not 0 <= index < len(self.dataset):
            raise IndexError(f"there is no row {index}: {self.dataset.name} has the rows 0 to {len(self.dataset) - 1}")
        return self.dataset[index]

    async def _begin(self) -> None:
        """Have a new sandbox, and prepare it; once more with another where it is lost over that."""
        started, restore_s = time.monotonic(), 0.0
        snapshot = await self.first_snapshot()
        for attempt in range(_ATTEMPTS):
            self.info = self._new_info()
            try:
                restore_s = await self._have_sandbox(snapshot, may_stay=attempt == 0)
                await self.reset_container()
                await self._prepare()
                break
            except (SandboxLost, RequestRefused):
                if attempt == _ATTEMPTS - 1:
                    raise
        self.info = {**self._new_info(), "wall_s": np.float64(restore_s)}
        LOG.debug("%s: reset to row %s in %.4f s", self.name, self.info["index"], time.monotonic() - started)

    async def _have_sandbox(self, snapshot: Snapshot | None, *, may_stay: bool) -> float:
        """Have one that is as good as new, be it the one at hand; return how long it took to make it so, in seconds."""
        started = time.monotonic()
        may_stay = may_stay and self._tenant.sandbox is not None and not self._tenant.is_to_be_given_back
        if may_stay and await self.restore_container():
            return time.monotonic() - started
        await self.leave_container()
        await self._tenant.move(self._place, snapshot is None, snapshot=snapshot)
        return self._tenant.restore_s

    async def _prepare(self) -> None:
        if self._preprocess is None or self.record is None:
            return
        commands = self._preprocess(self.record.as_dict())
        if not isinstance(commands, list):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code is not all typed
            raise TypeError(f"preprocess must return a list of actions, this one returned {commands!r}")
        for command in commands:
            self.info = self._new_info()
            said = await self.execute_action(str(command))
            if not self.info["action_executed"]:
                raise EpisodeError(f"row {self.record.index}: the prepared action {command!r} failed: {said[-500:]}")

    async def _act(self, action: str) -> Outcome:
        if self._not_begun is not None:
            raise self._not_begun
        if action == "skip":
            return Outcome("skipped", self.info, terminated=True)
        if action.startswith("submit"):
            return await self._submit(action)
        self._steps += 1
        self.observation = clip(await self._executed(action), self._max_chars)
        self.trajectory.append((action, self.observation))
        LOG.debug("%s: action %r: %r", self.name, action, self.observation)
        outcome = Outcome(self.observation, self.info)
        if self._score_steps and self.dataset is not None:
            score, details = await self._reward()
            keep = self.info["action_executed"]
            outcome.info.update(details, score=np.float64(score), graded=True, action_executed=keep)
        return outcome

    async def _executed(self, action: str) -> str:
        """Run an action. One that no program can be given, or that the guest refuses because of what the agent has
        made of the sandbox, is data: as a fault, it would be a way out of any episode."""
        try:
            return await self.execute_action(action)
        except ValueError:  # UnicodeEncodeError is one, too
            if not (problem := problem_of(action)):
                raise  # a mistake in the subclass
        except RequestRefused as exc:
            problem = f"the action cannot be run: {exc.strerror}"
        self.info["action_executed"] = False
        return problem

    async def _submit(self, action: str) -> Outcome:
        self.submission = action.removeprefix("submit").strip()
        reward, details = (0.0, {}) if self.dataset is None else await self._reward()
        info = {**self.info, **details, "action_executed": True, "graded": self.dataset is not None}
        info["score"] = np.float64(reward)
        LOG.debug("%s: reward %s", self.name, reward)
        if self._traj_dir is not None:
            await asyncio.to_thread(save_trajectory, self._traj_dir, self.name, self._log_of(reward, info))
        return Outcome(clip(self.observation, self._max_chars), info, reward=float(reward), terminated=True)

    async def _reward(self) -> tuple[float, Info]:
        try:
            reward, details = await self.get_reward()
            if not math.isfinite(reward):
                raise ValueError(f"get_reward returned {reward!r}, which is no reward")
            if details.get("corrupt_gold"):
                details = {**details, "valid": False}
        except SandboxLost:
            raise
        except Exception as exc:  # a subclass is code of users: whatever it raises is a fault, never a reward
            raise GraderFailed(exc, self.sandbox.id) from exc
        return float(reward), details

    def _log_of(self, reward: float, info: Mapping[str, Any]) -> Info:
        return {
            "environment": self.name,
            "query_idx": int(info["index"]),
            "query": self.query,
            "gold": self.gold,
            "reward": reward,
            "trajectory": [{"action": action, "observation": seen} for action, seen in self.trajectory],
            "info": dict(info),
        }

    def _new_info(self) -> Info:
        index = -1 if self.record is None else self.record.index
        info = empty_info(self.name if index < 0 else str(index))
        info.update(index=np.int64(index), steps=np.int64(self._steps), action_executed=False, corrupt_gold=False)
        return info

    def _fault(self, error: Exception) -> Outcome:
        sandbox = self._tenant.sandbox
        info = tell_fault(self._new_info(), error, sandbox="" if sandbox is None else sandbox.id)
        info["truncation"] = "fault"
        self._tenant.leave()
        return Outcome("", info, truncated=True)
