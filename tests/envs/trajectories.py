"""What the tests of recordings share: episodes that nobody played."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from codecraft_async._outcome import Outcome, empty_info
from codecraft_async._rules import Rules
from codecraft_async._track import Asked, Opening, Track
from codecraft_async._trajectory_lines import Line, encode_line
from codecraft_async.curriculum import Curriculum
from codecraft_async.trajectory import EpisodeStart, EpisodeStep
from tests.envs.code_envs import make_task

START: dict[str, Any] = {
    "took_s": 0.5,
    "task": "answer",
    "task_index": 0,
    "task_digest": "00",
    "instruction": "Write 42 into answer.",
    "max_steps": 5,
    "curriculum": "curriculum",
    "curriculum_source": "",
    "seed": None,
    "options": {},
    "launcher": "fake",
    "image_id": "",
    "sandbox": "fake-0",
    "spec": {"image": "codecraft/base"},
    "limits": {"command_limit_s": 10.0},
    "observation": "Write 42 into answer.",
    "info": {"steps": np.int64(0), "valid": True},
}


def start_line(episode: str = "e", env: str = "v", **changes: Any) -> EpisodeStart:
    """A reset, as a recorder writes it."""
    return EpisodeStart(episode=episode, env=env, time=1.0, package="0", env_options={}, **(START | changes))


def step_line(episode: str = "e", step: int = 1, **changes: Any) -> EpisodeStep:
    """A step that does not end its episode."""
    fields: dict[str, Any] = {
        "time": 2.0,
        "took_s": 0.25,
        "action": f"echo {step}",
        "observation": f"{step}\n",
        "reward": 0.0,
        "terminated": False,
        "truncated": False,
        "info": {"exit_code": np.int64(0), "valid": True},
    }
    return EpisodeStep(episode=episode, step=step, **(fields | changes))


def encoded(lines: Iterable[Line]) -> bytes:
    """The bytes of a file with these lines."""
    return b"".join(encode_line(line) for line in lines)


def begin(track: Track, task: str = "answer") -> None:
    """Record a reset."""
    chosen = make_task(task)
    opening = Opening(chosen, Curriculum([chosen]), None, None, Rules(), Asked())
    track.reset(opening, Outcome("Write 42 into answer.", empty_info(task)), took_s=0.0)


def step(track: Track, action: str, *, ends: bool = False, reward: float = 0.0) -> None:
    """Record a step."""
    track.step(action, Outcome(f"{action}\n", empty_info("answer"), reward=reward, terminated=ends), took_s=0.0)


def play(track: Track, steps: int, *, says: str = "echo", ends: bool = True) -> None:
    """Record an episode of so many steps."""
    begin(track)
    for number in range(1, steps + 1):
        step(track, f"{says} {number}", ends=ends and number == steps)


def files_of(folder: Path) -> list[Path]:
    """The files of a recording, in order."""
    return sorted(folder.iterdir())
