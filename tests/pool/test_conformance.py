"""What every launcher's sandboxes do, on real ones: containers, and bubblewrap as root and as an unprivileged user."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncGenerator
from typing import Final

import pytest

from codecraft_pool import WORKSPACE, PathMissing, RequestRefused, Sandbox, SandboxLost, SandboxPool, Snapshot
from codecraft_pool.spec import default_environment
from tests.pool.launchers import MIB, MODES, open_pool, outcome, processes, python, shell, spec_of, until_alone

pytestmark = pytest.mark.anyio

NEXT: Final = Snapshot.from_files({"readme": "next\n"})


@pytest.fixture(scope="module", name="pool", params=MODES)
async def make_pool(request: pytest.FixtureRequest) -> AsyncGenerator[SandboxPool]:
    async with open_pool(request, warm=2) as pool:
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    async with pool.lease(spec_of(pool)) as sandbox:
        yield sandbox


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", (0, 0, False, False)),
        ("exit 3", (3, 0, False, False)),
        ("exit 255", (255, 0, False, False)),
        ("kill -9 $$", (-1, 9, False, False)),
        ("kill -TERM $$", (-1, 15, False, False)),
        ("no-such-program", (127, 0, False, False)),
    ],
)
async def test_how_a_command_ends(sandbox: Sandbox, text: str, expected: tuple[int, int, bool, bool]) -> None:
    """Exit codes and signals are told apart."""
    assert expected == outcome(await sandbox.run(text))


async def test_argument_lists(sandbox: Sandbox) -> None:
    """Arguments arrive as they are; a program that is not there or not executable is a result."""
    result = await sandbox.run(["printf", "%s|", "a b", "$HOME", "*", "", "\N{SNOWMAN}"])
    assert "a b|$HOME|*||\N{SNOWMAN}|".encode() == result.stdout
    assert 127 == (await sandbox.run(["no-such-program"])).exit_code
    assert 126 == (await sandbox.run(["/etc/passwd"])).exit_code


async def test_nobody_is_root_by_asking(sandbox: Sandbox) -> None:
    """In a sandbox of the agent's nothing runs as root, and the error names it; the agent can be asked for."""
    with pytest.raises(ValueError, match=f"sandbox {sandbox.id} is made for the agent alone"):
        await sandbox.run(["id", "-u"], user="root")
    with pytest.raises(ValueError, match="made for the agent alone"):
        sandbox.shell(user="root")
    assert (await sandbox.run(["id", "-u"])).stdout == (await sandbox.run(["id", "-u"], user="agent")).stdout != b"0\n"


async def test_bytes_in_and_out(sandbox: Sandbox) -> None:
    """Standard input and both outputs are bytes, whatever they are."""
    data = bytes(range(256)) * 4096
    result = await sandbox.run("cat > in; cat in; cat in >&2", stdin=data, max_output_bytes=4 * MIB)
    assert (data, data, 0) == (result.stdout, result.stderr, result.exit_code)
    assert b"" == (await sandbox.run(["cat"])).stdout


async def test_environment_and_directory(sandbox: Sandbox) -> None:
    """A command has the default environment and what was added, and runs where it was told to."""
    listed = await python(sandbox, "import os; print(sorted(os.environ.items()))", env={"ADDED": "1 2", "LANG": "C"})
    expected = default_environment() | {"ADDED": "1 2", "LANG": "C"}
    assert f"{sorted(expected.items())}\n" == listed.replace(", ('LC_CTYPE', 'C.UTF-8')", "")
    assert f"{WORKSPACE}\n" == await shell(sandbox, "pwd")
    assert "/usr/bin\n" == await shell(sandbox, "pwd", cwd="/usr/bin")
    with pytest.raises(PathMissing, match="no/where"):
        await sandbox.run("true", cwd="/no/where")
    with pytest.raises(RequestRefused):
        await sandbox.run("true", cwd="/etc/passwd")


