"""The SQL environment on SQLite: what is observed, what resets undo, what pays, and what agents cannot do."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from codecraft_async import EpisodeError
from codecraft_async.curriculum import Dataset
from codecraft_async.intercode import SqlEnv, SqlVectorEnv
from codecraft_async.intercode.sql_engine import Restored
from codecraft_async.intercode.sql_golds import SqlGolds
from codecraft_async.intercode.sql_sqlite import SqliteEngine
from codecraft_async.pool import LocalLauncher
from codecraft_pool.launcher import LauncherStats
from tests.conftest import UVLOOP

pytestmark = pytest.mark.anyio

SHOP: Final = """
CREATE TABLE fruit(id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL, sold INTEGER);
INSERT INTO fruit VALUES (1, 'apple', 1.5, 10), (2, 'pear', 2.0, 10), (3, 'fig', 4.0, 2), (4, 'plum', 1.5, 7);
"""
ROWS: Final = (
    {"query": "Which fruit are there?", "gold": "SELECT name FROM fruit"},
    {"query": "Fruit by how many were sold.", "gold": "SELECT name, sold FROM fruit ORDER BY sold DESC"},
    {"query": "One of the cheapest.", "gold": "SELECT name FROM fruit ORDER BY price LIMIT 1"},
    {"query": "Add a kiwi for 3.", "gold": "INSERT INTO fruit(name, price) VALUES ('kiwi', 3)"},
    {"query": "A wrong gold.", "gold": "SELECT missing FROM nowhere"},
    {"query": "A gold that does nothing.", "gold": "DELETE FROM fruit WHERE id > 9"},
    {"query": "Which fruit cost over 9?", "gold": "SELECT name FROM fruit WHERE price > 9 ORDER BY name"},
    {
        "query": "Too much.",
        "gold": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 200) SELECT n FROM c",
    },
)
DATA: Final = Dataset.from_rows([{**row, "db": "shop"} for row in ROWS], name="shop")
BOMB: Final = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One loop: what is tried is what statements do in sandboxes."""
    return UVLOOP


@pytest.fixture(name="launcher", scope="module")
async def make_launcher() -> AsyncGenerator[LocalLauncher]:
    """One launcher for all tests."""
    async with LocalLauncher() as launcher:
        yield launcher


