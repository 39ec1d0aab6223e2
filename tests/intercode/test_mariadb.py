"""MariaDB in a sandbox: what agents may do to it, and that none of it outlives the episode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from codecraft_async import EpisodeError
from codecraft_async.intercode.sql_engine import Restored, SqlResult
from codecraft_async.intercode.sql_mariadb import MariaDb
from codecraft_async.intercode.sql_mariadb_answers import Answers
from codecraft_async.intercode.sql_mariadb_link import LinkLost
from codecraft_async.intercode.sql_mariadb_relay import RelayLink
from codecraft_async.intercode.sql_mariadb_server import SLOTS
from codecraft_async.intercode.sql_mariadb_wire import Command, Reader, encode_command
from codecraft_async.pool import DockerLauncher, Sandbox, SandboxSpec, connect_daemon
from codecraft_pool import Images
from tests.conftest import UVLOOP, alone
from tests.intercode.mariadb import shop

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.timeout(300)]

LIMIT_S = 20.0
ANSWERS = Answers()
COUNT = "SELECT COUNT(*) FROM item"
FILL = (
    "INSERT INTO item SELECT {0} + a.id * 1000 + b.n, 1, REPEAT('x', 60000), 1, NULL, NULL, NULL, 0, NULL, NULL, NULL"
)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """A server takes a while to start, and is the same on either loop; `test_mariadb_parts` has both."""
    return UVLOOP


@pytest.fixture(scope="module", name="sandbox")
async def make_sandbox() -> AsyncGenerator[Sandbox]:
    """A sandbox with two small databases."""
    async with await connect_daemon() as daemon:
        with alone("sql-image"):
            await Images(daemon).make(shop())
        async with DockerLauncher(daemon) as launcher:
            yield await launcher.start(SandboxSpec(image=shop().name, memory_bytes=768 << 20))


@pytest.fixture(scope="module", name="measured")
async def make_measured(sandbox: Sandbox) -> AsyncGenerator[tuple[MariaDb, Mapping[str, str]]]:
    """An engine, and all that can be seen of it when it is new."""
    engine = MariaDb(sandbox, max_rows=1000, answers=ANSWERS, grace_s=1.5)
    await engine.begin("shop", read_only=False)
    yield engine, await engine.facts()
    await engine.aclose()


@pytest.fixture(name="engine")
async def make_episode(measured: tuple[MariaDb, Mapping[str, str]]) -> AsyncGenerator[MariaDb]:
    """An episode; whatever becomes of it, the next one finds everything as it was."""
    engine, new = measured
    await engine.begin("shop", read_only=False)
    yield engine
    await engine.restore()
    await engine.begin("shop", read_only=False)
    facts = await engine.facts()
    assert {} == {
        name: (new.get(name), facts.get(name)) for name in new.keys() | facts.keys() if new.get(name) != facts.get(name)
    }


async def run(engine: MariaDb, *statements: str) -> SqlResult:
    """Run statements, and return what became of the last; none may fail."""
    result = SqlResult()
    for statement in statements:
        result = await engine.execute(statement, limit_s=LIMIT_S)
        assert not result.error, (statement, result)
    return result


async def kill_servers(sandbox: Sandbox, signal: str) -> None:
    """Send a signal to whatever servers run."""
    loop = "for p in /proc/[0-9]*; do case $(cat $p/comm) in mariadbd) kill -$0 ${p#/proc/};; esac; done"
    assert 0 == (await sandbox.run(["/bin/sh", "-c", loop, signal])).exit_code


async def relayed(sandbox: Sandbox) -> RelayLink:
    """A session of the server, in whichever slot it is, through a relay."""
    for slot in SLOTS:
        with suppress(LinkLost):
            return await RelayLink.connect(sandbox, f"{slot}/socket", "admin", "admin")
    raise AssertionError("there is no server")


async def test_values_as_clients_have_them(engine: MariaDb) -> None:
    """Types are mysql-connector's, texts any character; a statement without a result has none."""
    result = await run(engine, "SELECT * FROM Item ORDER BY id")
    picture = (b"\x00\xff", 10, 1999)
    moment, duration = datetime(2021, 1, 2, 3, 4, 5, 6000), -timedelta(hours=30, seconds=1)
    first = (1, 1, "chair", Decimal("12.50"), date(2020, 2, 29), moment, duration, 1.5, *picture)
    assert (first, (2, 2, "café", *[None] * 8)) == result.rows
    assert ("id", "maker_id", "name") == result.columns[:3]
    assert (None, 2) == ((changed := await run(engine, "UPDATE item SET price = 0")).rows, changed.affected)
    failed = await engine.execute("SELECT nothing FROM item", limit_s=LIMIT_S)
    assert ("Unknown column 'nothing' in 'SELECT'", None) == (failed.error, failed.rows)


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        (["SELECT 1", "USE other_one", "SELECT @a := 1", "SELECT GET_LOCK('a', 0)", "DO SLEEP(0)"], Restored.NOTHING),
        (["SET @a = 1, sql_mode = 'ANSI', autocommit = 1"], Restored.NOTHING),
        (["CREATE TEMPORARY TABLE item (a INT)", "INSERT INTO item VALUES (1)"], Restored.ROWS),
        (["UPDATE item SET name = 'x'", "DELETE FROM maker WHERE id > 5"], Restored.ROWS),
        (["BEGIN", "INSERT INTO item (id) VALUES (7)", "SAVEPOINT a", "DELETE FROM item"], Restored.ROWS),
        (
            ["INSERT INTO maker (name) VALUES ('c')"],
            Restored.DATA_DIRECTORY,
        ),  # for the next one would get a higher number
        (["SET autocommit = 1", "UPDATE item SET name = 'x'"], Restored.DATA_DIRECTORY),
        (["UPDATE other_one.t SET a = 2"], Restored.DATA_DIRECTORY),  # a table without transactions
        (
            ["DROP DATABASE shop", "CREATE DATABASE shop CHARACTER SET ascii", "DROP TABLE other_one.t"],
            Restored.DATA_DIRECTORY,
        ),
        (
            [
                "ALTER TABLE item ADD COLUMN x INT",
                "CREATE VIEW v AS SELECT 1",
                "CREATE TRIGGER g BEFORE INSERT ON item FOR EACH ROW SET NEW.price = 0",
                "CREATE PROCEDURE p() DELETE FROM maker WHERE id = 50",
                "CREATE FUNCTION f() RETURNS INT RETURN 1",
                "CALL p()",
                "SET PASSWORD = PASSWORD('mine')",
                "BEGIN NOT ATOMIC TRUNCATE other_one.t; END",
                "CREATE TABLE f (a INT) DATA DIRECTORY = '/tmp'",  # where nothing comes to be
                "ANALYZE LOCAL TABLE item PERSISTENT FOR ALL",
            ],
            Restored.DATA_DIRECTORY,
        ),
        (["XA START 'a'", "DELETE FROM item", "XA END 'a'", "XA PREPARE 'a'"], Restored.DATA_DIRECTORY),
        (["ANALYZE LOCAL TABLE item"], Restored.DATA_DIRECTORY),  # which is in no log
    ],
)
async def test_what_is_restored(engine: MariaDb, statements: list[str], kind: Restored) -> None:
    """Whatever an episode has done is undone by the cheapest means that do; see the fixture for the proof."""
    await run(engine, *statements)
    assert kind is await engine.restore()


