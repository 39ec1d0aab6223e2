"""Starting containers: a pool's prewarm against `docker run -d` as fast as the daemon goes."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

from benchmarks.bench import Bench
from benchmarks.results import BenchmarkError, Figure, RowSpec, Target, Unavailable, medians, ratio_figure
from codecraft_pool import SandboxPool, SandboxSpec
from codecraft_pool._aio import finish
from codecraft_pool.spec import writable_trees

_CONTAINERS: Final = 32
_TRIED: Final = 12  # containers for each width, when the best is looked for
_WIDTHS: Final = (4, 8, 16)
_ROUNDS: Final = 3
_CALL_LIMIT_S: Final = 120.0
_LIFETIME_S: Final = "600"  # a killed benchmark leaves none for ever
_NUMBERS: Final = count()
# What our own containers have, as far as the command line can say it.
_CAPABILITIES: Final = ("SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETPCAP")

START: Final = RowSpec(
    "docker_start",
    "Docker launcher: 32 sandboxes ready, against `docker run -d` in parallel",
    "times",
    Target(">=", 1),
    "from an empty pool to 32 idle sandboxes (guest answers, trees restored), against 32 `docker run -d` of the same "
    "image and hardening that have returned, as many side by side as was best when 4, 8 and 16 were tried",
)
ROWS: Final = (START,)


def measure(bench: Bench) -> dict[str, Figure]:
    """Alternate ours and theirs."""
    bench.need_docker("a start of containers")
    docker = shutil.which("docker")
    if docker is None:
        raise Unavailable("there is no program `docker` to compare with")
    return bench.run(_measure(bench, docker))


async def _measure(bench: Bench, docker: str) -> dict[str, Figure]:
    spec = SandboxSpec()
    bench.tell("looking for the best width of `docker run -d`")
    tried = {width: await _run_s(docker, spec, _TRIED, width) for width in _WIDTHS}
    best = min(tried, key=lambda width: tried[width])
    pairs: list[tuple[float, float]] = []
    for _ in range(min(_ROUNDS, bench.options.rounds)):
        bench.tell(f"{_CONTAINERS} sandboxes, then {_CONTAINERS} `docker run -d`, {best} at once")
        ours_s = await _ours_s(bench, spec)
        pairs.append((await _run_s(docker, spec, _CONTAINERS, best), ours_s))
    details = {
        "width": best,
        **medians(docker_run_s=[pair[0] for pair in pairs], ours_s=[pair[1] for pair in pairs]),
    }
    return {START.name: ratio_figure(pairs, on="docker", details=details)}


async def _ours_s(bench: Bench, spec: SandboxSpec) -> float:
    async with bench.launcher("docker") as launcher, SandboxPool(launcher, max_sandboxes=_CONTAINERS) as pool:
        began = time.perf_counter()
        await pool.prewarm(spec, _CONTAINERS)
        return time.perf_counter() - began


async def _run_s(docker: str, spec: SandboxSpec, number: int, width: int) -> float:
    """Return how long *number* containers took, *width* at once."""
    free = asyncio.Semaphore(width)

    async def run(name: str) -> None:
        async with free:
            await _call(docker, "run", "-d", "--name", name, *run_flags(spec), spec.image, "sleep", _LIFETIME_S)

    async with _names(docker, number) as names:
        began = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(run(name))
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        return time.perf_counter() - began


def run_flags(spec: SandboxSpec) -> list[str]:
    """Return the flags of `docker run` that come closest to how our containers are."""
    words = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    for capability in _CAPABILITIES:
        words += ["--cap-add", capability]
    words += ["--pids-limit", str(spec.max_processes), "--memory", str(spec.memory_bytes), "--cpus", f"{spec.cpus:g}"]
    words += ["--memory-swap", str(spec.memory_bytes), "--log-driver", "none", "--ulimit", "core=0", "--user", "0:0"]
    for tree in writable_trees():
        words += ["--tmpfs", f"{tree.tree}:rw,exec,nosuid,nodev,mode=0755,size={spec.tree_bytes}"]
    return words


@asynccontextmanager
async def _names(docker: str, number: int) -> AsyncGenerator[list[str]]:
    """Names for containers, which are removed in the end, whether they were made or not.

    One after the other: Engine 20.10 can lock itself up for good when many containers with a network of the daemon's
    end at the same moment.
    """
    names = [f"codecraft-bench-{os.getpid()}-{next(_NUMBERS)}" for _ in range(number)]
    try:
        yield names
    finally:
        await finish(_remove(docker, names))


async def _remove(docker: str, names: list[str]) -> None:
    for name in names:
        await _call(docker, "rm", "-f", name, may_fail=True)


async def _call(*argv: str, may_fail: bool = False) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(_CALL_LIMIT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise BenchmarkError(f"`docker {argv[1]}` did not end within {_CALL_LIMIT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await finish(process.wait())
    if process.returncode != 0 and not may_fail:
        last = " ".join(said.decode(errors="replace").split())[-200:]
        raise BenchmarkError(f"`docker {argv[1]}` failed: {last}")
