"""What first-ready batches refuse, and what becomes of environments that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError, ResetNeeded

from codecraft_async.vector import AsyncioVectorEnv

from .ready_envs import inside, let_go, puppets, settle, started
from .test_vector_failures import AsyncOdd, Odd
from .vector_envs import Wanderer

pytestmark = pytest.mark.anyio

IDS: list[tuple[Any, type[Exception], str]] = [
    ([3], IndexError, "env_id has 3, but the environments are 0 to 2"),
    ([-1], IndexError, "env_id has -1, but the environments are 0 to 2"),
    ([0, 0], ValueError, "env_id names 0 more than once"),
    ([], ValueError, "env_id is empty"),
    ([0, 1, 2, 0], ValueError, "env_id names 4 environments, but there are 3"),
    ([0.0], TypeError, r"env_id must hold integers, got 0.0 of type float"),
    ([True], TypeError, "env_id must hold integers, got True of type bool"),
    ([None], TypeError, "env_id must hold integers, got None"),
    (np.array([0.0]), TypeError, "env_id must hold integers, got an array of dtype float64"),
    (np.array([True, False, False]), TypeError, "got an array of dtype bool"),
    (np.array([[0]]), ValueError, r"env_id must have one dimension, got an array of shape \(1, 1\)"),
    (1, TypeError, "env_id must be a sequence or an array of integers, got int"),
    ("01", TypeError, "env_id must be a sequence or an array of integers, got str"),
    ({0}, TypeError, "env_id must be a sequence or an array of integers, got set"),
]


@pytest.mark.parametrize(("ids", "kind", "text"), IDS)
async def test_ids_that_are_none(ids: Any, kind: type[Exception], text: str) -> None:
    """Ids that name no environment, or one twice, are refused by every call that takes them; nothing is started."""
    async with puppets(3, eager=True) as vec:
        await vec.areset()
        with pytest.raises(kind, match=text):
            vec.send(["go"] * np.size(ids), ids)
        with pytest.raises(kind, match=text):
            vec.async_reset(ids)
        assert not vec.outstanding.any()
        assert [1, 1, 1] == [len(env.calls) for env in inside(vec)]


@pytest.mark.parametrize(
    ("actions", "ids", "kind", "text"),
    [
        (["a"], [0, 1], ValueError, "actions must be a batch of 2 actions.* got 1"),
        (["a", "b", "c"], [0, 1], ValueError, "actions must be a batch of 2 actions.* got more than 2"),
        (["a", "b"], None, ValueError, "actions must be a batch of 3 actions.* got 2"),
        ("ab", [0, 1], TypeError, "got one str"),
        ({"a": 1}, [0], TypeError, "got one dict"),
    ],
)
async def test_actions_that_do_not_fit(actions: Any, ids: Any, kind: type[Exception], text: str) -> None:
    """There must be one action for each environment named."""
    async with puppets(3, eager=True) as vec:
        await vec.areset()
        with pytest.raises(kind, match=text):
            vec.send(actions, ids)
        assert not vec.outstanding.any()


async def test_actions_that_do_not_fit_the_last_batch() -> None:
    """Where the environments were not named, the error says which were meant."""
    async with puppets(3, eager=True) as vec:
        vec.async_reset([2, 0])
        await vec.arecv(2)
        with pytest.raises(ValueError, match="actions must be a batch of 2 actions") as caught:
            vec.send(["a", "b", "c"])
        assert ["without env_id they are for the last batch received: envs 2, 0"] == caught.value.__notes__


@pytest.mark.parametrize(
    ("sizes", "kind", "text"),
    [
        ({"batch_size": 4}, ValueError, "batch_size must be from 1 to the number of environments, 3, got 4"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1"),
        ({"batch_size": -1}, ValueError, "batch_size must be from 1"),
        ({"batch_size": 1.0}, TypeError, "batch_size must be an integer, got 1.0 of type float"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer, got True of type bool"),
        ({"min_get": 0}, ValueError, "min_get must be from 1"),
        ({"batch_size": 1, "min_get": 2}, ValueError, "min_get is 2, more than the batch_size of 1"),
        ({"timeout": -1.0}, ValueError, "timeout must be a number of seconds, at least 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be a number of seconds, at least 0"),
    ],
)
async def test_sizes_that_cannot_be(sizes: dict[str, Any], kind: type[Exception], text: str) -> None:
    """A batch has from one to all of the environments."""
    async with await started(3) as vec:
        vec.send(["go"] * 3)
        with pytest.raises(kind, match=text):
            await vec.arecv(**sizes)
        assert vec.outstanding.all()
        if "timeout" not in sizes and "min_get" not in sizes:
            with pytest.raises(kind, match=text):
                puppets(3, **sizes)


async def test_more_than_can_come() -> None:
    """A `recv` that could never be satisfied is refused at once, whether nothing is outstanding or too little."""
    async with await started(3, batch_size=2) as vec:
        with pytest.raises(NoAsyncCallError, match="`recv` asks for 2 results, but none can come"):
            await vec.arecv()
        vec.send(["go"], [1])
        with pytest.raises(NoAsyncCallError, match="asks for 2 results, but 1 can come, in flight or ready"):
            await vec.arecv()
        with pytest.raises(NoAsyncCallError, match="asks for at least 2 results, but 1 can come"):
            await vec.arecv(3, min_get=2)
        await settle()
        await let_go(vec, [1])
        with pytest.raises(NoAsyncCallError, match="but 1 can come"):
            await vec.arecv()
        assert ("1: step go",) == (await vec.arecv(2, min_get=1))[0]


async def test_environments_that_are_busy() -> None:
    """An environment in flight or ready takes neither an action nor a reset; all or nothing is started."""
    async with await started(4) as vec:
        vec.send(["a", "b"], [1, 2])
        await settle()
        await let_go(vec, [2])
        for ids in ([0, 1], range(4)):
            with pytest.raises(AlreadyPendingCallError, match=r"`send` needs .* env 1 \(in flight\)"):
                vec.send(["c"] * len(ids), ids)
        for resets in (None, [3, 1]):
            with pytest.raises(AlreadyPendingCallError, match=r"`async_reset` needs .* env 1 \(in flight\)"):
                vec.async_reset(resets)
        with pytest.raises(AlreadyPendingCallError, match=r"but env 2 \(ready\): each has one call at a time"):
            vec.send(["c"], [2])
        await settle()
        assert [False, True, False, False] == [env.waiting for env in inside(vec)]
        assert [False, True, True, False] == vec.outstanding.tolist()


async def test_calls_of_all_environments() -> None:
    """What concerns all environments is refused while results are outstanding, and works when they are delivered."""

    async def calling(work: Callable[[], Any]) -> None:
        work()

    async with await started(2) as vec:
        vec.send(["a"], [1])
        await settle()
        refused = (
            vec.astep(("go", "go")),
            vec.areset(),
            vec.areset(options={"reset_mask": np.array([True, False])}),
            calling(lambda: vec.call("render")),
            calling(lambda: vec.get_attr("calls")),
            calling(lambda: vec.set_attr("index", 3)),
            calling(vec.render),
        )
        for call in refused:
            with pytest.raises(AlreadyPendingCallError, match=r"needs environments at rest, but env 1 \(in flight\)"):
                await call
        await let_go(vec, [1])
        with pytest.raises(AlreadyPendingCallError, match=r"but env 1 \(ready\)"):
            await vec.astep(("go", "go"))
        await vec.arecv(1)
        assert (0, 1) == vec.get_attr("index")


async def test_first_ready_calls_within_a_step() -> None:
    """While a step of all environments is in progress, nothing is sent, reset or received."""
    async with await started(2) as vec:
        stepping = asyncio.create_task(vec.astep(("a", "b")))
        await settle()
        with pytest.raises(AlreadyPendingCallError, match="step"):
            vec.send(["c"], [0])
        with pytest.raises(AlreadyPendingCallError, match="step"):
            vec.async_reset()
        with pytest.raises(NoAsyncCallError):
            await vec.arecv(1)
        await let_go(vec, [0, 1])
        assert ("0: step a", "1: step b") == (await stepping)[0]


async def test_two_receivers() -> None:
    """Only one call may wait for results; the other is refused, and the first gets them."""
    async with await started(2) as vec:
        vec.send(["a", "b"])
        receiving = asyncio.create_task(vec.arecv(2))
        await settle()
        with pytest.raises(AlreadyPendingCallError, match="`recv` while another `recv` waits"):
            await vec.arecv(1)
        await let_go(vec, [0, 1])
        assert ("0: step a", "1: step b") == (await receiving)[0]


async def test_environments_without_an_episode() -> None:
    """Before its first reset an environment takes no action."""
    async with puppets(3, eager=True) as vec:
        with pytest.raises(ResetNeeded, match=r"env 0 \(never reset\), env 1 \(never reset\), env 2 \(never reset\)"):
            vec.send(["go"] * 3)
        vec.async_reset([1])
        await vec.arecv(1)
        with pytest.raises(ResetNeeded, match=r"^env 2 \(never reset\): `async_reset` these"):
            vec.send(["go"] * 2, [1, 2])
        vec.send(["go"], [1])
        assert ("1: step go",) == (await vec.arecv(1))[0]
        with pytest.raises(ResetNeeded, match=r"env 0 \(never reset\)"):
            await vec.astep(["go"] * 3)


async def test_masks_and_seeds_that_do_not_fit() -> None:
    """Ids and a mask exclude each other, and a list of seeds has one for each environment that is named."""
    async with puppets(3, eager=True) as vec:
        mask = {"reset_mask": np.array([True, False, False])}
        with pytest.raises(ValueError, match="both say what to reset"):
            vec.async_reset([0], options=mask)
        with pytest.raises(ValueError, match="seed has 3 seeds for the 2 environments of env_id"):
            vec.async_reset([0, 2], seed=[1, 2, 3])
        with pytest.raises(ValueError, match="length must match num_envs=3 but got length=1"):
            vec.async_reset(seed=[1], options=mask)
        with pytest.raises(TypeError, match="must be a numpy array"):
            vec.async_reset(options={"reset_mask": [True, False, False]})
        assert not vec.outstanding.any()


async def test_failure_has_its_place_in_the_order() -> None:
    """An error is raised after the results before it, names its environment, and takes no other result with it."""
    async with await started(4) as vec:
        vec.send(["a", "b", "c", "d"])
        await settle()
        await let_go(vec, [3])
        inside(vec)[1].break_down(OSError("lost"))
        await let_go(vec, [2])
        assert ("3: step d",) == (await vec.arecv(1))[0]
        with pytest.raises(OSError, match="lost") as caught:
            await vec.arecv(2)
        assert ["raised by env 1 in step"] == caught.value.__notes__
        assert [False, True, False, False] == vec.interrupted.tolist()
        await let_go(vec, [0])
        assert ("2: step c", "0: step a") == (await vec.arecv(2))[0]
        with pytest.raises(ResetNeeded, match=r"env 1 \(failed\)"):
            vec.send(["e"], [1])
        vec.async_reset([1])
        await settle()
        await let_go(vec, [1])
        assert ("1: reset",) == (await vec.arecv(1))[0]
        assert not vec.interrupted.any()


async def test_failure_is_not_waited_with() -> None:
    """Whoever waits for more results than are left without the failed one is told at once; what was ready stays."""
    async with await started(3) as vec:
        vec.send(["a", "b", "c"])
        receiving = asyncio.create_task(vec.arecv(3))
        await settle()
        await let_go(vec, [0])
        inside(vec)[2].break_down(ValueError("broken"))
        with pytest.raises(ValueError, match="broken"):
            await receiving
        with pytest.raises(NoAsyncCallError, match="asks for 3 results, but 2 can come"):
            await vec.arecv()
        await let_go(vec, [1])
        assert ("0: step a", "1: step b") == (await vec.arecv(2))[0]


async def test_every_failure_is_delivered() -> None:
    """Of several failures each is raised by a `recv` of its own, also those of resets."""
    async with puppets(3) as vec:
        vec.async_reset()
        receiving = asyncio.create_task(vec.arecv())
        await settle()
        for row in (2, 0):
            inside(vec)[row].break_down(OSError(f"no sandbox {row}"))
        with pytest.raises(OSError, match="no sandbox 2") as caught:
            await receiving
        assert ["raised by env 2 in reset"] == caught.value.__notes__
        with pytest.raises(OSError, match="no sandbox 0"):
            await vec.arecv(1)
        assert [True, False, True] == vec.interrupted.tolist()
        assert [False, True, False] == vec.outstanding.tolist()


NO_RESULTS: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "cannot unpack"),
    (("o", 0.0, False, False, "info"), TypeError, "an environment's info must be a dict, got str"),
    (("o", "much", False, False, {}), ValueError, "could not convert string to float"),
]


@pytest.mark.parametrize("sort", [Odd, AsyncOdd])
@pytest.mark.parametrize(("result", "kind", "text"), NO_RESULTS)
async def test_malformed_results(sort: type[Odd], result: Any, kind: type[Exception], text: str) -> None:
    """A result that is none is that environment's failure; the others' results are delivered."""
    async with AsyncioVectorEnv[Any, Any]([Wanderer, sort, Wanderer]) as vec:
        await vec.areset(seed=1)
        inside(vec)[1].result = result
        vec.send(["a", "b", "c"])
        with pytest.raises(kind, match=text) as caught:
            await vec.arecv(3)
        assert "raised by env 1 in step" in caught.value.__notes__
        assert [0, 2] == sorted((await vec.arecv(2))[-1]["env_id"].tolist())


@pytest.mark.parametrize("kind", [StopIteration, KeyError, GeneratorExit])
async def test_whatever_a_plain_environment_raises(kind: type[BaseException]) -> None:
    """An exception that no future or coroutine can carry is delivered as well, in some form, and hangs nobody."""
    async with AsyncioVectorEnv[Any, Any]([Odd, Wanderer]) as vec:
        await vec.areset(seed=1)
        inside(vec)[0].result = kind("over")
        vec.send(["a", "b"])
        with pytest.raises((RuntimeError, kind)) as caught:
            await vec.arecv()
        assert ["raised by env 0 in step"] == caught.value.__notes__
        assert [1] == (await vec.arecv(1))[-1]["env_id"].tolist()


async def test_observation_that_does_not_fit() -> None:
    """An observation that cannot be batched is its environment's failure, and holds nobody up."""
    async with AsyncioVectorEnv[Any, Any](
        [lambda: Wanderer("box"), lambda: Odd("box"), lambda: Wanderer("box")]
    ) as vec:
        await vec.areset(seed=1)
        inside(vec)[1].result = (np.zeros(7), 0.0, False, False, {})
        vec.send(np.zeros((3, 2), dtype=np.float32))
        with pytest.raises(ValueError, match="shape") as caught:
            await vec.arecv(3)
        assert ["raised by env 1 in step"] == caught.value.__notes__
        assert [0, 2] == sorted((await vec.arecv(2))[-1]["env_id"].tolist())
        assert [False, True, False] == vec.interrupted.tolist()


