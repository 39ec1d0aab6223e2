"""Recording episodes: one JSON line per reset and step, whole on the disk's side before the step returns.

A line is one `write` to a file opened for appending, so a writer that is killed at any moment loses the line it was
writing and no other, compressed or not. `codecraft_async.trajectory` reads what is there.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from codecraft_async._recorder_file import RecordFile
from codecraft_async._trajectory_files import SUFFIXES, Compression, compression_of, import_zstd
from codecraft_async._trajectory_lines import Line, encode_line

Fsync = Literal["never", "episode", "line"]
_MIN_FILE_BYTES: Final = 4096


class RecordingError(OSError):
    """A line could not be written; says to which file and why.

    The reset or step that it is of was done, and the episode can go on; the line is written before the next one, should
    that be possible again (such as on a disk that was full). What the step came to is not returned, so that nobody
    learns from what is not recorded and believes that it is: whoever wants that does not record.
    """


@dataclass(frozen=True, slots=True)
class RecorderStats:
    """What was written: lines, their bytes before and after compression, and files that were begun."""

    lines: int
    line_bytes: int
    file_bytes: int
    files: int


class Recorder:
    """Writes the episodes of any number of environments, threads and forked processes. Close it, or use it with `with`.

    A copy of it, or what is unpickled in another process, writes to the same place, and is to be closed as well.

    Args:
        path: A directory, made if it is missing, in which every process writes files of its own; or, if it ends in
            .jsonl, .jsonl.gz or .jsonl.zst, one file. A plain file that is there is appended to.
        compression: "none", "gzip" or "zstd" (needs the package zstandard); by default what the name says, else none.
            Every line is flushed through the compressor, which keeps what it has learnt of those before.
        fsync: When what was written must have reached the disk, and so outlives a crash of the machine: "never" (when
            the system likes), "episode" (soon after an episode's end; waited for in a thread, not by a step) or "line"
            (before the step returns, which waits for the disk). The death of the process alone loses nothing.
        max_file_bytes: In a directory: begin another file after so many bytes.
        curriculum_source: What a replay can load a curriculum by that environments were given as an object: the path of
            its tasks.

    Raises:
        ValueError: An argument is wrong.
        MissingZstd: "zstd" without its package.
        RecordingError: The directory cannot be made, or the file is there and cannot be appended to.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        compression: Compression | None = None,
        fsync: Fsync = "never",
        max_file_bytes: int | None = None,
        curriculum_source: str = "",
    ) -> None:
        self.path = Path(path)
        self.curriculum_source = curriculum_source
        named = compression_of(self.path)
        self._is_file = named is not None
        self._compression: Compression = compression or named or "none"
        _check(self.path, self._compression, named, fsync, max_file_bytes)
        if self._compression == "zstd":
            import_zstd()
        self._fsync: Fsync = fsync
        self._max_file_bytes = max_file_bytes
        self._closed = False
        self._envs = count()
        self._lines = self._line_bytes = self._file_bytes = self._files = 0
        self._file: RecordFile | None = None
        self._own_process()
        self._make_place()

    def _own_process(self) -> None:
        """Be this process's: with a name of its own, and nothing of what a process that it was forked from holds."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{self._pid}-{secrets.token_hex(4)}"
        if self._file is not None:
            self._file.let_go()
            self._file = None
        self._numbers = count()

    def _make_place(self) -> None:
        folder = self.path.parent if self._is_file else self.path
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _failed(folder, "cannot be made", error) from error
        if self._is_file:
            self._file = self._open()

    def __repr__(self) -> str:
        return f"<Recorder {self.path}: {self._lines} lines{', closed' if self._closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        options: dict[str, Any] = {
            "compression": self._compression,
            "fsync": self._fsync,
            "max_file_bytes": self._max_file_bytes,
            "curriculum_source": self.curriculum_source,
        }
        return partial(Recorder, **options), (self.path,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def new_env(self) -> str:
        """Return the name of one more environment, unlike that of any other in any process."""
        self._check_process()
        return f"{self._id}-{next(self._envs)}"

    def write(self, line: Line, *, ends_episode: bool = False) -> None:
        """Append a line.

        Raises:
            RecordingError: It could not be written. The next line tries another file, where there may be one.
            RuntimeError: The recorder is closed.
        """
        self._check_process()
        data = encode_line(line)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self!r} is closed; make a new one")
            file = self._file_for_a_line()
            try:
                written = file.write(data, ends_episode=ends_episode)
            except OSError as error:
                self._file = None
                file.let_go()
                raise _failed(file.path, "cannot be written to", error) from error
            self._lines += 1
            self._line_bytes += len(data)
            self._file_bytes += written

    def _file_for_a_line(self) -> RecordFile:
        file = self._file
        if file is not None and self._max_file_bytes is not None and file.size >= self._max_file_bytes:
            self._file = None
            _complete(file, waits=False)
        if self._file is None:
            self._file = self._open()
        return self._file

    def _open(self) -> RecordFile:
        path = self.path
        if not self._is_file:
            path = path / f"{self._id}-{next(self._numbers):05d}{SUFFIXES[self._compression]}"
        try:
            file = RecordFile(path, self._compression, self._fsync)
        except FileExistsError as error:
            why = f"is there already, and compressed with {self._compression}: only a plain file can be appended to"
            raise RecordingError(error.errno, f"{why}; choose another name, or a directory", str(path)) from None
        except OSError as error:
            raise _failed(path, "cannot be opened", error) from error
        self._files += 1
        return file

    def stats(self) -> RecorderStats:
        """Return what this process has written."""
        return RecorderStats(self._lines, self._line_bytes, self._file_bytes, self._files)

    def close(self) -> None:
        """Complete the file. Idempotent. What was written before can be read whether or not this is called.

        Raises:
            RecordingError: The end of a compressed file could not be written, or not be made to reach the disk.
        """
        self._check_process()
        with self._lock:
            self._closed = True
            file, self._file = self._file, None
            if file is not None:
                _complete(file)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            self._own_process()


def _check(path: Path, compression: str, named: str | None, fsync: str, max_file_bytes: int | None) -> None:
    if compression not in get_args(Compression):
        raise ValueError(f"compression is {compression!r}; it must be 'none', 'gzip' or 'zstd'")
    if named is not None and compression != named:
        raise ValueError(f"compression is {compression!r}, and the name of {path} says {named!r}")
    if fsync not in get_args(Fsync):
        raise ValueError(f"fsync is {fsync!r}; it must be 'never', 'episode' or 'line'")
    if max_file_bytes is not None and max_file_bytes < _MIN_FILE_BYTES:
        raise ValueError(f"max_file_bytes is {max_file_bytes}; it must be at least {_MIN_FILE_BYTES}")
    if max_file_bytes is not None and named is not None:
        raise ValueError(f"max_file_bytes needs a directory to begin further files in, and {path} is one file")


def _complete(file: RecordFile, *, waits: bool = True) -> None:
    try:
        file.close(waits=waits)
    except OSError as error:
        raise _failed(file.path, "cannot be completed", error) from error


def _failed(path: Path, what: str, error: OSError) -> RecordingError:
    return RecordingError(error.errno, f"{what}: {error.strerror}", str(path))


__all__ = ["Fsync", "Recorder", "RecorderStats", "RecordingError"]
