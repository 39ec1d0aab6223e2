"""What every launcher's sandboxes do, on real ones: containers, and bubblewrap as root and as an unprivileged user."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import pytest

from codecraft_pool import (
    WORKSPACE,
    Entry,
    PathMissing,
    RequestRefused,
    Sandbox,
    SandboxLost,
    SandboxPool,
    Snapshot,
)
from codecraft_pool.guest_binary import guest_path
from codecraft_pool.snapshot import EPOCH_S
from codecraft_pool.spec import default_environment
from tests.pool.launchers import (
    BACKENDS,
    IS_ROOT,
    MIB,
    SPEC,
    TREES,
    open_pool,
    outcome,
    processes,
    python,
    shell,
    until_alone,
)

pytestmark = pytest.mark.anyio

TREE: Final = Snapshot.from_files(
    {
        "readme": "first\n",
        "run.sh": Entry("file", b"#!/bin/sh\necho ran\n", 0o755, 1_600_000_000),
        "private": Entry("file", b"\0\xff\n", 0o600, 1_500_000_001),
        "deep/er/est/file": "deep",
        "closed": Entry("dir", mode=0o500, mtime_s=1_400_000_000),
        "empty": Entry("dir", mode=0o770),
        "link": Entry("link", b"deep/er", 0o777, 1_650_000_000),
        "dangling": Entry("link", b"/nowhere/at all", 0o777),
        "na\udcffme with\nline end": "hostile name",
        "big": bytes(range(256)) * 1024,
    }
)
LIST_TREE: Final = """
import hashlib, os, stat, sys
def show(path, name):
    info = os.lstat(path)
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}[stat.S_IFMT(info.st_mode)]
    mode = 0o777 if kind == "link" else stat.S_IMODE(info.st_mode)
    owner = (info.st_uid, info.st_gid) == (os.getuid(), os.getgid())
    data = os.readlink(path) if kind == "link" else b""
    if kind == "file":
        data = open(path, "rb").read()
    print(repr(name), kind, oct(mode), int(info.st_mtime), info.st_mtime_ns % 10**9, owner,
          hashlib.sha256(data).hexdigest())
    if kind == "dir":
        for child in sorted(os.listdir(path)):
            show(path + b"/" + child, name + b"/" + child if name else child)
show(os.fsencode(sys.argv[1]), b"")
"""


@pytest.fixture(scope="module", name="pool", params=BACKENDS)
async def make_pool(request: pytest.FixtureRequest) -> AsyncGenerator[SandboxPool]:
    async with open_pool(request, warm=2) as pool:
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    async with pool.lease(SPEC) as sandbox:
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
        while len(await processes(sandbox)) < 2:  # noqa: ASYNC110  # a guest tells nobody
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_alone(sandbox)
    assert "started\n" == await shell(sandbox, "ls")


async def test_background_child(sandbox: Sandbox) -> None:
    """A child left in the background holds nothing up, runs on, and dies with the restore."""
    result = await sandbox.run("yes & sleep 1001 & echo done", limit_s=10)
    assert (0, False) == (result.exit_code, result.truncated)
    assert result.wall_s < 5
    assert "sleep 1001" in await processes(sandbox)
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


# --- restore ----------------------------------------------------------------------------------------------------------


def listing(snapshot: Snapshot) -> list[str]:
    """What `LIST_TREE` prints of a restored snapshot."""
    root = f"b'' dir 0o755 {EPOCH_S} 0 True {hashlib.sha256().hexdigest()}"
    return sorted(
        [root]
        + [
            f"{os.fsencode(path)!r} {entry.kind} {entry.mode:#o} {entry.mtime_s} 0 True "
            f"{hashlib.sha256(entry.data).hexdigest()}"
            for path, entry in snapshot.entries.items()
        ]
    )


async def test_restore_equals_the_snapshot(sandbox: Sandbox) -> None:
    """Paths, types, modes, times, owners and content are the snapshot's, on a clean tree and on a ravaged one."""
    ravage = "chmod -R u+rwX .; rm -rf deep; ln -s /etc deep; echo > readme; mkdir -p a/b; mkfifo a/q; touch -d @0 ."
    for _ in range(2):
        await sandbox.restore(TREE)
        listed = await sandbox.run(["/usr/bin/python3", "-I", "-c", LIST_TREE, WORKSPACE])
        assert listing(TREE) == sorted(listed.stdout.decode().splitlines())
        for path, entry in TREE.entries.items():
            if entry.kind == "file":
                assert entry.data == await sandbox.read_file(path, max_bytes=MIB)
        await shell(sandbox, ravage)
    await sandbox.restore()
    assert "" == await shell(sandbox, "ls -A")


async def test_one_snapshot_for_many_at_once(pool: SandboxPool) -> None:
    """Sandboxes that ask for the same new snapshot at the same time all get it."""
    snapshot = Snapshot.from_files({f"d{i}/f": str(i) for i in range(50)})
    async with pool.lease(SPEC) as one, pool.lease(SPEC) as two, pool.lease(SPEC) as three:
        async with asyncio.TaskGroup() as group:
            for sandbox in (one, two, three):
                group.create_task(sandbox.restore(snapshot))
        for sandbox in (one, two, three):
            assert b"49" == await sandbox.read_file("d49/f")


