"""Reports and comparisons as tables: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codecraft_async._demo_report import printable
from codecraft_async.evaluation.comparing import Comparison
from codecraft_async.evaluation.report import Group, Report

__all__ = ["as_markdown", "comparison_markdown", "show", "show_comparison"]

_HEAD: Final = ("", "played", "solved", "success", "95 %", "reward", "turns", "errors", "void")
_SUCCESS: Final = (
    "success: an episode's highest reward is 1; 95 %: Wilson's interval; reward: mean of the highest ones; turns: "
    "mean; errors: share of the turns whose action was not valid; void: episodes that say nothing of the agent"
)
_MAX_NAMES: Final = 40


def show(report: Report, console: Console) -> None:
    """Print a report."""
    table = Table(title=Text(printable(report.name)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.caption, table.caption_justify = _SUCCESS, "left"
    for number, name in enumerate(_HEAD):
        table.add_column(name, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for section in _sections(report):
        for row in section:
            table.add_row(*(Text(printable(cell)) for cell in row))
        table.add_section()
    console.print(table)
    for line in _lines(report):
        console.print(Text(printable(line, max_chars=2000)), soft_wrap=True)


def as_markdown(report: Report) -> str:
    """Return a report as Markdown."""
    rows = [row for section in _sections(report) for row in section]
    return "\n".join([f"# {_escaped(report.name)}", "", *_table(_HEAD, rows), "", _SUCCESS, "", *_list(_lines(report))])


def show_comparison(comparison: Comparison, names: tuple[str, str], console: Console) -> None:
    """Print a comparison."""
    for line in _compared(comparison, names):
        console.print(Text(printable(line, max_chars=4000)), soft_wrap=True)


def comparison_markdown(comparison: Comparison, names: tuple[str, str]) -> str:
    """Return a comparison as Markdown."""
    title = f"# {_escaped(names[0])} and {_escaped(names[1])}"
    return "\n".join([title, "", *_list(_compared(comparison, names))])


def _sections(report: Report) -> list[list[tuple[str, ...]]]:
    parts = [(report.total,), report.by_difficulty if len(report.by_difficulty) > 1 else (), report.by_dataset]
    return [[_row(group) for group in part] for part in parts if part]


def _row(group: Group) -> tuple[str, ...]:
    interval = "-" if group.low is None or group.high is None else f"{100 * group.low:.1f}-{100 * group.high:.1f}"
    return (
        group.name,
        str(group.episodes),
        str(group.successes),
        _percent(group.success_rate),
        interval,
        "-" if group.mean_reward is None else f"{group.mean_reward:.3f}",
        "-" if group.mean_turns is None else f"{group.mean_turns:.1f}",
        _percent(group.error_rate),
        str(group.not_counted),
    )


def _lines(report: Report) -> list[str]:
    lines: list[str] = []
    if report.turns_to_success:
        counts = ", ".join(f"{turns}: {count}" for turns, count in report.turns_to_success.items())
        lines.append(f"solved by turn (turn: episodes): {counts}")
    if report.tasks < report.total.episodes + report.total.not_counted:
        lines.append(f"{report.solved_tasks} of {report.tasks} tasks were solved in at least one of their episodes")
    odd = {end: count for end, count in report.ends.items() if end not in ("terminated", "truncated")}
    if odd:
        told = ", ".join(f"{end}: {count}" for end, count in odd.items())
        lines.append(f"void, for they say nothing of the agent: {told}")
    if report.usage.total_tokens:
        about = " (estimated where the endpoint did not say)" if report.usage.is_estimate else ""
        cost = "" if report.cost is None else f"; cost {report.cost:.4f}"
        lines.append(
            f"tokens: {report.usage.prompt_tokens} of prompts, {report.usage.completion_tokens} of answers{about}{cost}"
        )
    return lines


def _compared(comparison: Comparison, names: tuple[str, str]) -> list[str]:
    difference = 100 * (comparison.second_rate - comparison.first_rate)
    return [
        f"pairs of episodes: {comparison.pairs} (only in the first: {comparison.only_first}, only in the second: "
        f"{comparison.only_second})",
        f"success: {_percent(comparison.first_rate)} ({names[0]}), {_percent(comparison.second_rate)} ({names[1]}); "
        f"difference {difference:+.1f} points",
        f"solved by both: {comparison.solved_by_both}",
        f"solved only by the first ({len(comparison.lost)}): {_names(comparison.lost)}",
        f"solved only by the second ({len(comparison.won)}): {_names(comparison.won)}",
        f"mean reward: {comparison.mean_reward_difference:+.3f}",
        f"p = {comparison.p_value:.4g}: how likely chance alone splits so unevenly (McNemar's exact test, two-sided)",
    ]


def _names(keys: Sequence[str]) -> str:
    rest = f" and {len(keys) - _MAX_NAMES} more" if len(keys) > _MAX_NAMES else ""
    return (", ".join(keys[:_MAX_NAMES]) or "none") + rest


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return [*lines, *("| " + " | ".join(map(_escaped, row)) + " |" for row in rows)]


def _list(lines: Iterable[str]) -> list[str]:
    return [f"- {_escaped(line)}" for line in lines]


def _escaped(text: str) -> str:
    """Return a text, which may come from anywhere, as one line that is no mark-up."""
    shown = printable(text, max_chars=4000)
    for mark in "\\|<>*_`[]":
        shown = shown.replace(mark, f"\\{mark}")
    return shown
