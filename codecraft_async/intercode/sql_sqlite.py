"""SQLite as the engine of SQL environments: it runs in the sandbox, in a Python of its image, never in our process.

The databases are read here as bytes and opened there. A process in the sandbox keeps them as they were loaded, and a
fork of it runs the agent's statements (`inside.sqlite_server`): what the agent has made of them ends with the fork.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from codecraft_async._episode import EpisodeError
from codecraft_async.intercode.inside import program
from codecraft_async.intercode.sql_engine import Restored, SqlResult
from codecraft_async.intercode.sql_text import database_of
from codecraft_async.pool import WORKSPACE, RequestRefused, Sandbox
from codecraft_pool._aio import finish

__all__ = ["SqliteDatabases", "SqliteEngine"]

_ENDINGS: Final = (".sqlite", ".sqlite3", ".db", ".sql")
_PARTS: Final = ("wire", "sqlite_session", "sqlite_server")
_MAX_BYTES: Final = 1 << 30
_MEMORY_BYTES: Final = 64 << 20
_REPLY_BYTES: Final = 64 << 20
_SPARE_S: Final = 8.0  # for what the server does after the limits, on a machine that is busy
_LOAD_LIMIT_S: Final = 120.0
_STATE_LIMIT_S: Final = 70.0


@dataclass(frozen=True, slots=True)
class SqliteDatabases:
    """Databases by name, as the bytes of their files, or of dumps in SQLite's SQL."""

    files: Mapping[str, tuple[str, bytes]] = field(repr=False)
    """By the database's name: the ending of its file, and what is in it."""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for name, (ending, data) in sorted(self.files.items()):
            digest.update(f"{name}\0{ending}\0{len(data)}\0".encode() + data)
        object.__setattr__(self, "digest", digest.hexdigest())

    @classmethod
    def read(cls, source: str | Path | Mapping[str, str | Path]) -> SqliteDatabases:
        """Return the databases of a file, of a directory, or of files by name (blocking).

        Files end with .sqlite, .sqlite3, .db, or .sql (statements that make it). A directory has them side by side, or
        each in a directory of its own, as Spider has: ``world_1/world_1.sqlite``. A file's name is the database's.

        Raises:
            ValueError: There is none, two have one name, or they are over 1 GiB together; names the path.
            OSError: One cannot be read.
        """
        found = {name: Path(path) for name, path in source.items()} if isinstance(source, Mapping) else _named(source)
        for path in found.values():
            if path.suffix.lower() not in _ENDINGS:
                raise ValueError(f"{path} is no SQLite database by its name: it must end with one of {_ENDINGS}")
        size = sum(path.stat().st_size for path in found.values())
        if size > _MAX_BYTES:
            raise ValueError(f"the databases of {source} have {size} bytes; at most {_MAX_BYTES} can be loaded")
        return cls({name: (path.suffix.lower(), path.read_bytes()) for name, path in sorted(found.items())})


def _named(source: str | Path) -> dict[str, Path]:
    root = Path(source)
    if root.is_dir():
        paths = [each for each in (*root.iterdir(), *root.glob("*/*")) if each.suffix.lower() in _ENDINGS]
    else:
        paths = [root]
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if path.stem in found:
            raise ValueError(f"{path} and {found[path.stem]} are both of a database {path.stem!r}")
        found[path.stem] = path
    if not found:
        raise ValueError(f"there is no SQLite database in {root}: files end with one of {_ENDINGS}")
    return found


