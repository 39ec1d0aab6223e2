"""What a SQL environment asks of the databases in its sandbox, and what comes back; see `sql_mariadb.py` for MariaDB.

An engine runs the agent's statements, and afterwards makes every database as it was loaded. It has one owner, the
environment, and lives as long as the sandbox that its databases are in.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Restored(enum.StrEnum):
    """What had to be made new so that every database is as loaded, from the cheapest to the dearest."""

    NOTHING = "nothing"  # the episode changed no data
    ROWS = "rows"  # changes of rows were undone
    DATA_DIRECTORY = "data directory"  # the server was started on a fresh copy of its files
    NEW_SERVER = "new server"  # the server was dead or did not answer, and was replaced


@dataclass(frozen=True, slots=True)
class SqlResult:
    """What became of one statement."""

    rows: tuple[tuple[Any, ...], ...] | None = None
    """Values as Python has them: int, float, Decimal, str, bytes, date, datetime, timedelta, None. None for a statement
    that has no result set; of a large result only the first rows, see `rows_left_out`."""
    columns: tuple[str, ...] = ()
    error: str = ""
    """The server's own message, "" where there is none."""
    rows_left_out: int = 0
    """At least so many rows were not fetched."""
    timed_out: bool = False
    wall_s: float = 0.0
    affected: int = 0
    """Rows that the statement changed."""


class SqlEngine(Protocol):
    """The databases of one sandbox. One call at a time.

    What the agent's statements cause is a `SqlResult`; a sandbox that is lost raises `SandboxLost`.
    """

    async def begin(self, database: str | None, *, read_only: bool) -> None:
        """Begin an episode in *database*, with all databases as they were loaded."""
        ...

    async def execute(self, statement: str, *, limit_s: float) -> SqlResult:
        """Run one of the agent's statements. Cancelling it ends the statement; the episode can go on."""
        ...

    async def gold(self, database: str | None, statement: str, *, limit_s: float) -> SqlResult:
        """Run *statement* on the databases as loaded, whatever the agent has made of them, and undo what it changed."""
        ...

    async def restore(self) -> Restored:
        """Make every database as it was loaded, and say what that took. Ends the episode."""
        ...

    async def state(self) -> Mapping[str, str]:
        """A digest per `database.table` of its definition and content, to tell what was changed."""
        ...

    async def aclose(self) -> None:
        """Let go of the databases. The sandbox stays its owner's."""
        ...
