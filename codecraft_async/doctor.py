"""What works on this machine, and what to do about what does not: the checks behind ``codecraft doctor``."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from codecraft_pool._debian_sources import package_tool_is_apt
from codecraft_pool._program import run_to_end
from codecraft_pool.docker_daemon import DockerDaemon, connect_daemon
from codecraft_pool.errors import BackendUnavailable, LaunchError
from codecraft_pool.guest_binary import guest_path
from codecraft_pool.images import Images

BASE_IMAGE = "codecraft/base"
OLDEST_PYTHON = (3, 11)
PROGRAM_LIMIT_S = 10.0
MIN_FREE_BYTES = 2 << 30  # an image, its layers while it is imported, and room for sandboxes
_PT_INTERP = 3

GUEST, DAEMON, IMAGE, BUBBLEWRAP = "guest", "container daemon", f"image {BASE_IMAGE}", "bubblewrap"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool | None
    """None: worth knowing, and neither good nor bad."""
    detail: str
    advice: str = ""


async def examine() -> list[Check]:
    """Every check, in the order to show; all of it within about half a minute, whatever hangs."""
    async with asyncio.TaskGroup() as group:
        guest = group.create_task(asyncio.to_thread(_check_guest))
        docker = group.create_task(_check_docker())
        bubblewrap = group.create_task(_check_bubblewrap())
        namespaces = group.create_task(_check_user_namespaces())
        cgroup = group.create_task(asyncio.to_thread(_check_cgroup))
    return [
        _check_python(),
        guest.result(),
        *docker.result(),
        bubblewrap.result(),
        namespaces.result(),
        cgroup.result(),
    ]


def working_backends(checks: Sequence[Check]) -> list[str]:
    """The backends that can be used according to the checks: "docker", "local", both or none."""
    states = {check.name: check.ok for check in checks}
    if not states.get(GUEST):
        return []
    docker = states.get(DAEMON) is True and states.get(IMAGE) is not False
    return [name for name, works in (("docker", docker), ("local", states.get(BUBBLEWRAP) is True)) if works]


def exit_status(checks: Sequence[Check]) -> int:
    """0 if at least one backend works, else 1."""
    return 0 if working_backends(checks) else 1


def render(checks: Sequence[Check]) -> Table:
    """The checks as a table for a terminal, with the verdict below it."""
    working = working_backends(checks)
    verdict = f"working backends: {', '.join(working)}" if working else "no backend works: see the advice above"
    table = Table(title="codecraft doctor", caption=verdict, show_lines=False, expand=False)
    for title in ("", "check", "found", "advice"):
        table.add_column(title, overflow="fold")
    marks = {True: ("ok", "green"), False: ("no", "red"), None: ("-", "dim")}
    for check in checks:
        mark, style = marks[check.ok]
        table.add_row(Text(mark, style=style), Text(check.name), Text(check.detail), Text(check.advice))
    return table


def _check_python() -> Check:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    return Check("python", ok, platform.python_version(), "" if ok else f"use Python {oldest} or newer")


def _check_guest() -> Check:
    try:
        path = guest_path()
    except BackendUnavailable as error:
        return Check(GUEST, False, str(error), "in a checkout: `make setup`")
    try:
        with path.open("rb") as file:
            problem = elf_problem(file.read(1 << 16))
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem is None and not os.access(path, os.X_OK):
        problem = "is not executable"
    if problem is not None:
        advice = "install the package again on a machine with a C compiler (`make setup` in a checkout)"
        return Check(GUEST, False, f"{path} {problem}", advice)
    return Check(GUEST, True, f"{path.name}, static, {path.stat().st_size // 1024} KiB")


def elf_problem(start: bytes) -> str | None:
    """Why a file that starts so is no static executable for any image, or None if it is one."""
    if start[:4] != b"\x7fELF":
        return "is not an ELF executable"
    if start[4:6] != b"\x02\x01":
        return "is not a 64-bit little-endian executable"
    try:
        (table,) = struct.unpack_from("<Q", start, 32)
        size, count = struct.unpack_from("<HH", start, 54)
        kinds = [struct.unpack_from("<I", start, table + size * index)[0] for index in range(count)]
    except struct.error:
        return "is cut short"
    return "is not static: it needs a dynamic loader that images may lack" if _PT_INTERP in kinds else None


async def _check_docker() -> list[Check]:
    try:
        daemon = await connect_daemon()
    except LaunchError as error:
        return [Check(DAEMON, False, str(error), "needed for the docker backend only")]
    async with daemon:
        info = daemon.info
        where = "local" if info.is_local else "remote or in a virtual machine"
        detail = (
            f"{info.address} ({where}): engine {info.version}, API {info.api_version}, {info.os_type}/{info.arch}, "
            f"{info.storage_driver}, cgroup v{info.cgroup_version}, {info.cpus} CPUs, "
            f"{info.memory_bytes / (1 << 30):.1f} GiB"
        )
        checks = [Check(DAEMON, True, detail), await _check_image(daemon)]
        if info.is_local:
            checks.append(await asyncio.to_thread(check_disk, info.root_dir))
        return checks


async def _check_image(daemon: DockerDaemon) -> Check:
    try:
        image_id = await Images(daemon).find(BASE_IMAGE)
    except LaunchError as error:
        return Check(IMAGE, False, str(error))
    if image_id is not None:
        return Check(IMAGE, True, f"here ({image_id.removeprefix('sha256:')[:12]})")
    if await asyncio.to_thread(shutil.which, "mmdebstrap"):
        return Check(IMAGE, None, "not here; built when first needed", f"`codecraft images build {BASE_IMAGE}`")
    if os.geteuid() == 0 and await asyncio.to_thread(package_tool_is_apt):
        detail = "not here; built when first needed, after installing mmdebstrap"
        return Check(IMAGE, None, detail, f"`codecraft images build {BASE_IMAGE}`")
    return Check(
        IMAGE, False, "not here, and mmdebstrap to build it is missing", "install mmdebstrap, or `docker load`"
    )


def check_disk(root_dir: str) -> Check:
    """How much room the daemon's directory has; only a note where that cannot be seen from here."""
    name = "disk of the daemon"
    try:
        usage = shutil.disk_usage(root_dir)
    except OSError as error:
        return Check(name, None, f"{root_dir} cannot be seen ({error.strerror})")
    ok = usage.free >= MIN_FREE_BYTES
    detail = f"{usage.free / (1 << 30):.1f} of {usage.total / (1 << 30):.1f} GiB free in {root_dir}"
    return Check(name, ok, detail, "" if ok else "make room: `docker system prune`, or move the daemon's directory")


