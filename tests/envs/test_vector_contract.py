"""What the vector environment refuses, and how; what runs at the same time, and what does not."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from codecraft_async.spaces import Unicode
from codecraft_async.vector import AsyncEnv, AsyncioVectorEnv

from .vector_envs import SPACES, AsyncWanderer, Bounded, Wanderer, factories, scripted

pytestmark = pytest.mark.anyio

SEED_ERROR = r"If seeds are passed as a list the length must match num_envs=3 but got length=2\."
MASK_ERRORS = [
    ([True] * 3, TypeError, r"`options\['reset_mask'\]` must be a numpy array, got <class 'list'>"),
    (np.ones(2, dtype=bool), ValueError, r"`options\['reset_mask'\]` must have shape `\(3,\)`, got \(2,\)"),
    (np.ones(3), TypeError, r"`options\['reset_mask'\]` must have `dtype=np.bool_`, got float64"),
    (
        np.zeros(3, dtype=bool),
        ValueError,
        r"`options\['reset_mask'\]` must contain a boolean array with at least one True value, got "
        r"reset_mask=\[False False False\]",
    ),
]


@pytest.mark.parametrize(("mask", "kind", "text"), MASK_ERRORS)
def test_wrong_masks(mask: Any, kind: type[Exception], text: str) -> None:
    """A wrong reset mask raises gymnasium's error, word for word, and the environment stays usable."""
    vec = scripted(3)
    vec.reset()
    with pytest.raises(kind, match=text):
        vec.reset(options={"reset_mask": mask})
    assert ("reset 2",) * 3 == vec.reset()[0]
    vec.close()


def test_wrong_number_of_seeds() -> None:
    """A list of seeds of the wrong length raises gymnasium's error."""
    vec = scripted(3)
    with pytest.raises(ValueError, match=SEED_ERROR):
        vec.reset(seed=[1, 2])
    vec.close()


@pytest.mark.parametrize("sort", ["plain", "async"])
def test_options_of_the_caller_stay(sort: str) -> None:
    """The caller's options are not changed, neither here nor by an environment, and no environment sees the mask."""
    vec: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(factories(sort, "text"))
    vec.reset()
    mask = np.array([False, True, False, False, True])
    options = {"reset_mask": mask, "level": 3}
    vec.reset(options=options)
    assert ["reset_mask", "level"] == list(options)
    assert mask is options["reset_mask"]
    seen = vec.get_attr("options")
    assert [None, {"level": 3, "spoilt": True}] == seen[1]
    assert [None] == seen[0]
    vec.close()


def test_masked_reset_before_a_full_one() -> None:
    """There is no observation to return for environments that were never reset."""
    vec = scripted(3)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"envs \[0, 2\] were never reset"):
        vec.reset(options={"reset_mask": np.array([False, True, False])})
    assert ("reset 1",) * 3 == vec.reset(options={"reset_mask": np.ones(3, dtype=bool)})[0]
    vec.close()


def test_step_before_reset() -> None:
    """A step before the first reset says what is missing."""
    vec = scripted(3)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"3 of 3 environments need a reset.*env 0 \(never reset\)"):
        vec.step(("a", "b", "c"))
    vec.close()


def test_disabled_mode_refuses_ended_episodes() -> None:
    """Without autoreset, stepping an ended episode raises before any step is made; a masked reset mends it."""
    vec = scripted(3, autoreset_mode="Disabled")
    vec.reset()
    _, _, terminated, truncated, _ = vec.step(("go", "end", "go"))
    with pytest.raises(AssertionError, match=r"episodes of envs \[1\] are over"):
        vec.step(("go", "go", "go"))
    vec.reset(options={"reset_mask": terminated | truncated})
    assert ("step 2 go", "step 1 go", "step 2 go") == vec.step(("go",) * 3)[0]
    vec.close()


@pytest.mark.parametrize(
    ("actions", "kind", "text"),
    [
        ("abc", TypeError, "a batch of 3 actions, one for each environment, got one str"),
        (b"abc", TypeError, "got one bytes"),
        ({"a": 1, "b": 2, "c": 3}, TypeError, "got one dict"),
        (None, TypeError, "got one NoneType"),
        (3, TypeError, "got one int"),
        (("a", "b"), ValueError, "a batch of 3 actions, one for each environment, got 2"),
        (["a"] * 4, ValueError, "got more than 3"),
        (iter(lambda: "endless", None), ValueError, "got more than 3"),
    ],
)
def test_wrong_batches_of_actions(actions: Any, kind: type[Exception], text: str) -> None:
    """What is no batch of actions is refused before any environment is stepped, above all one bare str."""
    vec = scripted(3)
    vec.reset()
    with pytest.raises(kind, match=text):
        vec.step(actions)
    assert ("step 1 a", "step 1 b", "step 1 c") == vec.step(["a", "b", "c"])[0]
    vec.close()


@pytest.mark.parametrize(
    "actions", [("a", "b"), ["a", "b"], np.array(["a", "b"]), np.array(["a", "b"], dtype=object), iter(("a", "b"))]
)
def test_batches_of_actions(actions: Any) -> None:
    """Tuples, lists, arrays and iterators of strings are batches."""
    vec = scripted(2)
    vec.reset()
    assert ("step 1 a", "step 1 b") == vec.step(actions)[0]
    vec.close()


