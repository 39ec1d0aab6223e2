"""What works on this machine, and what to do about what does not: the checks behind ``codecraft doctor``."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiodocker
from rich.table import Table
from rich.text import Text

from codecraft_pool._debian_sources import package_tool_is_apt
from codecraft_pool._program import run_to_end
from codecraft_pool.docker_daemon import DockerDaemon, connect_daemon
from codecraft_pool.errors import BackendUnavailable, LaunchError
from codecraft_pool.guest_binary import guest_path
from codecraft_pool.image_names import full_reference, registry_of
from codecraft_pool.images import Images
from codecraft_pool.registry_login import login_header

BASE_IMAGE = "codecraft/base"
OLDEST_PYTHON = (3, 11)
PROGRAM_LIMIT_S = 10.0
MIN_FREE_BYTES = 2 << 30  # an image, its layers while it is imported, and room for sandboxes
REGISTRY_LIMIT_S = 20.0
_PT_INTERP = 3
_OTHER_DRIVER = "use overlay2, with the daemon's directory on ext4 or xfs (`data-root` in /etc/docker/daemon.json)"
_SLOW_DRIVERS = {
    "fuse-overlayfs": (
        "a process answers for each file that a command opens, so commands in containers start at about half the rate",
        _OTHER_DRIVER,
    ),
    "vfs": ("each container is a whole copy of its image, so starting one is slow and takes disk", _OTHER_DRIVER),
    "devicemapper": ("withdrawn by Docker, and slow to start containers", _OTHER_DRIVER),
}
_TRY_OVERLAY = (
    "mount -t tmpfs none /tmp && mkdir /tmp/l /tmp/u /tmp/w /tmp/m"
    " && mount -t overlay -o lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w none /tmp/m"
)

GUEST, DAEMON, IMAGE, BUBBLEWRAP = "guest", "container daemon", f"image {BASE_IMAGE}", "bubblewrap"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool | None
    """None: worth knowing, and neither good nor bad."""
    detail: str
    advice: str = ""


async def examine(*, image: str | None = None) -> list[Check]:
    """Every check, in the order to show; all of it within about half a minute, whatever hangs.

    *image* is asked for at its registry as well, if it is not here; nothing is pulled.
    """
    async with asyncio.TaskGroup() as group:
        guest = group.create_task(asyncio.to_thread(_check_guest))
        docker = group.create_task(_check_docker(image))
        bubblewrap = group.create_task(_check_bubblewrap())
        namespaces = group.create_task(_check_user_namespaces())
        cgroup = group.create_task(asyncio.to_thread(check_cgroups))
        overlay = group.create_task(_check_overlay())
    return [
        _check_python(),
        guest.result(),
        *docker.result(),
        bubblewrap.result(),
        namespaces.result(),
        cgroup.result(),
        overlay.result(),
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


async def _check_docker(image: str | None) -> list[Check]:
    try:
        daemon = await connect_daemon()
    except LaunchError as error:
        return [Check(DAEMON, False, str(error), "needed for the docker backend only")]
    async with daemon:
        info = daemon.info
        where = "local" if info.is_local else "remote or in a virtual machine"
        detail = (
            f"{info.address} ({where}): engine {info.version}, API {info.api_version}, {info.os_type}/{info.arch}, "
            f"cgroup v{info.cgroup_version}, {info.cpus} CPUs, {info.memory_bytes / (1 << 30):.1f} GiB"
        )
        checks = [Check(DAEMON, True, detail), check_storage(info.storage_driver), check_transport(info.is_local)]
        checks.append(await _check_image(daemon))
        if image is not None:
            checks.append(await check_registry(daemon, image))
        if info.is_local:
            checks.append(await asyncio.to_thread(check_disk, info.root_dir))
        return checks


def check_storage(driver: str) -> Check:
    """What the daemon's storage driver means for the speed of sandboxes."""
    name = "storage driver"
    if driver in _SLOW_DRIVERS:
        detail, advice = _SLOW_DRIVERS[driver]
        return Check(name, None, f"{driver}: {detail}", advice)
    return Check(name, True, driver)


