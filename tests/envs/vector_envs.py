"""Small environments for the tests of the vector environment, and how to compare what vector environments return."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from codecraft_async.spaces import Unicode
from codecraft_async.vector import AsyncioVectorEnv

NUM_ENVS = 5
MODES = [mode.value for mode in AutoresetMode]

Info: TypeAlias = dict[str, Any]
Stepped: TypeAlias = tuple[Any, Any, bool, bool, Info]

SPACES: dict[str, spaces.Space[Any]] = {
    "text": Unicode(64),
    "box": spaces.Box(-10.0, 10.0, (2,), np.float32),
    "discrete": spaces.Discrete(9),
    "dict": spaces.Dict(
        {
            "said": Unicode(64),
            "place": spaces.Box(-10.0, 10.0, (2, 2), np.float64),
            "pair": spaces.Tuple((spaces.Discrete(4), spaces.MultiBinary(3))),
        }
    ),
}


# How to close what was used on an event loop that has ended.
CLOSES: list[Callable[[AsyncioVectorEnv[Any, Any]], None]] = [
    lambda vec: vec.close(),
    lambda vec: asyncio.run(vec.aclose()),
]


class Wanderer(gymnasium.Env[Any, Any]):
    """Draws observation, reward, end and infos of every sort from its own generator; equal seeds give equal lives."""

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}  # noqa: RUF012  # as gymnasium declares it
    render_mode = "ansi"

    def __init__(self, kind: str = "text", *, end_odds: float = 0.3) -> None:
        # Observations are samples, and sampling changes a space: each environment draws from its own.
        self.observation_space = copy.deepcopy(SPACES[kind])
        self.action_space = SPACES[kind]
        self.end_odds = end_odds
        self.options: list[Info | None] = []
        self.actions: list[Any] = []
        self.closed = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        super().reset(seed=seed)
        self.options.append(options)
        if options is not None:
            options["spoilt"] = True
        return self._observe(), self._inform("reset")

    def step(self, action: Any) -> Stepped:
        self.actions.append(action)
        terminated = bool(self.np_random.random() < self.end_odds)
        truncated = bool(self.np_random.random() < self.end_odds / 2)
        reward = self.np_random.choice(np.array([0.5, -1.25, 3.0], dtype=np.float32))
        return self._observe(), reward, terminated, truncated, self._inform("step")

    def render(self) -> Any:
        return f"{len(self.actions)} actions"

    def close(self) -> None:
        self.closed += 1

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        return self.observation_space.sample()

    def _inform(self, phase: str) -> Info:
        draw = self.np_random
        info: Info = {
            "phase": phase,
            "count": int(draw.integers(100)),
            "odds": float(draw.random()),
            "flag": bool(draw.integers(2)),
            "exit_code": np.int64(draw.integers(5)),
            "small": np.float32(draw.random()),
            "vector": draw.random(3),
            "nested": {"depth": 1, "deeper": {"word": "x" * int(draw.integers(4))}},
            "list": [1, 2],
            "nothing": None,
        }
        for key in [key for key in info if draw.random() < 0.25]:
            del info[key]
        return info


class AsyncWanderer(Wanderer):
    """The same life, lived in coroutines that suspend now and then; `reset` and `step` must not be used."""

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        raise AssertionError("reset of an environment that has areset")

    def step(self, action: Any) -> Stepped:
        raise AssertionError("step of an environment that has astep")

    async def areset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        result = Wanderer.reset(self, seed=seed, options=options)
        await self._dawdle()
        return result

    async def astep(self, action: Any) -> Stepped:
        await self._dawdle()
        return Wanderer.step(self, action)

    async def aclose(self) -> None:
        await self._dawdle()
        self.closed += 1

    async def _dawdle(self) -> None:
        # Without touching the generator that the life is drawn from.
        for _ in range(id(self) // 64 % 3):
            await asyncio.sleep(0)


class Scripted(gymnasium.Env[str, str]):
    """Does in `astep` and `areset` what the functions it is given do; they get the environment and the action."""

    observation_space = Unicode(64)
    action_space = Unicode(64)

    def __init__(self, *, step: Callable[..., Any] | None = None, reset: Callable[..., Any] | None = None) -> None:
        self.on_step = step
        self.on_reset = reset
        self.resets = 0
        self.steps = 0
        self.ended: list[str] = []

    async def areset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        if self.on_reset is not None:
            await self.on_reset(self)
        self.resets += 1
        self.steps = 0
        return f"reset {self.resets}", {}

    async def astep(self, action: str) -> tuple[str, float, bool, bool, Info]:
        if self.on_step is not None:
            await self.on_step(self, action)
        self.steps += 1
        return f"step {self.steps} {action}", 1.0, action == "end", False, {}

    async def aclose(self) -> None:
        self.ended.append("closed")


def scripted(num_envs: int, /, *, where: int | None = None, **what: Any) -> AsyncioVectorEnv[Any, Any]:
    """A vector environment of `Scripted`s; the functions go to environment `where` only, if given."""
    vector_options = {key: what.pop(key) for key in tuple(what) if key not in ("step", "reset")}

    def make(index: int) -> Callable[[], Scripted]:
        return lambda: Scripted(**(what if where in (None, index) else {}))

    return AsyncioVectorEnv([make(index) for index in range(num_envs)], **vector_options)


class Gate:
    """Lets a test wait until environments are in the midst of a call, and let them go."""

    def __init__(self, number: int) -> None:
        self.inside = 0
        self.cancelled = 0
        self.open = asyncio.Event()
        self._number = number
        self._all_inside = asyncio.Event()

    async def __call__(self, *_: Any) -> None:
        self.inside += 1
        if self.inside == self._number:
            self._all_inside.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            # A clean-up that takes more than one turn of the loop.
            for _turn in range(3):
                await asyncio.sleep(0)
            self.cancelled += 1
            raise

    async def filled(self) -> None:
        """Wait until as many environments as expected are inside."""
        async with asyncio.timeout(20):
            await self._all_inside.wait()


def env_tasks() -> list[str]:
    """The names of the tasks that work for environments."""
    return [task.get_name() for task in asyncio.all_tasks() if " of env " in task.get_name()]


class Resets:
    """Holds the second reset of an environment, and every later one, until it is let go."""

    def __init__(self, *, fails: bool = False) -> None:
        self.gate = Gate(1)
        self._fails = fails

    async def __call__(self, env: Scripted) -> None:
        if env.resets:
            await self.gate()
            if self._fails:
                raise OSError("no second sandbox")


async def settle() -> None:
    """Let what runs in the background get as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def background_tasks() -> list[str]:
    """The names of the tasks that reset environments in the background."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("background reset")]


@asynccontextmanager
async def reset_under_way() -> AsyncGenerator[tuple[AsyncioVectorEnv[Any, Any], Resets], None]:
    """Two environments, of which the first has ended its episode and is held in its reset in the background."""
    resets = Resets()
    async with scripted(2, where=0, reset=resets) as vec:
        await vec.areset()
        await vec.astep(("end", "go"))
        await resets.gate.filled()
        yield vec, resets


class Bounded(Wanderer):
    """A wanderer whose box has bounds of its own."""

    def __init__(self, high: float) -> None:
        super().__init__("box")
        self.observation_space = gymnasium.spaces.Box(-high, high, (2,), np.float32)


class Mixed:
    """Every other environment offers coroutines."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def make(self, index: int) -> Wanderer:
        return AsyncWanderer(self.kind) if index % 2 else Wanderer(self.kind)


