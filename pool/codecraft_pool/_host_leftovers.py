"""Leftovers on this machine: run directories, scratch directories of image builds, and cgroups."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from codecraft_pool.leftovers import Leftover, is_ours, owner_in
from codecraft_pool.local_launcher import RUN_PREFIX
from codecraft_pool.recipes import SCRATCH_PREFIX
from codecraft_pool.snapshot import remove_tree

CGROUP_PREFIX: Final = "codecraft-"
# A machine with thousands of containers has tens of thousands; a start is not to wait for a walk through more.
MAX_CGROUPS_SEEN: Final = 50_000


def find_on_host() -> list[Leftover]:
    """This user's directories, and the cgroups that this user may remove. Blocks for as long as the walk takes."""
    return [*_directories(), *_cgroups()]


def remove_on_host(found: Leftover) -> str | None:
    """Remove it; what kept it from being removed, or None."""
    path = Path(found.name)
    try:
        if found.kind == "cgroup":
            _remove_cgroup(path)
        elif _has_mounts(path):  # never through a mount: it may show anything, the machine's own root included
            return "something is mounted in it"
        else:
            remove_tree(path)
            return "it could not be removed whole" if path.exists() else None
    except FileNotFoundError:  # another process was as diligent
        return None
    except OSError as error:
        return f"it could not be removed: {error.strerror}"
    return None


def _directories() -> Iterator[Leftover]:
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for prefix in (RUN_PREFIX, SCRATCH_PREFIX):
        for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            try:
                info = path.lstat()
            except FileNotFoundError:  # its owner has just removed it
                continue
            if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid():
                owner = owner_in(path.name, prefix)
                yield Leftover("directory", str(path), owner, before_boot=info.st_mtime < booted_s)


def _has_mounts(path: Path) -> bool:
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    shown = os.path.realpath(path).replace("\\", "\\134").replace(" ", "\\040")  # as proc(5) writes it
    return f" {shown}/" in mounts or f" {shown} " in mounts


def cgroup_roots() -> list[Path]:
    """Where the cgroup hierarchies are mounted."""
    roots: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, source = line.partition(" - ")
        if source.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            roots.append(Path(mount.split(" ")[4]))
    return roots


def _cgroups() -> Iterator[Leftover]:
    seen = 0
    for root in cgroup_roots():
        for folder, names, _ in os.walk(root):
            seen += len(names)
            if seen > MAX_CGROUPS_SEEN:
                return
            for name in [each for each in names if owner_in(each, CGROUP_PREFIX)]:
                names.remove(name)  # what is below goes with it
                path = os.path.join(folder, name)
                try:
                    ours = is_ours(os.lstat(path).st_uid)
                except FileNotFoundError:
                    continue
                if ours:
                    yield Leftover("cgroup", path, owner_in(name, CGROUP_PREFIX))


def _remove_cgroup(path: Path) -> None:
    """Remove a cgroup and those below it. The kernel refuses where a process is in one, so none loses its limits."""
    for folder, _, _ in os.walk(path, topdown=False):
        os.rmdir(folder)


__all__ = ["CGROUP_PREFIX", "cgroup_roots", "find_on_host", "remove_on_host"]
