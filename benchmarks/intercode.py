"""Whether InterCode's environments are right, in one table over its real data: ``python -m benchmarks.intercode``.

``--help`` says what can be chosen; README.md says what the rows mean. The exit status is 1 if a target is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console

from benchmarks import intercode_bash_data as bash
from benchmarks import intercode_python_data as python
from benchmarks import intercode_sql_data as sql
from benchmarks.proofs import Proofs
from benchmarks.recordings import BASH, bash_recording, data_folder
from benchmarks.results import BenchmarkError, Figure, Row, RowSpec, Target, Unavailable
from benchmarks.table import as_table
from codecraft_async.intercode.volatile import volatile
from codecraft_pool import PoolError

_FILE_WIDTH: Final = 150
_GOLDS_OF: Final = {"1": 60, "4": 25}  # of 60 and 27: what InterCode's own code scores
_SHOWN: Final = 100
_IDLE: Final = ((), ("true",))

GOLDS: Final = {
    number: RowSpec(
        f"bash_golds_{number}",
        f"golds of file system {number} that earn 1, published reward, the worst of all runs",
        "tasks",
        Target(">=", bound),
        "BashEnv(compat=True, reward='intercode'): the gold as an action, then submit; new environments for each run",
    )
    for number, bound in _GOLDS_OF.items()
}
UNSTEADY: Final = RowSpec(
    "bash_golds_unsteady",
    "golds of either that are not always paid the same, and read nothing but files",
    "tasks",
    Target("<", 1),
    "over all runs; those that read the clock, the disk and the like are named in the details",
)
STRICT: Final = RowSpec(
    "bash_golds_strict",
    "golds of both file systems that earn 1, strict reward",
    "tasks",
    None,  # as many as under the published one, which is known when that was measured
    "BashEnv(): the gold as an action, then submit",
)
REPLAY: Final = RowSpec(
    "bash_replay",
    "GPT-4's recorded bash actions that have the recorded reward",
    "steps",
    Target(">=", 465),
    "within 0.005, of 532; compat=True, each file system's episodes in order in one environment, scored at each step",
)
REPLAY_WHY: Final = RowSpec(
    "bash_replay_unexplained",
    "those that have another one without a reason that is known",
    "steps",
    Target("<", 1),
    "reasons are clock, disk, network, processes and tool version, by what the gold and the actions up to it read",
)
NOTHING: Final = RowSpec(
    "bash_nothing_paid",
    "tasks that pay 1 for doing nothing, strict reward",
    "tasks",
    Target("<", 1),
    "submit at once, and after the action `true`",
)
NOTHING_MEAN: Final = RowSpec(
    "bash_nothing_mean", "mean reward of doing nothing, strict reward", "", Target("<", 0.1), "the same episodes"
)
SQL_GOLDS: Final = RowSpec(
    "sql_golds",
    "golds of Spider that earn 1, the worse of both rewards",
    "tasks",
    Target(">=", 517 - len(sql.INVALID_GOLDS)),
    f"of 517, of which {', '.join(map(str, sql.INVALID_GOLDS))} are no valid SQL; MariaDB",
)
SQL_REPLAY: Final = RowSpec(
    "sql_replay",
    "GPT-4's recorded SQL actions that have the recorded reward",
    "steps",
    Target(">=", sql.EQUAL_AT_LEAST),
    "within 0.005, of 2,913 that were executed; published reward, scored at each step",
)
MBPP: Final = RowSpec(
    "mbpp_golds",
    "golds of MBPP that pass their own tests",
    "tasks",
    Target(">=", 486),
    "of 487: the gold as an action, then submit; strict reward. 366 uses a class that it does not define",
)
PROOFS: Final = RowSpec(
    "unclean",
    "episodes of all these rows after which the sandbox was not proved to be as a new one",
    "episodes",
    Target("<", 1),
    "prove_every=1: after each episode files, processes, sockets, mounts and more are compared with a new sandbox's",
)


@dataclass(slots=True)
class Check:
    """What all rows share: the data, how many runs, every how manieth task, and the proofs so far."""

    folder: Path
    runs: int
    every: int
    tell: Callable[[str], None]
    names: Sequence[str] = ()
    """The rows that are asked for."""
    proofs: Proofs = field(default_factory=Proofs)
    golds_right: int | None = None
    """How many golds of bash earn 1 under the published reward, when that was measured."""


async def bash_golds(check: Check) -> dict[str, Figure]:
    """Run all golds, again and again."""
    figures: dict[str, Figure] = {}
    unsteady: dict[str, str] = {}
    right = 0
    asked = [number for number in BASH if {GOLDS[number].name, UNSTEADY.name} & set(check.names)]
    for number in asked:
        recording = bash_recording(number, check.folder)
        runs: list[dict[int, float]] = []
        for run in range(check.runs):
            check.tell(f"golds of file system {number}, run {run + 1} of {check.runs}")
            rows = bash.rows_of(recording, check.every)
            runs.append(await bash.golds_paid(recording, rows, check.proofs, **bash.COMPAT))
        rights = [_right(run) for run in runs]
        texts = {row: str(recording.tasks[row].gold) for row in runs[0]}
        differing = {row: _both(row, runs, texts) for row in texts if len({run[row] for run in runs}) > 1}
        unsteady |= {f"fs_{number} {row}": said for row, said in differing.items() if not volatile(texts[row])}
        never = {row: f"{runs[0][row]:g}: {texts[row]}"[:_SHOWN] for row in texts if any(run[row] != 1 for run in runs)}
        figures[GOLDS[number].name] = Figure(
            min(rights), tuple(rights), "docker", {"not_1": never, "differ_between_runs": differing}
        )
        right += min(rights)
    check.golds_right = right if len(asked) == len(BASH) else None
    figures[UNSTEADY.name] = Figure(len(unsteady), (), "docker", unsteady)
    return figures


def _right(paid: Mapping[int, float]) -> int:
    return sum(reward == 1 for reward in paid.values())


def _both(row: int, runs: Sequence[Mapping[int, float]], golds: Mapping[int, str]) -> str:
    rewards = ", ".join(f"{run[row]:g}" for run in runs)
    return f"{rewards} (reads {','.join(volatile(golds[row])) or 'files only'}): {golds[row]}"[:_SHOWN]


async def bash_strict(check: Check) -> dict[str, Figure]:
    """Run all golds under the strict reward."""
    right, others = 0, dict[str, str]()
    for number in BASH:
        recording = bash_recording(number, check.folder)
        paid = await bash.golds_paid(recording, bash.rows_of(recording, check.every), check.proofs)
        right += _right(paid)
        others |= {
            f"fs_{number} {row}": f"{reward:g}: {recording.tasks[row].gold}"[:_SHOWN]
            for row, reward in paid.items()
            if reward != 1
        }
    return {STRICT.name: Figure(right, (), "docker", {"not_1": others, "published": check.golds_right})}


async def bash_replay(check: Check) -> dict[str, Figure]:
    """Do the recorded actions again."""
    recordings = [bash_recording(number, check.folder) for number in BASH]
    steps, misses = await bash.replay(recordings, check.every, check.proofs)
    classes = Counter(miss.why or "unexplained" for miss in misses)
    details = {"steps": steps, "classes": dict(classes), "misses": [str(miss)[:_SHOWN] for miss in misses]}
    return {
        REPLAY.name: Figure(steps - len(misses), (), "docker", details),
        REPLAY_WHY.name: Figure(classes["unexplained"], (), "docker"),
    }


async def bash_nothing(check: Check) -> dict[str, Figure]:
    """Submit without having done anything."""
    rewards: dict[str, float] = {}
    for number in BASH:
        recording = bash_recording(number, check.folder)
        rows = bash.rows_of(recording, check.every)
        paid = await bash.nothing_paid(recording, rows, _IDLE, check.proofs)
        rewards |= {f"fs_{number} {name}": reward for name, reward in paid.items()}
    in_full = [name for name, reward in rewards.items() if not reward < 1]
    over_0 = {name: reward for name, reward in rewards.items() if reward != 0}
    mean = sum(rewards.values()) / len(rewards)
    return {
        NOTHING.name: Figure(len(in_full), (), "docker", {"in_full": in_full, "episodes": len(rewards)}),
        NOTHING_MEAN.name: Figure(mean, (), "docker", {"over_0": over_0}),
    }


async def sql_golds(check: Check) -> dict[str, Figure]:
    """Run Spider's golds under both rewards."""
    with _looked_at(check):
        found = [await sql.measure_golds(check.folder, form=form, prove=True) for form in ("intercode", "strict")]
    others: dict[str, Any] = {each.form: {str(row): why[:_SHOWN] for row, why in each.others.items()} for each in found}
    rights = [float(each.right) for each in found]
    return {SQL_GOLDS.name: Figure(min(rights), tuple(rights), "docker", others)}


