"""The SQL environment on MariaDB: what resets undo, what pays, and InterCode's data with what was recorded on them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import gymnasium
import pytest

from codecraft_async.curriculum import Dataset, load_dataset
from codecraft_async.intercode import SqlEnv, SqlVectorEnv
from codecraft_async.intercode.sql_dump import SqlDump
from codecraft_async.intercode.sql_engine import Restored
from codecraft_async.intercode.sql_mariadb import MariaDb
from codecraft_async.pool import DockerLauncher, connect_daemon
from codecraft_pool import Images
from tests.conftest import UVLOOP, alone
from tests.intercode.data import intercode_data
from tests.intercode.mariadb import shop

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.timeout(300)]

DATA: Final = Dataset.from_rows(
    [
        {"query": "Who makes items?", "gold": "SELECT name FROM maker"},
        {"query": "Rename Bert to Bob.", "gold": "UPDATE maker SET name = 'Bob' WHERE name = 'Bert'"},
        {"query": "Add a table of colours.", "gold": "CREATE TABLE colour (id INT PRIMARY KEY)"},
        {"query": "What does it cost on average?", "gold": "SELECT AVG(price) FROM item"},
    ],
    name="own",
)
GOLDS: Final = (0, 40, 59, 70, 83, 117, 164, 198, 217, 240, 300, 345, 413, 467, 504, 516)
REPLAYED: Final = (0, 7, 59, 70, 163, 207, 217, 331, 467, 504)
TOLERANCE: Final = 0.005 + 1e-9


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """A server takes a while to start, and is the same on either loop."""
    return UVLOOP


@pytest.fixture(name="launcher", scope="module")
async def make_launcher() -> AsyncGenerator[DockerLauncher]:
    """One launcher for all tests."""
    async with await connect_daemon() as daemon, DockerLauncher(daemon) as launcher:
        yield launcher


async def have(recipe: SqlDump) -> SqlDump:
    """Make an image, once for all workers."""
    async with await connect_daemon() as daemon:
        with alone("sql-image"):
            await Images(daemon).make(recipe)
    return recipe


@pytest.fixture(name="env", scope="module")
async def make_env(launcher: DockerLauncher) -> AsyncGenerator[SqlEnv]:
    """An environment with the strict reward, whose rows do not name their database."""
    env = SqlEnv(await have(shop()), data_path=DATA, preprocess=lambda _: ["USE shop"], backend=launcher)
    yield env
    await env.aclose()


async def played(env: SqlEnv, index: int, *actions: str) -> float:
    """What an episode pays."""
    await env.areset(index=index)
    for action in actions:
        observation, *_ = await env.astep(action)
        assert not observation.startswith("Error"), observation
    return float((await env.astep("submit"))[1])


@pytest.mark.parametrize(
    ("index", "actions", "reward"),
    [
        (0, ["SELECT name FROM maker ORDER BY name DESC"], 1),
        (0, ["SELECT name FROM maker LIMIT 1"], 0.5),
        (0, ["DELETE FROM item", "SELECT name FROM maker"], 0.5),
        (0, [], 0),
        (1, ["UPDATE maker SET name = 'Bob' WHERE id = 2"], 1),
        (1, ["UPDATE maker SET name = 'Bob' WHERE id = 2", "COMMIT"], 1),
        (1, ["UPDATE maker SET name = 'Bob'"], 0),
        (1, ["SELECT 'Bob'"], 0),
        (2, ["CREATE TABLE colour (id INT PRIMARY KEY)"], 1),
        (2, ["CREATE TABLE colour (id INT PRIMARY KEY)", "DROP TABLE item"], 0.5),
        (3, ["SELECT SUM(price) / COUNT(price) FROM item"], 1),
    ],
)
async def test_what_is_paid(env: SqlEnv, index: int, actions: list[str], reward: float) -> None:
    """The gold's result, or its changes of data and definitions; nothing else."""
    assert reward == await played(env, index, *actions)


async def test_databases_that_are_dropped(env: SqlEnv) -> None:
    """The next episode has them, in the same sandbox."""
    await env.areset(index=0)
    sandbox = env.sandbox
    for action in ("SET foreign_key_checks = 0", "DROP TABLE maker", "DROP DATABASE other_one", "DROP DATABASE shop"):
        assert "None" == (await env.astep(action))[0]
    assert (await env.astep("SELECT 1 FROM maker"))[0].startswith("Error executing query: ")
    assert 1.0 == await played(env, 0, "SELECT name FROM maker")
    assert (Restored.DATA_DIRECTORY, True) == (env.restored, sandbox is env.sandbox)
    assert 1.0 == await played(env, 0, "SELECT name FROM maker")
    assert Restored.NOTHING is env.restored


async def test_a_server_that_cannot_be_had(env: SqlEnv) -> None:
    """An agent that left no room for one lost its sandbox; the next episode is in another one."""
    await env.areset(index=0)
    engine = env.engine
    assert isinstance(engine, MariaDb)
    await env.sandbox.run(
        ["/bin/sh", "-c", "head -c 1G /dev/zero > /workspace/x; head -c 1G /dev/zero > /home/agent/x"]
    )
    await env.sandbox.run(["/bin/sh", "-c", "kill -9 $(cat /workspace/sql/pid /home/agent/sql/pid)"])
    observations = [await env.astep("UPDATE maker SET name = 'x'")]
    while not observations[-1][3] and len(observations) < 3:
        observations.append(await env.astep("SELECT 1"))
    *_, truncated, info = observations[-1]
    assert (True, "sandbox") == (truncated, info["fault"]["kind"])
    assert 1.0 == await played(env, 0, "SELECT name FROM maker")


@pytest.fixture(name="spider", scope="module")
async def make_spider(launcher: DockerLauncher) -> AsyncGenerator[SqlVectorEnv]:
    """Two environments on InterCode's databases, with the published reward after every action."""
    env = gymnasium.make_vec(
        "codecraft_async:intercode/Sql-v0",
        num_envs=2,
        image_name=await have(SqlDump.read(intercode_data("sql/ic_spider_dbs.sql"))),
        data_path=intercode_data("sql/spider_dev_0_516.json"),
        backend=launcher,
        reward="intercode",
        score_steps=True,
        autoreset_mode="Disabled",
    )
    assert isinstance(env, SqlVectorEnv)
    yield env
    await env.aclose()


async def test_golds_of_the_data(spider: SqlVectorEnv, launcher: DockerLauncher) -> None:
    """They pay 1 by either reward, but for one that is no SQL."""
    dataset = load_dataset(intercode_data("sql/spider_dev_0_516.json"))
    strict = SqlEnv(databases=spider.source, data_path=dataset, backend=launcher)
    for index in GOLDS:
        for env in (strict, spider.envs[0]):
            await env.areset(options={"index": index})
            await env.astep(dataset[index].gold)
            _, reward, _, _, info = await env.astep("submit")
            assert (0.0 if index == 164 else 1.0, index == 164) == (reward, info["corrupt_gold"])
    await strict.aclose()


async def test_recorded_actions(spider: SqlVectorEnv) -> None:
    """They are worth what they were worth then, which `score_steps` says."""
    recorded = json.loads(intercode_data("sql/gpt4_0_516.json").read_bytes())
    env = spider.envs[1]
    for index in REPLAYED:
        history = recorded[str(index)]["turn_history"]
        await env.areset(options={"index": index})
        for action, seen, reward in zip(history["actions"], history["observations"], history["rewards"], strict=True):
            if not seen.startswith("Format your SQL command as follows:"):
                *_, info = await env.astep(action)
                assert abs(info["score"] - reward) <= TOLERANCE, (index, action)
