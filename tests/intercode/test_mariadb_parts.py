"""MariaDB's protocol without a server, connections to a server that is none, and what statements' texts tell."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from codecraft_async.curriculum import TaskFileError
from codecraft_async.intercode.sql_dump import SqlDump
from codecraft_async.intercode.sql_engine import SqlResult
from codecraft_async.intercode.sql_mariadb_answers import Answers, Unrun
from codecraft_async.intercode.sql_mariadb_link import LinkLost, SocketLink
from codecraft_async.intercode.sql_mariadb_statements import Effect, effect_of, is_repeatable
from codecraft_async.intercode.sql_mariadb_wire import Command, ProtocolBroken, Reader, encode_command

pytestmark = pytest.mark.anyio

CHALLENGE = b"12345678abcdefghijkl"
GREETING = (
    b"\x0a10.11\0\x07\0\0\0"
    + CHALLENGE[:8]
    + b"\0\xff\xff\x2d\x02\0\xff\xff\x15"
    + b"\0" * 10
    + CHALLENGE[8:]
    + b"\0mysql_native_password\0"
)
OK = b"\0\x02\0\0\0\0\0"
END = b"\xfe\0\0\x02\0\0\0"
ERROR = b"\xff\x7a\x04#42S02Table 'a.b' doesn't exist"


def packet(number: int, body: bytes) -> bytes:
    """A packet as the server sends it."""
    return len(body).to_bytes(3, "little") + bytes((number,)) + body


def text(value: bytes | None) -> bytes:
    """A value as a row has it."""
    if value is None:
        return b"\xfb"
    return (bytes((len(value),)) if len(value) < 251 else b"\xfc" + len(value).to_bytes(2, "little")) + value


def column(name: str, kind: int, charset: int = 45, flags: int = 0) -> bytes:
    """The definition of a column."""
    names = b"".join(text(each) for each in (b"def", b"shop", b"t", b"t", name.encode(), name.encode()))
    return names + b"\x0c" + charset.to_bytes(2, "little") + b"\0\0\0\0" + bytes((kind,)) + flags.to_bytes(2, "little")


def answer(columns: list[bytes], rows: list[list[bytes | None]], end: bytes = END) -> bytes:
    """A whole result."""
    bodies = [bytes((len(columns),)), *columns, *(b"".join(map(text, row)) for row in rows), end]
    return b"".join(packet(number & 0xFF, body) for number, body in enumerate(bodies, 1))


def read(data: bytes, reader: Reader | None = None) -> Reader:
    """What a reader makes of it."""
    reader = reader or Reader()
    assert len(data) == reader.take(data, 0)
    return reader


@pytest.mark.parametrize(
    ("kind", "charset", "flags", "value", "expected"),
    [
        (3, 63, 0, b"-7", -7),
        (246, 63, 0, b"12.50", Decimal("12.50")),
        (5, 63, 0, b"1e3", 1000.0),
        (10, 63, 0, b"2020-02-29", date(2020, 2, 29)),
        (10, 63, 0, b"0000-00-00", None),
        (12, 63, 0, b"2021-01-02 03:04:05.006", datetime(2021, 1, 2, 3, 4, 5, 6000)),
        (12, 63, 0, b"0000-00-00 00:00:00", None),
        (11, 63, 0, b"-30:00:01.5", -timedelta(hours=30, seconds=1, milliseconds=500)),
        (16, 63, 0, b"\x01\x00", 256),
        (13, 63, 0, b"1999", 1999),
        (253, 45, 0, "café".encode(), "café"),
        (253, 45, 0, b"\xff", b"\xff"),  # no text after all
        (252, 63, 0x90, b"\x00\xff", b"\x00\xff"),
        (252, 45, 0x90, b"bin", b"bin"),  # text with a binary collation, as mysql-connector has it
        (253, 45, 0, None, None),
        (252, 45, 0x10, b"x" * 60_000, "x" * 60_000),
    ],
)
def test_values(kind: int, charset: int, flags: int, value: bytes | None, expected: object) -> None:
    """The text protocol's values become Python's as mysql-connector makes them."""
    reader = read(answer([column("a", kind, charset, flags)], [[value]]))
    assert [(expected,)] == (rows := reader.rows or [])
    assert type(expected) is type(rows[0][0])


def test_any_pieces() -> None:
    """However the bytes arrive, the same comes of them; what follows an answer is left for the next reader."""
    data = answer([column("a", 3), column("b", 253)], [[b"1", b"x"], [None, b"y" * 300]]) + packet(1, OK)
    chance = random.Random(7)
    for _ in range(50):
        reader, rest = Reader(), b""
        at = 0
        while not reader.done:
            step = chance.randint(1, 40)
            rest += data[at : at + step]
            at += step
            rest = rest[reader.take(rest, 0) :]
        assert ([(1, "x"), (None, "y" * 300)], ["a", "b"]) == (reader.rows, reader.columns)
        assert (True, 2) == ((last := read(rest + data[at:])).done, last.affected)


def test_errors_and_cuts() -> None:
    """An error is its text, also after rows; rows over the limit are counted, and somebody is told at the first."""
    reader = read(packet(1, ERROR))
    assert ("Table 'a.b' doesn't exist", 1146, None) == (reader.error, reader.error_code, reader.rows)
    told: list[int] = []
    data = answer([column("a", 3)], [[b"1"]] * 5, ERROR)
    cut = read(data, Reader(max_rows=2, on_full=lambda: told.append(1)))
    assert (2, 3, [1], 1146) == (len(cut.rows or ()), cut.rows_left_out, told, cut.error_code)
    assert 1 == len(read(data, Reader(max_bytes=2)).rows or ())


@pytest.mark.parametrize(
    "data",
    [
        packet(1, b"\xfbpath"),  # asks for a file of ours
        packet(1, b"\xfc\xff\xff"),  # 65,535 columns
        packet(1, b"\x01") + packet(2, b"\x03de"),
        answer([column("a", 3)], [[b"no number"]]),
        answer([column("a", 253)], [], b"\x05abc"),  # a value that is longer than its row
        packet(1, b""),
    ],
)
def test_rubbish(data: bytes) -> None:
    """What is no answer is one kind of error."""
    with pytest.raises(ProtocolBroken):
        read(data)


class FakeServer:
    """The other end of a connection, which says what a test has it say."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.ours = ours

    async def hear(self) -> bytes:
        """What the client sends next."""
        return await asyncio.get_running_loop().sock_recv(self.theirs, 1 << 16)

    def say(self, data: bytes) -> None:
        """Send it."""
        self.theirs.send(data)

    async def login(self) -> SocketLink:
        """A session, begun."""
        connecting = asyncio.create_task(SocketLink.connect(self.ours, "admin", "admin"))
        self.say(packet(0, GREETING))
        heard = await self.hear()
        known, stage = hashlib.sha1(b"admin").digest(), hashlib.sha1(hashlib.sha1(b"admin").digest()).digest()
        proof = bytes(a ^ b for a, b in zip(known, hashlib.sha1(CHALLENGE + stage).digest(), strict=True))
        assert heard[3] == 1 and b"admin\0\x14" + proof + b"mysql_native_password\0" in heard
        self.say(packet(2, OK))
        return await connecting


