"""What may be spent, in tokens and in money, and what has been."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from codecraft_async.llm.errors import BudgetExceeded
from codecraft_async.llm.messages import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a million tokens cost, in whatever currency the budget is."""

    prompt_per_million: float
    completion_per_million: float

    def __post_init__(self) -> None:
        for name in ("prompt_per_million", "completion_per_million"):
            value: float = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be at least 0")

    def cost(self, usage: Usage) -> float:
        """Return what *usage* costs."""
        prompt = usage.prompt_tokens * self.prompt_per_million
        return (prompt + usage.completion_tokens * self.completion_per_million) / 1e6


@dataclass(frozen=True, slots=True)
class BudgetStats:
    """What has been spent, and what calls under way may yet spend."""

    spent: Usage
    cost: float
    reserved: Usage


class Account:
    """What one call spends, within what was reserved for it."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def spend(self, usage: Usage) -> None:
        """Count what an attempt used."""
        self._budget.spent += usage


@dataclass(slots=True, eq=False)
class _Waiter:
    future: asyncio.Future[None]
    most: Usage


class Budget:
    """Keeps calls within a number of tokens, an amount of money, or both.

    Before a call, the most that it can use is reserved: its messages and the longest answer that it allows. So calls at
    once do not exceed the budget together. A call that would fit but for the reservations of others waits for those;
    one that does not fit into what is left fails. The messages' tokens are estimated beforehand: where an endpoint
    counts more, or bills attempts that failed, the budget ends that much too late, and every later call fails.

    Share one among all clients that are paid from it; it belongs to their event loop. *spent* is what an earlier run
    has used, for one that goes on.
    """

    def __init__(
        self,
        *,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        prices: Prices | None = None,
        spent: Usage | None = None,
    ) -> None:
        if max_cost is not None and prices is None:
            raise ValueError("max_cost needs prices: what a million tokens cost")
        for name, value in (("max_tokens", max_tokens), ("max_cost", max_cost)):
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value}; it must be at least 0")
        self._max_tokens = math.inf if max_tokens is None else max_tokens
        self._max_cost = math.inf if max_cost is None else max_cost
        self._prices = prices or Prices(prompt_per_million=0.0, completion_per_million=0.0)
        self.spent = spent or Usage()
        self._reserved = Usage()
        self._waiters: deque[_Waiter] = deque()

    @property
    def cost(self) -> float:
        """What was spent, as money."""
        return self._prices.cost(self.spent)

    def stats(self) -> BudgetStats:
        """Return what was spent, and what is reserved."""
        return BudgetStats(self.spent, self.cost, self._reserved)

    @asynccontextmanager
    async def reserve(self, most: Usage) -> AsyncGenerator[Account]:
        """Keep *most* for the block, which counts what it really uses.

        Cancellation gives the reservation up.

        Raises:
            BudgetExceeded: It is more than what is left.
        """
        await self._enter(most)
        try:
            yield Account(self)
        finally:
            self._reserved -= most
            self._let_in()

    async def _enter(self, most: Usage) -> None:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), most)
        self._waiters.append(waiter)
        self._let_in()
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.future.cancelled() and waiter.future.exception() is None:
                self._reserved -= most
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.future.done():
                self._waiters.popleft()
                continue
            if not self._fits(self.spent + waiter.most):
                self._waiters.popleft()
                waiter.future.set_exception(BudgetExceeded(self._refusal(waiter.most)))
                continue
            if not self._fits(self.spent + self._reserved + waiter.most):
                return
            self._waiters.popleft()
            self._reserved += waiter.most
            waiter.future.set_result(None)

    def _fits(self, usage: Usage) -> bool:
        return usage.total_tokens <= self._max_tokens and self._prices.cost(usage) <= self._max_cost

    def _refusal(self, most: Usage) -> str:
        if (self.spent + most).total_tokens > self._max_tokens:
            kept = (
                f"{self.spent.total_tokens} of {self._max_tokens} tokens are used, and this call may need "
                f"{most.total_tokens}"
            )
        else:
            kept = (
                f"{self.cost:.4f} of {self._max_cost:g} is spent, and this call may cost {self._prices.cost(most):.4f}"
            )
        return f"the budget is used up: {kept}; allow more, or shorter answers (max_tokens of the sampling)"


__all__ = ["Account", "Budget", "BudgetStats", "Prices"]
