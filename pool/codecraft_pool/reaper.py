"""Removes what dead processes left: containers whose owner is gone, and run directories of the local launcher.

Normally there is nothing: sandboxes end with the process that owns them. What can stay is a container that was created
and not yet started when its process was killed, and a directory of snapshots.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from codecraft_pool.containers import Containers
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.local_launcher import RUN_PREFIX
from codecraft_pool.owner import Owner


@dataclass(frozen=True, slots=True)
class Reaped:
    """What was removed, and what was left because its owner lives or cannot be judged from here."""

    containers: list[str] = field(default_factory=list[str])
    directories: list[str] = field(default_factory=list[str])
    kept: list[str] = field(default_factory=list[str])


async def reap(daemon: DockerDaemon | None) -> Reaped:
    """Remove what belongs to dead processes of this machine, and nothing else; without *daemon* only directories.

    A container of another machine's process (a remote daemon) is kept: whether its owner lives cannot be told from
    here.
    """
    reaped = Reaped()
    for path in await asyncio.to_thread(_run_directories):
        owner = Owner.parse(path.name.removeprefix(RUN_PREFIX).rpartition("-")[0])
        if owner is None or (owner.is_from_here() and owner.is_alive()):
            reaped.kept.append(str(path))
        else:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            reaped.directories.append(str(path))
    if daemon is not None:
        await _reap_containers(daemon, reaped)
    return reaped


def _run_directories() -> list[Path]:
    return [
        path
        for path in Path(tempfile.gettempdir()).glob(f"{RUN_PREFIX}*")
        if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.geteuid()
    ]


async def _reap_containers(daemon: DockerDaemon, reaped: Reaped) -> None:
    containers = Containers(daemon)
    for name, text in (await containers.owned()).items():
        owner = Owner.parse(text)
        if owner is None or not owner.is_from_here() or owner.is_alive():
            reaped.kept.append(name)
        else:
            await containers.remove(name)
            reaped.containers.append(name)