class SqliteEngine:
    """SQLite databases in the Python of a sandbox; a `SqlEngine`.

    The statements of an agent can reach no file, take no more time than they are given, and no more memory than
    *memory_bytes* beside the databases. Where one has to be ended by force, which its result says, all databases are as
    loaded again. A result has *max_rows* at most, and 8 MiB.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        databases: SqliteDatabases,
        *,
        max_rows: int,
        python: str = "python3",
        memory_bytes: int = _MEMORY_BYTES,
    ) -> None:
        self._sandbox = sandbox
        self._databases = databases
        self._max_rows = max_rows
        self._memory_bytes = memory_bytes
        self._shell = sandbox.shell(shell=(python, "-I", "-c", program(*_PARTS), ""))
        self._current = ""
        self._options: Mapping[str, object] = {}
        self._is_loaded = self._changed = self._died = False

    def __repr__(self) -> str:
        state = "loaded" if self._is_loaded else "empty"
        return f"<SqliteEngine of {self._sandbox.id} {state}: {len(self._databases.files)} databases>"

    async def begin(self, database: str | None, *, read_only: bool) -> None:
        """Begin an episode in *database*; None: the only one, if there is one only.

        Raises:
            EpisodeError: There is no such database, or none can be loaded; says why.
            SandboxLost: The sandbox died.
        """
        names = list(self._databases.files)
        if database is None:
            database = names[0] if len(names) == 1 else ""
        elif database not in self._databases.files:
            raise EpisodeError(f"there is no database {database!r}; there are {', '.join(names[:20])}")
        self._current = database
        options = {"read_only": read_only, "memory_bytes": self._memory_bytes}
        if not self._is_loaded or self._shell.ended:
            await self._load()
        elif not self._changed and options == self._options:
            return
        self._options = options
        if await self._ask("begin", options, limit_s=_LOAD_LIMIT_S) is None:
            raise self._unavailable("it ended")
        self._changed = self._died = False

    async def execute(self, statement: str, *, limit_s: float) -> SqlResult:
        """Run a statement in the database at hand; ``USE name`` chooses another one."""
        chosen = database_of(statement)
        if chosen is not None:
            if chosen not in self._databases.files:
                return SqlResult(error=f"unknown database {chosen!r}")
            self._current = chosen
            return SqlResult()
        return await self._run("execute", self._current, statement, limit_s)

    async def gold(self, database: str | None, statement: str, *, limit_s: float) -> SqlResult:
        """Run a statement on the databases as loaded, in a process of its own.

        Raises:
            EpisodeError: What is between it and us has ended.
        """
        return await self._run("gold", self._current if database is None else database, statement, limit_s)

    async def restore(self) -> Restored:
        """Make every database as loaded: the next `begin` has a new fork, where that is needed."""
        if self._died:
            return Restored.NEW_SERVER
        return Restored.DATA_DIRECTORY if self._changed else Restored.NOTHING

    async def state(self) -> Mapping[str, str]:
        """Return a digest of each table, view and trigger; the order of rows does not count."""
        answer = await self._ask("state", {}, limit_s=_STATE_LIMIT_S)
        if answer is None or "error" in answer:
            raise self._unavailable("it ended")
        return {name: str(digest) for name, digest in answer.items()}

    async def aclose(self) -> None:
        """End its processes. Idempotent."""
        await self._shell.aclose()

    async def _run(self, what: str, database: str, statement: str, limit_s: float) -> SqlResult:
        request = {"database": database, "statement": statement, "limit_s": limit_s, "max_rows": self._max_rows}
        try:
            answer = await self._ask(what, request, limit_s=limit_s)
        except RequestRefused as exc:  # it is too long
            return SqlResult(error=f"the statement cannot be run: {exc.strerror}")
        if answer is None:
            await self._recover()
            if what == "gold":
                raise self._unavailable("it ended while it ran a gold")
            return SqlResult(
                error="the database process was ended: all databases are as they were loaded", wall_s=limit_s
            )
        if what == "execute":
            self._changed = self._changed or answer.get("changed") is True
            self._died = self._died or "ended" in answer
        return _result(answer)

    async def _recover(self) -> None:
        """Have the server started again in the middle of an episode."""
        self._died = True
        await self._load()
        await self._ask("begin", self._options, limit_s=_LOAD_LIMIT_S)

    async def _load(self) -> None:
        files: dict[str, str] = {}
        try:
            for number, (name, (ending, data)) in enumerate(self._databases.files.items()):
                path = f".databases/{number}{ending}"
                await self._sandbox.write_file(path, data)
                files[name] = f"{WORKSPACE}/{path}"
            answer = await self._ask("load", {"files": files}, limit_s=_LOAD_LIMIT_S)
        except RequestRefused as exc:
            raise self._unavailable(f"the databases cannot be loaded: {exc}") from exc
        if answer is None or "error" in answer:
            why = "it ended" if answer is None else f"{answer['error']}"
            raise self._unavailable(f"the databases cannot be loaded: {why}")
        self._is_loaded, self._changed = True, True

    async def _ask(self, what: str, request: Mapping[str, object], *, limit_s: float) -> dict[str, Any] | None:
        """Return the server's answer; None if it has ended, with all that it had loaded."""
        mark = secrets.token_hex(8)
        text = json.dumps({"mark": mark, "what": what, **request})
        running = asyncio.ensure_future(
            self._shell.run(text, limit_s=limit_s + _SPARE_S, max_output_bytes=_REPLY_BYTES)
        )
        try:
            result = await asyncio.shield(running)
        except asyncio.CancelledError:
            with suppress(Exception):
                await finish(self._interrupt(running))
            self._changed = True
            raise
        answer = _answer(result.stdout, mark.encode())
        if answer is None or (result.shell_restarted and what != "load"):
            self._is_loaded = False
            return None
        return answer

    async def _interrupt(self, running: asyncio.Future[Any]) -> None:
        """Have the statement end, and wait for that: the episode goes on where it was."""
        await self._shell.interrupt()
        await asyncio.wait([running])
        running.exception()

    def _unavailable(self, why: str) -> EpisodeError:
        return EpisodeError(f"no SQLite can be had in sandbox {self._sandbox.id}: {why}")


def _answer(output: bytes, mark: bytes) -> dict[str, Any] | None:
    _, _, rest = output.partition(mark)
    data, closed, _ = rest.partition(mark)
    try:
        answer: object = json.loads(data) if closed else None
    except ValueError:
        return None
    return cast(dict[str, Any], answer) if isinstance(answer, dict) else None


def _result(answer: Mapping[str, Any]) -> SqlResult:
    rows = answer.get("rows")
    return SqlResult(
        rows=None if rows is None else tuple(tuple(map(_value, row)) for row in rows),
        columns=tuple(answer.get("columns", ())),
        error=answer.get("error", ""),
        rows_left_out=answer.get("left_out", 0),
        timed_out=answer.get("timed_out", False),
        wall_s=answer.get("wall_s", 0.0),
        affected=answer.get("affected", 0),
    )


def _value(value: Any) -> Any:
    return base64.b64decode(value["bytes"]) if isinstance(value, dict) else value