async def test_cancelled_restore(pool: SandboxPool) -> None:
    """Giving up a restore while its snapshot is being placed leaves nothing broken for the next."""
    snapshot = Snapshot.from_files({"f": os.urandom(16), "g": bytes(4 * MIB)})
    async with pool.lease(SPEC) as sandbox:
        task = asyncio.create_task(sandbox.restore(snapshot))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await sandbox.restore(snapshot)
        assert bytes(4 * MIB) == await sandbox.read_file("g", max_bytes=4 * MIB)


async def test_nothing_survives_a_restore(sandbox: Sandbox) -> None:
    """Files, processes, System V objects and message queues of an episode are gone after it."""
    leave = """
import ctypes, os, socket
libc = ctypes.CDLL(None)
libc.shmget(0x1234, 4096, 0o1666), libc.semget(0x1234, 1, 0o1666), libc.msgget(0x1234, 0o1666)
try:
    libc.mq_open(b"/queue", os.O_CREAT | os.O_RDWR, 0o666, None)
except AttributeError:
    ctypes.CDLL("librt.so.1").mq_open(b"/queue", os.O_CREAT | os.O_RDWR, 0o666, None)
for tree in ("/workspace", "/home/agent", "/tmp", "/var/tmp", "/dev/shm"):
    os.makedirs(f"{tree}/.hidden/x", 0o700)
    open(f"{tree}/.hidden/x/file", "w").write("left")
    os.chmod(f"{tree}/.hidden", 0)
    socket.socket(socket.AF_UNIX).bind(f"{tree}/socket")
"""
    look = """
import os
for table in ("shm", "sem", "msg"):
    print(open(f"/proc/sysvipc/{table}").read().count("\\n") - 1)
for tree in ("/workspace", "/home/agent", "/tmp", "/var/tmp", "/dev/shm"):
    print(tree, os.listdir(tree), oct(os.stat(tree).st_mode & 0o7777))
print(os.listdir("/dev/mqueue") if os.path.exists("/dev/mqueue") else [])
"""
    await sandbox.restore()
    clean = await python(sandbox, look)
    await python(sandbox, leave)
    await sandbox.run("sleep 1001 & setsid sleep 1002 &")
    assert clean != await python(sandbox, look)
    await sandbox.restore()
    assert (clean, []) == (await python(sandbox, look), await processes(sandbox))


async def test_only_restored_trees_can_be_written(sandbox: Sandbox) -> None:
    """Every place that takes a new file is one that restore empties."""
    look = """
import os
found = []
for folder, folders, files in os.walk("/"):
    if folder == "/proc":
        folders[:] = [name for name in folders if not name.isdigit()]
    try:
        os.close(os.open(folder + "/.codecraft-probe", os.O_CREAT | os.O_WRONLY))
        os.unlink(folder + "/.codecraft-probe")
        found.append(folder)
    except OSError:
        pass
    for name in files:
        path = folder + "/" + name
        if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.W_OK):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                found.append(path)
            except OSError:
                pass
print(sorted(found))
"""
    found: str = await python(sandbox, look, limit_s=60)
    allowed = {*TREES, "/dev/mqueue", "/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"}
    assert set() == {path.strip(" '[]\n") for path in found.split(",")} - allowed


async def test_a_lost_sandbox_says_so(pool: SandboxPool) -> None:
    """After its end every use of a sandbox raises `SandboxLost`, and the pool lends another."""
    async with pool.lease(SPEC) as sandbox:
        running = asyncio.create_task(sandbox.run("sleep 1001"))
        await asyncio.sleep(0.05)
        sandbox.close()
        with pytest.raises(SandboxLost, match="while it was asked to end a command"):
            await running
        for call in (sandbox.run("true"), sandbox.read_file("x"), sandbox.restore(TREE), sandbox.ping()):
            with pytest.raises(SandboxLost, match=sandbox.id):
                await call
    async with pool.lease(SPEC) as other:
        assert other is not sandbox
        await other.restore(TREE)


# --- everything above, as somebody else -------------------------------------------------------------------------------

AS_NOBODY: Final = """
import ctypes, sys
from pathlib import Path
ctypes.CDLL(None).prctl(47, 4, 0, 0, 0)  # what lets this process read the code is not for those it starts
import codecraft_pool.local_launcher as launcher
launcher.guest_path = lambda: Path(sys.argv[1])
import pytest
sys.exit(pytest.main(["-p", "no:cacheprovider", "-q", "-m", "not docker", "--basetemp", sys.argv[2], *sys.argv[3:]]))
"""


@pytest.mark.skipif(not IS_ROOT, reason="these tests run as an unprivileged user already")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_as_an_unprivileged_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same holds where the launcher is started by a user without rights, who only can read the code."""
    folder = tmp_path_factory.mktemp("nobody")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    guest = shutil.copy(guest_path(), folder)
    here = Path(__file__).parent
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    words += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", sys.executable, "-B", "-c", AS_NOBODY]
    words += [str(guest), str(home / "tests"), str(here / "test_conformance.py"), str(here / "test_hostile.py")]
    environ = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    ran = subprocess.run(words, env=environ, cwd=here.parents[1], capture_output=True, text=True, timeout=100)
    assert 0 == ran.returncode, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
    assert [] == list(home.glob("codecraft-run-*"))