async def test_what_agents_may_not(engine: MariaDb) -> None:
    """Files, other users, the server and what holds for all sessions are out of reach; one statement is one."""
    for statement in (
        *("SHUTDOWN", "SET GLOBAL max_connections = 1", "CREATE USER x", "FLUSH TABLES", "LOCK TABLES item WRITE"),
        *("SELECT 1 INTO OUTFILE '/tmp/x'", "LOAD DATA INFILE '/etc/passwd' INTO TABLE item", "CREATE DATABASE zzz"),
        *(
            "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE item",
            "SELECT * FROM mysql.global_priv",
            "SELECT 1; SELECT 2",
        ),
        *("CREATE DEFINER = codecraft@localhost VIEW v AS SELECT 1", "GRANT ALL ON shop.* TO reader@localhost"),
        *(
            "INSTALL SONAME 'x'",
            "SET sql_log_bin = 0",
            "SET ROLE codecraft",
            "SET @@session.binlog_format = 'STATEMENT'",
        ),
        *("CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO DELETE FROM item", "SET @@session.gtid_seq_no = 1"),
    ):
        result = await engine.execute(statement, limit_s=LIMIT_S)
        assert result.error and not result.timed_out, (statement, result)


async def test_no_session_of_ours_can_be_killed(engine: MariaDb) -> None:
    """An agent sees and kills its own session only; the next statement then has a new one, in the same database."""
    assert 1 == len((await run(engine, "SELECT * FROM information_schema.PROCESSLIST")).rows or ())
    for thread in range(1, 12):
        await engine.execute(f"KILL {thread}", limit_s=LIMIT_S)
    await engine.execute("KILL CONNECTION_ID()", limit_s=LIMIT_S)
    await engine.execute(COUNT, limit_s=LIMIT_S)
    assert ((2,),) == (await run(engine, COUNT)).rows
    assert ((None,),) == (await run(engine, "SELECT LOAD_FILE('/etc/passwd')")).rows
    await run(engine, "DROP DATABASE shop")
    await engine.execute("KILL CONNECTION_ID()", limit_s=LIMIT_S)
    await engine.execute(COUNT, limit_s=LIMIT_S)
    assert "No database selected" == (await engine.execute(COUNT, limit_s=LIMIT_S)).error


