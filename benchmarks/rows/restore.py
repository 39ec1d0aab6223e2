"""Bringing a sandbox back to a snapshot: a small workspace, and one of 10,000 files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from benchmarks.bench import Bench, must
from benchmarks.results import BenchmarkError, Figure, RowSpec, Target, median_figure, medians, percentile, ratio_figure
from codecraft_pool import Sandbox, SandboxSpec, Snapshot

_SMALL_FILES: Final = 12
_SMALL_TIMES: Final = 30  # in each round
_FOLDERS: Final = 100
_FILES_EACH: Final = 100
_FILE_BYTES: Final = 4096
_LARGE_TIMES: Final = 3
# What an agent does to a small workspace: changes, adds and removes files there and elsewhere, and leaves a process.
_DISTURB: Final = (
    "echo changed > f1; rm f2; mkdir made; echo new > made/g; echo x > /tmp/x; sleep 60 >/dev/null 2>&1 </dev/null &"
)
_CHANGE_TEN: Final = "for i in 0 1 2 3 4 5 6 7 8 9; do echo changed > d$i$i/f5; done"
_COPY: Final = "mkdir -p /var/tmp/master && cp -a . /var/tmp/master"
_DELETE_AND_COPY: Final = "rm -r d* && cp -a /var/tmp/master/. ."

SMALL: Final = RowSpec(
    "restore_small",
    "restore, small workspace (12 files; 4 changed, a process left), p50",
    "ms",
    Target("<", 3),
    "wall time of Sandbox.restore as its caller sees it, processes and all writable trees included",
)
LARGE: Final = RowSpec(
    "restore_10k",
    "restore, 10,000 files of 4 KiB, 10 of them changed, p50",
    "ms",
    Target("<", 30),
    "as above; every restore is followed by a look at what it should have brought back",
)
COPY: Final = RowSpec(
    "restore_10k_vs_copy",
    "restore of those 10,000 files against deleting and copying the tree",
    "times",
    Target(">=", 10),
    "rm -r and cp -a by a command in the same sandbox, from one tmpfs to another; in turn with the restores",
)
ROWS_SMALL: Final = (SMALL,)
ROWS_LARGE: Final = (LARGE, COPY)


def measure_small(bench: Bench) -> dict[str, Figure]:
    """Disturb and restore, again and again."""
    return bench.run(_measure_small(bench))


async def _measure_small(bench: Bench) -> dict[str, Figure]:
    snapshot = Snapshot.from_files({f"f{number}": b"line\n" * 64 for number in range(_SMALL_FILES)})
    rounds: list[list[float]] = []
    async with bench.sandbox(SandboxSpec()) as sandbox:
        await sandbox.restore(snapshot)
        for _ in range(bench.options.rounds):
            times: list[float] = []
            for _ in range(_SMALL_TIMES):
                await must(sandbox, _DISTURB)
                times.append(await _timed_restore(sandbox, snapshot))
            rounds.append(times)
        await _check(sandbox, "test ! -e made -a ! -e /tmp/x -a $(cat f* | wc -l) = 768")
    details = {"p99_ms": round(percentile([time_ms for times in rounds for time_ms in times], 99), 3)}
    return {SMALL.name: median_figure([percentile(t, 50) for t in rounds], on=bench.backend, details=details)}


@dataclass(frozen=True, slots=True)
class LargeRound:
    """Restores and a delete-and-copy of the same tree, in ms."""

    restore_ms: tuple[float, ...]
    copy_ms: float


def measure_large(bench: Bench) -> dict[str, Figure]:
    """Alternate restores and copies."""
    rounds = bench.run(_measure_large(bench))
    medians_ms = [percentile(each.restore_ms, 50) for each in rounds]
    every = [round(restore_ms, 2) for each in rounds for restore_ms in each.restore_ms]
    details = {"every_restore_ms": every, **medians(delete_and_copy_ms=[each.copy_ms for each in rounds])}
    pairs = [(each.copy_ms, restore_ms) for each, restore_ms in zip(rounds, medians_ms, strict=True)]
    return {
        LARGE.name: median_figure(medians_ms, on=bench.backend, details=details),
        COPY.name: ratio_figure(pairs, on=bench.backend, details=details),
    }


async def _measure_large(bench: Bench) -> list[LargeRound]:
    content = b"0123456789abcde\n" * (_FILE_BYTES // 16)
    names = (f"d{folder:02}/f{file}" for folder in range(_FOLDERS) for file in range(_FILES_EACH))
    snapshot = Snapshot.from_files(dict.fromkeys(names, content))
    bench.tell(f"{_FOLDERS * _FILES_EACH} files")
    rounds: list[LargeRound] = []
    async with bench.sandbox(SandboxSpec()) as sandbox:
        await sandbox.restore(snapshot)
        for _ in range(bench.options.rounds):
            restores: list[float] = []
            for _ in range(_LARGE_TIMES):
                await must(sandbox, _CHANGE_TEN)
                restores.append(await _timed_restore(sandbox, snapshot))
                await _check(sandbox, "! grep -qs changed d[0-9][0-9]/f5")
            rounds.append(LargeRound(tuple(restores), await _timed_copy(sandbox)))
            # The copies are not what the next restore is to be charged with.
            await sandbox.restore(snapshot)
    return rounds


async def _timed_copy(sandbox: Sandbox) -> float:
    await must(sandbox, _COPY)
    await must(sandbox, _CHANGE_TEN)
    began = time.perf_counter()
    await must(sandbox, _DELETE_AND_COPY)
    return (time.perf_counter() - began) * 1e3


async def _timed_restore(sandbox: Sandbox, snapshot: Snapshot) -> float:
    began = time.perf_counter()
    await sandbox.restore(snapshot)
    return (time.perf_counter() - began) * 1e3


async def _check(sandbox: Sandbox, command: str) -> None:
    result = await sandbox.run(command)
    if result.exit_code != 0:
        raise BenchmarkError(f"{sandbox.id} was not what its snapshot is after a restore: {command!r} failed")
