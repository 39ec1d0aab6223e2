"""Where the databases of SQL environments come from, and which engine has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from codecraft_async.intercode.sql_dump import SqlDump
from codecraft_async.intercode.sql_engine import SqlEngine
from codecraft_async.intercode.sql_mariadb import MariaDb
from codecraft_async.intercode.sql_mariadb_answers import Answers
from codecraft_async.intercode.sql_sqlite import SqliteDatabases, SqliteEngine
from codecraft_async.pool import Recipe, Sandbox

__all__ = ["Databases", "EngineName", "MariaDbSource", "SqlSource", "SqliteSource", "open_source"]

EngineName = Literal["mariadb", "sqlite"]


class SqlSource(Protocol):
    """Databases as they are loaded into each sandbox."""

    @property
    def digest(self) -> str:
        """What tells them from others."""
        ...

    @property
    def image(self) -> str | Recipe:
        """The image of the sandboxes."""
        ...

    @property
    def is_sqlite(self) -> bool:
        """Whether statements are of SQLite's dialect; else they are of MySQL's."""
        ...

    def engine(self, sandbox: Sandbox, *, max_rows: int, remember: bool) -> SqlEngine:
        """Return what runs statements on them in *sandbox*; with *remember*, it may share results with others."""
        ...


Databases = str | Path | Mapping[str, str | Path] | SqlSource


@dataclass(frozen=True, slots=True)
class SqliteSource:
    """Files that are opened in the Python of a sandbox."""

    databases: SqliteDatabases
    image: str | Recipe = "codecraft/base"
    is_sqlite: bool = True

    @property
    def digest(self) -> str:
        """That of the files."""
        return self.databases.digest

    def engine(self, sandbox: Sandbox, *, max_rows: int, remember: bool) -> SqlEngine:
        """Return SQLite in *sandbox*, which remembers nothing."""
        del remember
        return SqliteEngine(sandbox, self.databases, max_rows=max_rows)


@dataclass(frozen=True, slots=True)
class MariaDbSource:
    """A server of its own in each sandbox, whose image has the databases."""

    image: str | Recipe
    is_sqlite: bool = False
    answers: Answers = field(default_factory=Answers, compare=False, repr=False)
    """What statements that only read come to on databases as loaded."""

    @property
    def digest(self) -> str:
        """The image's name, which says what is in it if a dump was given."""
        return self.image if isinstance(self.image, str) else self.image.name

    def engine(self, sandbox: Sandbox, *, max_rows: int, remember: bool) -> SqlEngine:
        """Return the server in *sandbox*."""
        return MariaDb(sandbox, max_rows=max_rows, answers=self.answers if remember else None)


def open_source(
    engine: EngineName, dump: str | Path | None, databases: Databases | None, image_name: str | Recipe | None
) -> SqlSource:
    """Return the databases that are meant (blocking).

    Raises:
        ValueError, TaskFileError, OSError: They are none; says why.
    """
    if databases is not None and not isinstance(databases, str | Path | Mapping):
        return databases
    if engine == "sqlite":
        source = databases if dump is None else dump
        if source is None or (dump is not None and databases is not None):
            raise ValueError("SQLite needs databases (a file, a directory, files by name) or a dump, and not both")
        files = SqliteDatabases.read(source)
        return SqliteSource(files) if image_name is None else SqliteSource(files, image_name)
    if engine == "mariadb":
        if databases is not None:
            raise ValueError("databases are files of SQLite; give engine='sqlite', or MariaDB a dump")
        if dump is not None and image_name is None:
            return MariaDbSource(SqlDump.read(dump))
        if image_name is not None and dump is None:
            return MariaDbSource(image_name)
        raise ValueError("MariaDB needs a dump, or an image_name that a SqlDump has made, and not both")
    raise ValueError(f"engine is {engine!r}; it must be 'mariadb' or 'sqlite'")