async def test_golds_find_the_databases_as_loaded(engine: MariaDb) -> None:
    """Whatever the agent has done by then; and what a gold changes, no agent sees. `state` tells what the agent did."""
    before = await engine.state()
    await run(engine, "DELETE FROM item WHERE id = 1")
    assert ((2,),) == (await engine.gold("shop", COUNT, limit_s=LIMIT_S)).rows
    assert {"shop.item"} == {name for name, digest in (await engine.state()).items() if before[name] != digest}
    assert 2 == (await engine.gold("shop", "UPDATE item SET name = 'g'", limit_s=LIMIT_S)).affected
    assert (("café",),) == (await run(engine, "SELECT name FROM item")).rows
    await run(engine, "DROP TABLE item")
    assert ((2,),) == (await engine.gold("shop", COUNT, limit_s=LIMIT_S)).rows
    changing = "BEGIN NOT ATOMIC DROP TABLE item; DO SLEEP(60); END"
    asked = asyncio.create_task(engine.gold("shop", changing, limit_s=LIMIT_S))
    await asyncio.sleep(0.5)  # it has dropped the table by then, or nothing
    asked.cancel()
    await asyncio.wait([asked])
    assert ((2,),) == (await engine.gold("shop", COUNT, limit_s=LIMIT_S)).rows
    assert "No database selected" == (await engine.gold(None, COUNT, limit_s=LIMIT_S)).error
    assert (before.keys() - {"shop.item"}) == (await engine.state()).keys()


async def test_limits(engine: MariaDb) -> None:
    """A statement ends at its time limit, a result at its rows; the session goes on, with what it had changed."""
    await run(engine, "DELETE FROM item WHERE id = 1")
    late = await engine.execute("SELECT SLEEP(60)", limit_s=0.2)
    assert (True, None) == (late.timed_out, late.rows) and "limit of 0.2 s" in late.error
    endless = "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n FROM r) SELECT COUNT(*) FROM r"
    await run(engine, "SET max_recursive_iterations = 4294967295")
    assert (await engine.execute(endless, limit_s=0.3)).error
    cut = await run(engine, "SELECT a.seq, REPEAT('x', 100) FROM seq_1_to_100000000 a")
    assert (1000, True) == (len(cut.rows or ()), cut.rows_left_out > 0)
    assert (await engine.execute("SELECT REPEAT('x', 9000000)", limit_s=LIMIT_S)).rows == ((None,),)
    asked = asyncio.create_task(engine.execute("SELECT SLEEP(60)", limit_s=LIMIT_S))
    await asyncio.sleep(0.05)
    asked.cancel()
    await asyncio.wait([asked])
    assert ((1,),) == (await run(engine, COUNT)).rows


@pytest.mark.parametrize("signal", ["KILL", "STOP"])
async def test_a_server_that_dies_or_hangs(engine: MariaDb, sandbox: Sandbox, signal: str) -> None:
    """The statement at hand says so; the next one finds a new server, with everything as it was loaded."""
    await run(engine, "DELETE FROM item")
    await kill_servers(sandbox, signal)
    lost = await engine.execute(COUNT, limit_s=0.5)
    assert "server was lost" in lost.error
    assert ((2,),) == (await run(engine, COUNT)).rows
    assert Restored.NEW_SERVER is await engine.restore()


async def test_answers_of_a_server_that_dies(engine: MariaDb, sandbox: Sandbox) -> None:
    """Whatever it died of, that is nobody else's answer, and not a gold's."""
    endless = f"SELECT COUNT(*) FROM {', '.join(f'item t{number}' for number in range(60))}"
    known = len(ANSWERS)
    for run_it in (engine.execute(endless, limit_s=LIMIT_S), engine.gold("shop", endless, limit_s=LIMIT_S)):
        asked = asyncio.create_task(run_it)
        await asyncio.sleep(0.1)
        await kill_servers(sandbox, "KILL")
        await asyncio.wait([asked])
        failure = asked.exception()
        assert "server was lost" in asked.result().error if failure is None else isinstance(failure, EpisodeError)
        await engine.restore()
        await engine.begin("shop", read_only=False)
    assert failure is not None and known == len(ANSWERS)


