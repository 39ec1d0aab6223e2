"""One gate for all calls to an endpoint: requests and tokens per minute, calls at once, and whose turn it is."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from codecraft_async.llm.errors import QueueFull

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """What an endpoint allows. After a pause, what `burst_s` seconds allow may be used at once."""

    requests_per_minute: float = math.inf
    tokens_per_minute: float = math.inf
    max_concurrency: int = 64
    max_waiting: int = 10_000
    burst_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "max_concurrency", "burst_s"):
            value: float = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting is {self.max_waiting}; it must be at least 0")


@dataclass(frozen=True, slots=True)
class LimiterStats:
    """What goes on at a limiter."""

    under_way: int
    waiting: int
    granted: int
    held_off: int
    """How often the endpoint had everybody wait."""


class Bucket:
    """Fills at a rate up to a capacity; what is taken may be more than there is in it, which later takers wait for."""

    def __init__(self, per_minute: float, *, burst_s: float, least: float = 0.0) -> None:
        self._per_s = per_minute / 60.0
        self._capacity = max(least, self._per_s * burst_s)
        self._level = self._capacity
        self._filled_at = -math.inf

    def wait_s(self, now: float, amount: float) -> float:
        """Return how long it takes until *amount* may be taken. What exceeds the capacity waits for a full bucket."""
        if math.isinf(self._per_s):
            return 0.0
        self._fill(now)
        missing = min(amount, self._capacity) - self._level
        return 0.0 if missing <= _ROUNDING else missing / self._per_s

    def take(self, amount: float) -> None:
        """Take *amount*; less than 0 gives back."""
        if not math.isinf(self._per_s):
            self._level = min(self._capacity, self._level - amount)

    def correct(self, amount: float) -> None:
        """Take *amount* more than was thought. It is owed for a minute at most: then the endpoint has forgotten it."""
        if not math.isinf(self._per_s):
            least = min(self._level, -60.0 * self._per_s)
            self._level = max(least, min(self._capacity, self._level - amount))

    def _fill(self, now: float) -> None:
        passed_s = now - self._filled_at
        self._filled_at = now
        self._level = min(self._capacity, self._level + passed_s * self._per_s)


@dataclass(slots=True, eq=False)
class _Waiter:
    future: asyncio.Future[None]
    tokens: float


class Limiter:
    """Lets calls through as the limits allow. Share one among all clients of an endpoint.

    Calls wait in one line for each `fair_key`, and the lines take turns: an episode that asks for twenty answers at
    once does not hold up the others. Nobody overtakes in a line. It belongs to the event loop that first waits at it.
    """

    def __init__(self, limits: RateLimits | None = None) -> None:
        self.limits = limits or RateLimits()
        self._requests = Bucket(self.limits.requests_per_minute, burst_s=self.limits.burst_s, least=1.0)
        self._tokens = Bucket(self.limits.tokens_per_minute, burst_s=self.limits.burst_s)
        self._lines: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._held_until = -math.inf
        self._under_way = self._waiting = self._granted = self._held_off = 0

    @asynccontextmanager
    async def slot(self, tokens: int, *, fair_key: str = "") -> AsyncGenerator[None]:
        """Wait for one's turn to make a request of about *tokens* tokens; the block is the request.

        Cancellation gives the place up, and what was taken for it.

        Raises:
            QueueFull: As many calls wait already as may.
        """
        await self._enter(tokens, fair_key)
        try:
            yield
        finally:
            self._under_way -= 1
            self._let_in()

    def correct(self, estimated: int, used: int) -> None:
        """Take into account that a call used *used* tokens, where *estimated* had been taken for it."""
        self._tokens.correct(used - estimated)
        if self._loop is not None:
            self._let_in()

    def hold_off(self, wait_s: float) -> None:
        """Let nobody through for *wait_s* seconds: the endpoint has asked for it."""
        self._held_off += 1
        if self._loop is not None:
            self._held_until = max(self._held_until, self._loop.time() + wait_s)

    @property
    def held_s(self) -> float:
        """For how many seconds nobody is let through yet because the endpoint has asked for it."""
        return 0.0 if self._loop is None else max(0.0, self._held_until - self._loop.time())

    def stats(self) -> LimiterStats:
        """Return what goes on."""
        return LimiterStats(self._under_way, self._waiting, self._granted, self._held_off)

    async def _enter(self, tokens: int, fair_key: str) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("the limiter belongs to another event loop: use one for each loop")
        if self._waiting >= self.limits.max_waiting:
            raise QueueFull(
                f"{self._waiting} calls wait for the model already, as many as may (max_waiting): start fewer at once"
            )
        waiter = _Waiter(loop.create_future(), tokens)
        self._lines.setdefault(fair_key, deque()).append(waiter)
        self._waiting += 1
        self._let_in()
        try:
            await waiter.future
        except asyncio.CancelledError:
            self._give_up(waiter, fair_key)
            raise

    def _give_up(self, waiter: _Waiter, fair_key: str) -> None:
        if waiter.future.done() and not waiter.future.cancelled():  # let in, and cancelled before it knew
            self._under_way -= 1
            self._granted -= 1
            self._requests.take(-1.0)
            self._tokens.take(-waiter.tokens)
        elif waiter in (line := self._lines.get(fair_key, deque())):  # else it was passed over already
            line.remove(waiter)
            self._waiting -= 1
            if not line:
                del self._lines[fair_key]
        self._let_in()

    def _let_in(self) -> None:
        """Let in whoever may come in now, and set the timer for the next."""
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._lines and self._under_way < self.limits.max_concurrency:
            fair_key, line = next(iter(self._lines.items()))
            waiter, now = line[0], self._loop.time()
            wait_s = max(
                self._held_until - now, self._requests.wait_s(now, 1.0), self._tokens.wait_s(now, waiter.tokens)
            )
            if wait_s > 0:
                self._timer = self._loop.call_later(wait_s, self._let_in)
                return
            line.popleft()
            if line:
                self._lines.move_to_end(fair_key)
            else:
                del self._lines[fair_key]
            self._waiting -= 1
            if waiter.future.done():  # cancelled in this tick: it is passed over before it has given up itself
                continue
            self._grant(waiter)

    def _grant(self, waiter: _Waiter) -> None:
        self._requests.take(1.0)
        self._tokens.take(waiter.tokens)
        self._under_way += 1
        self._granted += 1
        waiter.future.set_result(None)


__all__ = ["Bucket", "Limiter", "LimiterStats", "RateLimits"]
