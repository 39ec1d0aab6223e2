"""`SqlEnv`: SQL as actions, on databases that every reset makes as they were loaded; rewards by the gold's result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from codecraft_async._episode import EpisodeError
from codecraft_async._observation import clip
from codecraft_async.intercode.base import InterCodeEnv
from codecraft_async.intercode.episodes import LOG
from codecraft_async.intercode.sql_engine import Restored, SqlEngine, SqlResult
from codecraft_async.intercode.sql_golds import SqlGold, SqlGolds, gold_in_episode, reading_gold
from codecraft_async.intercode.sql_rewards import match, published_reward, tables_right
from codecraft_async.intercode.sql_sources import Databases, EngineName, open_source
from codecraft_async.intercode.sql_text import changes_data, database_of
from codecraft_async.intercode.vector import InterCodeVectorEnv
from codecraft_async.pool import PoolError, Recipe, SandboxLost

__all__ = ["SqlEnv", "SqlVectorEnv"]

_REWARDS: Final = ("strict", "intercode")
_GOLD_LIMIT_S: Final = 60.0
_UNASKED: Final = 0.5
_MANY_ROWS: Final = 1000


class SqlEnv(InterCodeEnv):
    """InterCode's SQL environment: an action is one statement; the databases are as loaded at every reset.

    A row names its database in the field ``db``; `preprocess` may choose it instead, by ``USE``, or change data, which
    the gold then finds changed, too. The gold runs on the databases as loaded, whatever the agent has made of them,
    once for all episodes.

    What is observed is the text of the list of rows, as tuples, ``None`` for a statement that has no result, or
    ``Error executing query: ...``. `info` has, besides the base's keys, ``affected`` (int64, rows changed) and
    ``rows_left_out`` (int64, at least so many rows over `max_rows`); after a submission ``reward`` (float64),
    ``tables_wrong`` (a list of names, for golds that change data) and ``reason`` (why a gold is of no use).

    Args:
        image_name: An image with the engine; by default one that is built when it is first needed.
        engine: "mariadb", a server of its own in each sandbox; or "sqlite", in the Python of the image.
        dump: A file of SQL statements that makes the databases, or ``databases`` of SQLite.
        databases: SQLite's files: one, a directory of them, or files by name; see `SqliteDatabases.read`.
        read_only: Statements that change anything are errors.
        reward: "strict": an execution match, from 0 to 1: order counts only where the gold orders, rows with equal keys
            may stand in any order, numbers are equal by value, columns may be exchanged; where the gold changes
            data, tables are compared instead. "intercode": the published formula, from -1 to 1.
        max_rows: Most rows of a result that are looked at.
        remember: A statement that only reads runs once for all environments that share the databases, as long as
            the episode has changed nothing; False: every statement runs. For MariaDB; SQLite always runs them.
        golds: Outcomes that are shared with other environments of this event loop.
        options: All those of `InterCodeEnv`; `command_limit_s` is the time limit of a statement.

    Raises:
        ValueError, TaskFileError, OSError: An argument is wrong, or a file cannot be read; says which.
    """

    name: ClassVar[str] = "ic_sql"

    def __init__(
        self,
        image_name: str | Recipe | None = None,
        *,
        engine: EngineName = "mariadb",
        dump: str | Path | None = None,
        databases: Databases | None = None,
        read_only: bool = False,
        reward: Literal["strict", "intercode"] = "strict",
        max_rows: int = 10_000,
        remember: bool = True,
        golds: SqlGolds | None = None,
        **options: Any,
    ) -> None:
        if reward not in _REWARDS:
            raise ValueError(f"reward is {reward!r}; it must be 'strict' or 'intercode'")
        if max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}; it must be at least 1")
        self._source = open_source(engine, dump, databases, image_name)
        super().__init__(self._source.image, **options)
        self._read_only = read_only
        self._form = reward
        self._max_rows = max_rows
        self._remember = remember
        self.golds = SqlGolds() if golds is None else golds
        """What golds come to, as far as it is known."""
        self._engine: SqlEngine | None = None
        self._database: str | None = None
        self._last: SqlResult | None = None
        self._statements: list[str] = []
        self._prepared: tuple[str, ...] = ()
        self._gold_key: tuple[object, ...] = ()
        self._known: SqlGold | None = None
        self._has_changed = self._has_begun = False
        self.restored: Restored | None = None
        """What the last reset had to make new; None where the sandbox was new."""

    @classmethod
    def shared_options(cls) -> dict[str, Any]:
        """Return the golds, which are run once for all."""
        return {"golds": SqlGolds()}

    @property
    def engine(self) -> SqlEngine:
        """The databases, during an episode."""
        assert self._engine is not None, "reset has not been called"
        return self._engine

    # --- an episode ---

    async def restore_container(self) -> bool:
        """Begin with the databases as they were loaded; where the engine cannot, in another sandbox."""
        if self._engine is None:
            return False
        try:
            self.restored = await self._engine.restore()
            await self._begin_databases()
        except EpisodeError as exc:
            LOG.warning("%s: the databases are loaded in another sandbox: %s", self.name, exc)
            return False
        self._has_begun = True
        return True

    async def leave_container(self) -> None:
        """Let go of the databases."""
        engine, self._engine = self._engine, None
        if engine is not None:
            with suppress(PoolError):  # then they are gone as well
                await engine.aclose()

    async def reset_container(self) -> None:
        """Begin with the databases as they were loaded, if that was not done already."""
        begun, self._has_begun = self._has_begun, False
        if begun:
            return
        self._engine = self._source.engine(self.sandbox, max_rows=self._max_rows, remember=self._remember)
        self.restored = None
        await self._begin_databases()

    async def _begin_databases(self) -> None:
        named = None if self.record is None else self.record.extras.get("db")
        self._database = None if named is None else str(named)
        await self._begin_again()

    async def _begin_again(self) -> None:
        self._last, self._statements, self._has_changed = None, [], False
        await self.engine.begin(self._database, read_only=self._read_only)

    async def _prepare(self) -> None:
        """Run the prepared actions; and a gold that changes data, before the agent does, if it is not known yet."""
        await super()._prepare()
        self._prepared = tuple(self._statements)
        for statement in self._prepared:
            self._database = database_of(statement) or self._database
        if self.dataset is not None:
            await self._foresee()
        self._last, self._has_changed = None, False

    async def _foresee(self) -> None:
        """Find out now what cannot be found out beside the agent's episode."""
        statement, is_sqlite = str(self.gold), self._source.is_sqlite
        runs_first = any(changes_data(each, sqlite=is_sqlite) for each in (statement, *self._prepared))
        prepared = self._prepared if runs_first else ()
        options = self._form, self._max_rows, self._read_only
        self._gold_key = (self._source.digest, self._database, prepared, statement, *options)
        if self._form == "strict" and not self._read_only and not runs_first:
            await self.golds.loaded(self._source.digest, self.engine)
        self._known = self.golds.get(self._gold_key)
        if runs_first and self._known is None:
            self._known = await gold_in_episode(
                self.engine, statement, limit_s=_GOLD_LIMIT_S, ties=self._form == "strict", sqlite=is_sqlite
            )
            self.golds.put(self._gold_key, self._known)
            await self.engine.restore()
            await self._begin_again()
            await super()._prepare()

    async def execute_action(self, action: str) -> str:
        """Run a statement.

        Raises:
            SandboxLost: The sandbox died.
        """
        # Before it runs, for it may be cancelled.
        self._has_changed = self._has_changed or changes_data(action, sqlite=self._source.is_sqlite)
        try:
            result = await self.engine.execute(action, limit_s=self.command_limit_s)
        except EpisodeError as exc:  # what the agent did leaves no room for an engine
            raise SandboxLost(self.sandbox.id, str(exc)) from exc
        self._statements.append(action)
        self._last = result
        self._has_changed = self._has_changed or result.affected > 0
        self.info.update(
            action_executed=not result.error,
            timed_out=result.timed_out,
            truncated_output=result.rows_left_out > 0,
            wall_s=np.float64(result.wall_s),
            affected=np.int64(result.affected),
            rows_left_out=np.int64(result.rows_left_out),
        )
        return _observed(result)

    # --- what it is worth ---

    async def get_reward(self) -> tuple[float, dict[str, Any]]:
        """Compare the last result with the gold's, or the tables with those that the gold leaves."""
        gold = await self._gold()
        info: dict[str, Any] = {
            "agent_obs": self.observation,
            "eval_obs": clip("[]" if gold.result.error else _observed(gold.result), self._max_chars),
            "corrupt_gold": bool(gold.reason),
            "reason": gold.reason,
            "tables_wrong": [],
        }
        if gold.reason:
            score = 0.0
        elif self._form == "intercode":
            score = await self._published(gold)
        elif not self.trajectory or self._last is None:
            score = 0.0
        else:
            score, info["tables_wrong"] = await self._strict(gold, self._last)
        return score, {**info, "reward": np.float64(score)}

    async def _published(self, gold: SqlGold) -> float:
        last, result = self._last, gold.result
        if last is None or last.error or last.rows is None or result.rows is None:
            return 0.0
        compare = partial(published_reward, last.rows, result.rows, left_out=last.rows_left_out)
        return await _computed(compare, len(last.rows) + len(result.rows))

    async def _strict(self, gold: SqlGold, last: SqlResult) -> tuple[float, list[str]]:
        parts: list[float] = []
        share, wrong = 1.0, list[str]()
        if self._has_changed or gold.tables is not None:
            before = gold.before or await self.golds.loaded(self._source.digest, self.engine)
            share, wrong = tables_right(before, gold.tables or before, await self._tables())
        if gold.tables is not None:
            parts.append(share)
        if gold.expected is not None:
            rows = None if last.error or last.rows_left_out else last.rows
            if rows is None:
                parts.append(0.0)
            else:
                compare = partial(match, rows, gold.expected, columns=len(last.columns))
                parts.append(await _computed(compare, len(rows) + gold.expected.total))
        score = sum(parts) / len(parts)
        return (score * _UNASKED if gold.tables is None and wrong else score), wrong

    async def _tables(self) -> Mapping[str, str]:
        """Return the state of the tables; that of none, where an agent has made such as cannot be read in time."""
        try:
            return await self.engine.state()
        except EpisodeError as exc:
            if not self._has_changed:
                raise
            LOG.warning("%s: all tables count as wrong: %s", self.name, exc)
            return {}

    async def _gold(self) -> SqlGold:
        if self._known is None:
            self._known = self.golds.get(self._gold_key) or await reading_gold(
                self._run_gold, str(self.gold), ties=self._form == "strict", sqlite=self._source.is_sqlite
            )
            self.golds.put(self._gold_key, self._known)
        return self._known

    async def _run_gold(self, statement: str) -> SqlResult:
        return await self.engine.gold(self._database, statement, limit_s=_GOLD_LIMIT_S)


class SqlVectorEnv(InterCodeVectorEnv):
    """Many `SqlEnv`s at once, over one pool; see `InterCodeVectorEnv`. The files of the databases are read once."""

    env_class: ClassVar[type[InterCodeEnv] | None] = SqlEnv

    def __init__(
        self,
        num_envs: int = 1,
        *,
        image_name: str | Recipe | None = None,
        engine: EngineName = "mariadb",
        dump: str | Path | None = None,
        databases: Databases | None = None,
        **options: Any,
    ) -> None:
        self.source = open_source(engine, dump, databases, image_name)
        super().__init__(num_envs, image_name=self.source.image, engine=engine, databases=self.source, **options)


async def _computed(compare: Callable[[], float], rows: int) -> float:
    """Return what *compare* does; of many rows from a thread, for it takes milliseconds."""
    return compare() if rows < _MANY_ROWS else await asyncio.to_thread(compare)


def _observed(result: SqlResult) -> str:
    if result.error:
        return f"Error executing query: {result.error}"
    if result.rows is None:
        return "None"
    note = f"\n[{result.rows_left_out} rows or more left out]" if result.rows_left_out else ""
    return str(list(result.rows)) + note