async def _check_bubblewrap() -> Check:
    program = await asyncio.to_thread(shutil.which, "bwrap")
    if program is None:
        return Check(BUBBLEWRAP, False, "not installed", "install the package bubblewrap; needed for the local backend")
    argv = [program, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    problem = await _problem_of([*argv, "true"])
    if problem is None:
        return Check(BUBBLEWRAP, True, f"{program} starts a sandbox")
    advice = "run as root, or allow unprivileged user namespaces; in a container, start it with more privileges"
    return Check(BUBBLEWRAP, False, f"{program} cannot start a sandbox: {problem}", advice)


async def _check_user_namespaces() -> Check:
    name = "user namespaces"
    problem = await _problem_of(["unshare", "--user", "--map-root-user", "true"])
    if problem is None:
        return Check(name, True, "can be made")
    if os.geteuid() == 0:
        return Check(name, None, f"cannot be made ({problem}); root does not need them")
    advice = (
        "set kernel.unprivileged_userns_clone or user.max_user_namespaces, or allow them in AppArmor's restrictions"
    )
    return Check(name, False, problem, advice)


async def _problem_of(argv: Sequence[str]) -> str | None:
    """Why a program did not end well, or None if it did."""
    try:
        status, lines = await run_to_end(argv, limit_s=PROGRAM_LIMIT_S)
    except TimeoutError:
        return f"no end within {PROGRAM_LIMIT_S:g} s"
    except OSError as error:
        return f"{argv[0]}: {error.strerror}"
    return None if status == 0 else " ".join(lines[-2:]) or f"exit status {status}"


def _check_cgroup() -> Check:
    version = 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1
    return Check("cgroup", None, f"version {version} on this machine")


__all__ = ["Check", "check_disk", "elf_problem", "examine", "exit_status", "render", "working_backends"]
