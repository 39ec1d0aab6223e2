"""InterCode's recorded SQL actions against mysql-connector, as InterCode runs them; and what resets cost."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.bench import Bench
from benchmarks.peer import Peer, environment, open_peer
from benchmarks.recordings import data_folder
from benchmarks.results import (
    BenchmarkError,
    Figure,
    RowSpec,
    Target,
    Unavailable,
    median_figure,
    medians,
    percentile,
    ratio_figure,
)
from benchmarks.stepping import wait_for_roots
from codecraft_async.intercode.sql import SqlEnv, SqlVectorEnv
from codecraft_async.intercode.sql_dump import SERVER_FOLDER, SqlDump
from codecraft_async.intercode.sql_mariadb_statements import Effect, effect_of
from codecraft_async.intercode.sql_sources import MariaDbSource
from codecraft_curriculum import Dataset
from codecraft_pool import Images, connect_daemon
from codecraft_pool.containers import OWNER_LABEL, ROLE_LABEL
from codecraft_pool.leftovers import origin_labels
from codecraft_pool.owner import Owner

_CONNECTOR: Final = "mysql-connector-python==9.1.0"
_ENVS: Final = 8
_TURNS: Final = 200  # of each environment in a pass: about half of what is recorded
_RESETS: Final = 15  # in each round
_THINKING_S: Final = 0.5
_DOCKER_LIMIT_S: Final = 60.0
_SERVE: Final = (
    f"exec mariadbd --defaults-file={SERVER_FOLDER}/server.cnf --skip-networking=0 --port=3306 --bind-address=0.0.0.0"
    f" --datadir={SERVER_FOLDER}/data --socket=/tmp/socket --pid-file=/tmp/pid --user=root"
)

RATE: Final = RowSpec(
    "sql_rate",
    "recorded SQL actions per second over 8 environments against one mysql connection in a loop",
    "times",
    Target(">=", 3),
    "SqlVectorEnv.step with what it remembers of earlier actions of the same pass; mysql-connector, a buffered cursor",
)
RUN: Final = RowSpec(
    "sql_rate_run",
    "the same where every action is run by its server",
    "times",
    None,
    "as above, without remembered answers",
)
READ: Final = RowSpec(
    "sql_reset_read",
    "SQL reset after an episode that only read, p50",
    "ms",
    Target("<", 1),
    "SqlEnv.areset as its caller sees it",
)
ROW: Final = RowSpec("sql_reset_row", "SQL reset after a changed row, p50", "ms", Target("<", 20), "as above")
TABLE: Final = RowSpec(
    "sql_reset_table",
    "SQL reset after a dropped table, p50",
    "ms",
    Target("<", 100),
    f"as above, right after the DROP; in the details where the agent thinks for {_THINKING_S:g} s in between",
)
ROWS_RATE: Final = (RATE, RUN)
ROWS_RESET: Final = (READ, ROW, TABLE)


def measure_rate(bench: Bench) -> dict[str, Figure]:
    """Play the recorded actions in turn: ours, ours without memory, theirs."""
    bench.need_docker("a server of databases")
    folder = data_folder() / "sql"
    dump = SqlDump.read(folder / "ic_spider_dbs.sql")
    bench.run(_have_image(dump))
    lanes = _lanes(folder)
    ours, known, theirs = _play_all(bench, dump, lanes)
    steps = sum(map(len, lanes))
    details = medians(
        ours_per_s=[steps / each for each in known],
        ours_run_per_s=[steps / each for each in ours],
        mysql_per_s=[steps / each for each in theirs],
    )
    return {
        RATE.name: ratio_figure(list(zip(theirs, known, strict=True)), on="docker", details=details),
        RUN.name: ratio_figure(list(zip(theirs, ours, strict=True)), on="docker", details=details),
    }


def _play_all(
    bench: Bench, dump: SqlDump, lanes: Sequence[Sequence[str]]
) -> tuple[list[float], list[float], list[float]]:
    """Return how long each pass took: run by servers, remembered, mysql-connector's. The first round is thrown away."""
    python = environment("mysql", sys.executable, [_CONNECTOR])
    source = MariaDbSource(dump)
    envs = [SqlVectorEnv(_ENVS, databases=source, remember=each, backend="docker") for each in (False, True)]
    statements = [
        statement for lane in lanes for statement in lane
    ]  # one after the other, as a USE holds until the next
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    theirs = AsyncExitStack()
    try:
        peer = bench.run(_open_theirs(theirs, python, dump.name))
        for env in envs:
            env.reset(seed=0)
        for number in range(bench.options.rounds + 1):
            source.answers.forget()
            passes = [_play(env, lanes) for env in envs]
            passes.append(bench.run(_played(peer, statements)))
            for taken, each in zip(times, passes, strict=True) if number else ():
                taken.append(each)
    finally:
        for env in envs:
            env.close()
        bench.run(theirs.aclose())
    return times


def _play(env: SqlVectorEnv, lanes: Sequence[Sequence[str]]) -> float:
    """Return how long all actions took, in seconds."""
    began = time.perf_counter()
    for actions in zip(*lanes, strict=True):
        _, _, terminations, truncations, infos = env.step(actions)
        if np.any(terminations | truncations):
            raise BenchmarkError(f"an episode ended: {infos.get('fault')}")
    return time.perf_counter() - began


