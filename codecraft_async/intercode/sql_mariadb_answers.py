"""What is known of databases as they were loaded: results of statements that only read, and a few facts.

The same statement on the same data has the same result; where nothing was changed, it need not run again. All
sandboxes of an image have the same data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Final

from codecraft_async.intercode.sql_engine import SqlResult
from codecraft_async.intercode.sql_mariadb_wire import Reader

__all__ = ["Answers", "Key", "Loaded", "Unrun"]

Key = tuple[str, str, str | None, str]
"""Image, user, database, statement."""

_SAME_EACH_TIME: Final = frozenset(
    (
        *(1044, 1046, 1049, 1051, 1052, 1054, 1055, 1056, 1060, 1064, 1066, 1109, 1111, 1140, 1142, 1146, 1222, 1235),
        *(1241, 1242, 1247, 1248, 1305, 1582, 1583, 1630),
    )
)
"""Errors that come of a statement's text and the definitions alone, such as ER_PARSE_ERROR and ER_NO_SUCH_TABLE."""

_CELL_BYTES: Final = 100  # about what a value takes, with its share of the row


@dataclass(slots=True)
class Loaded:
    """Facts about an image's databases; None where nobody has asked yet."""

    has_programs: bool = False
    has_clocks: bool = False
    """Views or generated columns, which could read clocks."""
    sizes: dict[tuple[str, str], tuple[Any, ...]] | None = None
    is_known: bool = False


class Unrun:
    """What a session has not run, for what comes of it was known: at most a ``USE``, another statement, a ``USE``."""

    def __init__(self) -> None:
        self._statements: list[tuple[str, str | None]] = []

    def add(self, statement: str, database: str | None) -> None:
        """Note a statement, and the database that the session would now be in; None: the one before."""
        known = self._statements
        if database is None:
            kept = [each for each in known if each[1] is not None][-1:]
        else:
            kept = known[:-1] if known and known[-1][1] is not None else known
        self._statements = [*kept, (statement, database)]

    def take(self) -> list[str]:
        """Return what has to run for a session that can ask what became of it; nothing is left."""
        taken, self._statements = self._statements, []
        return [statement for statement, _ in taken]

    def take_database(self) -> str | None:
        """Return the database where a statement has to run that can ask for nothing else, None if the session is there;
        nothing is left."""
        taken, self._statements = self._statements, []
        return next((database for _, database in reversed(taken) if database is not None), None)


class Answers:
    """Results by what they depend on, about *max_bytes* of them, for the engines of one event loop.

    Large ones are not kept, nor are those that were cut or late. None is older than the day, for beside a date the
    server puts a time of day on today.
    """

    def __init__(self, *, max_bytes: int = 64 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._day = _today()
        self._known: dict[Key, tuple[SqlResult, int]] = {}
        self._loaded: dict[str, Loaded] = {}
        self.found = 0
        """How many statements had their result from here."""

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Let go of all results."""
        self._known.clear()
        self._bytes = 0

    def loaded(self, image: str) -> Loaded:
        """Return what is known of an image's databases, to be added to."""
        return self._loaded.setdefault(image, Loaded())

    def get(self, key: Key, *, max_rows: int) -> SqlResult | None:
        """Return a result, if it is known, and has no more rows than are looked at."""
        if (today := _today()) != self._day:
            self._day = today
            self.forget()
        entry = self._known.get(key)
        if entry is None or len(entry[0].rows or ()) > max_rows:
            return None
        self.found += 1
        return entry[0]

    def keep(self, key: Key, result: SqlResult, reader: Reader) -> None:
        """Keep what a statement came to, if that is all of it, and the same each time."""
        if result.timed_out or result.rows_left_out or result.error != reader.error:
            return  # the last: it is not the statement's, but of a server that was lost
        if not reader.error or reader.error_code in _SAME_EACH_TIME:
            self.put(key, result, reader.row_bytes)

    def put(self, key: Key, result: SqlResult, size: int) -> None:
        """Keep a result whose rows came as *size* bytes; the oldest ones go where there are too many."""
        size += _CELL_BYTES * (1 + len(result.rows or ()) * len(result.columns)) + len(key[3])
        if key in self._known or size > self._max_bytes // 64:
            return
        self._known[key] = replace(result, wall_s=0.0), size
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= self._known.pop(next(iter(self._known)))[1]


def _today() -> int:
    """Return the day, in UTC as the server's."""
    return int(time.time() // 86_400)
