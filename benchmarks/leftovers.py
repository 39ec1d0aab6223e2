"""What belongs to this process outside of its memory, and what of that is still there when all is closed."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.exec_fan_out import own_containers
from benchmarks.parties import find_parties
from codecraft_pool import connect_daemon

_GONE_LIMIT_S: Final = 30.0
_POLL_S: Final = 0.1
_CALL_LIMIT_S: Final = 60.0
_CGROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Belongings:
    """Names of what there is; `open_files` is a number."""

    containers: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    processes: frozenset[str] = frozenset()
    temporary_files: frozenset[str] = frozenset()
    cgroups: frozenset[str] = frozenset()
    open_files: int = 0

    @property
    def anything(self) -> bool:
        """Whether there is any of it."""
        return any(self.as_json().values())

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in the file."""
        return {
            "containers": sorted(self.containers),
            "volumes": sorted(self.volumes),
            "processes": sorted(self.processes),
            "temporary_files": sorted(self.temporary_files),
            "cgroups": sorted(self.cgroups),
            "open_files": self.open_files,
        }


async def belongings(bench: Bench) -> Belongings:
    """Return what this process has now."""
    containers: set[str] = set()
    volumes: set[str] = set()
    if bench.backend == "docker":
        async with await connect_daemon() as daemon, asyncio.timeout(_CALL_LIMIT_S):
            for container in await own_containers(daemon):
                shown = await container.show()
                containers.add(shown["Id"])
                volumes |= {mount["Name"] for mount in shown["Mounts"] if mount["Type"] == "volume"}
    parties = await find_parties(bench)
    return Belongings(
        frozenset(containers),
        frozenset(volumes),
        processes.identities([*parties.guests, *parties.shims]),
        _temporary_files(),
        frozenset(str(folder) for folder in _cgroups_of(parties.guests)),
        processes.open_files(),
    )


async def left_of(bench: Bench, before: Belongings, during: Belongings) -> Belongings:
    """Return what came between *before* and *during* and is still there, once nothing more goes away by itself."""
    deadline = asyncio.get_running_loop().time() + _GONE_LIMIT_S
    while True:
        left = await _left_of(bench, before, during)
        if not left.anything or asyncio.get_running_loop().time() > deadline:
            return left
        await asyncio.sleep(_POLL_S)


async def _left_of(bench: Bench, before: Belongings, during: Belongings) -> Belongings:
    containers, volumes = during.containers - before.containers, during.volumes - before.volumes
    if bench.backend == "docker":
        async with await connect_daemon() as daemon, asyncio.timeout(_CALL_LIMIT_S):
            client: Any = daemon.client
            containers &= {container.id for container in await client.containers.list(all=True)}
            volumes &= {volume["Name"] for volume in (await client.volumes.list())["Volumes"] or ()}
    alive = processes.identities(processes.everyone())
    return Belongings(
        containers,
        volumes,
        (during.processes - before.processes) & alive,
        _temporary_files() - before.temporary_files,
        _existing(during.cgroups - before.cgroups),
        max(0, processes.open_files() - before.open_files),
    )


def _existing(folders: Iterable[str]) -> frozenset[str]:
    return frozenset(folder for folder in folders if os.path.isdir(folder))


def _temporary_files() -> frozenset[str]:
    return frozenset(name for name in os.listdir(tempfile.gettempdir()) if _is_ours(name))


def _is_ours(name: str) -> bool:
    """Whether a temporary file may be ours: nobody else's names are looked at, as others use the folder, too."""
    return name.startswith("codecraft") and f"-{os.getpid()}-" in name


def _cgroups_of(pids: Iterable[int]) -> set[Path]:
    """The groups of these processes, below which nothing of anybody else's is."""
    own = _cgroup_paths(os.getpid())
    return {path for pid in pids for path in _cgroup_paths(pid) - own}


def _cgroup_paths(pid: int) -> set[Path]:
    found: set[Path] = set()
    with suppress(OSError):
        for line in (processes.PROC / str(pid) / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            folder = _CGROUPS / controllers.removeprefix("name=") / path.lstrip("/")
            if path != "/" and folder.is_dir():
                found.add(folder)
    return found
