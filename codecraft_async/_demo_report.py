"""What came of a demo: by task and in all, as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codecraft_async._demo_work import Played
from codecraft_curriculum import Curriculum, Task

_MAX_QUOTED_CHARS = 160
_MAX_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class LauncherReport:
    """Which launcher ran it, what its sandboxes run on, and why it was taken."""

    name: str
    description: str
    reason: str


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task's episodes. Episodes with a fault have no reward and are left out of all but their number."""

    id: str
    category: str
    title: str
    expert: float | None
    """Mean reward; None if no expert's episode could be graded."""
    failures: dict[str, float]
    """The highest reward of each failure."""
    episodes: int
    faults: int
    mean_steps: float
    mean_reset_ms: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Everything that is shown, and written as JSON."""

    is_ok: bool
    problems: list[str]
    version: str
    launcher: LauncherReport
    curriculum: str
    environments: int
    rounds: int
    seed: int
    scripts: int
    episodes: int
    steps: int
    gradings: int
    """How many of the steps were gradings."""
    elapsed_s: float
    steps_per_s: float
    startup_s: float
    reset_p50_ms: float
    reset_p99_ms: float
    grading_p50_ms: float
    grading_p99_ms: float
    faults: int
    sandboxes_started: int
    sandboxes_replaced: int
    tasks: list[TaskReport]


def report_tasks(curriculum: Curriculum, played: Sequence[Played]) -> list[TaskReport]:
    """Return the reports of the tasks that were played, in the curriculum's order."""
    by_task: dict[str, list[Played]] = {task: [] for task in curriculum}
    for episode in played:
        by_task[episode.script.task].append(episode)
    return [_report_task(curriculum[task], episodes) for task, episodes in by_task.items() if episodes]


def _report_task(task: Task, episodes: Sequence[Played]) -> TaskReport:
    graded = [episode for episode in episodes if not episode.fault]
    expert = [episode.reward for episode in graded if episode.script.is_expert]
    wrong = [episode for episode in graded if not episode.script.is_expert]
    names = (*task.failures, *task.cheats)
    failures = {name: [episode.reward for episode in wrong if episode.script.name == name] for name in names}
    return TaskReport(
        id=task.id,
        category=task.category,
        title=task.title,
        expert=fmean(expert) if expert else None,
        failures={name: max(rewards) for name, rewards in failures.items() if rewards},
        episodes=len(episodes),
        faults=len(episodes) - len(graded),
        mean_steps=fmean(episode.steps for episode in graded) if graded else 0.0,
        mean_reset_ms=fmean(episode.reset_s for episode in graded) * 1e3 if graded else 0.0,
    )


def problems_of(played: Sequence[Played]) -> list[str]:
    """Return a line for each script that went wrong: an expert below 1.0, a failure above 0.0, a fault."""
    problems: dict[str, None] = {}
    for episode in played:
        script = episode.script
        who = f"task {script.task}: " + ("the expert" if script.is_expert else f"the failure {printable(script.name)}")
        if episode.fault:
            problems[f"{who} was interrupted by a fault: {printable(episode.fault)}"] = None
        elif script.is_expert and episode.reward < 1.0:
            problems[f"{who} got {episode.reward:g} where 1 was due: {printable(episode.reason)}"] = None
        elif not script.is_expert and episode.reward > 0.0:
            problems[f"{who} got {episode.reward:g} where 0 was due"] = None
    return list(problems)


def percentiles_ms(times_s: Sequence[float]) -> tuple[float, float]:
    """Return the 50th and the 99th percentile of times in seconds, in milliseconds; 0 where there are none."""
    p50, p99 = np.percentile(times_s or [0.0], [50, 99]) * 1e3
    return float(p50), float(p99)


def show(report: DemoReport, console: Console) -> None:
    """Print the table of tasks and the summary."""
    console.print(_table(report))
    console.print(_summary(report))


def told_problems(report: DemoReport) -> list[str]:
    """Return the lines to print about what went wrong: not too many, however much did."""
    told = report.problems[:_MAX_PROBLEMS]
    more = len(report.problems) - len(told)
    return [*told, f"and {more} more problems (--json writes them all)"] if more else told


def _table(report: DemoReport) -> Table:
    table = Table(title=f"curriculum {printable(report.curriculum)}", title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("category", overflow="fold")
    for title in ("expert", "failures", "episodes", "steps", "reset ms"):
        table.add_column(title, justify="right", no_wrap=True)
    for task in report.tasks:
        highest = max(task.failures.values(), default=0.0)
        table.add_row(
            Text(task.id),
            Text(printable(task.category)),
            _reward("-" if task.expert is None else f"{task.expert:.2f}", task.expert in (None, 1.0)),
            _reward(f"{highest:.2f} of {len(task.failures)}" if task.failures else "-", highest == 0.0),
            str(task.episodes),
            f"{task.mean_steps:.1f}",
            f"{task.mean_reset_ms:.2f}",
        )
    table.caption = "expert: mean; failures: highest, of how many; steps, reset: means"
    table.caption_justify = "left"
    return table


def _reward(text: str, is_good: bool) -> Text:
    return Text(text, style="green" if is_good else "bold red")


def _summary(report: DemoReport) -> Table:
    launcher = report.launcher
    lines = {
        "launcher": f"{launcher.name}: {launcher.description}",
        "because": launcher.reason,
        "sandboxes": f"{report.environments} ready after {report.startup_s:.2f} s, "
        f"{report.sandboxes_replaced} replaced",
        "episodes": f"{report.episodes} ({report.scripts} scripts x {report.rounds}), {report.faults} faults",
        "steps": f"{report.steps} in {report.elapsed_s:.1f} s: {report.steps_per_s:.0f} per second "
        f"({report.steps - report.gradings} commands, {report.gradings} gradings)",
        "grading": f"p50 {report.grading_p50_ms:.0f} ms, p99 {report.grading_p99_ms:.0f} ms",
        "reset": f"p50 {report.reset_p50_ms:.2f} ms, p99 {report.reset_p99_ms:.2f} ms",
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, line in lines.items():
        grid.add_row(name, Text(printable(line, max_chars=1000)))
    return grid


def printable(text: str, *, max_chars: int = _MAX_QUOTED_CHARS) -> str:
    """Return *text* in one line that a terminal only shows, cut to *max_chars* characters."""
    line = "".join(char if char.isprintable() else " " for char in text[: 4 * max_chars])
    line = " ".join(line.split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 3]}..."


__all__ = [
    "DemoReport",
    "LauncherReport",
    "TaskReport",
    "percentiles_ms",
    "printable",
    "problems_of",
    "report_tasks",
    "show",
    "told_problems",
]
