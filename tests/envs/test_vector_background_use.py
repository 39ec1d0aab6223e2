"""What else may be done while resets run in the background: close, look at attributes, use single environments."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, ResetNeeded

from .vector_envs import CLOSES, Resets, Scripted, background_tasks, reset_under_way, scripted, settle

pytestmark = pytest.mark.anyio


def unretrieved(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What asyncio says of failures that nobody looked at."""
    return [text for text in caplog.messages if "never retrieved" in text or "was destroyed" in text]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("turns", range(4))
async def test_closing_ends_it(turns: int, fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    """However far it is, closing cancels it, waits for its end, and closes the environment after that."""
    resets = Resets(fails=fails)
    vec = scripted(2, where=0, reset=resets)
    await vec.areset()
    await vec.astep(("end", "go"))
    for _ in range(turns):
        await asyncio.sleep(0)
    if fails:
        resets.gate.open.set()
        await settle()
    await vec.aclose()
    await settle()
    assert [] == background_tasks()
    assert [["closed"], ["closed"]] == [env.unwrapped.ended for env in vec.envs]  # type: ignore[attr-defined]
    with pytest.raises(ClosedEnvironmentError):
        await vec.astep(("go", "go"))
    gc.collect()
    assert not unretrieved(caplog)


@pytest.mark.parametrize("close", CLOSES)
def test_closing_after_the_callers_loop_has_ended(close: Callable[[Any], None]) -> None:
    """The loop took the reset with it when it ended; closing closes the environments all the same."""
    resets = Resets()
    vec = scripted(2, where=0, reset=resets)

    async def use() -> None:
        await vec.areset()
        await vec.astep(("end", "go"))
        await resets.gate.filled()

    asyncio.run(use())
    close(vec)
    assert 1 == resets.gate.cancelled
    assert [["closed"], ["closed"]] == [env.unwrapped.ended for env in vec.envs]  # type: ignore[attr-defined]


async def test_attributes_while_it_runs() -> None:
    """On the caller's loop what would meet a reset half-way is refused; `acall` waits for its end."""
    async with reset_under_way() as (vec, resets):
        for direct in (partial(vec.get_attr, "resets"), partial(vec.set_attr, "steps", 1), vec.render):
            with pytest.raises(AlreadyPendingCallError, match="`reset` of env 0, in the background") as caught:
                direct()
            assert "reset" == caught.value.name
        call = asyncio.create_task(vec.acall("resets"))
        await settle()
        assert not call.done()
        resets.gate.open.set()
        assert (2, 1) == await call
        assert (2, 1) == vec.get_attr("resets")


def test_attributes_of_the_synchronous_face_wait() -> None:
    """In other threads than the loop's, what reads and sets attributes waits for resets in the background."""
    begun = threading.Event()

    async def reset(env: Scripted) -> None:
        if env.resets:
            begun.set()
            for _ in range(20):
                await asyncio.sleep(0.001)

    vec = scripted(2, reset=reset)
    vec.reset()
    vec.step(("end", "go"))
    assert begun.wait(20)
    assert (2, 1) == vec.get_attr("resets")
    vec.set_attr("resets", [7, 8])
    assert ("reset 2", "step 2 go") == vec.step(("go", "go"))[0]
    vec.step_async(("end", "end"))
    vec.step_wait()
    vec.call_async("resets")
    assert (8, 9) == vec.call_wait()
    vec.close()


async def test_a_handle_meets_it() -> None:
    """A step by hand of an environment that is being reset is refused, and a reset by hand waits for it."""
    async with reset_under_way() as (vec, resets):
        with pytest.raises(ResetNeeded, match="its episode is over"):
            await vec.envs[0].astep("go")
        assert "step 2 go" == (await vec.envs[1].astep("go"))[0]
        resets.gate.open.set()
        assert "reset 2" == (await vec.envs[0].areset())[0]
        assert ("step 1 x", "step 3 x") == (await vec.astep(("x", "x")))[0]
