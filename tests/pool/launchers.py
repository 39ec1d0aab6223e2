"""What the tests on real sandboxes share: the launchers they run on, and words for what they ask of a sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

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
from codecraft_pool.containers import Containers
from codecraft_pool.owner import Owner

PYTHON: Final = "/usr/bin/python3"
IS_ROOT: Final = os.geteuid() == 0
MIB: Final = 1 << 20
BACKENDS: Final = (pytest.param("docker", marks=pytest.mark.docker), pytest.param("local"))
SPEC: Final = SandboxSpec(memory_bytes=512 * MIB, max_processes=64, tree_bytes=64 * MIB, tree_files=8192)
TREES: Final = (WORKSPACE, "/home/agent", "/tmp", "/var/tmp", "/dev/shm")


@asynccontextmanager
async def open_backend(name: str) -> AsyncGenerator[Launcher]:
    """A launcher of that backend, without asking which would be best."""
    if name == "local":
        async with LocalLauncher() as local:
            yield local
    else:
        async with await connect_daemon() as daemon, DockerLauncher(daemon) as docker:
            yield docker


@asynccontextmanager
async def open_pool(request: pytest.FixtureRequest, *, warm: int) -> AsyncGenerator[SandboxPool]:
    """A pool on the backend that is the request's parameter, with that many sandboxes warm."""
    if request.param == "docker":
        request.getfixturevalue("base_image")
    async with open_backend(request.param) as launcher, SandboxPool(launcher, max_sandboxes=4) as pool:
        await pool.prewarm(SPEC, warm)
        yield pool


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
    return sorted(await Containers(daemon).owned(str(owner)))


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