async def test_what_no_command_can_be_given(sandbox: Sandbox) -> None:
    """A NUL in a text, an empty command and limits of nothing are the caller's mistakes."""
    for call in (
        sandbox.run("a\0b"),
        sandbox.run("true", cwd="/\0"),
        sandbox.run("true", env={"A": "\0"}),
        sandbox.run([]),
        sandbox.run(["true"] * 4097),
        sandbox.run("\ud800"),
        sandbox.run("true", limit_s=0),
        sandbox.run("true", limit_s=float("nan")),
        sandbox.run("true", max_output_bytes=0),
    ):
        with pytest.raises(ValueError):
            await call
    await sandbox.ping()


async def test_order_of_the_streams(sandbox: Sandbox) -> None:
    """Merged, stderr is in the order of writing; apart, each has its own."""
    text = "for i in 1 2 3; do echo out$i; echo err$i >&2; done"
    assert b"out1\nerr1\nout2\nerr2\nout3\nerr3\n" == (await sandbox.run(text, merge_stderr=True)).stdout
    result = await sandbox.run(text)
    assert (b"out1\nout2\nout3\n", b"err1\nerr2\nerr3\n") == (result.stdout, result.stderr)


async def test_wall_limit(sandbox: Sandbox) -> None:
    """At the limit the command dies with descendants that left its session; what was printed is kept."""
    text = "echo before; setsid sleep 1001 & (setsid sh -c 'setsid sleep 1002 & exec sleep 1003' &); exec sleep 1004"
    result = await sandbox.run(text, limit_s=0.4)
    assert ((-1, 9, True, False), b"before\n") == (outcome(result), result.stdout)
    assert 0.4 <= result.wall_s < 5
    await until_alone(sandbox)


@pytest.mark.parametrize(
    "text", ["yes", "cat /dev/zero", "yes >&2", "yes & yes >&2", "head -c 1G /dev/zero | tr '\\0' a"]
)
async def test_output_cap(sandbox: Sandbox, text: str) -> None:
    """Exactly the cap is kept of both streams together, however much is written, and the writer dies."""
    result = await sandbox.run(text, max_output_bytes=123_457)
    assert ((-1, 9, False, True), 123_457) == (outcome(result), len(result.stdout) + len(result.stderr))
    await until_alone(sandbox)


async def test_output_up_to_the_cap(sandbox: Sandbox) -> None:
    """Output of just the cap's size is no overflow."""
    result = await sandbox.run("head -c 1000 /dev/zero", max_output_bytes=1000)
    assert ((0, 0, False, False), bytes(1000)) == (outcome(result), result.stdout)


async def test_commands_at_once(sandbox: Sandbox) -> None:
    """Commands of one sandbox run at the same time and do not mix."""
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        text = "touch here.$0; while [ $(ls here.* | wc -l) -lt 16 ]; do sleep 0.01; done; echo $0"
        tasks = [group.create_task(sandbox.run(["sh", "-c", text, str(i)])) for i in range(16)]
    assert [f"{i}\n".encode() for i in range(16)] == [task.result().stdout for task in tasks]


async def test_cancelled_command(sandbox: Sandbox) -> None:
    """Cancelling `run` kills the command with its descendants, and the sandbox goes on."""
    task = asyncio.create_task(sandbox.run("touch started; setsid sleep 1001 & exec sleep 1002", limit_s=60))
    async with asyncio.timeout(10):
        while ["sleep 1001", "sleep 1002"] != await processes(sandbox):  # noqa: ASYNC110  # a guest tells nobody
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_alone(sandbox)
    assert "started\n" == await shell(sandbox, "ls")


async def test_background_child(sandbox: Sandbox) -> None:
    """A child left in the background holds nothing up, however much it prints, runs on, and dies with the restore."""
    text = "(while kill -0 $$; do sleep 0.01; done 2>/dev/null; exec yes) & sleep 1001 & echo done"
    result = await sandbox.run(text, limit_s=10)
    assert (0, False) == (result.exit_code, result.truncated)
    assert result.wall_s < 5
    async with asyncio.timeout(10):
        while ["sleep 1001", "yes"] != await processes(sandbox):  # noqa: ASYNC110  # a guest tells nobody
            await asyncio.sleep(0.01)
    assert 2 == (await sandbox.restore()).killed
    assert [] == await processes(sandbox)