async def sql_replay(check: Check) -> dict[str, Figure]:
    """Do the recorded statements again."""
    with _looked_at(check):
        found = await sql.measure_replay(check.folder, prove=True)
    classes = Counter(miss.why or "unexplained" for miss in found.misses)
    return {SQL_REPLAY.name: Figure(found.equal, (), "docker", {"steps": found.steps, "classes": dict(classes)})}


@contextmanager
def _looked_at(check: Check) -> Generator[None]:
    """Count what the environments of SQL find that begin episodes meanwhile: they keep their sandboxes."""
    looks, unclean = sql.ProvedEnv.proofs, len(sql.ProvedEnv.unclean)
    yield
    looks, unclean = sql.ProvedEnv.proofs - looks, len(sql.ProvedEnv.unclean) - unclean
    check.proofs.take(episodes=looks, different=min(looks, unclean))


async def mbpp_golds(check: Check) -> dict[str, Figure]:
    """Submit MBPP's golds."""
    dataset = python.mbpp(check.folder)
    rows = range(0, len(dataset), check.every)
    failed = await python.golds_that_fail(dataset, rows, "docker", check.proofs)
    details = {str(row): why[:_SHOWN] for row, why in failed.items()}
    return {MBPP.name: Figure(len(rows) - len(failed), (), "docker", details)}


