"""The environments of a vector environment, and the calls that it makes to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from gymnasium import Env
from gymnasium.vector import AutoresetMode

from codecraft_async._vector_background import BackgroundResets
from codecraft_async._vector_round import Call, Limit

__all__ = ["AsyncEnv", "Members"]


@runtime_checkable
class AsyncEnv(Protocol):
    """What an environment offers, beside gymnasium's own methods, to be stepped concurrently with others.

    Either may be cancelled wherever it waits; what it is to be able to do after that is to be reset, or closed. If it
    has `async def aclose()` as well, that is what closes it, in place of `close()`.
    """

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...

    async def astep(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]: ...


class Members:
    """The environments, in order, each called in the way it offers: concurrently, or in the worker thread."""

    def __init__(self, env_fns: Sequence[Callable[[], Env[Any, Any]]]) -> None:
        self.envs = _construct(env_fns)
        self.background = BackgroundResets()
        self._async_envs = [_as_async(env) for env in self.envs]

    def replace(self, row: int, env: Env[Any, Any]) -> None:
        """Put `env` in the place of environment `row`, which is the caller's from then on."""
        self.envs[row] = env
        self._async_envs[row] = _as_async(env)

    def render_mode(self, asked: str | None) -> str | None:
        """The first environment's render mode, or `asked`.

        Raises:
            ValueError: `asked` is not what every environment has.
        """
        for index, env in enumerate(self.envs):
            if asked is not None and env.render_mode != asked:
                raise ValueError(
                    f"env {index} has render_mode {env.render_mode!r}, not {asked!r}: construct it with that mode"
                )
        return self.envs[0].render_mode

    @contextmanager
    def closing_on_error(self) -> Generator[None, None, None]:
        """Close all environments if what is done with them before their first use fails."""
        try:
            yield
        except BaseException:
            _close(self.envs)
            raise

    def reset_call(self, row: int, seed: int | None, options: dict[str, Any] | None) -> Call:
        """A reset of the environment, with options of its own, since it may change them."""
        own = None if options is None else dict(options)
        async_env = self._async_envs[row]
        if async_env is not None:
            call = Call(row, partial(async_env.areset, seed=seed, options=own), True)
            return self.background.in_place_of(call, same=seed is None and not options)
        return Call(row, partial(self.envs[row].reset, seed=seed, options=own), False)

    def reset_ahead(self, rows: Iterable[int], limit: Limit | None) -> None:
        """Start resets in the background of those of `rows` that offer coroutines; no other can run beside the loop."""
        for row in rows:
            async_env = self._async_envs[row]
            if async_env is not None:
                self.background.start(Call(row, async_env.areset, True), self.envs[row], limit)

    def step_call(self, row: int, action: Any, *, mode: AutoresetMode, over: bool) -> Call:
        """A step, or what takes its place in `mode` for an environment whose episode is `over`.

        In SAME_STEP the result has a sixth item: the observation and info that ended an episode, or None.
        """
        env, async_env = self.envs[row], self._async_envs[row]
        if mode is AutoresetMode.NEXT_STEP and over:
            if async_env is None:
                return Call(row, env.reset, False)
            return self.background.rest_of(row) or Call(row, async_env.areset, True)
        if mode is AutoresetMode.SAME_STEP:
            if async_env is not None:
                return Call(row, partial(_astep_and_reset, async_env, action), True)
            return Call(row, partial(_step_and_reset, env, action), False)
        if async_env is not None:
            return Call(row, partial(async_env.astep, action), True)
        return Call(row, partial(env.step, action), False)

    def close_calls(self) -> list[Call]:
        """What closes every environment."""
        calls: list[Call] = []
        for row, env in enumerate(self.envs):
            aclose: Callable[[], Awaitable[None]] | None = getattr(env, "aclose", None)
            calls.append(Call(row, env.close, False) if aclose is None else Call(row, aclose, True))
        return calls


def _construct(env_fns: Sequence[Callable[[], Env[Any, Any]]]) -> list[Env[Any, Any]]:
    envs: list[Env[Any, Any]] = []
    try:
        envs.extend(make() for make in env_fns)
    except BaseException:
        # The list has what was made before the failure.
        _close(envs)
        raise
    if not envs:
        raise ValueError("env_fns is empty: a vector environment needs at least one environment")
    return envs


def _as_async(env: Env[Any, Any]) -> AsyncEnv | None:
    return env if isinstance(env, AsyncEnv) else None


def _close(envs: Sequence[Env[Any, Any]]) -> None:
    for env in envs:
        env.close()


async def _astep_and_reset(env: AsyncEnv, action: Any) -> tuple[Any, ...]:
    observation, reward, terminated, truncated, info = await env.astep(action)
    if not (terminated or truncated):
        return observation, reward, terminated, truncated, info, None
    final = deepcopy(observation), info  # an environment may write its next observation into the same array
    fresh, fresh_info = await env.areset()
    return fresh, reward, terminated, truncated, fresh_info, final


def _step_and_reset(env: Env[Any, Any], action: Any) -> tuple[Any, ...]:
    observation, reward, terminated, truncated, info = env.step(action)
    if not (terminated or truncated):
        return observation, reward, terminated, truncated, info, None
    final = deepcopy(observation), info
    fresh, fresh_info = env.reset()
    return fresh, reward, terminated, truncated, fresh_info, final
