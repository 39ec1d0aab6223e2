"""What the tests on real sandboxes share: the launchers they run on, and words for what they ask of a sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import aiodocker
import pytest

from codecraft_pool import (
    WORKSPACE,
    CommandResult,
    DockerDaemon,
    DockerLauncher,
    Launcher,
    LocalLauncher,
    Sandbox,
    SandboxPool,
    SandboxSpec,
    connect_daemon,
)
from codecraft_pool.cgroups import ControlGroups
from codecraft_pool.containers import Containers
from codecraft_pool.docker_launcher import Transport
from codecraft_pool.guest_binary import guest_path
from codecraft_pool.owner import Owner
from tests.pool.guest_harness import missing

PYTHON: Final = "/usr/bin/python3"
IS_ROOT: Final = os.geteuid() == 0
MIB: Final = 1 << 20
BACKENDS: Final = (pytest.param("docker", marks=pytest.mark.docker), pytest.param("local"))
# "docker" takes the quickest way to its guests that there is, a unix socket where the daemon is on this machine.
EVERY_WAY: Final = (*BACKENDS, pytest.param("docker-attach", marks=pytest.mark.docker))
SPEC: Final = SandboxSpec(memory_bytes=512 * MIB, max_processes=64, tree_bytes=64 * MIB, tree_files=8192)
# Where the whole root file system is a layer that a restore throws away, all else is the same.
MODES: Final = (*EVERY_WAY, pytest.param("docker-overlay", marks=pytest.mark.docker))
# Also the local launcher as somebody who is not root, which the tests mostly are.
ALL_BACKENDS: Final = (*BACKENDS, *([pytest.param("unprivileged")] if IS_ROOT else []))
# Everything of the root file system that a restore answers for, with what the kernel lets nobody set left out: change
# times, and the sizes of directories.
WHOLE_ROOT: Final = """
import hashlib, os, stat
total = hashlib.sha256()
skipped = ("/proc", "/sys", "/dev", "/workspace", "/home/agent", "/tmp", "/var/tmp", "/.codecraft")
def show(path):
    info = os.lstat(path)
    line = [path, info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_rdev]
    if stat.S_ISLNK(info.st_mode):
        line.append(os.readlink(path))
    elif stat.S_ISREG(info.st_mode):
        line += [info.st_size, info.st_nlink]
        if path.startswith(("/etc", "/var")):
            line.append(hashlib.sha256(open(path, "rb").read()).hexdigest())
    if not stat.S_ISLNK(info.st_mode):
        line += [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))]
    total.update(repr(line).encode() + b"\\n")
    if stat.S_ISDIR(info.st_mode):
        for name in sorted(os.listdir(path)):
            child = os.path.join(path, name)
            if child not in skipped:
                show(child)
show("/")
print(total.hexdigest())
"""
TREES: Final = (WORKSPACE, "/home/agent", "/tmp", "/var/tmp", "/dev/shm")


@asynccontextmanager
async def open_backend(name: str) -> AsyncGenerator[Launcher]:
    """A launcher of that backend, without asking which would be best."""
    if name == "local":
        async with LocalLauncher() as local:
            yield local
    elif name == "unprivileged":
        async with unprivileged_launcher() as local:
            yield local
    else:
        transport: Transport = "attach" if name == "docker-attach" else "auto"
        async with await connect_daemon() as daemon, DockerLauncher(daemon, transport=transport) as docker:
            yield docker


@asynccontextmanager
async def unprivileged_launcher() -> AsyncGenerator[Launcher]:
    """The local launcher as it is for nobody: bubblewrap runs as that user, and no control group can be made."""
    setpriv = shutil.which("setpriv") or missing("setpriv is not installed")
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        program = Path(directory) / "bwrap"
        program.write_text(f'#!/bin/sh\nexec {setpriv} --reuid=65534 --regid=65534 --clear-groups {_bwrap()} "$@"\n')
        guest = Path(directory) / "guest"
        shutil.copy(guest_path(), guest)
        for path in (program, guest, Path(directory)):
            path.chmod(0o755)
        patch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        patch.setattr("codecraft_pool.local_launcher.guest_path", lambda: guest)
        patch.setattr("os.geteuid", lambda: 65534)
        patch.setattr(ControlGroups, "find", lambda: ControlGroups({}, "this user may not make any"))
        launcher: Any = LocalLauncher()
        patch.undo()
        async with launcher:
            launcher._directory().chmod(0o755)
            yield launcher


def _bwrap() -> str:
    return shutil.which("bwrap") or missing("bubblewrap is not installed")


@asynccontextmanager
async def open_pool(
    request: pytest.FixtureRequest, *, warm: int, most: int = 4, spec: SandboxSpec = SPEC, backend: str | None = None
) -> AsyncGenerator[SandboxPool]:
    """A pool on that backend, or on the one that is the request's parameter, with that many sandboxes warm."""
    backend = str(request.param) if backend is None else backend
    if backend not in ("local", "unprivileged"):
        request.getfixturevalue("base_image")
    if backend == "docker-overlay":
        spec = replace(spec, reset="overlay")
    async with open_backend(backend) as launcher, SandboxPool(launcher, max_sandboxes=most) as pool:
        _specs[pool] = spec
        await pool.prewarm(spec, warm)
        yield pool


