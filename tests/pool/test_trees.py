"""Checkpoints, digests, measures and proofs of real sandboxes: containers, and bubblewrap."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from codecraft_pool import (
    WORKSPACE,
    Baselines,
    Entry,
    RequestRefused,
    Sandbox,
    SandboxPool,
    Snapshot,
    SnapshotError,
    differences,
)
from codecraft_pool.checkpoint import Checkpoint
from tests.pool.launchers import BACKENDS, SPEC, TREES, open_pool, python, shell, until_alone

pytestmark = pytest.mark.anyio

TREE = Snapshot.from_files(
    {
        "readme": "first\n",
        "src/main.py": Entry("file", b"print(1)\n", 0o755, 1_600_000_000),
        "src/same.py": Entry("hardlink", b"src/main.py"),
        "noted": Entry("file", b"x", attributes=(("user.note", b"\xff\0kept"),)),
        "link": Entry("link", b"src"),
        **{f"many/{index}": f"{index}\n" for index in range(200)},
    }
)


@pytest.fixture(scope="module", name="pool", params=BACKENDS)
async def make_pool(request: pytest.FixtureRequest) -> AsyncGenerator[SandboxPool]:
    async with open_pool(request, warm=2) as pool:
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    async with pool.lease(SPEC) as sandbox:
        yield sandbox


async def test_only_what_changed_is_restored(sandbox: Sandbox) -> None:
    """The second restore to a snapshot leaves the rest alone; a distrustful one compares it; both give the same."""
    first = await sandbox.restore(TREE)
    fresh = await sandbox.digest()
    assert (0, len(TREE.entries)) == (first.kept, first.made)
    await shell(sandbox, "echo changed >readme; rm many/7; touch new; mv many/8 many/eight; chmod 0 src; ls >/tmp/x")
    second = await sandbox.restore(TREE)
    assert len(TREE.entries) == second.made + second.kept
    assert 3 <= second.made <= 5
    assert [] == differences(fresh, await sandbox.digest())
    third = await sandbox.restore(TREE, trust_record=False)
    assert (0, len(TREE.entries)) == (third.made, third.kept)
    assert third.compared >= 200
    assert [] == differences(fresh, await sandbox.digest())


async def test_what_a_snapshot_holds_is_restored(sandbox: Sandbox) -> None:
    """Several names of a file and users' attributes too."""
    await sandbox.restore(TREE)
    found = await sandbox.digest([WORKSPACE])
    main, same = found[f"{WORKSPACE}/src/main.py"], found[f"{WORKSPACE}/src/same.py"]
    assert (2, True, main) == (main.links, main.several > 0, same)
    assert hashlib.sha256(b"print(1)\n").hexdigest() == main.content
    assert repr(b"\xff\0kept") + "\n" == await python(sandbox, "import os; print(os.getxattr('noted', 'user.note'))")


async def test_a_checkpoint_comes_back(pool: SandboxPool, sandbox: Sandbox) -> None:
    """In the same sandbox and in another one, all trees; running commands do not notice that it is taken."""
    await sandbox.restore(TREE)
    await shell(
        sandbox, "echo more >>readme; ln -s /nowhere l; mkfifo p; mkdir -p ~/a; echo t >/tmp/t; truncate -s 3M s"
    )
    running = asyncio.create_task(sandbox.run("sleep 1; echo undisturbed"))
    checkpoint = await sandbox.snapshot()
    assert b"undisturbed\n" == (await running).stdout
    there = await sandbox.digest()
    assert set(TREES) == set(checkpoint.trees)
    assert checkpoint.size_bytes < 200_000
    assert checkpoint == await sandbox.snapshot()
    async with pool.lease(SPEC) as other:
        report = await other.restore(checkpoint)
        assert report.copied_bytes == checkpoint.size_bytes
        assert [] == differences(there, await other.digest())
        assert "more\n" == await shell(other, "tail -n 1 readme; echo mine >mine")
    await shell(sandbox, "rm -rf readme many; setsid sleep 60 >/dev/null 2>&1 & echo x >/var/tmp/x")
    await sandbox.restore(checkpoint)
    assert [] == differences(there, await sandbox.digest())
    await until_alone(sandbox)
    await sandbox.restore(TREE)
    assert "first\n" == await shell(sandbox, "cat readme")


