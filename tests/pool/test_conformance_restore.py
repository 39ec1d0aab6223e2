"""What a restore gives back, on every launcher's sandboxes: a tree that equals the snapshot, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from typing import Final

import pytest

from codecraft_pool import WORKSPACE, Entry, Sandbox, SandboxPool, Snapshot
from codecraft_pool.snapshot import EPOCH_S
from tests.pool.launchers import MIB, MODES, TREES, open_pool, processes, python, shell, spec_of

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


@pytest.fixture(scope="module", name="pool", params=MODES)
async def make_pool(request: pytest.FixtureRequest) -> AsyncGenerator[SandboxPool]:
    async with open_pool(request, warm=2) as pool:
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    async with pool.lease(spec_of(pool)) as sandbox:
        yield sandbox


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
    async with pool.lease(spec_of(pool)) as one, pool.lease(spec_of(pool)) as two, pool.lease(spec_of(pool)) as three:
        async with asyncio.TaskGroup() as group:
            for sandbox in (one, two, three):
                group.create_task(sandbox.restore(snapshot))
        for sandbox in (one, two, three):
            assert b"49" == await sandbox.read_file("d49/f")


async def test_cancelled_restore(pool: SandboxPool) -> None:
    """Giving up a restore while its snapshot is being placed leaves nothing broken for the next."""
    snapshot = Snapshot.from_files({"f": os.urandom(16), "g": bytes(4 * MIB)})
    async with pool.lease(spec_of(pool)) as sandbox:
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
    if sandbox.spec.reset == "overlay":  # other places too, until the restore
        await shell(sandbox, "for place in $(find / -xdev -type d -writable 2>/dev/null); do touch $place/left; done")
        await sandbox.restore()
        assert "" == await shell(sandbox, "find / -xdev -name left 2>/dev/null || true")
        return
    allowed = {*TREES, "/dev/mqueue", "/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"}
    assert set() == {path.strip(" '[]\n") for path in found.split(",")} - allowed
