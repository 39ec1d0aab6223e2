"""How lanes find their width, against daemons that are played."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import pytest

from codecraft_pool.lanes import AdaptiveLane, Bounds, Width

pytestmark = pytest.mark.anyio

BOUNDS: Final = Bounds(2, 6, 32)
CALL_S: Final = 0.1


def play(width: Width, *, parallel: int, calls: int, noise: float = 0.0, demand: int = 1000) -> list[int]:
    """Let a daemon that does *parallel* calls at once answer; return the widths after each."""
    chance = random.Random(1)
    widths: list[int] = []
    for _ in range(calls):
        busy = min(width.width, demand)
        took_s = CALL_S * max(1.0, busy / parallel) * (1 + noise * chance.uniform(-1, 1))
        width.ended(took_s, busy=busy, was_full=demand > width.width)
        widths.append(width.width)
    return widths


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("parallel", [2, 4, 8, 16])
def test_a_lane_is_a_little_wider_than_its_daemon(parallel: int, noise: float) -> None:
    """It keeps the daemon busy with a few calls waiting there, whatever the daemon can do."""
    width = Width(BOUNDS)
    play(width, parallel=parallel, calls=600, noise=noise)
    settled = play(width, parallel=parallel, calls=600, noise=noise)
    assert parallel <= sum(settled) / len(settled) <= parallel + 6


def test_a_lane_stays_within_its_bounds() -> None:
    """A daemon that is never busy widens it to its highest only, one that does nothing at once narrows it to its
    lowest."""
    width = Width(BOUNDS)
    assert BOUNDS.highest == max(play(width, parallel=1000, calls=2000))
    for _ in range(20):
        width.failed()
    assert BOUNDS.lowest == width.width
    fixed = Width(Bounds(4, 4, 4))
    assert {4} == set(play(fixed, parallel=1, calls=100)) | set(play(fixed, parallel=100, calls=100))


def test_a_lane_that_is_not_full_stays() -> None:
    """Calls that never had to wait say nothing of what more of them would do."""
    assert {BOUNDS.first} == set(play(Width(BOUNDS), parallel=1000, calls=500, demand=2)[10:])


def test_an_error_halves_the_lane() -> None:
    """A daemon that does not answer is asked for half as much."""
    width = Width(Bounds(2, 16, 32))
    play(width, parallel=16, calls=4, demand=1)
    assert 16 == width.width
    width.failed()
    assert 8 == width.width


def test_a_daemon_that_got_slower_is_believed() -> None:
    """What was possible on an idle machine is forgotten: the lane does not stay at its lowest for ever."""
    width = Width(BOUNDS)
    play(width, parallel=16, calls=600)
    for _ in range(600):
        width.ended(CALL_S * 5, busy=width.width, was_full=True)
    assert BOUNDS.lowest < width.width


@pytest.mark.parametrize("bounds", [(0, 1, 2), (3, 2, 4), (1, 5, 4)])
def test_bounds_that_are_none(bounds: tuple[int, int, int]) -> None:
    """Widths out of order are refused."""
    with pytest.raises(ValueError, match="lowest <= first <= highest"):
        Bounds(*bounds)


async def test_places_are_given_in_the_order_of_asking() -> None:
    """Who waits gets the place of whoever leaves, the first first; a cancelled waiter takes none with it."""
    lane, order = AdaptiveLane(Bounds(1, 1, 1)), list[int]()

    async def visit(number: int) -> None:
        await lane.enter()
        order.append(number)
        await asyncio.sleep(0)
        lane.leave(1, 0.01)

    tasks = [asyncio.create_task(visit(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert (1, 4) == (lane.stats().busy, lane.stats().waiting)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert [0, 1, 3, 4] == order
    assert (0, 0) == (lane.stats().busy, lane.stats().waiting)


async def test_a_place_that_was_granted_to_a_cancelled_waiter_goes_on() -> None:
    """A waiter that is cancelled in the moment of its turn hands the place to the next."""
    lane = AdaptiveLane(Bounds(1, 1, 1))
    await lane.enter()
    first, second = asyncio.create_task(lane.enter()), asyncio.create_task(lane.enter())
    await asyncio.sleep(0)
    lane.leave(1, None)
    first.cancel()
    async with asyncio.timeout(1):
        await second
    assert first.cancelled()
    assert 1 == lane.stats().busy
    lane.leave(1, None, failed=True)
    assert (0, 1) == (lane.stats().busy, lane.stats().errors)