async def test_a_session() -> None:
    """The password is proved, not sent; one can ask ahead, and a question that nobody waits for is still answered."""
    server = FakeServer()
    link = await server.login()
    assert 7 == link.thread
    readers = [Reader(), Reader(), Reader()]
    first = link.ask(encode_command(Command.RESET) + encode_command(Command.QUERY, b"SELECT 1"), *readers[:2])
    assert b"\x01\0\0\0\x1f\x09\0\0\0\x03SELECT 1" == await server.hear()
    first.cancel()
    second = link.ask(encode_command(Command.PING), readers[2])
    result = packet(1, OK) + answer([column("a", 252)], [[b"x" * 60_000]] * 3) + packet(1, OK)
    for at in range(0, len(result), 50_000):
        server.say(result[at : at + 50_000])
        await asyncio.sleep(0)
    await second
    assert [True] * 3 == [reader.done for reader in readers] and 3 == len(readers[1].rows or ())
    link.close()
    server.theirs.close()


@pytest.mark.parametrize(
    "ending",
    [
        lambda server: server.theirs.close(),
        lambda server: server.say(packet(1, b"\xfbfile")),
        lambda server: server.say(packet(1, OK) + packet(1, OK)),  # more than was asked for
    ],
)
async def test_sessions_that_end(ending: Callable[[FakeServer], None]) -> None:
    """Whoever waits or asks later is told; nothing hangs."""
    server = FakeServer()
    link = await server.login()
    asked = link.ask(encode_command(Command.PING), Reader())
    ending(server)
    async with asyncio.timeout(5):
        await asyncio.wait([asked])
        assert link.is_lost
        with pytest.raises(LinkLost):
            await asyncio.gather(asked, link.ask(encode_command(Command.PING), Reader()))
    server.theirs.close()


@pytest.mark.parametrize("greeting", [b"\xff\x10\x04#08004Too many", b"\x09old", b"\x0a", b"\x0a10\0\x01", b"x" * 5000])
async def test_greetings_that_are_none(greeting: bytes) -> None:
    """A server that refuses, or is none, gives no session."""
    server = FakeServer()
    server.say(packet(0, greeting))
    with pytest.raises(LinkLost):
        await SocketLink.connect(server.ours, "admin", "admin")
    server.theirs.close()