@pytest.fixture(name="databases", scope="module")
def make_databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two databases, as Spider has them: one of them in WAL mode, and one a dump."""
    root = tmp_path_factory.mktemp("databases")
    (root / "shop").mkdir()
    connection = sqlite3.connect(root / "shop" / "shop.sqlite")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SHOP)
    connection.close()
    (root / "other.sql").write_text("CREATE TABLE t(x); INSERT INTO t VALUES (x'00ff'), (NULL), (1e300);")
    return root


@pytest.fixture(name="env", scope="module")
async def make_env(launcher: LocalLauncher, databases: Path) -> AsyncGenerator[SqlEnv]:
    """An environment with the strict reward."""
    env = SqlEnv(
        engine="sqlite", databases=databases, data_path=DATA, backend=launcher, max_rows=100, command_limit_s=1
    )
    yield env
    await env.aclose()


async def play(env: SqlEnv, index: int, *actions: str) -> tuple[float, dict[str, Any]]:
    """Play an episode; return what it pays, and its last info."""
    await env.areset(index=index)
    for action in actions:
        await env.astep(action)
    _, reward, terminated, _, info = await env.astep("submit")
    assert terminated
    return reward, info


async def test_what_is_observed(env: SqlEnv) -> None:
    """The list of rows as text, None for statements that have none, and errors; changes last, and a chosen database."""
    assert "Which fruit are there?" == (await env.areset(index=0))[0]
    observation, reward, *_, info = await env.astep("SELECT id, name, price FROM fruit WHERE id < 3")
    assert ("[(1, 'apple', 1.5), (2, 'pear', 2.0)]", 0.0, True) == (observation, reward, info["action_executed"])
    observation, *_, info = await env.astep("UPDATE fruit SET sold = 0 WHERE id < 3")
    assert ("None", True, 2) == (observation, info["action_executed"], info["affected"])
    assert "[(9,)]" == (await env.astep("SELECT sum(sold) FROM fruit"))[0]
    observation, *_, info = await env.astep("SELECT missing FROM fruit")
    assert ("Error executing query: no such column: missing", False) == (observation, info["action_executed"])
    assert "[]" == (await env.astep("SELECT 1 WHERE 0"))[0]
    assert "[('id',), ('name',)]" == (await env.astep("SELECT name FROM pragma_table_info('fruit') LIMIT 2"))[0]
    assert "None" == (await env.astep("use other"))[0]
    assert "[(b'\\x00\\xff',), (None,), (1e+300,)]" == (await env.astep("SELECT x FROM t"))[0]
    assert "Error executing query: unknown database 'none'" == (await env.astep("USE none"))[0]


async def test_large_results(env: SqlEnv) -> None:
    """Of a large result so many rows are shown as are allowed, and what is missing is said."""
    await env.areset(index=0)
    observation, *_, info = await env.astep(BOMB.replace("SELECT count(*) FROM c", "SELECT n FROM c LIMIT 250"))
    assert observation.endswith("(100,)]\n[150 rows or more left out]")
    assert (True, 150) == (info["truncated_output"], info["rows_left_out"])


@pytest.mark.parametrize(
    ("index", "actions", "score"),
    [
        (0, ["SELECT name FROM fruit ORDER BY name DESC"], 1),
        (0, ["SELECT name FROM fruit WHERE id < 3"], 1 / 2),
        (0, ["SELECT name FROM fruit", "SELECT missing"], 0),
        (0, ["SELECT id, name FROM fruit"], 0),
        (0, [], 0),
        (0, ["DELETE FROM fruit WHERE id = 1", "SELECT 'apple' UNION ALL SELECT name FROM fruit"], 1 / 2),
        (0, ["UPDATE fruit SET sold = sold", "SELECT name FROM fruit"], 1),
        (1, ["SELECT sold, name FROM fruit ORDER BY sold DESC, id DESC"], 1),
        (1, ["SELECT name, sold FROM fruit ORDER BY sold"], 1 / 2),
        (2, ["SELECT 'plum'"], 1),
        (2, ["SELECT 'apple'"], 1),
        (2, ["SELECT 'fig'"], 0),
        (3, ["INSERT INTO fruit VALUES (5, 'kiwi', 3.0, NULL)"], 1),
        (3, ["INSERT INTO fruit(name, price) VALUES ('kiwi', 4)"], 0),
        (3, ["CREATE TABLE x(y)", "INSERT INTO fruit(name, price) VALUES ('kiwi', 3)"], 1 / 2),
        (3, ["SELECT 1"], 0),
        (6, ["SELECT name FROM fruit WHERE id > 9"], 1),
        (6, ["SELECT name FROM fruit WHERE id > 3"], 0),
    ],
)
async def test_what_is_paid(env: SqlEnv, index: int, actions: list[str], score: float) -> None:
    """Only what the gold does: rows in any order that it leaves open, any of equal ones; no change beside its own."""
    reward, info = await play(env, index, *actions)
    assert pytest.approx(score) == reward == info["reward"] == info["score"]
    assert (True, False) == (info["valid"], info["corrupt_gold"])


@pytest.mark.parametrize(
    ("index", "words"),
    [(4, "no such table: nowhere"), (5, "neither returns nor changes anything"), (7, "over 100 rows")],
)
async def test_golds_of_no_use(env: SqlEnv, index: int, words: str) -> None:
    """They make the episode invalid, and say why."""
    reward, info = await play(env, index, "SELECT 1")
    assert (0.0, True, False) == (reward, info["corrupt_gold"], info["valid"])
    assert words in info["reason"]


async def test_resets(env: SqlEnv) -> None:
    """Rows, tables and open transactions of an episode are gone in the next one."""
    await env.areset(index=0)
    before = await env.engine.state()
    for action in (
        "BEGIN",
        "DELETE FROM fruit",
        "CREATE TEMP TABLE fruit(a)",
        "DROP TABLE main.fruit",
        "CREATE VIEW v AS SELECT 1",
    ):
        assert "None" == (await env.astep(action))[0]
    assert before != await env.engine.state()
    await env.areset(index=0)
    assert (before, 2) == (await env.engine.state(), (await env.sandbox.stat()).processes)
    assert "[(4,)]" == (await env.astep("SELECT count(*) FROM fruit"))[0]


async def test_a_root_that_was_slow_at_first(env: SqlEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox from before the copy of its image was there is given back once, to take that up."""
    launcher = (await env.runtime.pool()).launcher
    await env.areset(index=0)
    await env.leave_container()  # so that the next reset begins anew
    restored: list[Restored | None] = []
    for state in ("copying", "copying", "volume", "volume"):
        stats = LauncherStats(roots=state)
        monkeypatch.setattr(launcher, "stats", lambda stats=stats: stats)
        await env.areset(index=0)
        restored.append(env.restored)
    assert [None, Restored.NOTHING, None, Restored.NOTHING] == restored


