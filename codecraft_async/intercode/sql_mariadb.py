"""`MariaDb`: a MariaDB server in a sandbox as the engine of SQL environments.

The agent's session begins without autocommit, as InterCode's clients have it, so that what it does to rows is undone
by a rollback. What a rollback leaves (definitions, committed rows, statistics) is told by the server's own log of
changes; then a fresh server, on a fresh copy of the files, takes the place of the used one. It is started when the
first such statement has run, while the episode goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from codecraft_async._episode import EpisodeError
from codecraft_async.intercode.sql_engine import Restored, SqlResult
from codecraft_async.intercode.sql_mariadb_answers import Answers, Key, Unrun
from codecraft_async.intercode.sql_mariadb_link import Link, LinkLost
from codecraft_async.intercode.sql_mariadb_server import (
    CONTROL_LIMIT_S,
    Position,
    Server,
    ServerLost,
    ServerUnavailable,
    SqlError,
)
from codecraft_async.intercode.sql_mariadb_servers import Servers
from codecraft_async.intercode.sql_mariadb_statements import Effect, effect_of, is_repeatable
from codecraft_async.intercode.sql_mariadb_wire import Command, Reader, encode_command
from codecraft_async.intercode.sql_text import database_of
from codecraft_pool import Sandbox

__all__ = ["MariaDb"]

_MAX_STATEMENT_BYTES: Final = 4 << 20
_INTERRUPTED: Final = (1317, 1927, 1969)  # ER_QUERY_INTERRUPTED, ER_CONNECTION_KILLED, ER_STATEMENT_TIMEOUT
_USERS: Final = {False: ("admin", "admin"), True: ("reader", "reader")}
_ENDED: Final = (
    "the database server was lost, and with it what this episode has changed; the next statement finds a new one"
)
_SESSION_ENDED: Final = "the session was ended, and what it had not committed is undone"


class MariaDb:
    """The databases of a `SqlDump` image in *sandbox*; see `SqlEngine`. One call at a time.

    Nothing happens before the first `begin`, which starts the server. Of a result over *max_rows* or *max_bytes* the
    rest is left out. A statement that was told to end, and has not *grace_s* seconds later, is ended with its server.
    With *answers*, statements that only read, on databases as loaded, run once for all engines that share them.

    A server that ends, hangs or makes no sense costs the episode's changes: the statement at hand has an error that
    says so, the next one runs on a new server. `restored` counts what was needed after episodes.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        max_rows: int = 100_000,
        max_bytes: int = 16 << 20,
        answers: Answers | None = None,
        grace_s: float = 5.0,
    ) -> None:
        self._sandbox = sandbox
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._answers = answers
        self._grace_s = grace_s
        self._loaded = (Answers() if answers is None else answers).loaded(sandbox.spec.image)
        self._servers = Servers(sandbox)
        self._agent: Link | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_reader = False
        self._user = ""
        self._clear()
        self._database: str | None = None
        self.restored = dict.fromkeys(Restored, 0)

    def _clear(self) -> None:
        """Note that nothing has happened yet."""
        self._worst = Effect.READ
        self._before: Position | None = None
        self._unrun = Unrun()
        self._was_lost = False

    def __repr__(self) -> str:
        return f"<MariaDb {self._servers.current!r} {self._worst.name}>"

    # --- episodes ---

    async def begin(self, database: str | None, *, read_only: bool) -> None:
        """See `SqlEngine.begin`.

        Raises:
            EpisodeError: There is no such database, or no server in the image.
        """
        await self._settle()
        if self._worst > Effect.READ or self._was_lost:
            await self.restore()
        server = await self._have_server()
        self._clear()
        self._is_reader = read_only
        agent, self._agent = self._agent, None
        user = _USERS[read_only][0]
        if agent is not None and (agent.is_lost or self._user != user or database is None):
            agent.close()
            agent = None
        self._user, self._database = user, database
        self._agent = agent = agent or await server.session(*_USERS[read_only])
        await self._enter_or_fail(server, agent, database)
        if not self._loaded.is_known:
            self._loaded.has_programs, self._loaded.has_clocks = await server.has_programs()
            self._loaded.is_known = True

    async def _enter_or_fail(self, server: Server, link: Link, database: str | None) -> None:
        error = "" if database is None else await self._enter(server, link, database)
        if error:
            raise EpisodeError(f"database {database!r} cannot be used: {error}")

    async def _enter(self, server: Server, link: Link, database: str) -> str:
        """Make a session as new, in *database*; return why it cannot be there, "" if it is."""
        readers = Reader(), Reader()
        packets = encode_command(Command.RESET) + encode_command(Command.USE, database.encode())
        try:
            async with asyncio.timeout(CONTROL_LIMIT_S):
                await link.ask(packets, *readers)
        except (LinkLost, TimeoutError) as exc:
            server.end()
            raise ServerUnavailable(self._sandbox.id, f"it was lost as a session began: {exc!r}") from exc
        return readers[1].error

    async def execute(self, statement: str, *, limit_s: float) -> SqlResult:
        """See `SqlEngine.execute`."""
        await self._settle()
        effect = effect_of(statement)
        if effect is Effect.READ and self._loaded.has_programs:
            effect = Effect.LOGGED
        key: Key | None = None
        if effect is Effect.READ and self._worst is Effect.READ:
            key, known = self._remembered(self._user, self._database, statement)
            if known is not None:
                chosen = None if known.error else database_of(statement)
                self._unrun.add(statement, chosen)
                self._database = chosen or self._database
                return known
        return await self._execute(statement, effect, key, limit_s)

    def _remembered(self, user: str, database: str | None, statement: str) -> tuple[Key | None, SqlResult | None]:
        """Return by what a result on databases as loaded is kept, if it can be, and the result, if it is known."""
        loaded = self._loaded
        if self._answers is None or loaded.has_programs or loaded.has_clocks or not is_repeatable(statement):
            return None, None
        at = None if database_of(statement) else database  # for a USE it is all the same
        key = (self._sandbox.spec.image, user, at, statement)
        return key, self._answers.get(key, max_rows=self._max_rows)

    async def _execute(self, statement: str, effect: Effect, key: Key | None, limit_s: float) -> SqlResult:
        knew = self._was_lost
        agent = await self._have_session()
        if self._was_lost and not knew and self._worst > Effect.READ:
            return SqlResult(error=_ENDED)
        if effect > Effect.READ:
            await self._look_before(effect)
        database = self._unrun.take_database() if key is not None else None
        for each in self._unrun.take():  # a session can ask what the statement before came to
            await self._run(agent, each, limit_s)
        self._worst = max(self._worst, effect)
        result, reader = await self._run(agent, statement, limit_s, database=database)
        if key is not None and self._answers is not None:
            self._answers.keep(key, result, reader)
        elif effect > Effect.LOGGED or (not result.error and self._leaves_traces(statement)):
            self._servers.prepare_spare()
        if not result.error:
            self._database = database_of(statement) or self._database
        return result

    def _leaves_traces(self, statement: str) -> bool:
        """Guess whether a statement that has not failed has done what a rollback leaves; only to be quick then."""
        effect = effect_of(statement)
        if effect is Effect.READ:
            return False
        text = statement.lower().lstrip()
        if effect is Effect.LOGGED:
            return not text.startswith(("set", "use"))
        counted = (name for (_, name), size in (self._loaded.sizes or {}).items() if size[-1] is not None)
        return text.startswith(("insert", "replace")) and any(name in text for name in counted)

    async def _look_before(self, effect: Effect) -> None:
        """Note what the server is like before the first statement that may change it."""
        if self._before is None:
            server = await self._have_server()
            try:
                if self._loaded.sizes is None:
                    self._loaded.sizes = await server.sizes()
                self._before = await server.position()
            except ServerLost:
                self._was_lost = True

    async def gold(self, database: str | None, statement: str, *, limit_s: float) -> SqlResult:
        """See `SqlEngine.gold`: beside the agent's session where nothing is committed, else on the spare server.

        Raises:
            EpisodeError: It was lost with its server, or there can be none.
        """
        await self._settle()
        effect = effect_of(statement)
        key: Key | None = None
        if effect is Effect.READ:
            key, known = self._remembered(_USERS[False][0], database, statement)
            if known is not None:
                return known
        if effect is Effect.READ and not self._loaded.has_programs and await self._is_as_loaded():
            result, reader = await self._judged(await self._have_server(), database, statement, limit_s)
        else:
            server = await self._servers.have_spare()
            try:
                result, reader = await self._judged(server, database, statement, limit_s)
            finally:
                if effect > Effect.READ or self._loaded.has_programs:
                    server.end()
        if key is not None and self._answers is not None:
            self._answers.keep(key, result, reader)
        return result

    async def _judged(
        self, server: Server, database: str | None, statement: str, limit_s: float
    ) -> tuple[SqlResult, Reader]:
        link = await server.session(*_USERS[False])
        try:
            await self._enter_or_fail(server, link, database)
            result, reader = await self._run(link, statement, limit_s, server)
        finally:
            if self._ending is None:
                link.close()
            else:  # it is needed to end the statement
                self._ending.add_done_callback(lambda _: link.close())
        if server.is_lost and not result.timed_out:  # its error says nothing of the gold
            raise EpisodeError(f"the database server in sandbox {self._sandbox.id} ended while it ran a gold")
        return result, reader

    async def _is_as_loaded(self) -> bool:
        """Whether another session sees the databases as loaded: nothing is committed."""
        server = await self._have_server()
        if self._before is None or self._worst is Effect.UNKNOWN:
            return self._worst is Effect.READ
        try:
            return (await server.position()).committed == self._before.committed
        except ServerLost:
            self._was_lost = True
            return True  # for a new one takes its place

    async def restore(self) -> Restored:
        """See `SqlEngine.restore`. Cancelled, it leaves the episode to be restored by the next call.

        Raises:
            EpisodeError: No new server can be started.
            SandboxLost: The sandbox died.
        """
        await self._settle()
        kind = await self._restore()
        self._clear()
        self.restored[kind] += 1
        return kind

    async def _restore(self) -> Restored:
        server = self._servers.current
        if server is None:
            return Restored.NOTHING
        if self._was_lost or server.is_lost:
            await self._servers.replace()
            return Restored.NEW_SERVER
        if self._worst is Effect.READ:
            return Restored.NOTHING
        try:
            if self._worst < Effect.UNKNOWN and self._before is not None:
                kind = await self._undone(server, self._before)
                if kind is not None:
                    return kind
        except (ServerLost, LinkLost, TimeoutError):
            server.end()
            await self._servers.replace()
            return Restored.NEW_SERVER
        await self._servers.replace()
        return Restored.DATA_DIRECTORY

    async def _undone(self, server: Server, before: Position) -> Restored | None:
        """Roll back, and say what that has restored; None where it was not enough."""
        if self._agent is not None:
            async with asyncio.timeout(CONTROL_LIMIT_S):
                await self._agent.ask(encode_command(Command.RESET), Reader())
        after = await server.position()
        if after == before:
            return Restored.NOTHING
        if after.committed != before.committed or self._loaded.sizes is None:
            return None
        return Restored.ROWS if await server.sizes() == self._loaded.sizes else None

    async def state(self) -> Mapping[str, str]:
        """See `SqlEngine.state`; `Server.state` says what counts.

        Raises:
            EpisodeError: The server does not answer.
        """
        await self._settle()
        server = await self._have_server()
        try:
            return await server.state()
        except (ServerLost, SqlError) as exc:
            raise EpisodeError(f"the databases in sandbox {self._sandbox.id} cannot be read: {exc}") from exc

    async def facts(self) -> Mapping[str, str]:
        """Return all that can be seen of the server, to prove that nothing is left; see `Server.facts`."""
        await self._settle()
        return await (await self._have_server()).facts()

    async def aclose(self) -> None:
        """End sessions and servers. Idempotent."""
        if self._ending is not None:
            self._ending.cancel()
        await self._servers.aclose()

    # --- one statement ---

    async def _run(
        self, link: Link, statement: str, limit_s: float, server: Server | None = None, *, database: str | None = None
    ) -> tuple[SqlResult, Reader]:
        """Run a statement, in *database* from now on; cancellation has it ended, which the next call waits for."""
        server = server or await self._have_server()
        text = statement.encode("utf-8", "replace")
        started = time.perf_counter()
        if len(text) > _MAX_STATEMENT_BYTES:
            return SqlResult(error=f"the statement is longer than {_MAX_STATEMENT_BYTES} bytes"), Reader()
        reader = Reader(
            max_rows=self._max_rows, max_bytes=self._max_bytes, on_full=lambda: self._end_statement(server, link)
        )
        packets, readers = encode_command(Command.QUERY, text), [reader]
        if database is not None:
            packets = encode_command(Command.USE, database.encode()) + packets
            readers.insert(0, Reader())
        timed_out = False
        try:
            async with asyncio.timeout(limit_s):
                await link.ask(packets, *readers)
        except TimeoutError:
            timed_out = True
            self._end_statement(server, link)
        except asyncio.CancelledError:
            self._end_statement(server, link)
            raise
        except LinkLost:
            return await self._lost(server, started), Reader()
        if self._ending is not None:
            await self._settle()
        is_cut = reader.rows_left_out > 0 and reader.error_code in _INTERRUPTED
        if timed_out:
            gone = f"; {_ENDED}" if server.is_lost else ""
            error = f"the statement was ended at its limit of {limit_s:g} s{gone}"
        else:
            error = "" if is_cut else readers[0].error or reader.error
        return SqlResult(
            rows=None if reader.rows is None or error else tuple(reader.rows),
            columns=tuple(reader.columns),
            error=error,
            rows_left_out=reader.rows_left_out,
            timed_out=timed_out,
            wall_s=time.perf_counter() - started,
            affected=reader.affected,
        ), reader

    async def _lost(self, server: Server, started: float) -> SqlResult:
        """Return what to say of a statement whose session ended: with its server, or alone (``KILL``)."""
        try:
            await server.ask("DO 0", limit_s=self._grace_s)
        except (ServerLost, SqlError):
            server.end()
        error = _ENDED if server.is_lost else _SESSION_ENDED
        self._was_lost = self._was_lost or server.is_lost
        return SqlResult(error=error, wall_s=time.perf_counter() - started)

    def _end_statement(self, server: Server, link: Link) -> None:
        """Begin to end what a session runs; `_settle` waits for it."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._stop(server, link))

    async def _stop(self, server: Server, link: Link) -> None:
        try:
            await server.kill_statement(link.thread, limit_s=self._grace_s)
            async with asyncio.timeout(self._grace_s):
                # Its answer comes after that of what was ended; if that had been over, it is this that the order ends.
                await link.ask(encode_command(Command.PING), Reader())
        except (TimeoutError, LinkLost, ServerLost):
            self._was_lost = True
            server.end()

    async def _settle(self) -> None:
        if self._ending is not None:
            await asyncio.shield(self._ending)
            self._ending = None

    # --- servers and sessions ---

    async def _have_server(self) -> Server:
        server, was_lost = await self._servers.have()
        self._was_lost = self._was_lost or was_lost
        return server

    async def _have_session(self) -> Link:
        """Return the agent's session; a new one where it was ended, in the same database if that is there still."""
        server = await self._have_server()
        if self._agent is not None and not self._agent.is_lost:
            return self._agent
        try:
            self._agent = agent = await server.session(*_USERS[self._is_reader])
        except ServerUnavailable:  # its end is the reason why the session was ended
            server = await self._have_server()
            self._agent = agent = await server.session(*_USERS[self._is_reader])
        if self._database is not None:
            await self._enter(server, agent, self._database)
        return agent
