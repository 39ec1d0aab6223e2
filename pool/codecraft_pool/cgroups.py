"""Limits on the memory, processes and CPU of local sandboxes: a control group each, version 1 or 2.

The groups are made below the one that this process is in, and named `codecraft-<owner>-<number>`. In version 2 a group
that has processes of its own cannot give its children controllers; they are then made beside it, in the nearest group
above that does, if this process may (a user's own session under systemd is such a place). This process is never moved,
and of the groups that are there nothing is changed but, where its own could, that its children have the controllers.

What counts as a sandbox's memory: everything its processes have, the pages of its writable trees, and the kernel's
memory for them, so that neither files nor the mere number of them can take more than that.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from codecraft_pool.owner import Owner

GROUP_PREFIX: Final = "codecraft-"
CONTROLLERS: Final = ("memory", "pids", "cpu")
_WORDS: Final = {"memory": "memory", "pids": "processes", "cpu": "CPU"}
_PERIOD_US: Final = 100_000
# The least quota that the kernel takes.
_QUOTA_MIN_US: Final = 1_000
# Missing where the kernel keeps no account of swap.
_MAY_BE_MISSING: Final = ("memory.memsw.limit_in_bytes", "memory.swap.max")
# "NAME NUMBER" lines, of version 1 and 2, and where a guest looks for them.
_MEMORY_EVENTS: Final = {
    "memory.oom_control": "/sys/fs/cgroup/memory/memory.oom_control",
    "memory.events": "/sys/fs/cgroup/memory.events",
}
# bubblewrap and the guest are in the group too.
_OWN_PROCESSES: Final = 2
_PROBES: Final = count()


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What the processes of one group may have together: bytes, cores, and how many they may be."""

    memory_bytes: int
    cpus: float
    processes: int


class ControlGroup:
    """One sandbox's group: a directory in each hierarchy. Whoever made it owes `remove`."""

    def __init__(self, directories: tuple[Path, ...]) -> None:
        self._directories = directories

    def __str__(self) -> str:
        return ", ".join(map(str, self._directories))

    def entering(self, command: list[str], *, data_bytes: int | None = None) -> list[str]:
        """Return a command that enters the group, limits each process's own memory if told to, and becomes *command*.

        So the program is inside before it executes, without a fork of this process's memory.
        """
        steps = [f"echo 0 > {shlex.quote(str(path / 'cgroup.procs'))}" for path in self._directories]
        steps += [f"ulimit -d {data_bytes // 1024}"] if data_bytes is not None else []
        return ["/bin/sh", "-ec", "; ".join([*steps, 'exec "$@"']), "sh", *command] if steps else command

    def shown_inside(self) -> list[tuple[Path, str]]:
        """Return the files by which a guest notices what the kernel killed for memory, and where it looks for them."""
        found = [(path / name, inside) for path in self._directories for name, inside in _MEMORY_EVENTS.items()]
        return [(path, inside) for path, inside in found if path.exists()]

    def had_too_little_memory(self) -> bool:
        """Say whether the kernel killed something in it because of its memory limit."""
        words = [_words_of(path / name) for path in self._directories for name in _MEMORY_EVENTS]
        return any("oom_kill" in each and each[each.index("oom_kill") + 1] != "0" for each in words)

    def remove(self) -> bool:
        """Remove it; return False if something is in it still, for the caller to try again."""
        left = [path for path in self._directories if not _remove(path)]
        return not left


class ControlGroups:
    """Where groups can be made here, and for which controllers."""

    def __init__(self, parents: Mapping[str, Path], reason: str = "", *, unified: bool = False) -> None:
        self._parents = dict(parents)
        self._reason = reason
        self._unified = unified

    @classmethod
    def find(cls, process: Path = Path("/proc/self")) -> ControlGroups:
        """Try what can be had, and leave nothing.

        Each controller counts only if a group with it could be made and entered by a child.
        """
        try:
            mounts, memberships = (process / "mountinfo").read_text(), (process / "cgroup").read_text()
        except OSError as exc:
            return cls({}, f"/proc does not say: {exc.strerror}")
        first = _parents_v1(mounts, memberships)
        parents = {name: path for name, path in first.items() if _works(path, name)}
        if parents or any(name in first for name in CONTROLLERS):
            return cls(parents, "" if "memory" in parents else "no group can be made below this process's own")
        parent = _parent_v2(mounts, memberships)
        if parent is None:
            return cls({}, "no group can be made below this process's own, nor beside it")
        controllers = _words_of(parent / "cgroup.subtree_control")
        return cls({name: parent for name in CONTROLLERS if name in controllers}, unified=True)

    @property
    def limits_memory(self) -> bool:
        """Whether a sandbox's memory is limited as a whole."""
        return "memory" in self._parents

    @property
    def description(self) -> str:
        """In a few words: what is limited and what is not."""
        words = [f"{_WORDS[name]} {'' if name in self._parents else 'not '}limited" for name in CONTROLLERS]
        return ", ".join(words) + (f" ({self._reason})" if self._reason else "")

    def directories(self) -> list[Path]:
        """Where the groups are made, each directory once."""
        return list(dict.fromkeys(self._parents.values()))

    def make(self, name: str, limits: GroupLimits) -> ControlGroup:
        """Return a new group with *limits*.

        Raises:
            OSError: It cannot be made, or the kernel does not take a limit; nothing of it is left.
        """
        group = ControlGroup(tuple(path / name for path in self.directories()))
        try:
            for path in self.directories():
                (path / name).mkdir()
            for controller, path in self._parents.items():
                for file, value in _settings(controller, limits, unified=self._unified):
                    _write(path / name / file, value)
        except BaseException:
            group.remove()
            raise
        return group