async def test_a_checkpoint_of_another_kind_of_sandbox(sandbox: Sandbox) -> None:
    """Commands of another user could not do with its files what they did there; rubbish is refused by the guest."""
    with pytest.raises(SnapshotError, match="root"):
        await sandbox.restore(Checkpoint({}, "root"))
    with pytest.raises(RequestRefused, match="stream"):
        await sandbox.restore(Checkpoint({WORKSPACE: b"rubbish"}, "agent"))
    await sandbox.restore(TREE)


async def test_what_is_too_large_is_refused(sandbox: Sandbox) -> None:
    """With the limit in the error; the sandbox is as it was."""
    await shell(sandbox, "head -c 3000000 /dev/urandom >big")
    with pytest.raises(RequestRefused, match="1000000 bytes") as caught:
        await sandbox.snapshot(max_bytes=1_000_000)
    assert errno.EFBIG == caught.value.errno
    with pytest.raises(RequestRefused, match=r"0\.001 s"):
        await sandbox.digest(limit_s=0.001)
    with pytest.raises(RequestRefused, match="nowhere"):
        await sandbox.digest(["/nowhere"])


async def test_a_cancelled_checkpoint_leaves_nothing_running(sandbox: Sandbox) -> None:
    """The guest's worker ends with the call."""
    await python(sandbox, "f=open('big','wb'); f.truncate(1 << 40)")
    task = asyncio.create_task(sandbox.digest(limit_s=60))
    while (await sandbox.stat()).processes == 0:  # noqa: ASYNC110  # a guest tells nobody
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_alone(sandbox)


async def test_what_a_sandbox_uses(sandbox: Sandbox) -> None:
    """Processes, memory and space of each tree."""
    await shell(sandbox, "head -c 2000000 /dev/zero >big; setsid sleep 60 >/dev/null 2>&1 &")
    stat = await sandbox.stat()
    assert 1 == stat.processes
    assert 0 < stat.guest_bytes < 1 << 28
    assert stat.memory_bytes > 0
    assert set(TREES) == set(stat.trees)
    assert 2_000_000 <= stat.trees[WORKSPACE].bytes_used <= stat.trees[WORKSPACE].bytes_limit == SPEC.tree_bytes


LEFTOVERS = """
import os, socket
pid = os.fork()
if pid == 0:
    os.setsid(); s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
    open("/tmp/up", "w").close()
    import time; time.sleep(60)
import time
while not os.path.exists("/tmp/up"): time.sleep(0.01)
import ctypes; ctypes.CDLL(None).shmget(7, 4096, 0o1600)
"""


async def test_a_clean_sandbox_is_proved_clean(pool: SandboxPool, sandbox: Sandbox) -> None:
    """What is left of an episode is said before the restore, and nothing after it, compared with another sandbox."""
    baselines = Baselines()
    async with pool.lease(SPEC) as fresh:
        await fresh.restore(TREE)
        assert not baselines.knows("here", SPEC, TREE)
        await baselines.record("here", fresh, TREE)
    await sandbox.restore(TREE)
    assert [] == await baselines.check("here", sandbox, TREE, full=True)
    await python(sandbox, LEFTOVERS)
    await shell(sandbox, "echo x >>readme; touch /dev/shm/x; chmod 700 many; touch -d @7 link")
    found = await baselines.check("here", sandbox, TREE, full=True)
    for text in (
        "process python3",
        "sockets tcp 1",
        "objects shm 1",
        "readme': content",
        "'/dev/shm/x' is new",
        "mode",
    ):
        assert [line for line in found if text in line], text
    assert len(await baselines.check("here", sandbox, TREE)) < len(found)
    await sandbox.restore(TREE)
    assert [] == await baselines.check("here", sandbox, TREE, full=True)
    with pytest.raises(KeyError):
        await baselines.check("here", sandbox, None)


async def test_a_directory_of_this_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    """Its files come back as they are there."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(bytes(1 << 20) + b"end")
    os.link(tmp_path / "a" / "one", tmp_path / "two")
    await sandbox.restore(Snapshot.from_directory(tmp_path))
    found = await sandbox.digest([WORKSPACE])
    assert hashlib.sha256(bytes(1 << 20) + b"end").hexdigest() == found[f"{WORKSPACE}/two"].content
    assert found[f"{WORKSPACE}/a/one"] == found[f"{WORKSPACE}/two"]
