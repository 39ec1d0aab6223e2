"""Where the databases of SQL environments come from, and which engine has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from codecraft_async.intercode.sql_engine import SqlEngine
from codecraft_async.intercode.sql_sqlite import SqliteDatabases, SqliteEngine
from codecraft_async.pool import Recipe, Sandbox

__all__ = ["Databases", "EngineName", "SqlSource", "SqliteSource", "open_source"]

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

    def engine(self, sandbox: Sandbox, *, max_rows: int) -> SqlEngine:
        """Return what runs statements on them in *sandbox*."""
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

    def engine(self, sandbox: Sandbox, *, max_rows: int) -> SqlEngine:
        """Return SQLite in *sandbox*."""
        return SqliteEngine(sandbox, self.databases, max_rows=max_rows)


def open_source(
    engine: EngineName, dump: str | Path | None, databases: Databases | None, image_name: str | Recipe | None
) -> SqlSource:
    """Return the databases that are meant (blocking).

    Raises:
        ValueError, OSError: They are none; says why.
    """
    if databases is not None and not isinstance(databases, str | Path | Mapping):
        return databases
    if engine == "sqlite":
        source = databases if dump is None else dump
        if source is None or (dump is not None and databases is not None):
            raise ValueError("SQLite needs databases (a file, a directory, files by name) or a dump, and not both")
        files = SqliteDatabases.read(source)
        return SqliteSource(files) if image_name is None else SqliteSource(files, image_name)
    raise ValueError(f"engine is {engine!r}; it must be 'mariadb' or 'sqlite'")