async def proofs(check: Check) -> dict[str, Figure]:
    """Tell what came of the proofs of all rows before."""
    return {PROOFS.name: Figure(check.proofs.missing, (), "docker", check.proofs.as_details())}


GROUPS: Final[Sequence[tuple[tuple[RowSpec, ...], Callable[[Check], Awaitable[dict[str, Figure]]]]]] = (
    ((*GOLDS.values(), UNSTEADY), bash_golds),
    ((STRICT,), bash_strict),
    ((REPLAY, REPLAY_WHY), bash_replay),
    ((NOTHING, NOTHING_MEAN), bash_nothing),
    ((SQL_GOLDS,), sql_golds),
    ((SQL_REPLAY,), sql_replay),
    ((MBPP,), mbpp_golds),
    ((PROOFS,), proofs),
)
NAMES: Final = tuple(spec.name for specs, _ in GROUPS for spec in specs)


async def measure(check: Check) -> list[Row]:
    """Return the rows that are asked for, measured group by group. One that cannot be measured says why."""
    rows: list[Row] = []
    for specs, work in GROUPS:
        wanted = [spec for spec in specs if spec.name in check.names]
        if not wanted:
            continue
        check.tell(f"{wanted[0].name}: {wanted[0].title}")
        try:
            figures = await work(check)
        except Unavailable as exc:
            rows += [Row(spec, None, str(exc)) for spec in wanted]
        except Exception as exc:  # minutes of other rows are not to be lost with it; the exit status tells
            rows += [Row(spec, None, _line(exc), failed=True) for spec in wanted]
        else:
            rows += [Row(_with_target(spec, check), figures[spec.name]) for spec in wanted]
    return rows


def _with_target(spec: RowSpec, check: Check) -> RowSpec:
    """Return the row with the target that is known only now; a sample keeps only those that hold for any task."""
    if spec is STRICT and check.golds_right is not None:
        return replace(spec, target=Target(">=", check.golds_right))
    is_count = spec.target is not None and spec.target.sign == ">="
    return replace(spec, target=None) if is_count and check.every > 1 else spec


def _line(error: BaseException) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    said = " ".join(str(error).split())
    return said if isinstance(error, BenchmarkError | PoolError) else f"{type(error).__name__}: {said}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; what is wrong with them ends the program with one line that says so."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.intercode", description="Whether InterCode's environments are right."
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="InterCode's data; default: CODECRAFT_DATA's")
    parser.add_argument(
        "--rows", default=",".join(NAMES), metavar="NAME,...", help="default: all, which are %(default)s"
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of bash's golds; default: %(default)s")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth task, of bash and Python")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, with all details")
    given = parser.parse_args(argv)
    given.rows = given.rows.split(",")
    for name in given.rows:
        if name not in NAMES:
            parser.error(f"--rows has {name!r}; the rows are {', '.join(NAMES)}")
    for name in ("runs", "every"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be at least 1")
    if given.json is not None and not given.json.parent.is_dir():
        parser.error(f"--json is {str(given.json)!r}, but there is no folder {str(given.json.parent)!r}; make it first")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0, or 1 where a target is not kept or something failed."""
    given = parse(argv)
    console = Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)
    try:
        check = Check(
            data_folder(given.data), given.runs, given.every, lambda text: console.print(f"  {text}"), given.rows
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(measure(check))
        console.print(as_table(rows, f"InterCode's data in {check.folder}"))
        content: dict[str, Any] = {"rows": [row.as_json() for row in rows]}
        for row in content["rows"]:
            if row["details"]:
                console.print(
                    f"{row['name']}: {json.dumps(row['details'])}", highlight=False, markup=False, soft_wrap=True
                )
        if given.json is not None:
            given.json.write_text(json.dumps(content, indent=2) + "\n")
    except (Unavailable, BenchmarkError, PoolError, OSError) as exc:
        sys.stderr.write(f"benchmarks.intercode: {_line(exc)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("benchmarks.intercode: interrupted\n")
        return 130
    return int(any(row.failed or row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
