"""How long a bash environment takes to start, to reset and to close."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from benchmarks.bench import Bench, all_idle
from benchmarks.exec_fan_out import own_containers
from benchmarks.recordings import BASH, data_folder
from benchmarks.results import BenchmarkError, Figure, RowSpec, Target, median_figure, percentile
from benchmarks.stepping import wait_for_roots
from codecraft_async.intercode import BashEnv, FileTree
from codecraft_async.runtime import Runtime
from codecraft_pool import connect_daemon

_RESETS: Final = 20  # in each round
_STARTS: Final = 10
_WARM: Final = 4
_GONE_LIMIT_S: Final = 30.0
_FILES: Final = 100
_WRITE: Final = (
    f"for i in $(seq {_FILES}); do echo $i > /testbed/made$i; done; rm -r /testbed/dir1; echo x >> /etc/passwd;"
    " touch /usr/bin/made; sleep 100 & true"
)
_LOOK: Final = "ls -d /testbed/dir1 /testbed/made1 /usr/bin/made 2>/dev/null; grep -c ^x$ /etc/passwd; jobs"
_CLEAN: Final = "/testbed/dir1\n0\n"

RESET: Final = RowSpec(
    "bash_reset",
    f"reset of a bash environment after an episode that wrote {_FILES} files, p50",
    "ms",
    Target("<", 10),
    "wall time of BashEnv.areset with one sandbox, so that it waits for the restore; then a look that all is as before",
)
START: Final = RowSpec(
    "bash_start",
    "start of a bash environment from a warm pool, p50",
    "ms",
    Target("<", 50),
    "BashEnv(...) over a Runtime with idle sandboxes, its data read, to the end of its first reset",
)
CLOSE: Final = RowSpec(
    "bash_close",
    "close of a bash environment with both of its sandboxes, p50",
    "ms",
    Target("<", 300),
    "BashEnv.aclose after an episode was submitted; when the daemon lists none of its containers any more is besides",
)
ROWS: Final = (RESET, START, CLOSE)


def measure(bench: Bench) -> dict[str, Figure]:
    """Measure what is asked for, one after the other."""
    bench.need_docker("InterCode's bash environment")
    folder = data_folder() / "nl2bash"
    tree, data = FileTree.read(folder / f"tree_{BASH[0]}.json"), str(folder / f"fs_{BASH[0]}.json")
    figures: dict[str, Figure] = {}
    for spec, work in ((RESET, _resets), (START, _starts), (CLOSE, _closes)):
        if bench.wants(spec.name):
            figures[spec.name] = bench.run(work(bench, tree, data))
    return figures


def _runtime(tree: FileTree, number: int) -> Runtime:
    return Runtime("docker", [BashEnv.sandbox_task(tree, None)], max_sandboxes=number, recipes=[tree])


async def _warm(runtime: Runtime) -> None:
    """Have all sandboxes idle, over a copy of their image, as they are from the second episode on."""
    await runtime.prewarm()
    assert runtime.choice is not None  # there is a pool
    await asyncio.to_thread(wait_for_roots, runtime.choice.launcher)
    await all_idle(await runtime.pool(), runtime.max_sandboxes)


async def _resets(bench: Bench, tree: FileTree, data: str) -> Figure:
    runtime = _runtime(tree, 1)
    env = BashEnv(tree, data_path=data, runtime=runtime)
    try:
        await _warm(runtime)
        await env.areset(index=0)
        rounds: list[float] = []
        for _ in range(bench.options.rounds):
            times: list[float] = []
            for _ in range(_RESETS):
                await env.astep(_WRITE)
                began = time.perf_counter()
                await env.areset(index=0)
                times.append((time.perf_counter() - began) * 1e3)
                _must_be(_CLEAN, (await env.astep(_LOOK))[0])
            rounds.append(percentile(times, 50))
        return median_figure(rounds, on="docker", details={"files": _FILES})
    finally:
        await env.aclose()
        await runtime.aclose()


def _must_be(expected: str, found: str) -> None:
    if found != expected:
        raise BenchmarkError(f"a reset has left something: {found[:200]!r} instead of {expected!r}")


async def _starts(bench: Bench, tree: FileTree, data: str) -> Figure:
    runtime = _runtime(tree, _WARM)
    try:
        await _warm(runtime)
        rounds: list[float] = []
        for _ in range(bench.options.rounds):
            times: list[float] = []
            for _ in range(_STARTS):
                began = time.perf_counter()
                env = BashEnv(tree, data_path=data, runtime=runtime)
                await env.areset(index=0)
                times.append((time.perf_counter() - began) * 1e3)
                await env.astep(_WRITE)
                await env.aclose()
                await all_idle(await runtime.pool(), _WARM)
            rounds.append(percentile(times, 50))
        return median_figure(rounds, on="docker")
    finally:
        await runtime.aclose()


async def _closes(bench: Bench, tree: FileTree, data: str) -> Figure:
    times: list[float] = []
    gone: list[float] = []
    async with await connect_daemon() as daemon:
        for _ in range(bench.options.rounds):
            env = BashEnv(tree, data_path=data, backend="docker")
            try:
                await env.areset(index=0)
                await env.astep(_WRITE)
                await env.astep("submit")
            finally:
                began = time.perf_counter()
                await env.aclose()
            times.append((time.perf_counter() - began) * 1e3)
            await _until_gone(daemon)
            gone.append((time.perf_counter() - began) * 1e3)
    return median_figure(times, on="docker", details={"containers_gone_ms": round(percentile(gone, 50), 1)})


async def _until_gone(daemon: Any) -> None:
    try:
        async with asyncio.timeout(_GONE_LIMIT_S):
            while await own_containers(daemon, "sandbox"):  # noqa: ASYNC110  # the daemon is asked: nothing tells
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise BenchmarkError(f"containers of a closed environment were there {_GONE_LIMIT_S:g} s later") from None
