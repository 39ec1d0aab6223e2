"""The single environments of a vector environment, each as a gymnasium environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium import Env

from codecraft_async._vector_members import Members

__all__ = ["Handle", "Hands"]


@dataclass(frozen=True, slots=True)
class Hands:
    """What a vector environment does for its handles; each of the first three is told the environment's index."""

    reset: Callable[[int, int | None, dict[str, Any] | None], Coroutine[Any, Any, tuple[Any, dict[str, Any]]]]
    step: Callable[[int, Any], Coroutine[Any, Any, tuple[Any, float, bool, bool, dict[str, Any]]]]
    turn: Callable[[int, str], AbstractContextManager[None]]
    drive: Callable[[Coroutine[Any, Any, Any]], Any]


class Handle(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment of a vector environment, to be reset and stepped alone: `vec.envs[i]`.

    It has both faces, of which it uses the one that the vector environment uses. Handles may be in use at the same
    time, in threads or tasks, each with one call at a time; while the vector environment itself is in a call, or has
    one in flight, theirs raise `AlreadyPendingCallError`, and its calls raise it while one of theirs is in progress.

    A handle's calls are part of the environment's one life. A reset begins the episode that the vector environment's
    next step goes on with. A step advances it, and never resets: when it ends the episode, the handle's next call must
    be a reset, and the vector environment's next step does what it does with ended episodes: in NEXT_STEP it
    resets this environment in place of stepping it, in DISABLED it raises AssertionError, and in SAME_STEP, where an
    ended episode cannot be met, it raises ResetNeeded. A reset without seed and options takes over the one that
    NEXT_STEP has begun in the background; any other undoes that.

    The vector environment closes its environments; `close` of a handle does nothing.
    """

    def __init__(self, members: Members, row: int, hands: Hands) -> None:
        self._members = members
        self._row = row
        self._hands = hands
        super().__init__(self.env)
        self._cached_spec = self.env.spec  # not with this added: a handle cannot be made from a spec

    @property
    def env(self) -> Env[Any, Any]:
        """The environment itself, in the wrappers that it was constructed in; another may take its place."""
        return self._members.envs[self._row]

    @env.setter
    def env(self, env: Env[Any, Any]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._members.replace(self._row, env)

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset this environment; (observation, info).

        Raises:
            AlreadyPendingCallError, ClosedEnvironmentError: another call is in progress, or all are closed.
        """
        return await self._hands.reset(self._row, seed, options)

    async def astep(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step this environment; (observation, reward, terminated, truncated, info). A cancellation cuts it off.

        Raises:
            ResetNeeded: it has no episode, or was cut off, or failed.
            AlreadyPendingCallError, ClosedEnvironmentError: another call is in progress, or all are closed.
        """
        return await self._hands.step(self._row, action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As `areset`, from a thread other than the loop's."""
        result: tuple[Any, dict[str, Any]] = self._hands.drive(self.areset(seed=seed, options=options))
        return result

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As `astep`, from a thread other than the loop's."""
        result: tuple[Any, float, bool, bool, dict[str, Any]] = self._hands.drive(self.astep(action))
        return result

    def render(self) -> Any:
        """One frame."""
        with self._hands.turn(self._row, "render"):
            return self.env.render()

    def close(self) -> None:
        """Do nothing: the vector environment closes all of its environments."""

    def __repr__(self) -> str:
        return f"<env {self._row}: {self.env}>"
