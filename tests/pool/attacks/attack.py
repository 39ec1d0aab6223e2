"""What an attack is: a program, and what must be true of how it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from codecraft_pool import CommandResult
from tests.pool.guest_harness import missing

Verdict = Callable[[CommandResult], bool]
PYTHON: Final = "/usr/bin/python3"


def ended(result: CommandResult) -> bool:
    """It came to its own end, without an error."""
    return (result.exit_code, result.stderr, result.truncated) == (0, b"", False)


def stopped(result: CommandResult) -> bool:
    """It was killed at its wall limit."""
    return (result.exit_code, result.signal, result.timed_out) == (-1, 9, True)


def capped(result: CommandResult) -> bool:
    """It was killed at its output cap, with exactly as much of its output as that."""
    return result.truncated and len(result.stdout) + len(result.stderr) == OUTPUT_CAP


def killed_for_memory(result: CommandResult) -> bool:
    """It was refused memory, or killed for it, and not at a limit of its command."""
    return result.exit_code != 0 and not result.timed_out


def any_end(result: CommandResult) -> bool:
    """Whatever it is, it is an end."""
    return result.exit_code != 0 or result.signal == 0


OUTPUT_CAP: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A hostile program.

    *ends* judges its result; *prints* is all that it may print (None: anything). It prints what it should not have
    been able to do. *may_lose*: the sandbox may have to be replaced, as long as it says so. *needs_memory_limit*: not
    to be tried where only a control group would keep it from taking the machine's memory.
    """

    name: str
    program: str
    language: Literal["python", "sh", "c"] = "python"
    ends: Verdict = ended
    prints: str | None = ""
    limit_s: float = 5.0
    may_lose: bool = False
    needs_memory_limit: bool = False

    def argv(self) -> list[str]:
        """The command that runs it; one in C must have been put at `C_PATH` first."""
        if self.language == "c":
            return [f"/tmp/{C_NAME}"]
        return [PYTHON, "-I", "-c", PRELUDE + self.program] if self.language == "python" else ["sh", "-c", self.program]


C_NAME: Final = "attack"
PRELUDE: Final = """
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, function):
    # Says so if it worked.
    try:
        if function() not in (-1, False):
            print("could", name)
    except (OSError, ValueError, OverflowError):
        pass

def exhaust(function, most=200_000):
    # Does it until it is refused; returns how often it worked.
    kept = []
    try:
        for _ in range(most):
            kept.append(function())
            if kept[-1] == -1:
                kept.pop()
                break
    except (OSError, MemoryError):
        pass
    keep.append(kept)
    return len(kept)

def stay(seconds=600):
    # Leaves a process that holds on to all that this one has, in a session of its own and out of its pipes.
    if os.fork() == 0:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        time.sleep(seconds)
        os._exit(0)

keep = []
"""


@cache
def compiled(program: str) -> bytes:
    """A C program as a static executable."""
    compiler = shutil.which("cc") or missing("no C compiler")
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "attack.c", Path(directory) / "attack"
        source.write_text(program)
        subprocess.run(
            [compiler, "-O1", "-static", "-s", "-o", target, source], check=True, env={"PATH": os.environ["PATH"]}
        )
        return target.read_bytes()
