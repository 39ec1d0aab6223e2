"""One file of a recording: appended to with whole lines, and brought to the disk when asked."""

from __future__ import annotations

import errno
import os
import threading
import warnings
from pathlib import Path

from codecraft_async._trajectory_files import CODECS, Compression, write_all
from codecraft_async._trajectory_lines import TORN_LINE

_SYNC_LIMIT_S = 30.0


class RecordFile:
    """Open from its making to `close`.

    Raises:
        FileExistsError: A compressed file of that name is there: what a killed writer left of it has no end that
            something could be appended to.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, compression: Compression, fsync: str) -> None:
        self.path = path
        self.size = 0
        self._codec = CODECS[compression]()
        self._fsync = fsync
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags | (0 if compression == "none" else os.O_EXCL), 0o644)
        self._pid = os.getpid()
        self._is_open = True
        self._syncer = _Syncer(self._fd) if fsync == "episode" else None
        try:
            if compression == "none":
                self._mend()
        except OSError:
            self.let_go()
            raise

    def _mend(self) -> None:
        """Begin a new line after one that was cut off, and say that it was."""
        self.size = os.fstat(self._fd).st_size
        if self.size and os.pread(self._fd, 1, self.size - 1) != b"\n":
            write_all(self._fd, b"\n" + TORN_LINE)

    def write(self, line: bytes, *, ends_episode: bool) -> int:
        """Append a line and return how many bytes that took. After an error nothing more can be written."""
        data = self._codec.encode(line)
        write_all(self._fd, data)
        self.size += len(data)
        if self._fsync == "line":
            os.fsync(self._fd)
        elif self._syncer is not None and ends_episode:
            self._syncer.ask()
        return len(data)

    def close(self, *, waits: bool = True) -> None:
        """Complete the file and close it; it is closed also after an error.

        Not *waits*, what has to reach the disk does so, and the file is closed, in a thread.
        """
        try:
            end = self._codec.end()
            if end:
                write_all(self._fd, end)
            if self._fsync == "line":
                os.fsync(self._fd)
        finally:
            self.let_go(waits=waits)

    def let_go(self, *, waits: bool = False) -> None:
        """Close the file as it is. In a forked child this leaves the parent's alone."""
        self._is_open = False
        if self._syncer is None or self._pid != os.getpid():  # threads do not survive a fork
            os.close(self._fd)
        else:
            self._syncer.stop(waits=waits)

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            warnings.warn(f"unclosed recording {self.path}: close its recorder", ResourceWarning, 2, self)


class _Syncer:
    """Brings a file to the disk in a thread of its own; askings that come while it does so become one more time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._asked = threading.Event()
        self._stopping = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._main, name="codecraft-recorder", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have all that is written now brought there soon."""
        self._asked.set()

    def stop(self, *, waits: bool) -> None:
        """Have it brought there once more, and the file closed.

        Raises:
            OSError: It could not be (only where this *waits*).
            TimeoutError: The disk has not answered for so long that nobody waits for it any more.
        """
        self._stopping = True
        self._asked.set()
        if waits:
            self._thread.join(_SYNC_LIMIT_S)
            if self._thread.is_alive():
                raise TimeoutError(errno.ETIMEDOUT, f"the disk did not answer within {_SYNC_LIMIT_S:g} s")
            if self._error is not None:
                raise self._error

    def _main(self) -> None:
        is_last = False
        while not is_last:
            self._asked.wait()
            self._asked.clear()
            is_last = self._stopping  # before the work: what is written meanwhile needs one more
            try:
                os.fsync(self._fd)
            except OSError as error:
                self._error = error
        os.close(self._fd)