# --- files ------------------------------------------------------------------------------------------------------------


async def test_big_file(sandbox: Sandbox) -> None:
    """20 MB go in and come out as they were."""
    data = bytes(range(251)) * (20_000_000 // 251)
    await sandbox.write_file("big/file", data)
    assert data == await sandbox.read_file("big/file", max_bytes=len(data))
    assert hashlib.sha256(data).hexdigest() == (await shell(sandbox, "sha256sum < big/file")).split()[0]
    with pytest.raises(RequestRefused, match=f"over the limit of {len(data) - 1}") as caught:
        await sandbox.read_file("big/file", max_bytes=len(data) - 1)
    assert errno.EFBIG == caught.value.errno


async def test_small_files(sandbox: Sandbox) -> None:
    """Files are replaced whole, belong to the command's user and have the mode asked for."""
    await sandbox.write_file("a", b"a long one")
    await sandbox.write_file("a", b"")
    await sandbox.write_file("b", b"b", mode=0o751)
    assert b"" == await sandbox.read_file("a")
    assert "644\n751\nmine\n" == await shell(sandbox, "stat -c %a a b; test -O b && echo mine")
    await sandbox.write_file("x/y", b"in tmp", root="/tmp")
    assert "in tmp" == await shell(sandbox, "cat /tmp/x/y")


async def test_links_out(sandbox: Sandbox) -> None:
    """Links and paths that lead out of the root are refused, those within are followed, and only files are read."""
    await shell(
        sandbox, "ln -s /etc e; ln -s /etc/passwd p; ln -s ../etc u; mkdir d; echo in > d/f; ln -s d l; mkfifo q"
    )
    for path in ("e/passwd", "p", "u/passwd", "../etc/passwd", "/etc/passwd", "d/../../etc/passwd", "d", "q", ""):
        with pytest.raises(RequestRefused):
            await sandbox.read_file(path)
    for path in ("e/new", "p", "u/new", "../tmp/new", "/tmp/new", "d", "q", ""):
        with pytest.raises(RequestRefused):
            await sandbox.write_file(path, b"x")
    assert b"in\n" == await sandbox.read_file("l/f")
    with pytest.raises(PathMissing, match="nothing"):
        await sandbox.read_file("nothing")
    assert "" == await shell(sandbox, "ls /tmp")


async def test_huge_sparse_file(sandbox: Sandbox) -> None:
    """A file that claims a terabyte costs the reader no more than its own limit."""
    await shell(sandbox, "truncate -s 1T huge")
    with pytest.raises(RequestRefused, match="over the limit of 1000"):
        await sandbox.read_file("huge", max_bytes=1000)


async def test_disk_full(sandbox: Sandbox) -> None:
    """A full tree is the command's problem; restore makes room."""
    result = await sandbox.run("cat /dev/zero > fill", max_output_bytes=10_000)
    assert (1, False) == (result.exit_code, result.timed_out)
    with pytest.raises(RequestRefused) as caught:
        await sandbox.write_file("more", b"x" * MIB)
    assert errno.ENOSPC == caught.value.errno
    await sandbox.restore()
    await sandbox.write_file("more", b"x" * MIB)


# --- its end ----------------------------------------------------------------------------------------------------------


async def test_a_lost_sandbox_says_so(pool: SandboxPool) -> None:
    """After its end every use of a sandbox raises `SandboxLost`, and the pool lends another."""
    async with pool.lease(spec_of(pool)) as sandbox:
        running = asyncio.create_task(sandbox.run("sleep 1001"))
        await asyncio.sleep(0.05)
        sandbox.close()
        with pytest.raises(SandboxLost, match="while it was asked to end a command"):
            await running
        for call in (sandbox.run("true"), sandbox.read_file("x"), sandbox.restore(NEXT), sandbox.ping()):
            with pytest.raises(SandboxLost, match=sandbox.id):
                await call
    async with pool.lease(spec_of(pool)) as other:
        assert other is not sandbox
        await other.restore(NEXT)