async def _open_theirs(stack: AsyncExitStack, python: Path, image: str) -> Peer:
    port = await stack.enter_async_context(_published_server(image))
    return await stack.enter_async_context(open_peer("mysql-connector", python, "mysql_side.py", str(port)))


async def _played(peer: Peer, statements: list[str]) -> float:
    answer: dict[str, Any] = await peer.ask("play", statements=statements)
    if answer["failed"] > len(statements) / 4:
        raise BenchmarkError(f"{answer['failed']} of mysql-connector's {len(statements)} statements failed")
    return float(answer["took_s"])


@asynccontextmanager
async def _published_server(image: str) -> AsyncGenerator[int]:
    """Yield the port of a server with the same data and options, published on this machine, as InterCode's is."""
    name = f"codecraft-bench-mysql-{uuid.uuid4().hex[:12]}"
    labels = {
        OWNER_LABEL: str(Owner.current()),
        ROLE_LABEL: "peer",
        **origin_labels(),
    }  # for a reaper, if we are killed
    words = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    run = ["docker", "run", "--detach", "--rm", "--name", name, "--publish", "127.0.0.1::3306", *words]
    try:
        await _docker([*run, image, "sh", "-c", _SERVE])
        yield int((await _docker(["docker", "port", name, "3306"])).splitlines()[0].rpartition(":")[2])
    finally:
        await _docker(["docker", "rm", "--force", name])


async def _docker(argv: Sequence[str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE)
    except OSError as exc:
        raise Unavailable(f"`{' '.join(argv[:2])}` cannot be run: {exc}") from exc
    try:
        async with asyncio.timeout(_DOCKER_LIMIT_S):
            said, errors = await process.communicate()
    except TimeoutError as exc:
        process.kill()
        raise Unavailable(f"`{' '.join(argv[:2])}` took more than {_DOCKER_LIMIT_S:g} s") from exc
    if process.returncode != 0:
        raise Unavailable(f"`{' '.join(argv[:2])}` failed: {errors.decode(errors='replace').strip()[-200:]}")
    return said.decode().strip()


# --- resets ---


def measure_reset(bench: Bench) -> dict[str, Figure]:
    """Reset after each kind of episode."""
    bench.need_docker("a server of databases")
    dump = SqlDump.read(data_folder() / "sql" / "ic_spider_dbs.sql")
    bench.run(_have_image(dump))
    return bench.run(_measure_reset(bench, dump))


async def _measure_reset(bench: Bench, dump: SqlDump) -> dict[str, Figure]:
    rows = [{"query": "Who sings?", "gold": "SELECT Name FROM singer", "db": "concert_singer"}]
    env = SqlEnv(
        databases=MariaDbSource(dump),
        remember=False,
        data_path=Dataset.from_rows(rows, name="resets"),
        reward="intercode",
        backend="docker",
    )
    kinds = {
        READ.name: ("SELECT * FROM singer", "nothing", 0.0),
        ROW.name: ("UPDATE singer SET Age = 1 WHERE Singer_ID = 1", "rows", 0.0),
        TABLE.name: ("DROP TABLE singer_in_concert", "data directory", 0.0),
        "thinking": ("DROP TABLE singer_in_concert", "data directory", _THINKING_S),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    try:
        await env.areset(index=0)
        choice = env.runtime.choice
        assert choice is not None  # there was a reset
        await asyncio.to_thread(wait_for_roots, choice.launcher)
        await env.areset(index=0)
        for _ in range(bench.options.rounds):
            for name, (action, kind, pause_s) in kinds.items():
                found[name].append(
                    percentile([await _reset_ms(env, action, kind, pause_s) for _ in range(_RESETS)], 50)
                )
    finally:
        await env.aclose()
    thinking = {"after_thinking_ms": percentile(found.pop("thinking"), 50)}
    return {
        name: median_figure(values, on="docker", details=thinking if name == TABLE.name else None)
        for name, values in found.items()
    }


async def _reset_ms(env: SqlEnv, action: str, kind: str, pause_s: float) -> float:
    info = (await env.astep(action))[4]
    if not info["action_executed"]:
        raise BenchmarkError(f"{action!r} failed: {env.observation}")
    await asyncio.sleep(pause_s)
    began = time.perf_counter()
    await env.areset(index=0)
    took_ms = (time.perf_counter() - began) * 1e3
    if env.restored != kind:
        raise BenchmarkError(f"after {action!r} the reset restored {env.restored}, not {kind}")
    return took_ms


# --- the data ---


async def _have_image(dump: SqlDump) -> None:
    async with await connect_daemon() as daemon:
        await Images(daemon).make(dump)


def _lanes(folder: Path) -> list[list[str]]:
    """Return equally many actions for each environment: those of GPT-4's that only read, with the USE of each task."""
    tasks = {each["index"]: each for each in json.loads((folder / "spider_dev_0_516.json").read_text())}
    runs: dict[str, Any] = json.loads((folder / "gpt4_0_516.json").read_text())
    lanes: list[list[str]] = [[] for _ in range(_ENVS)]
    for number, (index, run) in enumerate(runs.items()):
        lane = lanes[number % _ENVS]
        lane.append(f"USE {tasks[int(index)]['db']}")
        turns = zip(run["turn_history"]["actions"], run["turn_history"]["observations"], strict=True)
        lane += [
            action
            for action, observed in turns
            if not observed.startswith("Format your SQL") and effect_of(action) is Effect.READ
        ]
    shortest = min(_TURNS, *map(len, lanes))
    return [lane[:shortest] for lane in lanes]
