"""What /proc says of processes: CPU time, memory, descendants. Those that have gone meanwhile count as nothing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of these processes' threads in ns; what threads used that have ended is not in it."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for task in (PROC / str(pid) / "task").iterdir():
                with suppress(OSError):
                    total += int((task / "schedstat").read_text().split()[0])
    return total


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes, pages that they share counted for each."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += int((PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    return total


def identities(pids: Iterable[int]) -> frozenset[str]:
    """Names of these processes that no later process has: a kernel gives numbers again, here after minutes."""
    found: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            found.add(f"{pid} since {_stat(pid)[19]}")
    return frozenset(found)


def everyone() -> list[int]:
    """Every process that this one can see."""
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def parents() -> dict[int, int]:
    """The parent of every process."""
    found: dict[int, int] = {}
    for pid in everyone():
        with suppress(OSError):
            found[pid] = int(_stat(pid)[1])
    return found


def _stat(pid: int) -> list[str]:
    # The name stands in parentheses and may hold anything, so what follows the last one counts.
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def descendants(root: int) -> list[int]:
    """Every process below *root*."""
    children: dict[int, list[int]] = defaultdict(list)
    for pid, parent in parents().items():
        children[parent].append(pid)
    found: list[int] = []
    rest = [root]
    while rest:
        rest = [child for pid in rest for child in children[pid]]
        found += rest
    return found


def named(*names: str) -> list[int]:
    """Every process whose program is called one of *names*."""
    found: list[int] = []
    for pid in everyone():
        with suppress(OSError):
            if (PROC / str(pid) / "comm").read_text().strip() in names:
                found.append(pid)
    return found


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # without the one that this look needs