@pytest.mark.parametrize(
    "action",
    [
        BOMB,
        "SELECT max(x) FROM (SELECT n || zeroblob(1000000) AS x FROM ("
        + BOMB.replace("count(*)", "n")
        + ") ORDER BY x)",
        "SELECT zeroblob(1000000000)",
        "ATTACH '/etc/passwd' AS p",
        "VACUUM INTO '/tmp/copy'",
        "SELECT load_extension('/lib/x.so')",
        "SELECT readfile('/etc/passwd')",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA query_only",
        "CREATE VIRTUAL TABLE v USING fts5(x)",
        "SELECT 1; SELECT 2",
        "SELECT \0",
        "SELECT '\ud800",
        "SELECT " + "(" * 5000,
        "SELECT '" + "x" * (5 << 20) + "'",
    ],
)
async def test_hostile_statements(env: SqlEnv, action: str) -> None:
    """They are errors, whatever they try, and the episode goes on with its data."""
    await env.areset(index=0)
    await env.astep("DELETE FROM fruit WHERE id = 1")
    observation, *_, info = await env.astep(action)
    assert observation.startswith("Error executing query: ")
    assert (False, "") == (info["action_executed"], info["truncation"])
    assert "[(3,)]" == (await env.astep("SELECT count(*) FROM fruit"))[0]


async def test_a_statement_that_cannot_be_interrupted(env: SqlEnv) -> None:
    """It is killed a moment after its limit, with what the episode had changed, which the error says."""
    await env.areset(index=0)
    await env.astep("DELETE FROM fruit")
    search = "instr(printf('%.*c', 8000000, 'a'), printf('%.*c', 4000000, 'a') || 'b')"
    observation, *_, info = await env.astep(f"SELECT {search}")
    assert ("as they were loaded" in observation, True) == (True, info["timed_out"])
    assert "[(4,)]" == (await env.astep("SELECT count(*) FROM fruit"))[0]
    await env.areset(index=0)
    assert Restored.NEW_SERVER is env.restored


async def test_the_processes_are_killed(env: SqlEnv) -> None:
    """That costs what the episode had changed, which the error says; the reset works."""
    await env.areset(index=0)
    await env.astep("DELETE FROM fruit")
    await env.sandbox.end_processes()
    assert "as they were loaded" in (await env.astep("SELECT 1"))[0]
    assert "[(4,)]" == (await env.astep("SELECT count(*) FROM fruit"))[0]
    await env.sandbox.end_processes()
    await env.areset(index=0)
    assert "[(4,)]" == (await env.astep("SELECT count(*) FROM fruit"))[0]
    env.golds = SqlGolds()
    await env.areset(index=0)
    await env.astep("SELECT name FROM fruit")
    await env.sandbox.end_processes()
    assert "grader" == (await env.astep("submit"))[4]["fault"]["kind"]  # which is not remembered of the gold
    assert 1.0 == (await play(env, 0, "SELECT name FROM fruit"))[0]


