"""`CodeCraftEnv`: gym-codecraft's environment, with JSON actions in and text out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

import gymnasium
from gymnasium import spaces

from codecraft_async._faces import Faces
from codecraft_async._render import Screen
from codecraft_async.gym_codecraft.interface import MAX_JSON_CHARS, InterfaceName, interface_named
from codecraft_async.gym_codecraft.progress import PullLines
from codecraft_async.gym_codecraft.session import Session
from codecraft_async.gym_codecraft.tasks import DEFAULT, StudentTasks
from codecraft_async.gym_codecraft.teaching import AutomaticTeacher, Teacher
from codecraft_async.gym_codecraft.workbench import Workbench
from codecraft_async.runtime import Runtime
from codecraft_async.spaces import Unicode
from codecraft_curriculum import Curriculum, Grader, Task
from codecraft_pool import ImageProgress, Launcher

__all__ = ["CodeCraftEnv"]

Observation = dict[str, str]
Info = dict[str, Any]
MAX_OBSERVATION_CHARS: Final = 16_384
GRADE_LIMIT_S: Final = 600.0  # a language model may take ten turns for it


class CodeCraftEnv(gymnasium.Env[Observation, str]):
    """gym-codecraft's environment: one student, one task at a time, each in a sandbox of its own.

    An action is a JSON text such as ``{"action": "command", "command": "ls"}``; an observation is ``{"obs": text}``.
    What is invalid earns -1, a submission what the teacher gives, from 0 to *max_score*, all else 0. Only ``exit`` ends
    an episode. `reset` begins the task of ``options={"task_id": ...}``, else the current one again, else it gives the
    welcome text. A task that is not there is an observation, and the task under way goes on.

    `info` has, after every reset and step, the keys of `Outcome`, and ``info`` (an empty str), as gym-codecraft has it.
    A lost sandbox, one that cannot be had, or a teacher that failed is no reward: the episode ends truncated, with
    ``info["fault"]`` there and ``info["valid"]`` False; the next reset begins the task again in another sandbox.

    `reset` and `step` work anywhere; `areset`, `astep` and `aclose` are for a running event loop. One environment uses
    one of the two faces.

    Args:
        curriculum: "default" (five tasks of our own), the path of a ``curriculum.json``, or what `CodeEnv` takes.
        interface: "new", that of gym-codecraft's last version, which takes a ``reset`` with a ``task_id`` too; or
            "old", that of its README.
        teacher: Who grades; by default the tasks' own graders.
        graders: Graders by task id, for a ``curriculum.json``, which has none.
        backend: "auto", "docker", "local", or a launcher, which stays open.
        max_score: What a perfect submission earns; by default the interface's, 10 (new) or 1 (old).
        command_limit_s: How long a command may run, in seconds; by default the task's own limit.
        grade_limit_s: How long the teacher may take, in seconds.
        max_episode_steps: Truncate after so many steps; by default never.
        max_observation_chars: Longer output is cut in its middle, which is said there.
        keep_workspaces: A directory that gets a copy of each workspace when its task ends; by default nothing is kept.
        render_mode: None, "ansi" or "human".
        progress: Told how an image is pulled; by default that is shown on stderr.
        runtime: Sandboxes shared with other environments; owned by the caller. By default the environment has its own.
        reset_faults: What a reset does that can have no sandbox, "raise" or "info": as `CodeEnv`'s.

    Raises:
        ValueError, TaskFileError, UnknownTask: An argument is wrong; says which and what is allowed.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012  # declared so by gymnasium

    def __init__(
        self,
        *,
        curriculum: str | Path | Curriculum | StudentTasks = DEFAULT,
        interface: InterfaceName = "new",
        teacher: Teacher | None = None,
        graders: Mapping[str, Grader] | None = None,
        backend: str | Launcher = "auto",
        max_score: float | None = None,
        command_limit_s: float | None = None,
        grade_limit_s: float = GRADE_LIMIT_S,
        max_episode_steps: int | None = None,
        max_observation_chars: int = MAX_OBSERVATION_CHARS,
        keep_workspaces: str | Path | None = None,
        render_mode: str | None = None,
        progress: ImageProgress | None = None,
        runtime: Runtime | None = None,
        reset_faults: Literal["raise", "info"] = "raise",
    ) -> None:
        self._faces = Faces(type(self).__name__)  # first, for where it cannot be pickled, it says why
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps is {max_episode_steps}; it must be at least 1, or None")
        for name, value in {"max_score": max_score, "command_limit_s": command_limit_s}.items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be more than 0, or None")
        if not 0 < grade_limit_s < float("inf"):
            raise ValueError(f"grade_limit_s is {grade_limit_s}; it must be more than 0")
        chosen = interface_named(interface)
        self.tasks = open_tasks(curriculum, graders=graders, interface=interface)
        self.render_mode = render_mode
        self.action_space = Unicode(MAX_JSON_CHARS)
        self.observation_space = cast("Any", spaces.Dict({"obs": Unicode(max_observation_chars)}))
        self._max_steps = max_episode_steps
        self._owns_runtime = runtime is None
        self.runtime = runtime or Runtime(
            backend, tasks_to_prepare(self.tasks), max_sandboxes=1, progress=progress or PullLines()
        )
        self._bench = Workbench(
            self.runtime, teacher or AutomaticTeacher(), command_limit_s=command_limit_s, grade_limit_s=grade_limit_s
        )
        self._session = Session(
            self.tasks,
            chosen,
            self._bench,
            max_score=chosen.max_score if max_score is None else max_score,
            max_observation_chars=max_observation_chars,
            keep=None if keep_workspaces is None else Path(keep_workspaces),
            raises=reset_faults == "raise",
        )
        self._steps = 0
        self._screen = None if render_mode is None else Screen(render_mode)

    # --- the asynchronous face ---

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None, task_id: str | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode; *task_id*, or ``options={"task_id": id}``, chooses its task. Return (observation, info).

        Cancellation leaves no task under way; the next reset works.

        Raises:
            LaunchError: No sandbox can be started; says why and what to do.
            EpisodeError: The task's own set-up failed.
            ValueError, TypeError: The options are none; says which are known.
            AlreadyPendingCallError: Another call is in progress.
        """
        with self._faces.turn("reset"):
            chosen = _chosen(options or {}, task_id)
            super().reset(seed=seed)
            self._steps = 0
            outcome = await self._session.reset(chosen)
        if self._screen is not None:
            self._screen.show_reset(outcome)
        return {"obs": outcome.observation}, outcome.info

    async def astep(self, action: str) -> tuple[Observation, float, bool, bool, Info]:
        """Do what a JSON action says; return (observation, reward, terminated, truncated, info).

        Cancellation kills the command; the task goes on.

        Raises:
            TypeError: The action is no text.
            OSError: A workspace that is to be kept cannot be written to the host.
            AlreadyPendingCallError: Another call is in progress.
        """
        if not isinstance(action, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code is not all typed
            raise TypeError(f"an action is a JSON text; this one is of type {type(action).__name__}")
        with self._faces.turn("step"):
            self._steps += 1
            outcome = await self._session.act(action)
        if self._steps == self._max_steps and not (outcome.terminated or outcome.truncated):
            outcome.truncated, outcome.info["truncation"] = True, "max_episode_steps"
        if self._screen is not None:
            self._screen.show_step(action, outcome)
        return {"obs": outcome.observation}, outcome.reward, outcome.terminated, outcome.truncated, outcome.info

    async def asave_workspace(self, directory: str | Path) -> list[str]:
        """Copy the workspace of the task under way to a new directory of the host; return what was left out, and why.

        Raises:
            ResetNeeded: No task is under way.
            FileExistsError: *directory* exists.
            RequestRefused, SandboxLost: The workspace cannot be read.
        """
        with self._faces.turn("save_workspace"):
            if not self._bench.is_open:
                raise gymnasium.error.ResetNeeded("no task is under way, so there is no workspace: start one")
            return await self._bench.save(Path(directory))

    async def aclose(self) -> None:
        """Give the sandbox back, and end it if it is the environment's own. Idempotent."""
        if not self._faces.start_closing(self._abandon):
            return
        self._bench.clear()
        if self._owns_runtime:
            await self.runtime.aclose()

    # --- the synchronous face ---

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None, task_id: str | None = None
    ) -> tuple[Observation, Info]:
        """As `areset`."""
        return self._faces.drive(self.areset(seed=seed, options=options, task_id=task_id))

    def step(self, action: str) -> tuple[Observation, float, bool, bool, Info]:
        """As `astep`."""
        return self._faces.drive(self.astep(action))

    def save_workspace(self, directory: str | Path) -> list[str]:
        """As `asave_workspace`."""
        return self._faces.drive(self.asave_workspace(directory))

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
        self._bench.abandon()
        if self._owns_runtime:
            self.runtime.abandon()


def open_tasks(
    curriculum: str | Path | Curriculum | StudentTasks,
    *,
    graders: Mapping[str, Grader] | None,
    interface: InterfaceName,
) -> StudentTasks:
    """Return the tasks that are meant; what is open already is used as it is."""
    if isinstance(curriculum, StudentTasks):
        return curriculum
    return StudentTasks(curriculum, graders=graders, form=interface)


def tasks_to_prepare(tasks: StudentTasks) -> list[Task]:
    """Return those whose images are had before the first sandbox starts: the ones that are built here.

    Others are pulled when their task is started: one that cannot be had does not keep the rest from being played.
    """
    return [each.task for each in tasks.values() if each.task.image.startswith("codecraft/")]


def _chosen(options: dict[str, Any], task_id: str | None) -> str | None:
    unknown = set(options) - {"task_id"}
    if unknown:
        raise ValueError(f"unknown reset option {sorted(unknown)[0]!r}; the one that is known is 'task_id'")
    chosen = options.get("task_id") if task_id is None else task_id
    if chosen is not None and not isinstance(chosen, str):
        raise TypeError(f"the task_id is {chosen!r}; it must be text, the id of a task")
    return chosen
