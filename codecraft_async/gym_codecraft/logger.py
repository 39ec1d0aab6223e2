"""`EnvLogger`: a wrapper that writes what a student does to a log file, as gym-codecraft's does."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, SupportsFloat

import gymnasium

from codecraft_async._vector_members import AsyncEnv

__all__ = ["EnvLogger"]

_LEVEL: Final = "INFO"


class EnvLogger(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Appends ``Action: ...``, ``Observation: ...`` and, if it is not 0, ``Reward: ...`` to a file at each step.

    A record is ``time - INFO - text`` and is in the file, whole, before the call returns: it is there whatever happens
    to the process afterwards, and records of several processes that share a file do not mix. Control characters other
    than tabs and new lines are written as escapes, so that reading the log does not steer a terminal.

    It has `areset`, `astep` and `aclose` if what it wraps has them. Wrappers of gymnasium's have not: what they do,
    such as a limit of steps, would be passed by. So wrap the environment itself to use it on an event loop.

    Args:
        env: An environment, wrapped or not.
        path: The log file; its directory is made if it is missing.

    Raises:
        OSError: The file cannot be opened.
    """

    areset: Callable[..., Awaitable[tuple[Any, dict[str, Any]]]]
    astep: Callable[[Any], Awaitable[tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]]]
    aclose: Callable[[], Awaitable[None]]

    def __init__(self, env: gymnasium.Env[Any, Any], path: str | Path = "logs/env.log") -> None:
        super().__init__(env)
        self._async_env: Any = env
        if isinstance(env, AsyncEnv):
            self.areset, self.astep = self._areset, self._astep
        if hasattr(env, "aclose"):
            self.aclose = self._aclose
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's, with the observation logged."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._log_observation(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the environment's, with action, observation and reward logged."""
        self._log(f"Action: {action}")
        outcome = self.env.step(action)
        self._log_outcome(outcome[0], outcome[1])
        return outcome

    async def _areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = await self._async_env.areset(seed=seed, options=options)
        self._log_observation(observation)
        return observation, info

    async def _astep(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the environment's, with action, observation and reward logged."""
        self._log(f"Action: {action}")
        outcome: tuple[Any, SupportsFloat, bool, bool, dict[str, Any]] = await self.env.get_wrapper_attr("astep")(
            action
        )
        self._log_outcome(outcome[0], outcome[1])
        return outcome

    def close(self) -> None:
        """Close the environment, then the file. Idempotent."""
        try:
            super().close()
        finally:
            self._close_file()

    async def _aclose(self) -> None:
        try:
            await self._async_env.aclose()
        finally:
            self._close_file()

    def _log_outcome(self, observation: Any, reward: SupportsFloat) -> None:
        self._log_observation(observation)
        if float(reward) != 0.0:
            self._log(f"Reward: {reward}")

    def _log_observation(self, observation: Any) -> None:
        self._log(f"Observation: {observation['obs'] if isinstance(observation, dict) else observation}")

    def _log(self, text: str) -> None:
        if self._file < 0:
            raise gymnasium.error.ClosedEnvironmentError(f"{self.path} is closed, and so is the environment")
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now % 1 * 1000):03d}"
        data = f"{stamp} - {_LEVEL} - {_escaped(text)}\n".encode()
        while data:  # one write, but for a disk that is nearly full
            data = data[os.write(self._file, data) :]

    def _close_file(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
