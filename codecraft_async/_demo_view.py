"""How far the demo has got, on a terminal or in a log."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_LINES = 4


class DemoView(Protocol):
    """Told how far the demo has got; called on the event loop, so it must not block."""

    def sandboxes(self, started: int) -> None:
        """So many sandboxes are ready."""
        ...

    def episodes(self, done: int, steps_per_s: float) -> None:
        """So many episodes are over."""
        ...


class BarView:
    """Two bars."""

    def __init__(self, progress: Progress, *, num_envs: int, num_episodes: int) -> None:
        self._progress = progress
        self._sandboxes = progress.add_task("sandboxes", total=num_envs, note="")
        self._episodes = progress.add_task("episodes", total=num_episodes, note="", start=False)

    def sandboxes(self, started: int) -> None:
        """See `DemoView.sandboxes`."""
        self._progress.update(self._sandboxes, completed=started)

    def episodes(self, done: int, steps_per_s: float) -> None:
        """See `DemoView.episodes`."""
        self._progress.start_task(self._episodes)
        self._progress.update(self._episodes, completed=done, note=f"{steps_per_s:.0f} steps/s")


class LineView:
    """A line now and then."""

    def __init__(self, console: Console, *, num_envs: int, num_episodes: int) -> None:
        self._console = console
        self._num_envs = num_envs
        self._num_episodes = num_episodes
        self._told_ready = False
        self._told_part = 0

    def sandboxes(self, started: int) -> None:
        """See `DemoView.sandboxes`."""
        if started >= self._num_envs and not self._told_ready:
            self._told_ready = True
            self._console.print(f"{started} sandboxes are ready", highlight=False)

    def episodes(self, done: int, steps_per_s: float) -> None:
        """See `DemoView.episodes`."""
        part = done * _LINES // self._num_episodes
        if part > self._told_part:
            self._told_part = part
            self._console.print(
                f"{done} of {self._num_episodes} episodes, {steps_per_s:.0f} steps/s", highlight=False, soft_wrap=True
            )


@contextmanager
def demo_view(console: Console, *, num_envs: int, num_episodes: int) -> Generator[DemoView]:
    """Yield a view on the console for as long as the block lasts: bars on a terminal, else lines."""
    if not console.is_terminal:
        yield LineView(console, num_envs=num_envs, num_episodes=num_episodes)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield BarView(progress, num_envs=num_envs, num_episodes=num_episodes)


__all__ = ["BarView", "DemoView", "LineView", "demo_view"]
