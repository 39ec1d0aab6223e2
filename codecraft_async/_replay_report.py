"""How a replay looks on a terminal: what differs, as it was and as it is."""

from __future__ import annotations

from difflib import unified_diff
from typing import Final

from rich.console import Console
from rich.text import Text

from codecraft_async._demo_report import printable
from codecraft_async.replay import Difference, ReplayedEpisode

_MAX_DIFF_LINES: Final = 24
_MAX_DIFFED_CHARS: Final = 20_000
_MAX_SHOWN: Final = 5
_MAX_LINE_CHARS: Final = 640
_STYLES: Final = {"-": "red", "+": "green", "@": "cyan"}


class ReplayReport:
    """Shows episodes that are not the same as they come, and counts all."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._episodes = self._same = self._failed = self._steps = self._left_out = 0

    @property
    def is_same(self) -> bool:
        """Whether there was something to compare, and all of it is the same."""
        return self._episodes > 0 and self._same == self._episodes

    def add(self, replayed: ReplayedEpisode) -> None:
        """Take in an episode, and show what is to be told of it."""
        self._episodes += 1
        self._same += replayed.is_same
        self._failed += bool(replayed.failed)
        self._steps += replayed.compared
        self._left_out += bool(replayed.left_out)
        if replayed.is_same and not replayed.left_out:
            return
        start = replayed.episode.start
        self._say(f"episode {start.episode} of task {start.task} ({replayed.episode.path}:{replayed.episode.line})")
        if replayed.left_out:
            self._say(f"  {replayed.left_out}", "yellow")
        for difference in replayed.differences[:_MAX_SHOWN]:
            self._show(difference)
        if len(replayed.differences) > _MAX_SHOWN:
            self._say(f"  and {len(replayed.differences) - _MAX_SHOWN} further differences", "yellow")
        if replayed.failed:
            self._say(f"  could not be played: {replayed.failed}", "red")

    def sum_up(self) -> None:
        """Show the counts."""
        if not self._episodes:
            self._say("there is no episode to replay", "red")
            return
        differ = self._episodes - self._same - self._failed
        self._say(
            f"{self._episodes} episodes: {self._same} the same, {differ} different, {self._failed} not played; "
            f"{self._steps} steps compared" + (f"; the ends of {self._left_out} left out" if self._left_out else ""),
            "green" if self.is_same else "red",
        )

    def _show(self, difference: Difference) -> None:
        where = "reset" if difference.step == 0 else f"step {difference.step}"
        if not isinstance(difference.recorded, str):
            was, now = (printable(repr(value)) for value in (difference.recorded, difference.replayed))
            self._say(f"  {where}: {difference.name} was {was}, is {now}")
            return
        self._say(f"  {where}: {difference.name}")
        for line in _diff(difference.recorded, str(difference.replayed)):
            self._say(f"    {line}", _STYLES.get(line[:1], ""))

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(_shown(line), style=style), soft_wrap=True)


def _diff(recorded: str, replayed: str) -> list[str]:
    """Return the lines that differ, with those around them, so that a terminal can show them."""
    was, now = (text[:_MAX_DIFFED_CHARS].split("\n") for text in (recorded, replayed))
    lines = list(unified_diff(was, now, "recorded", "replayed", n=1, lineterm=""))[2:]
    if not lines:
        return [f"@ they differ after the first {_MAX_DIFFED_CHARS} characters"]
    more = len(lines) - _MAX_DIFF_LINES
    return [*lines[:_MAX_DIFF_LINES], *([f"@ and {more} more lines"] if more > 0 else [])]


def _shown(line: str) -> str:
    """Return *line* cut to a length, with all that a terminal would act on escaped."""
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in line[:_MAX_LINE_CHARS])
    return text if len(line) <= _MAX_LINE_CHARS else f"{text}..."


__all__ = ["ReplayReport"]