def factories(sort: str, kind: str) -> list[Callable[[], Wanderer]]:
    """Functions that make environments of a sort: "plain", "async" or "mixed"."""
    if sort == "mixed":
        return [partial(Mixed(kind).make, index) for index in range(NUM_ENVS)]
    return [partial(AsyncWanderer if sort == "async" else Wanderer, kind)] * NUM_ENVS


def plays(vec: Any, mode: str, *, steps: int = 25) -> Generator[tuple[str, dict[str, Any]], Any, None]:
    """The calls of a session, (name, keywords); gets each call's results by `send`."""
    vec.action_space.seed(7)
    yield "reset", {"seed": 3}
    for step in range(steps):
        result = yield "step", {"actions": vec.action_space.sample()}
        over = result[2] | result[3]
        if mode == "Disabled" and over.any():
            yield "reset", {"options": {"reset_mask": over, "level": step}}
        elif step % 7 == 6:
            mask = np.arange(NUM_ENVS) % 3 == step % 3
            yield "reset", {"seed": [step, None, 5, None, 9], "options": {"reset_mask": mask}}
        elif step % 11 == 10:
            yield "reset", {"options": {"level": step}}


def play_sync(vec: Any, mode: str) -> list[Any]:
    """Every result of a session by the synchronous face."""
    session = plays(vec, mode)
    results: list[Any] = []
    name, keywords = next(session)
    while True:
        results.append(getattr(vec, name)(**keywords))
        try:
            name, keywords = session.send(results[-1])
        except StopIteration:
            return results


async def play_async(vec: Any, mode: str) -> list[Any]:
    """Every result of a session by the asynchronous face."""
    session = plays(vec, mode)
    results: list[Any] = []
    name, keywords = next(session)
    while True:
        results.append(await getattr(vec, f"a{name}")(**keywords))
        try:
            name, keywords = session.send(results[-1])
        except StopIteration:
            return results


def oracle(mode: str, kind: str) -> list[Any]:
    """Every result of a session with gymnasium's own vector environment."""
    vec = SyncVectorEnv(factories("plain", kind), autoreset_mode=mode)
    try:
        return play_sync(vec, mode)
    finally:
        vec.close()


def assert_same(expected: Any, actual: Any, path: str = "result") -> None:
    """Equal values of equal types, array dtypes and shapes, all the way down."""
    assert type(expected) is type(actual), path
    if isinstance(expected, dict):
        assert list(expected) == list(actual), path
        for key in expected:
            assert_same(expected[key], actual[key], f"{path}[{key!r}]")
    elif isinstance(expected, (tuple, list)):
        assert len(expected) == len(actual), path
        for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
            assert_same(left, right, f"{path}[{index}]")
    elif isinstance(expected, np.ndarray):
        assert (expected.dtype, expected.shape) == (actual.dtype, actual.shape), path
        if expected.dtype == object:
            assert_same(expected.tolist(), actual.tolist(), path)
        else:
            np.testing.assert_array_equal(expected, actual, err_msg=path)
    else:
        assert expected == actual, path
