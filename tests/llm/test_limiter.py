"""Whose turn it is at the limiter, and what is left of a call that gave up."""

from __future__ import annotations

import asyncio
import random

import pytest

from codecraft_async.llm import EndpointError, Limiter, QueueFull, RateLimited, RateLimits, RetryPolicy, ServerFailed
from codecraft_async.llm.limiter import Bucket

pytestmark = pytest.mark.anyio


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


class Calls:
    """Calls at a limiter that stay in their slot until they are told to go, and the order in which they came in."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.entered: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def start(self, name: str, fair_key: str = "", tokens: int = 1) -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()
        return asyncio.create_task(self._call(name, fair_key, tokens))

    def let_go(self, name: str) -> None:
        self._ends[name].set()

    async def end(self, name: str) -> None:
        self.let_go(name)
        await settle()

    async def _call(self, name: str, fair_key: str, tokens: int) -> None:
        async with self.limiter.slot(tokens, fair_key=fair_key):
            self.entered.append(name)
            await self._ends[name].wait()


def test_a_bucket_lets_its_rate_through_and_no_more() -> None:
    """Whatever the pattern of calls, in no minute more than the rate and one burst is taken."""
    rng = random.Random(1)
    bucket = Bucket(600.0, burst_s=2.0)
    now, taken = 0.0, []
    for _ in range(3000):
        now += rng.choice((0.0, 0.01, 0.5)) * rng.random()
        amount = rng.choice((1.0, 3.0, 19.0))
        now += bucket.wait_s(now, amount)
        bucket.take(amount)
        taken.append((now, amount))
    for start, _ in taken[::50]:
        assert 600.0 + 20.0 + 19.0 >= sum(amount for at, amount in taken if start <= at < start + 60.0)


def test_a_call_larger_than_the_bucket_comes_in_and_later_ones_pay() -> None:
    """It waits for a full bucket; the next waits until what is owed has come in."""
    bucket = Bucket(60.0, burst_s=10.0)
    assert 0.0 == bucket.wait_s(0.0, 25.0)
    bucket.take(25.0)
    assert pytest.approx(16.0) == bucket.wait_s(0.0, 1.0)
    bucket.take(-25.0)
    assert 0.0 == bucket.wait_s(0.0, 10.0)


def test_what_was_counted_too_late_is_owed_for_a_minute_at_most() -> None:
    """A number that cannot be does not hold up everybody for years; nor does it forgive what was owed before."""
    bucket = Bucket(60.0, burst_s=10.0)
    assert 0.0 == bucket.wait_s(0.0, 5.0)
    bucket.correct(1e12)
    assert pytest.approx(61.0) == bucket.wait_s(0.0, 1.0)
    bucket.take(100.0)
    bucket.correct(1e12)
    assert pytest.approx(161.0) == bucket.wait_s(0.0, 1.0)
    bucket.correct(-1e12)
    assert 0.0 == bucket.wait_s(0.0, 10.0)


async def test_lines_take_turns() -> None:
    """An episode that asks for many answers at once does not hold up one that asks for one."""
    calls = Calls(Limiter(RateLimits(max_concurrency=1)))
    names = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("b2", "b")]
    tasks = [calls.start(name, key) for name, key in names]
    await settle()
    for _ in names:
        await calls.end(calls.entered[-1])
    assert ["a1", "a2", "b1", "c1", "a3", "b2"] == calls.entered
    await asyncio.gather(*tasks)
    assert (0, 0, 6) == ((stats := calls.limiter.stats()).under_way, stats.waiting, stats.granted)


async def test_who_gives_up_in_line_is_passed_over() -> None:
    """The others keep their order, and an empty line is gone."""
    calls = Calls(Limiter(RateLimits(max_concurrency=1)))
    first, second, third = (calls.start(name, name) for name in ("a", "b", "c"))
    await settle()
    second.cancel()
    await settle()
    await calls.end("a")
    assert ["a", "c"] == calls.entered
    await calls.end("c")
    await asyncio.gather(first, third)
    assert (0, 0) == ((stats := calls.limiter.stats()).under_way, stats.waiting)


async def test_who_is_let_in_and_cancelled_in_one_tick_gives_it_back() -> None:
    """The place, the request and the tokens go to the next."""
    calls = Calls(Limiter(RateLimits(max_concurrency=1, requests_per_minute=1.0, tokens_per_minute=10.0, burst_s=180)))
    first, second, third = (calls.start(name, tokens=10) for name in ("a", "b", "c"))
    await settle()
    calls.let_go("a")
    await asyncio.sleep(0)  # "a" leaves, and "b" is let in, which it does not know yet
    second.cancel()
    await settle()
    assert ["a", "c"] == calls.entered
    await calls.end("c")
    await asyncio.gather(first, third)
    assert 2 == calls.limiter.stats().granted


async def test_who_is_cancelled_while_the_place_before_becomes_free_is_passed_over() -> None:
    """The place finds the waiter's end before the waiter does; nobody counts it twice."""
    calls = Calls(Limiter(RateLimits(max_concurrency=1)))
    first, second, third = (calls.start(name, name) for name in ("a", "b", "c"))
    await settle()
    calls.let_go("a")
    second.cancel()
    await settle()
    assert second.cancelled()
    assert ["a", "c"] == calls.entered
    await calls.end("c")
    await asyncio.gather(first, third)
    assert (0, 0, 2) == ((stats := calls.limiter.stats()).under_way, stats.waiting, stats.granted)


