"""One MariaDB server in a sandbox: started on a copy of the files of its image, used, and ended."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from codecraft_async._episode import EpisodeError
from codecraft_async.intercode.sql_dump import SERVER_FOLDER
from codecraft_async.intercode.sql_mariadb_link import Link, LinkLost, SocketLink
from codecraft_async.intercode.sql_mariadb_relay import RelayLink
from codecraft_async.intercode.sql_mariadb_wire import Command, ProtocolBroken, Reader, encode_command
from codecraft_pool import CommandResult, RequestRefused, Sandbox

__all__ = ["Position", "Server", "ServerLost", "ServerUnavailable", "SqlError"]

SLOTS: Final = ("/workspace/sql", "/home/agent/sql")
"""Trees of different file systems, so that a server that fills its own leaves room for the next."""

START_LIMIT_S: Final = 60.0
CONTROL_LIMIT_S: Final = 20.0
_STATE_LIMIT_S: Final = 60.0
_LIFE_S: Final = 30 * 86_400.0
_LOOK_S: Final = 0.002
_NOT_YET: Final = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN, errno.ENOTSOCK)
_ADMIN: Final = ("codecraft", "codecraft")
_OWN: Final = "NOT IN ('mysql', 'information_schema', 'performance_schema')"


class ServerUnavailable(EpisodeError):
    """There can be no server in the sandbox: its image has none, or no room for it."""

    def __init__(self, sandbox: str, reason: str) -> None:
        super().__init__(
            f"no MariaDB server can be started in sandbox {sandbox}: {reason}; use an image made by SqlDump"
        )
        self.sandbox = sandbox


class ServerLost(Exception):
    """A server has ended, does not answer, or says what makes no sense; the sandbox is there still."""


class SqlError(Exception):
    """A statement of our own has failed."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a server has come: the last change that was committed, and the end of InnoDB's log.

    If neither moves, nothing has changed. The second also moves at changes that are not committed, and after that for a
    while by itself.
    """

    committed: str
    written: str


class Server:
    """A server in one of the `SLOTS` of *sandbox*. Made by `start`; ends with `end`."""

    def __init__(self, sandbox: Sandbox, slot: str) -> None:
        self.sandbox = sandbox
        self.slot = slot
        self._process: asyncio.Task[CommandResult] | None = None
        self._links: list[Link] = []
        self._control: Link | None = None

    def __repr__(self) -> str:
        return f"<Server {self.slot} of {self.sandbox.id} {'lost' if self.is_lost else 'alive'}>"

    @classmethod
    async def start(cls, sandbox: Sandbox, slot: str) -> Server:
        """Return a server with all databases as loaded.

        Raises:
            ServerUnavailable: It does not start.
            SandboxLost: The sandbox died.
        """
        server = cls(sandbox, slot)
        try:
            async with asyncio.timeout(START_LIMIT_S):
                server._control = await server._first_link()
                await server.ask("SET autocommit = ON, max_statement_time = 0, sql_log_bin = OFF")
        except (TimeoutError, LinkLost, ServerLost) as exc:
            server.end()
            raise ServerUnavailable(sandbox.id, f"it is silent: {exc!r}") from exc
        except BaseException:
            server.end()
            raise
        return server

    async def _first_link(self) -> Link:
        argv = ["/bin/sh", f"{SERVER_FOLDER}/start.sh", self.slot]
        self._process = asyncio.create_task(self.sandbox.run(argv, cwd="/", limit_s=_LIFE_S))
        self._process.add_done_callback(self._ended)
        while not self._process.done():
            await asyncio.sleep(_LOOK_S)
            try:
                return await self.link(*_ADMIN)
            except RequestRefused as exc:
                if exc.errno not in _NOT_YET:
                    raise
            except LinkLost:
                pass  # a relay that came before the server
        result = await self._process
        said = (result.stderr or result.stdout).decode(errors="replace").strip()[-500:]
        raise ServerUnavailable(self.sandbox.id, f"it ended with status {result.exit_code} {said}".rstrip())

    async def link(self, user: str, password: str) -> Link:
        """Return a new session, which ends with the server.

        Raises:
            LinkLost: The server does not let the user in, or does not answer.
        """
        link: Link
        try:
            link = await SocketLink.connect(self.sandbox.connect(f"{self.slot}/socket"), user, password)
        except RequestRefused as exc:
            if exc.errno != errno.ENOTSUP:
                raise
            link = await RelayLink.connect(self.sandbox, f"{self.slot}/socket", user, password)
        self._links = [each for each in self._links if not each.is_lost]
        self._links.append(link)
        return link

    async def session(self, user: str, password: str) -> Link:
        """Return a new session. One that cannot be had costs the server, which is then ended.

        Raises:
            ServerUnavailable: It does not let the user in, or does not answer.
            SandboxLost: The sandbox died.
        """
        try:
            return await self.link(user, password)
        except (LinkLost, RequestRefused) as exc:
            self.end()
            raise ServerUnavailable(self.sandbox.id, f"it gives no session: {exc}") from exc

    @property
    def is_lost(self) -> bool:
        """Whether it has ended."""
        return self._control is None or self._control.is_lost or self._process is None or self._process.done()

    def end(self) -> None:
        """Kill it. Idempotent."""
        for link in self._links:
            link.close()
        if self._process is not None:
            self._process.cancel()

    async def remove(self) -> None:
        """Kill it and remove its files.

        Raises:
            SandboxLost: The sandbox died.
        """
        self.end()
        if self._process is not None:
            await asyncio.wait([self._process])
        await self.sandbox.run(["rm", "-rf", self.slot], cwd="/", limit_s=START_LIMIT_S)

    def _ended(self, process: asyncio.Task[CommandResult]) -> None:
        if not process.cancelled():
            process.exception()  # whoever uses a session of it sees that it is lost
        for link in self._links:
            link.close()

    # --- statements of our own ---

    async def ask(self, statement: str, *, limit_s: float = CONTROL_LIMIT_S) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that is run with all rights.

        Raises:
            SqlError: It failed.
            ServerLost: The server did not answer, and is not to be used any more.
        """
        reader = Reader()
        await self._ask(encode_command(Command.QUERY, statement.encode()), reader, limit_s)
        if reader.error:
            raise SqlError(reader.error)
        return reader.rows or []

    async def _ask(self, packet: bytes, reader: Reader, limit_s: float) -> None:
        assert self._control is not None
        answer = self._control.ask(packet, reader)
        try:
            async with asyncio.timeout(limit_s):
                await answer
        except (TimeoutError, LinkLost, ProtocolBroken) as exc:
            self.end()
            raise ServerLost(f"the server does not answer: {exc!r}") from exc

    async def kill_statement(self, thread: int, *, limit_s: float) -> None:
        """End the statement that another session runs. Raises: as `ask`; not if the session is gone."""
        await self._ask(encode_command(Command.QUERY, f"KILL QUERY {thread}".encode()), Reader(), limit_s)

    async def position(self) -> Position:
        """Return how far it has come. Raises: as `ask`."""
        rows = await self.ask(
            "SELECT @@gtid_binlog_pos, VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS"
            " WHERE VARIABLE_NAME = 'INNODB_LSN_CURRENT'"
        )
        return Position(*map(str, rows[0]))

    async def has_programs(self) -> tuple[bool, bool]:
        """Return whether a statement that reads could do more, for there are functions or sequences; and whether there
        are views or generated columns, which could read clocks. Raises: as `ask`."""
        kinds = f"SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA {_OWN} AND TABLE_TYPE"
        rows = await self.ask(
            "SELECT (SELECT COUNT(*) FROM mysql.proc WHERE db <> 'mysql') + (SELECT COUNT(*) FROM mysql.func)"
            f" + ({kinds} NOT IN ('BASE TABLE', 'VIEW')), ({kinds} = 'VIEW') + (SELECT COUNT(*) FROM"
            f" information_schema.COLUMNS WHERE TABLE_SCHEMA {_OWN} AND GENERATION_EXPRESSION IS NOT NULL)"
        )
        return bool(rows[0][0]), bool(rows[0][1])

    async def sizes(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        """Return what is known of all tables without looking into them: sizes, statistics, and last the next number of
        AUTO_INCREMENT, which no rollback sets back.

        Raises: as `ask`.
        """
        rows = await self.ask(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_ROWS, AVG_ROW_LENGTH, DATA_LENGTH,"
            f" INDEX_LENGTH, DATA_FREE, AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA {_OWN}"
        )
        return {(base, name): tuple(rest) for base, name, *rest in rows}

    async def state(self) -> dict[str, str]:
        """Return a digest per `database.table` of definition and content, uncommitted changes included.

        Views are among the tables; triggers and routines of a database are under `database.()`. Rows count as a
        multiset, and the counters of AUTO_INCREMENT not at all.

        Raises: as `ask`; also where that takes over a minute.
        """
        try:
            async with asyncio.timeout(_STATE_LIMIT_S):
                return await self._state()
        except TimeoutError as exc:
            self.end()
            raise ServerLost(f"its tables cannot be read within {_STATE_LIMIT_S:g} s") from exc

    async def _state(self) -> dict[str, str]:
        await self.ask("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
        found = await self.ask(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES"
            f" WHERE TABLE_SCHEMA {_OWN} ORDER BY 1, 2"
        )
        digests = {f"{base}.{name}": await self._digest(base, name, kind) for base, name, kind in found}
        for base, programs in (await self._programs()).items():
            digests[f"{base}.()"] = _sha(programs)
        return digests

    async def _digest(self, base: str, name: str, kind: str) -> str:
        table = f"{quoted(base)}.{quoted(name)}"
        try:
            definition = (await self.ask(f"SHOW CREATE TABLE {table}"))[0][1]
        except SqlError as exc:  # a view of what is not there any more
            return _sha(str(exc))
        text = " ".join(word for word in str(definition).split(" ") if not word.startswith("AUTO_INCREMENT="))
        if "VIEW" in kind:
            return _sha(text)
        rows = Rows()
        reader = Reader(on_row=rows.add)
        packet = encode_command(Command.QUERY, f"SELECT * FROM {table}".encode())
        await self._ask(packet, reader, CONTROL_LIMIT_S)
        return _sha(text, reader.error or rows.digest)

    async def _programs(self) -> Mapping[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for statement in (
            "SELECT db, name, type, language, is_deterministic, security_type, param_list, returns, body,"
            " definer, sql_mode FROM mysql.proc WHERE db <> 'mysql' ORDER BY db, name, type",
            "SELECT TRIGGER_SCHEMA, TRIGGER_NAME, EVENT_MANIPULATION, EVENT_OBJECT_TABLE, ACTION_ORDER,"
            " ACTION_STATEMENT, ACTION_TIMING, SQL_MODE, DEFINER FROM information_schema.TRIGGERS ORDER BY 1, 2",
            "SELECT db, name, body, definer FROM mysql.event ORDER BY 1, 2",
        ):
            for base, *rest in await self.ask(statement):
                found.setdefault(str(base), []).append(rest)
        return found

    async def facts(self) -> dict[str, str]:
        """Return all that can be seen of the server and its files; of a new one, the measure for others.

        Raises: as `ask`, and `SandboxLost`.
        """
        facts = {f"table {name}": digest for name, digest in (await self.state()).items()}
        for table in (
            "global_priv",
            "db",
            "tables_priv",
            "columns_priv",
            "procs_priv",
            "proxies_priv",
            "roles_mapping",
        ):
            facts[f"mysql.{table}"] = repr(await self.ask(f"SELECT * FROM mysql.{table} ORDER BY 1, 2"))
        for table in (
            "innodb_table_stats",
            "innodb_index_stats",
            "table_stats",
            "column_stats",
            "index_stats",
            "servers",
        ):
            facts[f"mysql.{table}"] = _sha(await self.ask(f"SELECT * FROM mysql.{table} ORDER BY 1, 2, 3"))
        for name, value in await self.ask("SHOW GLOBAL VARIABLES"):
            if not str(name).startswith(_OF_ONE_SERVER):
                facts[f"@@{name}"] = str(value)
        facts["sizes"] = repr(sorted((await self.sizes()).items()))
        facts["databases"] = repr(await self.ask("SHOW DATABASES"))
        facts["prepared transactions"] = repr(await self.ask("XA RECOVER"))
        facts["transactions"] = repr(await self.ask("SELECT COUNT(*) FROM information_schema.INNODB_TRX"))
        for folder in (self.slot, "/tmp", "/var/tmp", "/dev/shm"):
            listing = await self.sandbox.digest([folder], contents=False)
            facts[f"files {folder.removeprefix(self.slot)}"] = " ".join(
                path.removeprefix(self.slot) for path in sorted(listing.entries)
            )
        return facts


_OF_ONE_SERVER: Final = (
    *("aria_log_dir_path", "datadir", "gtid_", "hostname", "log_bin_", "pid_", "server_uid", "slave_load_tmpdir"),
    *("socket", "tmpdir", "wsrep_data_home_dir"),
)


class Rows:
    """A digest of rows as a multiset: their order, which a server chooses, does not count."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def add(self, row: bytes) -> None:
        """Count a row."""
        self._sum += int.from_bytes(hashlib.sha256(row).digest(), "little")
        self._count += 1

    @property
    def digest(self) -> str:
        """What the rows come to."""
        return f"{self._count} {self._sum % (1 << 256):x}"


def quoted(name: str) -> str:
    """Return an identifier as it stands in a statement."""
    return "`" + name.replace("`", "``") + "`"


def _sha(*parts: object) -> str:
    return hashlib.sha256(json.dumps([repr(part) for part in parts]).encode()).hexdigest()
