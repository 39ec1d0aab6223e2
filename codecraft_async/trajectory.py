"""Recorded trajectories, for users' code: `read_trajectories` gives their episodes, one after another.

What a killed writer leaves can be read: all whole lines count, and a line that was cut off is told as a `Problem`.
Everything else that is wrong is a `TrajectoryError` that names the file and the line, or, with
``on_error="tell"``, a `Problem` as well, and reading goes on.

The schema of the lines is in `codecraft_async._trajectory_lines`; its dataclasses are public here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from codecraft_async._trajectory_files import BrokenStream, MissingZstd, compression_of, read_raw_lines
from codecraft_async._trajectory_lines import (
    SCHEMA,
    TORN_LINE,
    Branch,
    EpisodeStart,
    EpisodeStep,
    Line,
    LineError,
    decode_line,
)

OnError = Literal["raise", "tell"]


class TrajectoryError(ValueError):
    """A file is no trajectory, or damaged; names the file and, where there is one, the line."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        super().__init__(f"{path}:{line}: {message}" if line else f"{path}: {message}")
        self.path = path
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that could not be used. `is_cut`: a last line without its end, as a killed writer leaves."""

    path: Path
    line: int
    message: str
    is_cut: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(slots=True)
class RecordedEpisode:
    """An episode: how it started, its steps, and where in which file it starts."""

    start: EpisodeStart
    path: Path
    line: int
    steps: list[EpisodeStep] = field(default_factory=list[EpisodeStep])

    @property
    def is_over(self) -> bool:
        """Whether its last step ended it; else the recording or the episode was broken off."""
        return bool(self.steps) and (self.steps[-1].terminated or self.steps[-1].truncated)

    @property
    def reward(self) -> float:
        """The sum of its rewards."""
        return sum(step.reward for step in self.steps)

    @property
    def actions(self) -> list[str]:
        """What the agent said, verbatim."""
        return [step.action for step in self.steps]

    @property
    def is_valid(self) -> bool:
        """Whether no fault of the infrastructure ended it."""
        return not self.steps or bool(self.steps[-1].info.get("valid", True))


def read_trajectories(
    *paths: Path | str, on_error: OnError = "raise", on_problem: Callable[[Problem], None] | None = None
) -> Iterator[RecordedEpisode]:
    """Yield every episode of some files, or of all trajectories in a directory, in the order in which they end.

    An episode may go on from one file of a directory to the next. Episodes that never end come when their environment
    starts another one, or last. Every problem that is passed over is told to *on_problem*.

    Raises:
        TrajectoryError: There is no such file, or something in it is wrong (not so with ``on_error="tell"``).
        MissingZstd: A file is compressed with zstd, and the package for that is not installed.
    """
    if on_error not in ("raise", "tell"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'tell'")
    reading = _Reading(on_error, on_problem or _ignore)
    for path in _files_of(paths):
        yield from reading.file(path)
    yield from reading.rest()


def read_lines(
    path: Path | str, *, on_error: OnError = "raise", on_problem: Callable[[Problem], None] | None = None
) -> Iterator[tuple[int, Line]]:
    """Yield the lines of one file with their numbers, as they are. Raises as `read_trajectories`."""
    yield from _Reading(on_error, on_problem or _ignore).lines(Path(path))


def find_parents(*paths: Path | str, on_error: OnError = "raise") -> dict[str, RecordedEpisode]:
    """Return the episodes that others began as branches of, by name. Reads all files twice; raises as
    `read_trajectories`."""
    starts = (episode.start for episode in read_trajectories(*paths, on_error=on_error))
    names = {start.branch.episode for start in starts if start.branch is not None}
    if not names:
        return {}
    episodes = read_trajectories(*paths, on_error=on_error)
    return {episode.start.episode: episode for episode in episodes if episode.start.episode in names}


def with_past(episode: RecordedEpisode, parents: Mapping[str, RecordedEpisode]) -> RecordedEpisode:
    """Return a branch with all that was before it, from the reset on; any other episode as it is.

    Also a branch whose origin is not among *parents* is returned as it is.
    """
    line = [episode, *origins_of(episode, parents)]
    whole = line.pop()
    while line:
        branch = line.pop()
        past = [step for step in whole.steps if step.step <= began_at(branch)]
        start = replace(whole.start, episode=branch.start.episode, env=branch.start.env)
        whole = RecordedEpisode(start, branch.path, branch.line, past + branch.steps)
    return whole


def origins_of(episode: RecordedEpisode, parents: Mapping[str, RecordedEpisode]) -> list[RecordedEpisode]:
    """Return what *episode* is a branch of, what that is one of, and so on, as far as it is among *parents*.

    Where a damaged recording has episodes that come of themselves, each is there once.
    """
    line: list[RecordedEpisode] = []
    seen = {episode.start.episode}
    branch = episode.start.branch
    while branch is not None and branch.episode in parents and branch.episode not in seen:
        seen.add(branch.episode)
        line.append(parents[branch.episode])
        branch = line[-1].start.branch
    return line


def began_at(episode: RecordedEpisode) -> int:
    """Return how many steps were before its first one."""
    return 0 if episode.start.branch is None else episode.start.branch.steps


def _ignore(problem: Problem) -> None:
    """Nobody wants to know."""


def _files_of(paths: Sequence[Path | str]) -> Iterator[Path]:
    for each in paths:
        path = Path(each)
        if not path.is_dir():
            yield path
            continue
        names = sorted(child for child in path.iterdir() if compression_of(child) and child.is_file())
        if not names:
            raise TrajectoryError(path, 0, "holds no trajectories: files that end in .jsonl, .jsonl.gz or .jsonl.zst")
        yield from names


class _Reading:
    """What is known of the episodes that have begun and not ended."""

    def __init__(self, on_error: OnError, on_problem: Callable[[Problem], None]) -> None:
        self._raises = on_error == "raise"
        self._tell = on_problem
        self._open: dict[str, RecordedEpisode] = {}
        self._by_env: dict[str, str] = {}

    def file(self, path: Path) -> Iterator[RecordedEpisode]:
        for number, line in self.lines(path):
            if isinstance(line, EpisodeStart):
                again = self._open.get(line.episode)
                if again is not None and again.start == line and not again.steps:
                    continue  # its writer was told that it may not have reached the disk
                before = self._open.pop(self._by_env.get(line.env, ""), None)
                if before is not None:
                    yield before
                self._open[line.episode] = RecordedEpisode(line, path, number)
                self._by_env[line.env] = line.episode
                continue
            episode = self._take(path, number, line)
            if episode is not None and episode.is_over:
                del self._open[line.episode]
                yield episode

    def rest(self) -> Iterator[RecordedEpisode]:
        yield from self._open.values()

    def lines(self, path: Path) -> Iterator[tuple[int, Line]]:
        number = 0
        garbled: LineError | None = None
        raw_lines = read_raw_lines(path)
        try:
            for raw in raw_lines:
                if garbled is not None:  # what comes after it tells whose doing it is; on a full disk that is cut, too
                    self._pass_over(path, number, garbled, is_cut=bool(raw.data) and TORN_LINE.startswith(raw.data))
                    garbled = None
                number = raw.number
                try:
                    line = decode_line(raw.data)
                except LineError as error:
                    if raw.is_whole:
                        garbled = error
                        continue
                    self._pass_over(path, number, error, is_cut=True)
                    continue
                if line is not None:
                    yield number, line
        except BrokenStream as error:
            self._fail(path, number, f"nothing after this line can be read: {error}", error)
        except MissingZstd:
            raise
        except OSError as error:
            self._fail(path, 0, f"cannot be read: {error.strerror}", error)
        if garbled is not None:
            self._pass_over(path, number, garbled, is_cut=False)

    def _pass_over(self, path: Path, number: int, error: LineError, *, is_cut: bool) -> None:
        if is_cut:
            self._tell(Problem(path, number, "the line is cut off: its writer was killed, or still writes", True))
        else:
            self._fail(path, number, str(error), error)

    def _fail(self, path: Path, number: int, message: str, cause: Exception | None = None) -> None:
        if self._raises:
            raise TrajectoryError(path, number, message) from cause
        self._tell(Problem(path, number, message, False))

    def _take(self, path: Path, number: int, step: EpisodeStep) -> RecordedEpisode | None:
        """Return the step's episode with the step in it; None if it cannot be in one."""
        episode = self._open.get(step.episode)
        if episode is None:
            self._fail(
                path, number, f"step {step.step} is of episode {step.episode!r}, whose start is not here or is over"
            )
            return None
        due = began_at(episode) + len(episode.steps) + 1
        if episode.steps and step == episode.steps[-1]:
            return None  # as for a start that is there twice
        if step.step != due:
            self._fail(path, number, f"step {step.step} of episode {step.episode!r} comes where step {due} must")
            return None
        episode.steps.append(step)
        return episode


__all__ = [
    "SCHEMA",
    "Branch",
    "EpisodeStart",
    "EpisodeStep",
    "MissingZstd",
    "Problem",
    "RecordedEpisode",
    "TrajectoryError",
    "began_at",
    "find_parents",
    "origins_of",
    "read_lines",
    "read_trajectories",
    "with_past",
]
