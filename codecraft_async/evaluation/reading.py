"""Reading logs: one object of episodes by task, as InterCode has it, or a line for each episode, as a run writes."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import orjson

from codecraft_async.evaluation.errors import LogError
from codecraft_async.evaluation.records import EpisodeLog, episode_from

__all__ = ["EPISODES", "LOG", "read_lines", "read_log", "read_whole"]

EPISODES: Final = "episodes.jsonl"
LOG: Final = "log.json"
_MAX_BYTES: Final = 1 << 30


def read_log(path: Path | str) -> dict[str, EpisodeLog]:
    """Return the episodes of a log, by their keys (blocking). *path* is a file, or the directory of a run.

    It may be InterCode's object by task, the same within ``{"meta": ..., "logs": ...}``, one trajectory file of an
    environment, or the lines of a run, of which the last of each key counts and a cut last one is left out.

    Raises:
        LogError: It is none of these; names the file and the entry.
        OSError: It cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file = _within(file)
    data = read_whole(file)
    if file.suffix == ".jsonl":
        return {episode.key: episode for episode in read_lines(data, str(file))[0]}
    try:
        content: object = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise LogError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise LogError(f"{file}: expected an object of episodes, by task")
    entries = cast("Mapping[str, Any]", content)
    if "trajectory" in entries:
        episode = episode_from(entries, where=str(file))
        return {episode.key: episode}
    if isinstance(entries.get("logs"), dict):
        entries = entries["logs"]
    return {key: episode_from(entry, where=f"{file}: entry {key!r}", key=key) for key, entry in entries.items()}


def read_whole(file: Path) -> bytes:
    """Return what is in a file (blocking, but for no writer of a pipe: nothing could end that wait).

    Raises:
        LogError: It is too large, or no file.
        OSError: It cannot be read.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise LogError(f"{file}: that is no file, but a directory, a pipe or a device")
    if status.st_size > _MAX_BYTES:
        raise LogError(f"{file}: more than {_MAX_BYTES >> 20} MiB: that is no log of episodes")
    return file.read_bytes()


def read_lines(data: bytes, where: str) -> tuple[list[EpisodeLog], int]:
    """Return the episodes of a run's lines, and how many bytes are whole: a killed process may leave half a line.

    Raises:
        LogError: A line that is whole is no episode.
    """
    whole = data.rfind(b"\n") + 1
    episodes: list[EpisodeLog] = []
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        place = f"{where}: line {number}"
        try:
            content: object = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise LogError(f"{place}: not valid JSON: {error}") from None
        episodes.append(episode_from(content, where=place))
    return episodes, whole


def _within(directory: Path) -> Path:
    for name in (EPISODES, LOG):
        if (directory / name).is_file():
            return directory / name
    raise LogError(f"{directory}: no run is here: neither {EPISODES} nor {LOG}")
