"""``codecraft demo``: every task's expert and failures, played in many sandboxes at once by one vector environment."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.text import Text

from codecraft_async import __version__
from codecraft_async._choice import choose_played
from codecraft_async._demo_report import (
    DemoReport,
    LauncherReport,
    percentiles_ms,
    printable,
    problems_of,
    report_tasks,
    show,
    told_problems,
)
from codecraft_async._demo_view import DemoView, demo_view
from codecraft_async._demo_work import Played, Seat, WorkList
from codecraft_async._images_cli import image_progress
from codecraft_async._outcome import fault_text
from codecraft_async._track import curriculum_source
from codecraft_async.code_vector import CodeVectorEnv
from codecraft_async.recorder import Recorder
from codecraft_curriculum import Curriculum
from codecraft_pool import PoolError, PoolStats, SandboxPool

ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the command line says."""

    backend: str = "auto"
    num_envs: int = 16
    curriculum: str = "builtin"
    tasks: tuple[str, ...] = ()
    category: str | None = None
    rounds: int = ROUNDS
    seed: int = 0
    json_path: Path | None = None
    metrics_port: int | None = None
    record: Path | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    """What was measured."""

    played: list[Played]
    steps: int
    elapsed_s: float
    startup_s: float
    launcher: LauncherReport
    stats: PoolStats


async def run_demo(options: DemoOptions, console: Console) -> int:
    """Play, show what came of it, and return the exit status: 0, or 1 if a reward was wrong or a sandbox failed.

    Raises:
        CurriculumError: The curriculum or the task cannot be had.
        LaunchError: The sandboxes cannot be started; says why and what to do.
        EpisodeError: A task's own set-up failed.
        OSError: The JSON file or the recording cannot be written.
        PoolError: The metrics' port cannot be had.
    """
    curriculum = await asyncio.to_thread(choose_played, options.curriculum, options.tasks, options.category)
    work = WorkList(curriculum, rounds=options.rounds, seed=options.seed)
    if options.json_path is not None:
        await asyncio.to_thread(options.json_path.touch)  # what cannot be written is told before the work, not after
    async with AsyncExitStack() as stack:
        run = await _play_all(options, curriculum, work, console, stack)
        report = _report(options, curriculum, work, run)
        show(report, console)
        if options.json_path is not None:
            await asyncio.to_thread(options.json_path.write_bytes, orjson.dumps(report, option=orjson.OPT_INDENT_2))
    for problem in told_problems(report):
        sys.stderr.write(f"codecraft demo: {problem}\n")
    return 0 if report.is_ok else 1


async def _play_all(
    options: DemoOptions, curriculum: Curriculum, work: WorkList, console: Console, stack: AsyncExitStack
) -> _Run:
    """Have the images, start the sandboxes, and play; *stack* owns the sandboxes from then on."""
    recorder = await asyncio.to_thread(_recorder_of, options)
    if recorder is not None:
        stack.enter_context(recorder)
    with image_progress(console) as images:
        env = await stack.enter_async_context(
            CodeVectorEnv(
                options.num_envs,
                curriculum=curriculum,
                backend=options.backend,
                sampler=work,
                progress=images,
                record=recorder,
            )
        )
        pool = await env.runtime.pool()
    choice = env.runtime.choice
    assert choice is not None
    launcher = LauncherReport(choice.launcher.name, choice.launcher.description, choice.reason)
    console.print(Text(printable(f"launcher: {launcher.name} ({launcher.reason})", max_chars=1000)), soft_wrap=True)
    if options.metrics_port is not None:
        await _serve_metrics(pool, options.metrics_port, console, stack)
    with demo_view(console, num_envs=options.num_envs, num_episodes=work.total) as view:
        began = time.perf_counter()
        await env.runtime.prewarm(progress=view.sandboxes)
        seats = await _sit_down(env, work, seed=options.seed)
        startup_s = time.perf_counter() - began
        view.sandboxes(options.num_envs)
        began = time.perf_counter()
        played, steps = await _play(env, work, seats, view)
        elapsed_s = time.perf_counter() - began
    return _Run(played, steps, elapsed_s, startup_s, launcher, pool.stats())


def _recorder_of(options: DemoOptions) -> Recorder | None:
    if options.record is None:
        return None
    return Recorder(options.record, curriculum_source=curriculum_source(options.curriculum))


async def _serve_metrics(pool: SandboxPool, port: int, console: Console, stack: AsyncExitStack) -> None:
    try:
        port = await stack.enter_async_context(pool.serve_metrics(port))
    except OSError as error:
        raise PoolError(f"the metrics cannot be served on port {port}: {error.strerror}") from error
    console.print(Text(f"metrics: http://127.0.0.1:{port}/metrics"), soft_wrap=True)


async def _sit_down(env: CodeVectorEnv, work: WorkList, *, seed: int) -> list[Seat]:
    """Begin the first episode in every environment."""
    _, info = await env.areset(seed=seed)
    seats = [Seat() for _ in range(env.num_envs)]
    for row, seat in enumerate(seats):
        seat.begin(work.take(info["task"][row]), reset_s=float(info["wall_s"][row]))
    return seats


async def _play(env: CodeVectorEnv, work: WorkList, seats: Sequence[Seat], view: DemoView) -> tuple[list[Played], int]:
    """Step all environments together until every script's episode is over; return the episodes and their steps."""
    played: list[Played] = []
    steps = 0
    began = time.perf_counter()
    while len(played) < work.total:
        steps += sum(seat.is_playing for seat in seats)
        _, rewards, terminated, truncated, info = await env.astep(tuple(seat.action() for seat in seats))
        for row, seat in enumerate(seats):
            if seat.is_over:  # the environment has reset itself, in place of a step
                seat.begin(work.take(info["task"][row]), reset_s=float(info["wall_s"][row]))
                continue
            episode = seat.end_step(
                reward=float(rewards[row]),
                is_over=bool(terminated[row] or truncated[row]),
                info={key: info[key][row] for key in ("wall_s", "graded", "reason")} | {"fault": fault_text(info, row)},
            )
            if episode is not None:
                played.append(episode)
        view.episodes(len(played), steps / (time.perf_counter() - began))
    return played, steps


def _report(options: DemoOptions, curriculum: Curriculum, work: WorkList, run: _Run) -> DemoReport:
    problems = problems_of(run.played)
    reset_p50_ms, reset_p99_ms = percentiles_ms([episode.reset_s for episode in run.played])
    gradings_s = [episode.grading_s for episode in run.played if episode.grading_s is not None]
    grading_p50_ms, grading_p99_ms = percentiles_ms(gradings_s)
    return DemoReport(
        is_ok=not problems,
        problems=problems,
        version=__version__,
        launcher=run.launcher,
        curriculum=curriculum.name,
        environments=options.num_envs,
        rounds=options.rounds,
        seed=options.seed,
        scripts=work.scripts,
        episodes=len(run.played),
        steps=run.steps,
        gradings=len(gradings_s),
        elapsed_s=run.elapsed_s,
        steps_per_s=run.steps / run.elapsed_s,
        startup_s=run.startup_s,
        reset_p50_ms=reset_p50_ms,
        reset_p99_ms=reset_p99_ms,
        grading_p50_ms=grading_p50_ms,
        grading_p99_ms=grading_p99_ms,
        faults=sum(bool(episode.fault) for episode in run.played),
        sandboxes_started=run.stats.started,
        sandboxes_replaced=run.stats.replaced,
        tasks=report_tasks(curriculum, run.played),
    )


__all__ = ["ROUNDS", "DemoOptions", "run_demo"]
