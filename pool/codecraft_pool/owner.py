"""Who owns a resource: a name for this process that can be told, later and by others, from every other process."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RUN_PREFIX: Final = "codecraft-run-"
"""How the run directories of launchers are named; an owner follows, and something to tell them apart."""

_FORM: Final = re.compile(r"([0-9a-f]{8})-(\d{1,10})-(\d{1,20})")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process: in which boot and process id namespace, its id, and its start time in clock ticks since boot."""

    boot: str
    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.boot}-{self.pid}-{self.start}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner that *text* names, or None if it names none."""
        match = _FORM.fullmatch(text)
        return cls(match[1], int(match[2]), int(match[3])) if match else None

    @classmethod
    def current(cls) -> Owner:
        """Return this process."""
        pid = os.getpid()
        start = _start_of(pid)
        assert start is not None, "this process has no /proc entry"
        return cls(_boot(), pid, start)

    def is_alive(self) -> bool:
        """Say whether that very process still runs; one of another boot or namespace is none here."""
        return self.boot == _boot() and (_start_of(self.pid) == self.start or _is_hidden(self.pid))

    def is_from_here(self) -> bool:
        """Say whether it ran in this boot and process id namespace, so that `is_alive` is the truth."""
        return self.boot == _boot()


def _boot() -> str:
    """Name this boot and this process id namespace: only within both does a process id mean the same process."""
    return hashlib.sha256(f"{boot_id()}{os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]


def boot_id() -> str:
    """Return the kernel's random name for this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def _is_hidden(pid: int) -> bool:
    """Say whether /proc shows nothing of a process that is there: another user's, where it is mounted with hidepid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return not os.path.exists(f"/proc/{pid}")
    return False


def _start_of(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat (proc(5)); None if there is no such process, or only a zombie of it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