def test_next_step_ignores_the_action_after_an_end() -> None:
    """The step after an end resets that environment: its action is not used, and reward and flags are zero."""
    vec = scripted(2)
    vec.reset()
    vec.step(("end", "go"))
    observations, rewards, terminations, truncations, _ = vec.step(("ignored", "go"))
    assert ("reset 2", "step 2 go") == observations
    assert [0.0, 1.0] == rewards.tolist()
    assert not (terminations | truncations).any()
    vec.close()


@pytest.mark.parametrize(
    ("keywords", "kind", "text"),
    [
        ({}, RuntimeError, "env 1 has observation space .* use observation_mode='different'"),
        ({"observation_mode": "other"}, ValueError, "'same', 'different' or a tuple .*, got 'other'"),
        ({"observation_mode": (1, 2)}, TypeError, "must hold two spaces"),
        ({"observation_mode": "different", "autoreset_mode": "Sometimes"}, ValueError, "Sometimes"),
        ({"observation_mode": "different", "max_concurrency": 0}, ValueError, "max_concurrency must be at least 1"),
        ({"observation_mode": "different", "render_mode": "human"}, ValueError, "env 0 has render_mode 'ansi'"),
    ],
)
def test_wrong_constructor_arguments(keywords: dict[str, Any], kind: type[Exception], text: str) -> None:
    """A wrong argument says which one and what is allowed."""
    with pytest.raises(kind, match=text):
        AsyncioVectorEnv[Any, Any]([partial(Bounded, 1.0), partial(Bounded, 2.0)], **keywords)


def test_spaces_that_do_not_go_together() -> None:
    """Environments of different shapes or actions cannot be batched in any mode."""
    with pytest.raises(RuntimeError, match=r"env 1 has observation space .* differs in shape or dtype"):
        AsyncioVectorEnv[Any, Any](
            [partial(Wanderer, "box"), partial(Wanderer, "text")],
            observation_mode=(SPACES["box"], SPACES["box"]),
        )

    def other_actions() -> Wanderer:
        env = Wanderer("text")
        env.action_space = Unicode(9)
        return env

    with pytest.raises(RuntimeError, match="env 1 has action space"):
        AsyncioVectorEnv[Any, Any]([Wanderer, other_actions])


def test_failing_constructor_closes_the_others() -> None:
    """If an environment cannot be constructed, those before it are closed; none at all is refused."""
    made: list[Wanderer] = []

    def make() -> Wanderer:
        made.append(Wanderer())
        if len(made) == 3:
            raise OSError("no third")
        return made[-1]

    with pytest.raises(OSError, match="no third"):
        AsyncioVectorEnv[Any, Any]([make] * 4)
    assert [1, 1, 0] == [env.closed for env in made]
    with pytest.raises(ValueError, match="env_fns is empty"):
        AsyncioVectorEnv[Any, Any]([])


def test_async_protocol() -> None:
    """What offers areset and astep is an AsyncEnv, in gymnasium's wrappers it is not."""
    assert isinstance(AsyncWanderer(), AsyncEnv)
    assert not isinstance(Wanderer(), AsyncEnv)
    assert not isinstance(gymnasium.wrappers.TimeLimit(AsyncWanderer(), 3), AsyncEnv)


async def test_steps_are_concurrent() -> None:
    """A step is under way in every environment at once: none ends before all have begun. Resets likewise."""
    number = 6
    meeting = asyncio.Barrier(number)

    async def meet(*_: Any) -> None:
        async with asyncio.timeout(20):
            await meeting.wait()

    async with scripted(number, step=meet, reset=meet) as vec:
        await vec.areset()
        assert ("step 1 go",) * number == (await vec.astep(("go",) * number))[0]


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_concurrency_is_limited(limit: int) -> None:
    """With `max_concurrency`, that many environments are at work at once, and never more."""
    at_work = 0
    most = 0

    async def work(*_: Any) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        for _turn in range(3):
            await asyncio.sleep(0)
        at_work -= 1

    async with scripted(5, step=work, reset=work, max_concurrency=limit) as vec:
        await vec.areset()
        assert (limit, 0) == (most, at_work)
        await vec.astep(("go",) * 5)
        assert (limit, 0) == (most, at_work)


async def test_plain_environments_do_not_block_the_loop() -> None:
    """While environments without coroutines are stepped, in one other thread and in order, the loop turns."""
    turned = threading.Event()
    seen: list[tuple[int, str]] = []

    class Blocking(Wanderer):
        def step(self, action: Any) -> Any:
            assert turned.wait(20)
            seen.append((threading.get_ident(), action))
            return super().step(action)

    async with AsyncioVectorEnv[Any, Any]([Blocking] * 3) as vec:
        await vec.areset()
        step = asyncio.create_task(vec.astep(("a", "b", "c")))
        await asyncio.sleep(0)
        turned.set()
        await step
    assert ["a", "b", "c"] == [action for _, action in seen]
    assert 1 == len({ident for ident, _ in seen} - {threading.get_ident()})