async def test_infos_that_do_not_go_together() -> None:
    """Infos that clash with each other raise; the results stay, and each by itself can be had."""
    async with AsyncioVectorEnv[Any, Any]([Odd] * 2) as vec:
        await vec.areset(seed=1)
        for env, value in zip(inside(vec), (np.zeros(2), np.zeros(3)), strict=True):
            env.result = ("o", 0.0, False, False, {"value": value})
        vec.send(["a", "b"])
        with pytest.raises(ValueError, match="broadcast") as caught:
            await vec.arecv(2)
        assert ["no result is lost: each by itself can be had by a `recv` of batch_size 1"] == caught.value.__notes__
        shapes = {infos["env_id"].item(): infos["value"].shape for infos in [(await vec.arecv(1))[-1] for _ in "12"]}
        assert {0: (1, 2), 1: (1, 3)} == shapes


async def test_environment_that_cancels_itself() -> None:
    """A cancellation that comes from within an environment is its failure."""
    async with await started(1) as vec:
        vec.send(["go"])
        await settle()
        inside(vec)[0].break_down(asyncio.CancelledError())
        with pytest.raises(RuntimeError, match="the environment cancelled its own step"):
            await vec.arecv(1)


async def test_method_that_is_no_coroutine_function() -> None:
    """An `astep` that gives no coroutine is that environment's failure, delivered like any other."""
    async with puppets(2, eager=True) as vec:
        await vec.areset()
        inside(vec)[1].astep = lambda action: None
        vec.send(["a", "b"])
        with pytest.raises(TypeError, match="coroutine was expected") as caught:
            await vec.arecv(2)
        assert ["raised by env 1 in step"] == caught.value.__notes__
        assert ("0: step a",) == (await vec.arecv(1))[0]
