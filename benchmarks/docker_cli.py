"""Docker's own program, for what is not measured: containers, images and networks of peers."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from benchmarks.results import BenchmarkError

_CALL_LIMIT_S: Final = 120.0


def docker(*words: str, may_fail: bool = False) -> str:
    """Return what ``docker *words`` prints.

    Raises:
        BenchmarkError: It failed, unless it *may_fail*; says what it said.
    """
    try:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=_CALL_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as exc:
        raise BenchmarkError(f"`docker {words[0]}` failed: {exc}") from exc
    if done.returncode != 0 and not may_fail:
        raise BenchmarkError(f"`docker {words[0]}` failed: {' '.join(done.stderr.split())[-200:]}")
    return done.stdout


@contextmanager
def labelled(label: str) -> Generator[str]:
    """Yield *label*; containers that have it in the end are removed, should a peer not have come to that."""
    try:
        yield label
    finally:
        for container in docker("ps", "-a", "-q", "--filter", f"label={label}").split():
            docker("rm", "-f", container, may_fail=True)
