"""Vector environments as users have them, stepped as fast as they go."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import gymnasium

from benchmarks.results import BenchmarkError
from codecraft_async._outcome import fault_text
from codecraft_pool import Launcher

_ROOTS_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Steps:
    """Vector steps of one measurement: each one's wall time and, of all environments, each command's, in seconds.

    `own_cpu_s` is the CPU time of this process alone, in all.
    """

    num_envs: int
    step_s: tuple[float, ...]
    command_s: tuple[float, ...]
    own_cpu_s: float

    @property
    def per_s(self) -> float:
        """Environment steps per second."""
        return self.num_envs * len(self.step_s) / sum(self.step_s)

    @property
    def own_cpu_ms(self) -> float:
        """CPU milliseconds of this process per environment step."""
        return self.own_cpu_s * 1e3 / (self.num_envs * len(self.step_s))


def step_for(env: Any, command: str, seconds: float) -> Steps:
    """Step every environment with *command*, over and over for *seconds*, through the synchronous face.

    Raises:
        BenchmarkError: A command did not end with status 0.
    """
    actions = (command,) * env.num_envs
    step_s: list[float] = []
    command_s: list[float] = []
    cpu_before = time.process_time()
    before = began = time.perf_counter()
    while before - began < seconds:
        info = env.step(actions)[-1]
        after = time.perf_counter()
        step_s.append(after - before)
        if info["exit_code"].any():
            row = int(info["exit_code"].nonzero()[0][0])
            why = fault_text(info, row) or f"status {info['exit_code'][row]}"
            raise BenchmarkError(f"{command!r} in environment {row} ended with {why}")
        command_s.extend(info["wall_s"].tolist())
        before = time.perf_counter()
    return Steps(env.num_envs, tuple(step_s), tuple(command_s), time.process_time() - cpu_before)


def wait_for_roots(launcher: Launcher) -> None:
    """Return when copies of images that are being made are there; sandboxes take them up at their next reset.

    Raises:
        BenchmarkError: That takes too long.
    """
    deadline = time.monotonic() + _ROOTS_LIMIT_S
    while launcher.stats().roots == "copying":
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the copy of an image was not there within {_ROOTS_LIMIT_S:g} s")
        time.sleep(0.1)


@contextmanager
def open_env(num_envs: int, backend: str, **more: Any) -> Generator[Any]:
    """Yield a vector environment, all of its sandboxes started, as it is from the second episode on."""
    env = gymnasium.make_vec(
        "codecraft_async:codecraft/Code-v0",
        num_envs=num_envs,
        backend=backend,
        autoreset_mode="Disabled",
        max_episode_steps=10**9,
        **more,
    )
    try:
        env.reset(seed=0)
        inside: Any = env.unwrapped
        wait_for_roots(inside.runtime.choice.launcher)
        env.reset(seed=0)
        yield inside
    finally:
        env.close()
