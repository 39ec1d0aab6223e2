"""What SQL golds come to: run once on the databases as they were loaded, and remembered for all environments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from codecraft_async.intercode.sql_engine import SqlEngine, SqlResult
from codecraft_async.intercode.sql_rewards import Expected, comparable, overlap
from codecraft_async.intercode.sql_text import Ordering, changes_data, ordering

__all__ = ["SqlGold", "SqlGolds", "gold_in_episode", "reading_gold"]

Run = Callable[[str], Awaitable[SqlResult]]
Rows = tuple[tuple[Any, ...], ...]

_MAX_REMEMBERED: Final = 20_000
_MAX_ROWS_REMEMBERED: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class SqlGold:
    """What became of a gold: its result, what is expected of one that is right, and the tables as it left them.

    `expected` is None where it has no result, `tables` (digests) where it changes nothing. `before` are the
    tables as it found them; None: as they were loaded.
    """

    result: SqlResult
    expected: Expected | None = None
    tables: Mapping[str, str] | None = None
    before: Mapping[str, str] | None = None

    @property
    def reason(self) -> str:
        """Why it is of no use, "" if it is."""
        if self.result.error:
            return self.result.error
        if self.result.timed_out:
            return "it reached its time limit"
        if self.result.rows_left_out:
            return f"its result has over {len(self.result.rows or ())} rows, or too many bytes: give a larger max_rows"
        if self.result.rows is None and self.tables is None:
            return "it neither returns nor changes anything"
        return ""


class SqlGolds:
    """Golds by what they depend on, and databases as they were loaded, for environments of one event loop."""

    def __init__(self) -> None:
        self._known: dict[object, SqlGold] = {}
        self._rows = 0
        self._loaded: dict[object, Mapping[str, str]] = {}
        self._lock = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: object) -> SqlGold | None:
        """Return what is remembered."""
        return self._known.get(key)

    def put(self, key: object, gold: SqlGold) -> None:
        """Remember a gold; the oldest are forgotten where there are too many. One that ran out of time is not kept."""
        if gold.result.timed_out:
            return
        self._forget(key)
        while self._known and (len(self._known) >= _MAX_REMEMBERED or self._rows > _MAX_ROWS_REMEMBERED):
            self._forget(next(iter(self._known)))
        self._known[key] = gold
        self._rows += _size(gold)

    def _forget(self, key: object) -> None:
        gold = self._known.pop(key, None)
        self._rows -= 0 if gold is None else _size(gold)

    async def loaded(self, key: object, engine: SqlEngine) -> Mapping[str, str]:
        """Return the state as loaded of the databases that *key* stands for: that of *engine*, if none is known yet.

        The engine's episode has just begun.
        """
        async with self._lock:
            if key not in self._loaded:
                self._loaded[key] = await engine.state()
            return self._loaded[key]


def _size(gold: SqlGold) -> int:
    return len(gold.result.rows or ()) + sum(len(tie.rows) for tie in (gold.expected.ties if gold.expected else ()))


async def reading_gold(run: Run, statement: str, *, ties: bool = True, sqlite: bool = False) -> SqlGold:
    """Run a gold that only reads; with *ties*, also find out which rows might as well stand elsewhere."""
    result = await run(statement)
    if not ties or result.rows is None or result.error or result.timed_out or result.rows_left_out:
        return SqlGold(result)
    columns = len(result.columns)
    parts = ordering(statement, sqlite=sqlite)
    expected = None if parts is None else await _with_ties(run, parts, result.rows, columns)
    if expected is None or overlap([comparable(row) for row in result.rows], expected) != 1:
        # What the rows depend on cannot be told, so it is these that are expected.
        is_ordered = bool(parts.keys) if parts else "ORDER BY" in " ".join(statement.upper().split())
        expected = Expected.ordered(result.rows, result.rows, columns) if is_ordered else None
    return SqlGold(result, expected or Expected.unordered(result.rows, columns))


async def _with_ties(run: Run, parts: Ordering, rows: Rows, columns: int) -> Expected | None:
    """Return what is expected of a query, found out by running it whole, with its ties both ways; None if it is not."""
    if not parts.keys and not parts.is_cut:
        return Expected.unordered(rows, columns)
    rising = await run(parts.whole(columns))
    if rising.rows is None or rising.error or rising.rows_left_out:
        return None
    if not parts.keys:
        return Expected.unordered(rising.rows, columns, take=len(rows))
    falling = await run(parts.whole(columns, descending=True))
    if falling.rows is None or falling.error:
        return None
    return Expected.ordered(rising.rows, falling.rows, columns, first=parts.first, count=parts.count)


async def gold_in_episode(
    engine: SqlEngine, statement: str, *, limit_s: float, ties: bool = True, sqlite: bool = False
) -> SqlGold:
    """Run a gold in the episode of *engine*, which was prepared for it and is to be begun anew."""

    async def run(each: str) -> SqlResult:
        return await engine.execute(each, limit_s=limit_s)

    before = await engine.state()
    if not changes_data(statement, sqlite=sqlite):
        return replace(await reading_gold(run, statement, ties=ties, sqlite=sqlite), before=before)
    result = await run(statement)
    after = await engine.state()
    expected = None if result.rows is None else Expected.unordered(result.rows, len(result.columns))
    return SqlGold(result, expected, None if after == before else after, before)