def check_transport(is_local: bool) -> Check:
    """How frames can get to sandboxes in containers."""
    if is_local:
        return Check(
            "docker transport", None, "the daemon is on this machine: directories can be shared with containers"
        )
    return Check("docker transport", None, "the daemon is elsewhere: sandboxes are reached by attach streams only")


async def check_registry(daemon: DockerDaemon, reference: str) -> Check:
    """Whether the daemon has an image, or its registry says to the daemon that it has."""
    name = f"image {reference}"
    try:
        images = Images(daemon)
        used = await images.resolve(reference)
        alias = "" if used == full_reference(reference) else f"as {used}, "
        if image_id := await images.find(reference):
            return Check(name, True, f"{alias}here ({image_id.removeprefix('sha256:')[:12]})")
        headers = await login_header(registry_of(used))
        found = await daemon.call(
            None, lambda: _ask_registry(daemon, used, headers), what=f"ask for image {used}", limit_s=REGISTRY_LIMIT_S
        )
    except LaunchError as error:
        advice = f"`codecraft images pull {reference}` says what can be done"
        return Check(name, False, str(error), advice)
    kinds: list[dict[str, str]] = found.get("Platforms") or []
    made_for = (
        ", ".join(f"{each.get('os', '?')}/{each.get('architecture', '?')}" for each in kinds) or "unknown machines"
    )
    return Check(name, True, f"{alias}not here; its registry {registry_of(used)} has it, for {made_for}")


async def _ask_registry(daemon: DockerDaemon, name: str, headers: dict[str, str]) -> dict[str, Any]:
    client = daemon.client
    url = f"{client.docker_host}/{client.api_version}/distribution/{name}/json"
    async with client.session.get(url, headers=headers) as response:
        text = await response.text()
    if response.status >= 400:
        raise aiodocker.DockerError(response.status, text)
    answer: dict[str, Any] = json.loads(text)
    return answer


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


async def _check_overlay() -> Check:
    """Whether a copy-on-write layer can be mounted here: the quickest way to give a sandbox a root of its own."""
    name = "overlay"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    problem = await _problem_of(["unshare", "--mount", *user, "sh", "-c", _TRY_OVERLAY])
    if problem is None:
        return Check(name, True, "can be mounted" if not user else "can be mounted in a user namespace")
    return Check(name, None, f"cannot be mounted ({problem})", "load the kernel module `overlay`; non-root: Linux 5.11")


def check_cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Check:
    """Which version of cgroups this machine has, and whether this process may limit memory and processes with them."""
    name = "cgroup"
    try:
        places = _cgroup_places(root, own.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        return Check(name, None, f"cannot be seen ({error.strerror})")
    version = 2 if (root / "cgroup.controllers").exists() else 1
    missing = [controller for controller in ("memory", "pids") if not os.access(places.get(controller, ""), os.W_OK)]
    if not missing:
        return Check(name, True, f"version {version}; memory and processes can be limited from here")
    detail = f"version {version}; {' and '.join(missing)} cannot be limited from here"
    return Check(
        name, None, detail, "run as root, or have a cgroup delegated (systemd-run --user --scope -p Delegate=yes)"
    )


def _cgroup_places(root: Path, lines: Sequence[str]) -> dict[str, Path]:
    """The directory of this process for each controller; see cgroups(7) for the form of the lines."""
    places: dict[str, Path] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers:
            for controller in controllers.split(","):
                places[controller] = root / controller / path.lstrip("/")
        elif (root / "cgroup.controllers").exists():
            folder = root / path.lstrip("/")
            here = folder / "cgroup.controllers"
            names = here.read_text(encoding="utf-8").split() if here.exists() else []
            places |= dict.fromkeys(names, folder)
    return places


__all__ = [
    "Check",
    "check_cgroups",
    "check_disk",
    "check_registry",
    "check_storage",
    "check_transport",
    "elf_problem",
    "examine",
    "exit_status",
    "render",
    "working_backends",
]
