"""`RunFiles`: the directory of a run. One process at a time writes it; a run that was killed goes on in it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self, cast

import orjson

from codecraft_async._trajectory_files import write_all
from codecraft_async.evaluation.errors import LogError, RunBusy, RunChanged
from codecraft_async.evaluation.reading import EPISODES, LOG, read_lines
from codecraft_async.evaluation.records import EpisodeLog, as_log, json_value

__all__ = ["RunFiles", "write_whole"]

_SETTINGS: Final = "run.json"
_LOCK: Final = "lock"
_JSON: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


class RunFiles:
    """Open from its making to `close`; blocking.

    ``run.json`` has the settings that decide what an episode's result means, ``episodes.jsonl`` gets a line when an
    episode is over, and ``log.json`` is made of these at the end, in InterCode's form. A line is one `write` to a file
    opened for appending: a process that is killed loses no episode that was told, and what is left of a line that it
    was writing is cut off by the next one.

    Raises:
        RunBusy: Another process has the directory open.
        RunChanged: It holds episodes that were played with other *settings*.
        LogError: What is in it cannot be read.
        OSError: It cannot be written.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._fd = -1
        try:
            self._take_lock()
            self._compare(settings)
            self._fd = os.open(directory / EPISODES, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self.episodes = self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the directory. Idempotent."""
        descriptors, self._fd, self._lock = (self._fd, self._lock), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def add(self, episode: EpisodeLog) -> None:
        """Append an episode; one of the same key takes the place of the one before.

        Raises:
            OSError: It cannot be written; nothing of it is in the file then.
        """
        line = orjson.dumps(as_log(episode), option=orjson.OPT_APPEND_NEWLINE)
        size = os.fstat(self._fd).st_size
        try:
            write_all(self._fd, line)
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise OSError(error.errno, error.strerror, str(self.directory / EPISODES)) from None
        self.episodes[episode.key] = episode

    def finish(self, order: list[str]) -> Path:
        """Write InterCode's one object, with the keys in this *order*, and return its path."""
        known = {key: self.episodes[key] for key in (*order, *self.episodes) if key in self.episodes}
        path = self.directory / LOG
        write_whole(path, orjson.dumps({key: as_log(each) for key, each in known.items()}, option=_JSON))
        return path

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process ends
        except OSError:
            owner = os.pread(self._lock, 64, 0).decode("ascii", "replace").strip()
            raise RunBusy(
                f"{self.directory}: process {owner or '?'} is writing this run: wait for it, or use another directory"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _compare(self, settings: Mapping[str, Any]) -> None:
        now = cast("dict[str, Any]", json_value(settings))
        path = self.directory / _SETTINGS
        try:
            before: object = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            if (self.directory / EPISODES).exists():
                raise LogError(f"{path} is missing, so nobody knows how its episodes were played") from None
            write_whole(path, orjson.dumps(now, option=_JSON))
            return
        except orjson.JSONDecodeError as error:
            raise LogError(f"{path}: not valid JSON: {error}") from None
        if not isinstance(before, dict):
            raise LogError(f"{path}: expected an object of settings")
        known = cast("dict[str, Any]", before)
        changed = [name for name in dict.fromkeys((*known, *now)) if known.get(name) != now.get(name)]
        if changed and not _has_content(self.directory / EPISODES):  # nothing was played with them
            write_whole(path, orjson.dumps(now, option=_JSON))
        elif changed:
            told = "; ".join(f"{name} was {_shown(known.get(name))}, now {_shown(now.get(name))}" for name in changed)
            raise RunChanged(
                f"{self.directory} holds a run with other settings ({told}): go on with those, or use another directory"
            )

    def _read(self) -> dict[str, EpisodeLog]:
        path = self.directory / EPISODES
        data = path.read_bytes()
        episodes, whole = read_lines(data, str(path))
        if whole < len(data):
            os.ftruncate(self._fd, whole)
        return {episode.key: episode for episode in episodes}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is either as before or complete, whenever the process ends (blocking).

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _shown(value: object) -> str:
    text = "not given" if value is None else orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:80]}..."