async def test_tables_that_cannot_be_read(env: SqlEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as wrong where the agent has changed something; else it is a fault, and nobody's."""

    async def fail(_: object) -> NoReturn:
        raise EpisodeError("it takes too long")

    for index, actions in ((0, ["SELECT name FROM fruit"]), (3, ["SELECT 1"])):
        await play(env, index, *actions)  # the gold is known from now on
    monkeypatch.setattr(SqliteEngine, "state", fail)
    assert 0.5 == (await play(env, 0, "UPDATE fruit SET sold = 9", "SELECT name FROM fruit"))[0]
    assert 0.0 == (await play(env, 3, "INSERT INTO fruit(name, price) VALUES ('kiwi', 3)"))[0]
    await env.areset(index=3)
    await env.astep("SELECT 1")
    *_, info = await env.astep("submit")
    assert ("grader", False) == (info["fault"]["kind"], info["valid"])


async def test_a_cancelled_statement(env: SqlEnv) -> None:
    """It ends at once; the episode has its data still."""
    await env.areset(index=0)
    await env.astep("DELETE FROM fruit WHERE id = 1")
    env.command_limit_s, limit_s = 60.0, env.command_limit_s
    task = asyncio.create_task(env.astep(BOMB))
    await asyncio.wait([task], timeout=0.2)
    task.cancel()
    await asyncio.wait([task])
    env.command_limit_s = limit_s
    assert task.cancelled()
    assert "[(3,)]" == (await env.astep("SELECT count(*) FROM fruit"))[0]


async def test_the_published_reward(launcher: LocalLauncher, databases: Path, tmp_path: Path) -> None:
    """With `reward="intercode"` order counts always, and `score_steps` says the reward after every action."""
    env = SqlEnv(
        engine="sqlite",
        databases=databases,
        data_path=DATA,
        backend=launcher,
        reward="intercode",
        score_steps=True,
        traj_dir=tmp_path,
    )
    await env.areset(index=0)
    actions = {
        "SELECT name FROM fruit": 1.0,
        "SELECT name FROM fruit ORDER BY id DESC": -1.0,
        "SELECT name FROM fruit WHERE id > 2": 0.5,
        "SELECT name, 1 FROM fruit": 0.0,
        "DELETE FROM fruit": 0.0,
        "SELECT missing": 0.0,
    }
    for action, score in actions.items():
        _, reward, *_, info = await env.astep(action)
        assert (0.0, score, True) == (reward, info["score"], info["graded"])
    await env.astep("SELECT 'apple'")
    _, reward, *_, info = await env.astep("submit")
    assert (0.25, "[('apple',)]") == (reward, info["agent_obs"])
    assert "[('apple',), ('pear',), ('fig',), ('plum',)]" == info["eval_obs"]
    await env.aclose()
    (file,) = (tmp_path / "logs_ic_sql").iterdir()
    log = json.loads(file.read_bytes())
    assert (0.25, 7, "ic_sql") == (log["reward"], len(log["trajectory"]), log["environment"])


async def test_preparing(launcher: LocalLauncher, databases: Path) -> None:
    """InterCode's ``use`` chooses the database; what else is prepared the gold finds, too."""
    rows = [
        {"query": "How many?", "gold": "SELECT count(*) FROM t ORDER BY 1", "name": "other"},
        {"query": "How much?", "gold": "SELECT 3", "name": "other"},
    ]
    env = SqlEnv(
        engine="sqlite",
        databases=databases,
        data_path=Dataset.from_rows(rows),
        backend=launcher,
        preprocess=lambda row: [
            f"use {row['name']}",
            *(["DELETE FROM t WHERE x IS NULL"] if "many" in row["query"] else []),
        ],
    )
    for _ in range(2):
        await env.areset(index=0)
        assert "[(2,)]" == (await env.astep("SELECT count(*) FROM t"))[0]
        assert 1.0 == (await env.astep("submit"))[1]
    await env.areset(index=0)
    await env.astep("DELETE FROM t")
    await env.astep("SELECT 2")
    assert 0.5 == (await env.astep("submit"))[1]
    # What was prepared for one row is nothing that another row's episode has changed.
    assert 1.0 == (await play(env, 1, "UPDATE t SET x = x", "SELECT 3"))[0]
    await env.aclose()


async def test_reading_only(launcher: LocalLauncher, databases: Path) -> None:
    """Changes are errors then; without data the environment is interactive, and one database is chosen by itself."""
    env = SqlEnv(engine="sqlite", dump=databases / "other.sql", backend=launcher, read_only=True)
    await env.areset()
    assert "Error executing query: attempt to write a readonly database" == (await env.astep("DELETE FROM t"))[0]
    assert "[(3,)]" == (await env.astep("SELECT count(*) FROM t"))[0]
    assert (0.0, True) == (await env.astep("submit"))[1:3]
    await env.aclose()


async def test_databases_that_are_none(launcher: LocalLauncher, tmp_path: Path) -> None:
    """What is wrong is said with the name: of the argument, the file, or the row's database."""
    with pytest.raises(ValueError, match="SQLite needs databases"):
        SqlEnv(engine="sqlite")
    with pytest.raises(ValueError, match="MariaDB needs a dump"):
        SqlEnv()
    with pytest.raises(ValueError, match="databases are files of SQLite"):
        SqlEnv(databases=tmp_path)
    with pytest.raises(ValueError, match="engine is 'mysql'"):
        SqlEnv(engine="mysql")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reward is 'strictly'"):
        SqlEnv(engine="sqlite", databases=tmp_path, reward="strictly")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_rows is 0"):
        SqlEnv(engine="sqlite", databases=tmp_path, max_rows=0)
    with pytest.raises(ValueError, match="no SQLite database in"):
        SqlEnv(engine="sqlite", databases=tmp_path)
    with pytest.raises(ValueError, match="must end with one of"):
        SqlEnv(engine="sqlite", databases={"a": "a.txt"})
    (tmp_path / "bad.sqlite").write_bytes(b"rubbish" * 1000)
    env = SqlEnv(engine="sqlite", databases=tmp_path, backend=launcher)
    with pytest.raises(EpisodeError, match="bad: file is not a database"):
        await env.areset()
    await env.aclose()
    (tmp_path / "bad.sqlite").unlink()
    (tmp_path / "good.sql").write_text(SHOP)
    env = SqlEnv(engine="sqlite", databases=tmp_path, backend=launcher, data_path=DATA)
    with pytest.raises(EpisodeError, match="there is no database 'shop'; there are good"):
        await env.areset(index=0)
    await env.aclose()


async def test_many_at_once(launcher: LocalLauncher, databases: Path) -> None:
    """Each environment has databases of its own; what golds come to is known to all."""
    env = SqlVectorEnv(
        3,
        engine="sqlite",
        databases=databases,
        data_path=DATA,
        backend=launcher,
        sampler="sequential",
        autoreset_mode="Disabled",
    )
    await env.areset(seed=1)
    observations, *_, infos = await env.astep(
        ("DELETE FROM fruit", "SELECT name, sold FROM fruit ORDER BY sold DESC", "SELECT 'apple'")
    )
    assert ("None", "[('apple',)]") == (observations[0], observations[2])
    assert [True, True, True] == infos["action_executed"].tolist()
    _, rewards, *_ = await env.astep(("submit",) * 3)
    assert [0.0, 1.0, 1.0] == rewards.tolist()
    assert [3, 3, 3] == [len(golds) for golds in env.get_attr("golds")]
    await env.aclose()