async def test_a_full_line_refuses() -> None:
    """The error says how many wait, and refuses nobody who waits already."""
    calls = Calls(Limiter(RateLimits(max_concurrency=1, max_waiting=1)))
    first, second = calls.start("a"), calls.start("b")
    await settle()
    with pytest.raises(QueueFull, match="1 calls wait for the model already"):
        await calls.start("c")
    await calls.end("a")
    await calls.end("b")
    await asyncio.gather(first, second)


async def test_waiting_by_the_clock() -> None:
    """A timer lets the next in, without anybody leaving."""
    limiter = Limiter(RateLimits(requests_per_minute=6000.0, burst_s=0.01))
    calls = Calls(limiter)
    tasks = [calls.start(str(number)) for number in range(5)]
    await settle()
    assert 5 > len(calls.entered)
    async with asyncio.timeout(10):
        while 5 > len(calls.entered):  # noqa: ASYNC110  # it is the clock that is waited for
            await asyncio.sleep(0.005)
    for number in range(5):
        await calls.end(str(number))
    await asyncio.gather(*tasks)
    assert ["0", "1", "2", "3", "4"] == calls.entered


def test_a_limiter_belongs_to_one_loop() -> None:
    """Another one is told so, not left to wait for what never comes."""

    async def use() -> None:
        async with limiter.slot(1):
            pass

    limiter = Limiter()
    asyncio.run(use())
    with pytest.raises(RuntimeError, match="the limiter belongs to another event loop"):
        asyncio.run(use())


@pytest.mark.parametrize(
    "limits", [{"max_concurrency": 0}, {"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"max_waiting": -1}]
)
def test_limits_that_let_nothing_through(limits: dict[str, int]) -> None:
    """They are refused with their name."""
    with pytest.raises(ValueError, match=next(iter(limits))):
        RateLimits(**limits)


def test_waits_double_up_to_a_bound_and_are_spread() -> None:
    """Each is drawn from the upper half of its range; after the last attempt there is none."""
    policy = RetryPolicy(max_attempts=100, first_wait_s=1.0, max_wait_s=8.0)
    rng = random.Random(3)
    waits = [policy.wait_s(attempt, ServerFailed("x"), rng) for attempt in range(1, 101)]
    assert waits[99] is None
    for attempt, most_s in enumerate([1.0, 2.0, 4.0, 8.0, 8.0, *[8.0] * 94]):
        wait_s = waits[attempt]
        assert wait_s is not None and most_s / 2 <= wait_s <= most_s
    assert 90 < len(set(waits))


def test_the_endpoints_wish_comes_first() -> None:
    """What it asks for is waited, and a little more; an error that will not go away is not tried again."""
    policy = RetryPolicy(first_wait_s=1.0)
    wait_s = policy.wait_s(1, RateLimited("x", retry_after_s=20.0), random.Random(1))
    assert wait_s is not None and 20.0 <= wait_s <= 21.0
    assert policy.wait_s(1, EndpointError("x"), random.Random(1)) is None
