"""What one environment records: which episode is on, at which step it is, and all that a replay will need."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from codecraft_async._outcome import Outcome
from codecraft_async._rules import Rules, rule_options
from codecraft_async._trajectory_lines import Branch, EpisodeStart, EpisodeStep
from codecraft_async.recorder import Recorder, RecordingError
from codecraft_async.runtime import sandbox_spec
from codecraft_curriculum import Curriculum, Task
from codecraft_pool import Launcher, Sandbox

BUILTIN: Final = "builtin"
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")


@runtime_checkable
class HasImages(Protocol):
    """A launcher whose sandboxes are made from images."""

    def image_id(self, image: str) -> str:
        """Return the id that an image's name stands for."""
        ...


class Asked(NamedTuple):
    """What a reset was asked for, or what a branch comes from."""

    seed: int | None = None
    options: Mapping[str, Any] | None = None
    branch: Branch | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """How an episode starts, in which sandbox of which launcher; None if none could be had."""

    task: Task
    curriculum: Curriculum
    sandbox: Sandbox | None
    launcher: Launcher | None
    rules: Rules
    asked: Asked


class Track:
    """Writes the lines of one environment to a recorder that others may share. An unfinished episode ends with the next
    reset.

    A line that could not be written is kept, and written before the next one, so that an episode has no gap; with the
    next reset what still cannot be written is given up.

    `curriculum_source` is what a replay can load the curriculum by; empty if only the recorder may know.
    """

    def __init__(self, recorder: Recorder, *, curriculum_source: str = "") -> None:
        self.recorder = recorder
        self._curriculum_source = curriculum_source
        self._env = recorder.new_env()
        self._pid = os.getpid()
        self._package = _package_version()
        self._digests: dict[str, tuple[Task, str]] = {}
        self.episode = ""
        self.steps = 0
        self._owed: list[tuple[EpisodeStart | EpisodeStep, bool]] = []

    def reset(self, opening: Opening, outcome: Outcome, *, took_s: float) -> None:
        """Record the start of an episode.

        Raises:
            RecordingError: It cannot be written.
        """
        if self._pid != os.getpid():  # a fork's: what it plays is not what the other one plays
            self._env, self._pid = self.recorder.new_env(), os.getpid()
        self.episode = ""
        self.let_go()
        task, launcher = opening.task, opening.launcher
        branch, name = opening.asked.branch, secrets.token_hex(16)
        self.steps = 0 if branch is None else branch.steps
        line = EpisodeStart(
            episode=name,
            env=self._env,
            time=time.time(),
            took_s=took_s,
            package=self._package,
            task=task.id,
            task_index=list(opening.curriculum).index(task.id) if task.id in opening.curriculum else -1,
            task_digest=self._digest(task),
            instruction=task.instruction,
            max_steps=opening.rules.max_episode_steps or task.max_steps,
            curriculum=opening.curriculum.name,
            curriculum_source=self._curriculum_source or self.recorder.curriculum_source,
            seed=opening.asked.seed,
            options=dict(opening.asked.options or {}),
            env_options=rule_options(opening.rules),
            launcher="" if launcher is None else launcher.name,
            sandbox="" if opening.sandbox is None else opening.sandbox.id,
            spec=asdict(sandbox_spec(task)),
            image_id=launcher.image_id(task.image) if isinstance(launcher, HasImages) else "",
            limits=asdict(task.limits),
            observation=outcome.observation,
            info=outcome.info,
            branch=branch,
        )
        self.episode = name
        self._write(line)

    def step(self, action: str, outcome: Outcome, *, took_s: float) -> None:
        """Record a step.

        Raises:
            RecordingError: It cannot be written, or there is no episode.
        """
        if not self.episode:
            raise RecordingError(errno.EIO, "holds no start of the episode", str(self.recorder.path))
        self.steps += 1
        line = EpisodeStep(
            episode=self.episode,
            step=self.steps,
            time=time.time(),
            took_s=took_s,
            action=action,
            observation=outcome.observation,
            reward=outcome.reward,
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            info=outcome.info,
        )
        self._write(line, ends_episode=outcome.terminated or outcome.truncated)

    def let_go(self) -> None:
        """Write what could not be written before, or give it up."""
        with suppress(RecordingError, RuntimeError):  # told when it was to be written; the recorder may be closed
            self._write_owed()
        self._owed.clear()

    def _write(self, line: EpisodeStart | EpisodeStep, *, ends_episode: bool = False) -> None:
        self._owed.append((line, ends_episode))
        self._write_owed()

    def _write_owed(self) -> None:
        while self._owed:
            line, ends_episode = self._owed[0]
            self.recorder.write(line, ends_episode=ends_episode)
            del self._owed[0]

    def place(self) -> Branch | None:
        """Return where a branch of the episode begins now; None if there is no episode."""
        return Branch(episode=self.episode, steps=self.steps) if self.episode else None

    def _digest(self, task: Task) -> str:
        known = self._digests.get(task.id)
        if known is None or known[0] is not task:
            known = self._digests[task.id] = (task, task_digest(task))
        return known[1]


def task_digest(task: Task) -> str:
    """Return a digest of all of *task* that an episode depends on; it is the same in every process."""
    parts = (
        *(task.id, task.title, task.instruction, task.image, task.shell, task.user, task.network, task.reset),
        *(task.workspace.digest, str(task.max_steps), repr(task.setup), repr(task.limits)),
        _ADDRESS.sub("", repr(task.grader)),
    )
    digest = hashlib.sha256(b"codecraft task 1\0")
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def curriculum_source(curriculum: str | Curriculum) -> str:
    """Return what names or holds the curriculum that an environment was given; empty if only the program has it."""
    if isinstance(curriculum, Curriculum):
        return BUILTIN if curriculum.name == BUILTIN else ""
    path = Path(curriculum)
    return str(path.absolute()) if path.exists() else curriculum


def open_recorder(record: str | Path | Recorder | None) -> tuple[Recorder | None, Recorder | None]:
    """Return the recorder that is meant, and the same if whoever asks is to close it."""
    if record is None or isinstance(record, Recorder):
        return record, None
    recorder = Recorder(record)
    return recorder, recorder


def open_track(
    record: str | Path | Recorder | Track | None, curriculum: str | Curriculum
) -> tuple[Track | None, Recorder | None]:
    """Return what an environment records with, and the recorder if it is its own to close."""
    if isinstance(record, Track):
        return record, None
    recorder, own = open_recorder(record)
    return (Track(recorder, curriculum_source=curriculum_source(curriculum)) if recorder else None), own


def _package_version() -> str:
    try:
        return version("codecraft-async")
    except PackageNotFoundError:  # run from a checkout
        return ""


__all__ = ["Asked", "Opening", "Track", "curriculum_source", "open_recorder", "open_track", "task_digest"]
