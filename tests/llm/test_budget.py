"""A budget is kept by many calls at once, and its end is told clearly."""

from __future__ import annotations

import asyncio

import pytest

from codecraft_async.llm import Budget, BudgetExceeded, Prices, Usage

pytestmark = pytest.mark.anyio


async def spend(budget: Budget, most: Usage, used: Usage, go: asyncio.Event | None = None) -> str:
    """One call."""
    try:
        async with budget.reserve(most) as account:
            if go is not None:
                await go.wait()
            await asyncio.sleep(0)
            account.spend(used)
    except BudgetExceeded:
        return "refused"
    return "made"


async def test_calls_at_once_do_not_exceed_it_together() -> None:
    """Of a hundred calls that may use 20 tokens and use 10, nine fit into 100: with less than 20 left none begins."""
    budget = Budget(max_tokens=100)
    ends = await asyncio.gather(*(spend(budget, Usage(5, 15), Usage(5, 5)) for _ in range(100)))
    assert (9, 91) == (ends.count("made"), ends.count("refused"))
    assert (Usage(45, 45), Usage()) == ((stats := budget.stats()).spent, stats.reserved)


async def test_a_call_waits_for_what_others_may_not_need() -> None:
    """It is neither refused while they are under way, nor let in before they are done."""
    budget, go = Budget(max_tokens=30), asyncio.Event()
    first = asyncio.create_task(spend(budget, Usage(5, 15), Usage(5, 0), go))
    await asyncio.sleep(0)
    second = asyncio.create_task(spend(budget, Usage(5, 15), Usage(5, 0)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    go.set()
    assert ["made", "made"] == [await first, await second]


async def test_a_cancelled_wait_leaves_nothing_reserved() -> None:
    """Neither in line nor when it was let in and did not know."""
    budget, go = Budget(max_tokens=20), asyncio.Event()
    first = asyncio.create_task(spend(budget, Usage(5, 15), Usage(), go))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(spend(budget, Usage(5, 15), Usage())) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    go.set()
    await first
    waiting[1].cancel()
    await asyncio.wait(waiting)
    assert [True, True, False] == [task.cancelled() for task in waiting]
    assert Usage() == budget.stats().reserved


async def test_money() -> None:
    """Prompt and completion have their prices; the error tells the sums; an earlier run's spending counts."""
    prices = Prices(prompt_per_million=1_000_000.0, completion_per_million=2_000_000.0)
    budget = Budget(max_cost=10.0, prices=prices, spent=Usage(3, 2))
    assert 7.0 == budget.cost
    assert "made" == await spend(budget, Usage(1, 1), Usage(1, 0))
    with pytest.raises(BudgetExceeded, match=r"8\.0000 of 10 is spent, and this call may cost 3\.0000"):
        async with budget.reserve(Usage(1, 1)):
            pass


def test_budgets_that_make_no_sense() -> None:
    """Money without prices, and less than nothing."""
    with pytest.raises(ValueError, match="max_cost needs prices"):
        Budget(max_cost=1.0)
    with pytest.raises(ValueError, match="max_tokens is -1"):
        Budget(max_tokens=-1)
    with pytest.raises(ValueError, match="prompt_per_million is nan"):
        Prices(prompt_per_million=float("nan"), completion_per_million=1.0)