_specs: WeakKeyDictionary[SandboxPool, SandboxSpec] = WeakKeyDictionary()


def spec_of(pool: SandboxPool) -> SandboxSpec:
    """What the warm sandboxes of a pool of `open_pool` are."""
    return _specs[pool]


async def shell(sandbox: Sandbox, text: str, **options: Any) -> str:
    """What a shell text prints; it must end well."""
    result = await sandbox.run(text, **options)
    assert (0, b"", False) == (result.exit_code, result.stderr, result.truncated), result
    return result.stdout.decode()


async def python(sandbox: Sandbox, program: str, **options: Any) -> str:
    """What a Python program prints; it must end well."""
    result = await sandbox.run([PYTHON, "-I", "-c", program], **options)
    assert (0, b"") == (result.exit_code, result.stderr), result
    return result.stdout.decode()


async def printed(sandbox: Sandbox, text: str) -> str:
    """All that a shell text prints, whatever comes of it."""
    return (await sandbox.run(text, merge_stderr=True, limit_s=60)).stdout.decode("utf-8", "replace")


async def processes(sandbox: Sandbox) -> list[str]:
    """The commands of all processes in the sandbox but the guest and the one that looks."""
    program = """
import os
for pid in os.listdir("/proc"):
    if pid.isdigit() and int(pid) not in (1, os.getpid()):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().replace(b"\\0", b" ").decode()
            state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            print(words.strip())
"""
    return sorted((await python(sandbox, program)).splitlines())


async def until_alone(sandbox: Sandbox, *, limit_s: float = 5.0) -> None:
    """Return when nothing runs in the sandbox any more."""
    async with asyncio.timeout(limit_s):
        while await processes(sandbox):  # noqa: ASYNC110  # a guest tells nobody
            await asyncio.sleep(0.02)


def outcome(result: CommandResult) -> tuple[int, int, bool, bool]:
    """How a command ended: exit code, signal, whether by the wall limit, whether by the output cap."""
    return result.exit_code, result.signal, result.timed_out, result.truncated


# --- from outside -----------------------------------------------------------------------------------------------------


async def containers_of(daemon: DockerDaemon, owner: str | Owner) -> list[str]:
    """The names of an owner's containers, running or not."""
    return [name for name in sorted(await Containers(daemon).owned(str(owner))) if await _is_there(daemon, name)]


async def _is_there(daemon: DockerDaemon, container: str) -> bool:
    """Whether the daemon has what it lists. Engine 20.10, killed while it removed a container, lists it for good."""
    try:
        await daemon.get_json(f"containers/{container}/json")
    except aiodocker.DockerError as error:
        if error.status != 404:
            raise
        return False
    return True


async def volumes(daemon: DockerDaemon) -> set[str]:
    """The names of the daemon's volumes that no container has any more."""
    answer = await daemon.get_json("volumes?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D")
    return {str(each["Name"]) for each in answer["Volumes"] or []}


def host_processes(mark: str) -> list[str]:
    """The command lines of the machine's processes that have *mark* in them."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if mark in words and int(path.parent.name) != os.getpid():
            found.append(words)
    return found


class Script:
    """A Python program in a process of its own that says what it has to say as lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self, *, limit_s: float = 60.0) -> Any:
        """The next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(limit_s):
            text = await self.process.stdout.readline()
        assert text, "the script has ended"
        return json.loads(text)

    async def end(self, *, limit_s: float = 30.0) -> int:
        """Its exit status, negative for a signal."""
        async with asyncio.timeout(limit_s):
            return await self.process.wait()


@asynccontextmanager
async def script(program: str, *args: str, environ: Mapping[str, str] | None = None) -> AsyncGenerator[Script]:
    """Run a program with the interpreter of the tests; it is killed in the end if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *args,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **(environ or {})},
        start_new_session=True,
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        transport: Any = vars(process)["_transport"]
        transport.close()