def group_name(owner: Owner, number: int) -> str:
    """Return the name of a sandbox's group."""
    return f"{GROUP_PREFIX}{owner}-{number}"


def _settings(controller: str, limits: GroupLimits, *, unified: bool) -> list[tuple[str, str]]:
    """Return the files of a controller and what to write into them, in this order."""
    quota_us = max(_QUOTA_MIN_US, int(limits.cpus * _PERIOD_US))
    memory = str(limits.memory_bytes)
    if controller == "pids":
        return [("pids.max", str(limits.processes + _OWN_PROCESSES))]
    if controller == "memory":
        first = [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)]
        return [("memory.max", memory), ("memory.swap.max", "0")] if unified else first
    if unified:
        return [("cpu.max", f"{quota_us} {_PERIOD_US}")]
    return [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", str(quota_us))]


def _write(path: Path, value: str) -> None:
    if path.name in _MAY_BE_MISSING and not path.exists():
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # without the truncation that these files do not know
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _remove(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as exc:
        if exc.errno in (errno.EBUSY, errno.ENOTEMPTY):  # its processes are on their way out
            return False
        raise
    return True


def _words_of(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


# --- where ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mount:
    """One line of mountinfo (proc(5)) of a cgroup file system."""

    root: str
    point: Path
    kind: str
    options: tuple[str, ...]


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        first, _, second = line.partition(" - ")
        fields, (kind, _, options) = first.split(), second.split(maxsplit=2)
        if kind in ("cgroup", "cgroup2"):
            yield _Mount(_unescape(fields[3]), Path(_unescape(fields[4])), kind, tuple(options.split(",")))


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _memberships(text: str) -> dict[str, str]:
    """The group of each controller of version 1, and under "" that of version 2."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _own_directory(mount: _Mount, group: str) -> Path:
    """The directory of this process's group, or that nearest to it which this mount shows."""
    inside = Path(group)
    return mount.point / inside.relative_to(mount.root) if inside.is_relative_to(mount.root) else mount.point


def _parents_v1(mountinfo: str, memberships: str) -> dict[str, Path]:
    groups = _memberships(memberships)
    return {
        name: _own_directory(mount, groups[name])
        for mount in _mounts(mountinfo)
        for name in CONTROLLERS
        if mount.kind == "cgroup" and name in mount.options and name in groups
    }


def _parent_v2(mountinfo: str, memberships: str) -> Path | None:
    group = _memberships(memberships).get("")
    mount = next((each for each in _mounts(mountinfo) if each.kind == "cgroup2"), None)
    if group is None or mount is None:
        return None
    own = _own_directory(mount, group)
    _hand_down_controllers(own)
    for path in (own, *own.parents):
        if not path.is_relative_to(mount.point):
            break
        if "memory" in _words_of(path / "cgroup.subtree_control") and _works(path, "memory"):
            return path
    return None


def _hand_down_controllers(group: Path) -> None:
    given, had = _words_of(group / "cgroup.controllers"), _words_of(group / "cgroup.subtree_control")
    for name in [each for each in CONTROLLERS if each in given and each not in had]:
        with suppress(OSError):  # it has processes of its own, or belongs to somebody else
            _write(group / "cgroup.subtree_control", f"+{name}")


def _works(parent: Path, controller: str) -> bool:
    """Say whether a group can be made there and has that controller, by making one."""
    path = parent / f"{GROUP_PREFIX}{Owner.current()}-probe{next(_PROBES)}"
    try:
        path.mkdir()
    except OSError:
        return False
    try:
        return any(path.glob(f"{controller}.*")) and os.access(parent / "cgroup.procs", os.W_OK)
    finally:
        _remove(path)