async def test_a_disk_that_is_full(engine: MariaDb) -> None:
    """Rows that fill the server's files to the last byte cost the episode, and no more."""
    result = SqlResult()
    for number in range(1, 40):
        statement = FILL.format(number * 1_000_000) + " FROM maker a, (SELECT seq n FROM seq_1_to_200) b"
        result = await engine.execute(statement, limit_s=8.0)
        if result.error:
            break
    assert result.error, "256 MiB hold more than that"


async def test_a_relay(engine: MariaDb, sandbox: Sandbox) -> None:
    """Where nothing outside reaches the server's socket, a program in the sandbox carries the same session."""
    await run(engine, COUNT)
    link = await relayed(sandbox)
    readers = Reader(), Reader(), Reader(max_rows=2)
    statements = b"USE shop", b"SELECT name FROM item ORDER BY id", b"SELECT REPEAT('x', 300) FROM seq_1_to_5000"
    await link.ask(b"".join(encode_command(Command.QUERY, each) for each in statements), *readers)
    assert [("chair",), ("café",)] == readers[1].rows
    assert (2, 4998, True) == (len(readers[2].rows or ()), readers[2].rows_left_out, link.thread > 0)
    link.close()
    with pytest.raises(LinkLost):
        await link.ask(encode_command(Command.PING), Reader())


async def test_readers(engine: MariaDb) -> None:
    """Where the agent may only read, it can."""
    await engine.begin("shop", read_only=True)
    assert ((2,),) == (await run(engine, COUNT)).rows
    assert "denied" in (await engine.execute("DELETE FROM item", limit_s=LIMIT_S)).error
    with pytest.raises(EpisodeError, match="nowhere"):
        await engine.begin("nowhere", read_only=False)
    await engine.begin(None, read_only=False)
    assert "No database selected" == (await engine.execute(COUNT, limit_s=LIMIT_S)).error


async def test_answers_of_another_database(engine: MariaDb) -> None:
    """A session that is elsewhere, however it got there, gives nobody an answer for the database it began in."""
    for use in ("USE other_one -- for a while", "/* now */ USE other_one", "EXECUTE IMMEDIATE 'USE other_one'"):
        assert ((1,),) == (await run(engine, use, "SELECT a FROM t")).rows
        await engine.restore()
        await engine.begin("shop", read_only=False)
        assert "doesn't exist" in (await engine.execute("SELECT a FROM t", limit_s=LIMIT_S)).error
        assert "doesn't exist" in (await engine.gold("shop", "SELECT a FROM t", limit_s=LIMIT_S)).error


async def test_known_answers(engine: MariaDb) -> None:
    """The same read of the same data runs once for all episodes; what depends on the session before it, or on what has
    changed, runs."""
    ANSWERS.forget()
    found = ANSWERS.found
    for number in range(2):
        await engine.begin("shop", read_only=False)
        assert ((2,),) == (await run(engine, COUNT)).rows
        assert ((2,),) == (await engine.gold("shop", COUNT, limit_s=LIMIT_S)).rows
        assert ((1,),) == (await run(engine, "SELECT id FROM item ORDER BY id LIMIT 1", "SELECT FOUND_ROWS()")).rows
        await run(engine, "DELETE FROM item")
        assert ((0,),) == (await run(engine, COUNT)).rows
        assert Restored.ROWS is await engine.restore()
        assert found + 1 + 3 * number == ANSWERS.found


async def test_databases_that_are_known(engine: MariaDb) -> None:
    """A session is where it was sent, whether or not that was known, for whatever it asks then."""
    ANSWERS.forget()
    for number in range(2):
        await engine.begin(None, read_only=False)
        assert ((2,),) == (await run(engine, "USE shop", COUNT)).rows
        assert "denied" in (await engine.execute("USE no", limit_s=LIMIT_S)).error
        assert ((1,),) == (await run(engine, "USE other_one", "SELECT a FROM t")).rows
        assert (("other_one", 1),) == (await run(engine, "SELECT DATABASE(), FOUND_ROWS()")).rows
        await run(engine, "USE shop")
        assert ((2 + number,),) == (await run(engine, f"SELECT COUNT(id) + {number} FROM maker")).rows
