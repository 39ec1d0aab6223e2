"""The floor: fork+exec of a command on the host, on all cores, with nothing else around it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.results import BenchmarkError
from codecraft_pool.spec import default_environment

_HERE: Final = Path(__file__).parent
_COMPILE_LIMIT_S: Final = 60.0
_GRACE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class FloorRun:
    """Commands per second, and which part of all cores' time they got; the rest went to others, or idle."""

    per_s: float
    cpu_share: float


@dataclass(frozen=True, slots=True)
class Floor:
    """How the floor is reached here: `programs` run side by side; `kind` says what they do."""

    kind: str
    programs: tuple[tuple[str, ...], ...]

    def measure(self, command: str, seconds: float) -> FloorRun:
        """Run the host's ``/bin/sh -c command`` over and over on all cores together.

        The environment, and with it the search path, is that of commands in a sandbox.

        Raises:
            BenchmarkError: The command failed on this machine.
        """
        cpu_before_s, began = _children_cpu_s(), time.perf_counter()
        running = [_start([*program, str(seconds), command]) for program in self.programs]
        try:
            per_s = sum(_rate(process, command, seconds) for process in running)
            offered_s = (time.perf_counter() - began) * len(os.sched_getaffinity(0))
            return FloorRun(per_s, (_children_cpu_s() - cpu_before_s) / offered_s)
        finally:
            for process in running:
                process.kill()
                process.communicate()


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _start(argv: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(argv, cwd="/", env=default_environment(), stdout=subprocess.PIPE, text=True)


def _rate(process: subprocess.Popen[str], command: str, seconds: float) -> float:
    try:
        said, _ = process.communicate(timeout=seconds + _GRACE_S)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{command!r} on this machine did not end within {seconds + _GRACE_S:g} s") from None
    if process.returncode != 0:
        raise BenchmarkError(f"{command!r} does not end with status 0 on this machine, so there is no floor for it")
    commands, elapsed_s = said.split()
    return int(commands) / float(elapsed_s)


@contextmanager
def open_floor() -> Generator[Floor]:
    """Yield the fastest floor that this machine allows: in C where there is a compiler, else in Python."""
    with tempfile.TemporaryDirectory(prefix="codecraft-floor-") as folder:
        program = Path(folder) / "floor"
        if _compiled(program):
            yield Floor("vfork+execve+waitpid in C, one process for each core", ((str(program),),))
            return
        script = str(_HERE / "floor_spawn.py")
        cores = len(os.sched_getaffinity(0))
        yield Floor(
            "os.posix_spawn in Python, one process for each core (no C compiler here)",
            ((sys.executable, "-I", script),) * cores,
        )


def _compiled(program: Path) -> bool:
    compiler = shutil.which("cc")
    if compiler is None:
        return False
    command = [compiler, "-O2", "-o", str(program), str(_HERE / "floor.c")]
    return subprocess.run(command, timeout=_COMPILE_LIMIT_S, capture_output=True).returncode == 0