@pytest.mark.parametrize(
    ("statement", "effect"),
    [
        ("select 1", Effect.READ),
        (" /* why */ -- so\n (SELECT 1)", Effect.READ),
        ("/*!50000 drop table t */", Effect.UNKNOWN),
        ("/*M! drop table t */", Effect.UNKNOWN),
        ("with a as (select 1) select * from a", Effect.READ),
        ("with a as (select 1) delete from t", Effect.UNKNOWN),
        ("DELETE FROM t WHERE a IS NOT NULL", Effect.ROWS),
        ("begin", Effect.ROWS),
        ("begin not atomic drop table t; end", Effect.UNKNOWN),
        ("set @a = 1", Effect.LOGGED),
        ("use a;", Effect.READ),
        ("use a -- and stay", Effect.LOGGED),  # which database that is, is not understood
        ("/* so */ use a", Effect.LOGGED),
        ("set statement max_statement_time=1 for analyze local table t", Effect.UNKNOWN),
        ("set password = 'x'", Effect.UNKNOWN),
        ("alter table t add column b int", Effect.LOGGED),
        ("alter table t analyze partition all", Effect.UNKNOWN),
        ("optimize local table t", Effect.UNKNOWN),
        ("xa start 'a'", Effect.UNKNOWN),
        ("execute immediate 'drop table t'", Effect.UNKNOWN),
        ("", Effect.UNKNOWN),
    ],
)
def test_what_statements_can_do(statement: str, effect: Effect) -> None:
    """By their first words; whatever is unknown is taken for the worst."""
    assert effect is effect_of(statement)


@pytest.mark.parametrize(
    ("statement", "same"),
    [
        ("SELECT count(*), avg(a) FROM t WHERE b IN (SELECT c FROM u) ORDER BY lower(d) LIMIT 3", True),
        ("show tables", True),
        ("use `a`", True),
        ("use a -- why", False),
        ("describe t;", True),
        ("SELECT * FROM t WHERE name = 'now()'", True),
        ("SELECT now()", False),
        ("SELECT current_date", False),
        ("SELECT @a", False),
        ("SELECT rand() FROM t", False),
        ("SELECT found_rows()", False),
        ("SELECT 1 INTO @a", False),
        ("SELECT `sleep` (1)", False),
        ("SELECT shop.f(1)", False),
        ("SELECT 1 AS `'`, rand(), 2 AS `'`", False),
        ("SELECT 1 -- it's\n, now() -- '", False),
        ("SELECT table_rows FROM information_schema.tables", False),
        ("SELECT * FROM t FOR UPDATE", False),
        ("show status", False),
        ("show warnings", False),
        ("show columns from t where sleep(1)", False),
        ("insert into t values (1)", False),
    ],
)
def test_results_that_stay_the_same(statement: str, same: bool) -> None:
    """Of functions only those that are known to depend on the data alone."""
    assert same is is_repeatable(statement)


def test_what_a_session_has_not_run() -> None:
    """Enough of it to be in the right database, and to ask what became of the last statement."""
    unrun = Unrun()
    assert ([], None) == (unrun.take(), unrun.take_database())
    for steps, taken, database in (
        (["s"], ["s"], None),
        (["a", "b"], ["b"], "b"),
        (["a", "s", "t"], ["a", "t"], "a"),
        (["a", "s", "b", "c"], ["a", "s", "c"], "c"),
        (["a", "s", "b", "t"], ["b", "t"], "b"),
    ):
        for take in (unrun.take, unrun.take_database):
            for step in steps:
                unrun.add(step, None if step in "st" else step)
            assert (taken if take == unrun.take else database) == take()


def test_answers_are_bounded() -> None:
    """The oldest go first; large ones, and those that are there, are not put in."""
    answers = Answers(max_bytes=64_000)
    rows: tuple[tuple[Any, ...], ...] = ((1,),)
    for number in range(400):
        answers.put(("image", "admin", "shop", f"select {number}"), SqlResult(rows, ("a",)), 3)
    assert 100 < len(answers) < 400
    assert answers.get(("image", "admin", "shop", "select 0"), max_rows=9) is None
    found = answers.get(("image", "admin", "shop", "select 399"), max_rows=1)
    assert found is not None and rows == found.rows and 1 == answers.found
    answers.put(("image", "admin", "shop", "large"), SqlResult(rows * 1000, ("a",)), 3000)
    assert answers.get(("image", "admin", "shop", "large"), max_rows=9999) is None
    assert answers.get(("image", "admin", "shop", "select 399"), max_rows=0) is None


def test_a_dump_makes_an_image_of_its_own(tmp_path: Any) -> None:
    """Its name follows what is in it."""
    file = tmp_path / "dump.sql"
    file.write_text("CREATE DATABASE a;")
    assert SqlDump.read(file).name == SqlDump.read(str(file)).name != SqlDump(b"CREATE DATABASE b;").name
    with pytest.raises(TaskFileError, match=r"none\.sql"):
        SqlDump.read(tmp_path / "none.sql")
