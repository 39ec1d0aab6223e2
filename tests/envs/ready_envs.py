"""Environments whose calls end when a test says so, for first-ready batches and branches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from codecraft_async.spaces import Unicode
from codecraft_async.vector import AsyncioVectorEnv

from .vector_envs import Info

# Turns of the loop after which everything that could happen by itself has happened.
SETTLING_TURNS = 10


class Puppet(gymnasium.Env[str, str]):
    """Each call waits for `let_go` or `break_down`, and says in its observation what it was; "end" ends an episode.

    With `eager` a call waits for nothing.
    """

    observation_space = Unicode(64)
    action_space = Unicode(64)

    def __init__(self, index: int = 0, *, eager: bool = False) -> None:
        self.index = index
        self.eager = eager
        self.calls: list[str] = []
        self.seeds: list[int | None] = []
        self.options: list[Info | None] = []
        self.closed = 0
        self.cut_off = 0
        self._strings: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether a call waits to be let go."""
        return self._strings is not None and not self._strings.done()

    def let_go(self) -> None:
        """Have the call end."""
        assert self._strings is not None
        self._strings.set_result(None)

    def break_down(self, error: BaseException) -> None:
        """Have the call raise."""
        assert self._strings is not None
        self._strings.set_exception(error)

    async def areset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        self.seeds.append(seed)
        self.options.append(options)
        await self._perform("reset")
        return self._tell(), {"call": "reset"}

    async def astep(self, action: str) -> tuple[str, float, bool, bool, Info]:
        await self._perform(f"step {action}")
        return self._tell(), 1.0, action == "end", action == "cut", {"call": "step", "length": len(action)}

    async def aclose(self) -> None:
        self.closed += 1

    async def _perform(self, call: str) -> None:
        self.calls.append(call)
        if self.eager:
            return
        self._strings = asyncio.get_running_loop().create_future()
        try:
            await self._strings
        except asyncio.CancelledError:
            # A clean-up that takes more than one turn of the loop.
            for _turn in range(3):
                await asyncio.sleep(0)
            self.cut_off += 1
            raise
        finally:
            self._strings = None

    def _tell(self) -> str:
        return f"{self.index}: {self.calls[-1]}"


class Reuser(gymnasium.Env[Any, Any]):
    """Adds actions up, always in the same array."""

    observation_space = action_space = gymnasium.spaces.Box(-10.0, 10.0, (1,))

    def __init__(self) -> None:
        self.place = np.zeros(1, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        self.place[:] = 0
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        self.place += action
        return self.place, 0.0, bool(self.place[0] >= 3), False, {}


class AsyncReuser(Reuser):
    """The same in coroutines."""

    async def areset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        return self.reset(seed=seed, options=options)

    async def astep(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        return self.step(action)


def puppets(number: int, /, *, make: Callable[..., Any] = Puppet, **options: Any) -> AsyncioVectorEnv[Any, Any]:
    """A vector environment of so many puppets; `eager` is for them."""
    eager = options.pop("eager", False)
    return AsyncioVectorEnv([partial(make, index, eager=eager) for index in range(number)], **options)


def inside(vec: AsyncioVectorEnv[Any, Any]) -> list[Any]:
    """The environments themselves."""
    return [env.unwrapped for env in vec.envs]


async def settle() -> None:
    """Let everything happen that can happen by itself."""
    for _ in range(SETTLING_TURNS):
        await asyncio.sleep(0)


async def let_go(vec: Any, rows: Sequence[int]) -> None:
    """End the calls of `rows`, in this order."""
    for row in rows:
        inside(vec)[row].let_go()
        await settle()


async def started(number: int, /, **options: Any) -> AsyncioVectorEnv[Any, Any]:
    """A vector environment of puppets that have been reset."""
    vec = puppets(number, **options)
    vec.async_reset()
    await asyncio.wait_for(start_then_let_go(vec, range(number)), 20)
    return vec


async def start_then_let_go(vec: Any, rows: Sequence[int]) -> None:
    """Receive the results of `rows`, which are let go once they have begun."""
    receiving = asyncio.create_task(vec.arecv(len(rows)))
    await settle()
    for row in rows:
        if inside(vec)[row].waiting:
            await let_go(vec, [row])
    await receiving
