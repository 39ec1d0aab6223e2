"""What the host asks of a sandbox while hostile programs run in it: each answer is right, or an error, and in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest

from codecraft_pool import PathMissing, RequestRefused, Sandbox, SandboxPool, Snapshot
from tests.conftest import ASYNCIO, UVLOOP
from tests.pool.attacks.attack import PRELUDE
from tests.pool.launchers import ALL_BACKENDS, SPEC, open_pool, processes, shell

pytestmark = pytest.mark.anyio

SNAPSHOT: Final = Snapshot.from_files({"keep": "kept\n", "sub/file": "content\n"})
# A guest that is held up would be so for ten seconds and more.
PROMPT_S: Final = 5.0


@pytest.fixture(scope="module", name="backend", params=ALL_BACKENDS)
def choose_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(scope="module")
def anyio_backend(backend: str) -> tuple[str, dict[str, Any]]:
    """Attacks are on the guest, which knows nothing of the loop: each launcher is attacked on one."""
    return ASYNCIO if backend == "docker" else UVLOOP


@pytest.fixture(scope="module", name="pool")
async def make_pool(request: pytest.FixtureRequest, backend: str) -> AsyncGenerator[SandboxPool]:
    async with open_pool(request, warm=1, backend=backend) as pool:
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    async with pool.lease(SPEC) as sandbox:
        await sandbox.restore(SNAPSHOT)
        yield sandbox
        await sandbox.restore(SNAPSHOT)
        assert [] == await processes(sandbox)


async def leave(sandbox: Sandbox, program: str) -> None:
    """Start a program that stays, and return when it has made the file /tmp/ready."""
    script = f"{PRELUDE}\nif os.fork() == 0:\n    os.setsid()\n"
    script += "".join(f"    {line}\n" for line in program.strip().splitlines())
    script += "    os.close(os.open('/tmp/ready', os.O_CREAT))\n    time.sleep(1001)\n"
    script += "while not os.path.exists('/tmp/ready'):\n    time.sleep(0.005)\n"
    result = await sandbox.run(["/usr/bin/python3", "-I", "-c", script])
    assert (0, b"") == (result.exit_code, result.stderr), result


async def until_gone(sandbox: Sandbox, *, limit_s: float = 15.0) -> None:
    """Return when nothing runs any more; as long as a bomb goes off there may be no process to look with."""
    async with asyncio.timeout(limit_s):
        while True:
            try:
                if not await processes(sandbox):
                    return
            except (RequestRefused, AssertionError):
                await asyncio.sleep(0.02)


LEASES = """
import shutil
signal.signal(signal.SIGIO, signal.SIG_IGN)
shutil.copy("/bin/sh", "program")
with open("script", "w") as file:
    file.write("#!/workspace/program\\\\necho run\\\\n")
os.chmod("script", 0o755)
for name in ("keep", "program", "sub/file"):
    keep.append(os.open(name, os.O_RDONLY))
    fcntl.fcntl(keep[-1], fcntl.F_SETLEASE, fcntl.F_WRLCK)
"""


async def test_leases(sandbox: Sandbox) -> None:
    """A lease that nobody gives back holds up no read, no write, and no command beyond its own limit."""
    await leave(sandbox, LEASES.replace("\\\\n", "\\n"))
    began = time.monotonic()
    with pytest.raises(RequestRefused):
        await sandbox.read_file("keep")
    with pytest.raises(RequestRefused):
        await sandbox.write_file("sub/file", b"x")
    result = await sandbox.run(["/workspace/program", "-c", "echo run"], limit_s=5)
    assert (126, b"", b"guest: /workspace/program: busy\n") == (result.exit_code, result.stdout, result.stderr)
    running = asyncio.create_task(sandbox.run(["/workspace/script"], limit_s=0.5))
    await sandbox.ping(limit_s=PROMPT_S)
    result = await running
    assert (True, 9, b"") == (result.timed_out, result.signal, result.stdout)
    assert time.monotonic() < began + PROMPT_S


async def test_what_is_no_file(sandbox: Sandbox) -> None:
    """Pipes, sockets, devices, directories, loops and holes are refused at once, each with its reason."""
    await shell(
        sandbox,
        "mkfifo fifo; ln -s loop loop; ln -s /proc/self/fd/0 in; ln -s /dev/zero zero; truncate -s 8G huge;"
        "ln -s . here; ln -s /proc/self/mem mem; ln -s sub/../../etc/passwd out; ln -s /.codecraft/guest guest",
    )
    began = time.monotonic()
    for name in ("fifo", "loop", "in", "zero", "huge", "sub", "here", "mem", "out", "guest", "here/here/fifo"):
        with pytest.raises(RequestRefused):
            await sandbox.read_file(name)
    for name in ("fifo", "loop/x", "in", "zero", "sub", "here", "mem", "out", "guest"):
        with pytest.raises(RequestRefused):
            await sandbox.write_file(name, b"x")
    with pytest.raises(PathMissing):
        await sandbox.read_file("here/missing")
    assert time.monotonic() < began + PROMPT_S


async def test_a_restore_during_a_flood(sandbox: Sandbox) -> None:
    """Commands that print all they can when a restore comes get their ends, and nothing of them appears later."""
    for _ in range(3):
        running = [
            asyncio.create_task(sandbox.run("yes forged & exec yes", max_output_bytes=8 << 20)) for _ in range(8)
        ]
        await sandbox.ping()
        await sandbox.restore(SNAPSHOT)
        for task in running:
            result = await task
            assert (9, b"") == (result.signal, result.stdout.strip(b"yforged\n"))
        assert "on\n" == await shell(sandbox, "echo on")


async def test_sixty_commands_at_once_beside_a_swarm(sandbox: Sandbox) -> None:
    """Each of many commands has its own output and status, or was refused a process; none has another's."""
    await leave(sandbox, "for _ in range(3):\n    if os.fork() == 0:\n        while True:\n            pass")

    async def one(number: int) -> bool:
        try:
            result = await sandbox.run(f"echo {number}; echo {-number} >&2; exit {number}", limit_s=30)
        except RequestRefused:
            return False
        if result.exit_code in (2, 126) and result.stdout == b"":
            return False
        assert (f"{number}\n".encode(), f"{-number}\n".encode(), number) == (
            result.stdout,
            result.stderr,
            result.exit_code,
        ), result
        return True

    answers = await asyncio.gather(*(one(number) for number in range(3, 63)))
    assert sum(answers) >= 20


async def test_cancelled_commands_that_do_not_want_to_go(sandbox: Sandbox) -> None:
    """Cancelled in the middle of a fork bomb, of a flood, of a swarm of sessions: all their processes are gone."""
    bombs = (
        "b() { b | b & }; b; b; sleep 1001",
        "yes & yes & exec yes",
        "for i in 1 2 3 4 5 6; do setsid setsid sleep 1001 & done; sleep 1001",
        "trap '' INT TERM HUP QUIT; while :; do (trap '' TERM; sleep 1001) & wait; done",
    )
    for text in bombs:
        running = asyncio.create_task(sandbox.run(text, max_output_bytes=8 << 20))
        await sandbox.ping()
        await asyncio.wait([running], timeout=0.05)
        if running.cancel():
            await asyncio.wait([running])
            await until_gone(sandbox)
        else:  # a bomb's own shell may find no process for itself and end, which leaves the others for a restore
            await sandbox.restore(SNAPSHOT)
            assert [] == await processes(sandbox)
