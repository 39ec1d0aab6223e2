"""What is shown while episodes are played: a bar on a terminal, else a line for each."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from codecraft_async._demo_report import printable
from codecraft_async.evaluation.records import EpisodeLog

__all__ = ["Live", "live"]

_MAX_LINE_CHARS: Final = 400


class Live:
    """Is told of episodes as they end."""

    def __init__(self, console: Console, done: int, total: int, progress: Progress | None) -> None:
        self._console = console
        self._progress = progress
        self._solved = self._counted = self._others = self._tokens = 0
        self._task = TaskID(0)
        if progress is not None:
            self._task = progress.add_task(self._told(), completed=done, total=total)

    def tell(self, episode: EpisodeLog) -> None:
        """Show that an episode is over."""
        self._solved += episode.is_success
        self._counted += episode.counts
        self._others += not episode.counts
        self._tokens += episode.usage.total_tokens
        if self._progress is None or not episode.counts:
            self._console.print(Text(printable(_line(episode), max_chars=_MAX_LINE_CHARS)), soft_wrap=True)
        if self._progress is not None:
            self._progress.update(self._task, advance=1, description=self._told())

    def _told(self) -> str:
        parts = [f"solved {self._solved} of {self._counted}"]
        if self._others:
            parts.append(f"void {self._others}")
        if self._tokens:
            parts.append(f"{self._tokens} tokens")
        return ", ".join(parts)


@contextmanager
def live(console: Console, *, done: int, total: int) -> Generator[Live]:
    """Show episodes on the console while the block lasts; *done* of them were played before."""
    if not console.is_terminal:
        yield Live(console, done, total, None)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        yield Live(console, done, total, progress)


def _line(episode: EpisodeLog) -> str:
    how = f"reward {episode.max_reward:.2f}, {len(episode.turns)} turns, {episode.wall_s:.1f} s"
    if episode.corrupt_gold:
        how = "void: the gold fails"
    elif not episode.counts:
        how = f"{episode.end.replace('_', ' ')}: {episode.error}"
    return f"{episode.key}: {how}"
