"""Removes what dead processes left: containers whose owner is gone, and run directories of the local launcher.

Normally there is nothing: sandboxes end with the process that owns them. What can stay is a container that was created
and not yet started when its process was killed, and a directory of snapshots.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from codecraft_pool.containers import Containers
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused
from codecraft_pool.local_launcher import RUN_PREFIX
from codecraft_pool.owner import Owner
from codecraft_pool.snapshot import remove_tree


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
    for path, is_left in (await asyncio.to_thread(_run_directories)).items():
        if is_left:
            await asyncio.to_thread(remove_tree, path)
        (reaped.directories if is_left else reaped.kept).append(str(path))
    if daemon is not None:
        await _reap_containers(daemon, reaped)
    return reaped


def _run_directories() -> dict[Path, bool]:
    """Return this user's run directories, and whether each was left behind."""
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    directories: dict[Path, bool] = {}
    for path in Path(tempfile.gettempdir()).glob(f"{RUN_PREFIX}*"):
        try:
            info = path.lstat()
        except FileNotFoundError:  # its owner has just removed it
            continue
        if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid():
            owner = Owner.parse(path.name.removeprefix(RUN_PREFIX).rpartition("-")[0])
            # The processes of another process id namespace cannot be seen from here, unless the machine has been
            # started since.
            here = owner is not None and owner.is_from_here()
            directories[path] = owner is not None and not owner.is_alive() and (here or info.st_mtime < booted_s)
    return directories


async def _reap_containers(daemon: DockerDaemon, reaped: Reaped) -> None:
    containers = Containers(daemon)
    for name, text in (await containers.owned()).items():
        owner = Owner.parse(text)
        if owner is None or not owner.is_from_here() or owner.is_alive():
            reaped.kept.append(name)
        else:
            try:
                await containers.remove(name)
            except CallRefused:  # one that cannot be removed keeps nobody from starting others
                reaped.kept.append(name)
            else:
                reaped.containers.append(name)
