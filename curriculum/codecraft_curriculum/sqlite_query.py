"""Grading an SQLite database that an agent left: its bytes are opened on the host, in memory, with all doors shut.

The rules are those of https://www.sqlite.org/security.html for files that nobody vouches for: no trusted schema,
checked cells, no attached files, an authorizer that lets statements read and nothing else, and a bound on work and
memory.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass

from codecraft_curriculum.documents import difference, parse_json
from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.graders import read_or_grade
from codecraft_curriculum.sandbox import GradingSandbox

__all__ = ["SqliteGrader"]

_MAGIC = b"SQLite format 3\0"
_STEPS_PER_LOOK = 10_000
_MAX_LOOKS = 2_000  # 20 million steps of SQLite's machine: a few seconds at most
_MAX_ROWS = 10_000
_MAX_VALUE_BYTES = 1 << 20
_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
_FUNCTIONS = frozenset(
    "abs avg coalesce count date datetime group_concat hex ifnull iif instr julianday length like lower ltrim max min "
    "nullif quote replace round rtrim strftime substr substring sum time total trim typeof upper".split()
)
_PRAGMAS = ("table_info", "table_xinfo", "index_list", "index_info", "foreign_key_list", "foreign_key_check")
_SETTINGS = ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "query_only = ON")


@dataclass(frozen=True, slots=True)
class SqliteGrader:
    """Passes if a query of the database in a file gives the `expected` rows (JSON text: a list of lists).

    The query is the task's. Numbers are equal within `tolerance`; the order of rows counts, unless `unordered`. A
    database in WAL mode is looked at without its ``-wal`` file: what is only there does not count.
    """

    path: str
    query: str
    expected: str
    unordered: bool = False
    tolerance: float = 1e-9
    max_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        rows = parse_json(self.expected)
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise ValueError("expected is no list of rows: write JSON like '[[1, \"a\"], [2, null]]'")
        if not self.query.strip():
            raise ValueError("query is empty: give one that reads")

    @property
    def runs_agent_code(self) -> bool:
        """Nothing is run in the sandbox; views of the agent's can read, and no more."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Read the file, run the query here, and compare."""
        data = await read_or_grade(sandbox, self.path, max_bytes=self.max_bytes)
        if isinstance(data, Grade):
            return data
        if not data.startswith(_MAGIC):
            return Grade.failure(f"{self.path} is no SQLite database")
        try:
            rows = await asyncio.to_thread(_query, data, self.query)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            return Grade.failure(f"{self.path}: the query of the grader fails: {excerpt(str(error))}")
        problem = difference(
            parse_json(self.expected), rows, unordered=self.unordered, tolerance=self.tolerance, where="the result"
        )
        return Grade.failure(f"{self.path}: {problem}") if problem else Grade.success(f"{self.path} is as expected")


def _query(data: bytes, query: str) -> list[list[object]]:
    """Return the rows of a query; blocking, for a bounded time."""
    looks = 0

    def is_enough() -> int:
        nonlocal looks
        looks += 1
        return int(looks > _MAX_LOOKS)

    header = bytearray(data)
    header[18:20] = b"\1\1"  # as if no write-ahead log had ever been: there is none beside a database in memory
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(bytes(header))
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(is_enough, _STEPS_PER_LOOK)
        rows = connection.execute(query).fetchmany(_MAX_ROWS)
    finally:
        connection.close()
    return [[value.hex() if isinstance(value, bytes) else value for value in row] for row in rows]


def _authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    del database, source
    if action in _READING:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _PRAGMAS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
