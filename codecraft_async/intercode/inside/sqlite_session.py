"""Runs an agent's statements on SQLite databases in memory, doors to files shut, work and memory bounded."""

from __future__ import annotations

import base64
import hashlib
import json
import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

_STEPS_PER_LOOK = 10_000
_VALUE_BYTES_MAX = 8 << 20
_RESULT_BYTES_MAX = 8 << 20  # as JSON; a message has at most `wire.MESSAGE_MAX`
_NAME_MAX = 200
_ERROR_MAX = 2000
_COUNT_MAX = 1_000_000
_PATTERN_MAX = 1000  # matching takes their length times that of the text
_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_REFUSED = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_CREATE_VTABLE, sqlite3.SQLITE_DROP_VTABLE)
_REFUSED_FUNCTIONS = ("load_extension", "fts3_tokenizer", "readfile", "writefile", "edit")
_PRAGMAS = frozenset(
    "collation_list compile_options database_list foreign_key_check foreign_key_list foreign_keys function_list "
    "index_info index_list index_xinfo pragma_list table_info table_list table_xinfo user_version".split()
)
_OF_ONE = frozenset(name for name in _PRAGMAS if name.endswith(("_info", "_xinfo", "_list", "_check")))
_DEFINITIONS = "SELECT type, name, tbl_name, sql FROM main.sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"


class Session:
    """The databases of one episode. One statement at a time."""

    def __init__(self, databases: dict[str, sqlite3.Connection]) -> None:
        self._databases = databases
        self._until = 0.0
        self._interrupted = self._looks = False
        self.changed = False
        """Whether a statement ran that can change anything, be it the connection itself."""

    def shut(self, *, read_only: bool, memory_bytes: int) -> None:
        """Shut all doors, for good: what comes after this is the agent's."""
        size = sum(_size(each) for each in self._databases.values())
        for each in self._databases.values():
            each.execute("PRAGMA temp_store = MEMORY")
            each.execute("PRAGMA trusted_schema = OFF")
            each.execute(f"PRAGMA hard_heap_limit = {2 * size + memory_bytes}")
            if read_only:
                each.execute("PRAGMA query_only = ON")
            each.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES_MAX)
            each.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            each.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _PATTERN_MAX)
            each.set_progress_handler(self._is_late, _STEPS_PER_LOOK)
            each.set_authorizer(self._authorize)
        most = 4 * (size + memory_bytes)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing here has a file to write
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def execute(self, database: str, statement: str, limit_s: float, max_rows: int) -> dict[str, Any]:
        """Run a statement; return what came of it."""
        began = time.monotonic()
        self._until, self._interrupted = began + limit_s, False
        connection = self._databases.get(database)
        report: dict[str, Any] = {"error": "no database is chosen: USE one"}
        if connection is not None:
            try:
                report = _result(connection.execute(statement), max_rows)
            except sqlite3.Error as exc:
                report = {"error": str(exc)[:_ERROR_MAX]}
            except MemoryError:
                report = {"error": "out of memory"}
            except (ValueError, OverflowError, UnicodeError) as exc:  # such as a NUL in the statement
                report = {"error": str(exc)}
        timed_out = bool(report.get("error")) and time.monotonic() >= self._until
        return {**report, "timed_out": timed_out, "wall_s": time.monotonic() - began, "changed": self.changed}

    def state(self, limit_s: float) -> dict[str, str]:
        """Return a digest of each table, view and trigger, by ``database.name``."""
        self._until, self._interrupted, self._looks = time.monotonic() + limit_s, False, True
        found: dict[str, str] = {}
        for database, connection in self._databases.items():
            for kind, name, table, sql in connection.execute(_DEFINITIONS).fetchall():
                if kind != "index":  # they are told with their tables
                    short = name if len(name) <= _NAME_MAX else f"{name[:_NAME_MAX]}... {_sha(name)}"
                    found[f"{database}.{short}"] = _digest(connection, kind, name, table, sql)
        self._looks = False
        return found

    def interrupt(self) -> None:
        """End the statement that runs; nothing happens between statements."""
        self._interrupted = True

    def _is_late(self) -> int:
        return int(self._interrupted or time.monotonic() >= self._until)

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, source: str | None
    ) -> int:
        del database, source
        if self._looks:  # nothing that the agent has defined does more than read meanwhile
            return sqlite3.SQLITE_OK if action in (*_READING, sqlite3.SQLITE_PRAGMA) else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA:
            name = (first or "").lower()
            return (
                sqlite3.SQLITE_OK if name in _PRAGMAS and (second is None or name in _OF_ONE) else sqlite3.SQLITE_DENY
            )
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _REFUSED_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        if action in _REFUSED:
            return sqlite3.SQLITE_DENY
        self.changed = self.changed or action not in _READING
        return sqlite3.SQLITE_OK


def _result(cursor: sqlite3.Cursor, max_rows: int) -> dict[str, Any]:
    if cursor.description is None:
        return {"rows": None, "affected": max(0, cursor.rowcount)}
    rows: list[list[object]] = []
    left_out = size = 0
    for row in cursor:
        if len(rows) < max_rows and size < _RESULT_BYTES_MAX:
            plain = [_plain(value) for value in row]
            size += len(json.dumps(plain))
            if size < _RESULT_BYTES_MAX:
                rows.append(plain)
                continue
        left_out += 1
        if left_out == _COUNT_MAX:
            break
    cursor.close()
    columns = [each[0][:_NAME_MAX] for each in cursor.description or ()]
    return {"rows": rows, "columns": columns, "left_out": left_out}


def _plain(value: object) -> object:
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _size(connection: sqlite3.Connection) -> int:
    (pages,), (size,) = (connection.execute(f"PRAGMA {each}").fetchone() for each in ("page_count", "page_size"))
    return int(pages * size)


def _sha(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _digest(connection: sqlite3.Connection, kind: str, name: str, table: str, sql: str) -> str:
    if kind != "table":
        return _sha(kind, table, " ".join(sql.split()))
    quoted = '"' + name.replace('"', '""') + '"'
    rows = 0
    try:
        shape = repr(list(_shape(connection, quoted)))
        for row in connection.execute(f"SELECT * FROM main.{quoted}"):
            rows += int(_sha(repr(row)), 16)  # in whatever order they come
    except (sqlite3.Error, MemoryError) as exc:
        return f"unreadable: {exc}"
    return _sha(shape, str(rows))


def _shape(connection: sqlite3.Connection, quoted: str) -> Iterator[object]:
    yield from connection.execute(f"PRAGMA main.table_xinfo({quoted})")
    yield from sorted(repr(row[2:]) for row in connection.execute(f"PRAGMA main.foreign_key_list({quoted})"))
    indices = connection.execute(f"PRAGMA main.index_list({quoted})").fetchall()
    names = {row[1]: '"' + row[1].replace('"', '""') + '"' for row in indices}
    columns = (connection.execute(f"PRAGMA main.index_xinfo({names[row[1]]})").fetchall() for row in indices)
    yield sorted(repr((row[2:], [each[2:] for each in column])) for row, column in zip(indices, columns, strict=True))
