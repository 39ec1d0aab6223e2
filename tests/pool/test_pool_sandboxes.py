"""The pool over real sandboxes: restored ahead of time, looked after, and replaced where they do not answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from codecraft_pool import WORKSPACE, LocalLauncher, Sandbox, SandboxPool, Snapshot
from tests.pool.launchers import BACKENDS, SPEC, open_backend, processes, shell

pytestmark = pytest.mark.anyio

NEXT = Snapshot.from_files({"src/main.py": "print('next')\n", "README": "the next task"})


@pytest.fixture(name="pool", params=BACKENDS)
async def make_pool(request: pytest.FixtureRequest) -> AsyncGenerator[SandboxPool]:
    if request.param == "docker":
        request.getfixturevalue("base_image")
    async with open_backend(request.param) as launcher, SandboxPool(launcher, max_sandboxes=3) as pool:
        yield pool


async def until(what: Callable[[], bool], *, limit_s: float = 20.0) -> None:
    """Return once it is so."""
    async with asyncio.timeout(limit_s):
        while not what():  # noqa: ASYNC110  # a pool tells nobody
            await asyncio.sleep(0.005)


async def test_what_is_lent_is_the_next_task_and_nothing_of_the_last(pool: SandboxPool) -> None:
    """A sandbox that an agent has filled and left running is the expected snapshot before anybody asks for that."""
    lease = await pool.acquire(SPEC)
    await shell(lease.sandbox, "echo secret > notes; echo secret > ~/notes; echo secret > /tmp/notes; mkdir src")
    await shell(lease.sandbox, "(sleep 1007 &) >/dev/null 2>&1")
    pool.expect(SPEC, NEXT)
    lease.release()
    await until(lambda: pool.stats().idle == 1)
    again = await pool.acquire(SPEC, snapshot=NEXT)
    assert again.sandbox is lease.sandbox
    assert (1, 0, 1) == (pool.stats().prefetch_hits, pool.stats().prefetch_misses, pool.stats().restored)
    assert [] == await processes(again.sandbox)
    text = await shell(again.sandbox, "find . /tmp ~ -mindepth 1 | sort; python3 src/main.py; cat README")
    assert "./README\n./src\n./src/main.py\nnext\nthe next task" == text
    again.release()


async def test_asked_for_empty_it_is_empty(pool: SandboxPool) -> None:
    """A sandbox that was made ready for somebody else is emptied for whoever asks for an empty one."""
    await pool.prewarm(SPEC, 1, maximum=1)
    pool.expect(SPEC, NEXT)
    await until(lambda: pool.stats().restored == 1 and pool.stats().idle == 1)
    async with pool.lease(SPEC) as sandbox:
        assert "" == await shell(sandbox, "ls -A")


async def test_a_snapshot_larger_than_a_tree_costs_an_error_and_no_flood_of_sandboxes(pool: SandboxPool) -> None:
    """Whoever asks for it is told that there is no space; the pool does not go on trying."""
    huge = Snapshot.from_files({"huge": b"x" * (SPEC.tree_limit_bytes(WORKSPACE) + 1)})
    await pool.prewarm(SPEC, 1)
    for _ in range(4):
        pool.expect(SPEC, huge)
        await until(lambda: pool.stats().restoring + pool.stats().starting == 0)
    with pytest.raises(OSError, match="No space left"):
        await pool.acquire(SPEC, snapshot=huge)
    assert pool.stats().started <= 6
    async with pool.lease(SPEC, snapshot=NEXT) as sandbox:
        assert "the next task" == await shell(sandbox, "cat README")


async def test_a_guest_that_falls_silent_is_replaced_before_it_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that the kernel holds is noticed by the check of idle sandboxes; the target is met again."""
    monkeypatch.setattr("codecraft_pool.pool_keeper._PING_LIMIT_S", 0.5)
    async with LocalLauncher() as launcher, SandboxPool(launcher, check_s=0.2) as pool:
        await pool.prewarm(SPEC, 1)
        (guest,) = (below for child in _children(os.getpid()) for below in _children(child))
        os.kill(guest, signal.SIGSTOP)
        try:
            await until(lambda: pool.stats().lost == 1 and pool.stats().idle == 1)
            async with pool.lease(SPEC) as sandbox:
                assert "on\n" == await shell(sandbox, "echo on")
        finally:
            os.kill(guest, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if parent == pid:
            found.append(int(path.parent.name))
    return found


async def _tell_of_leftovers(sandbox: Sandbox, snapshot: Snapshot | None, /) -> list[str]:
    """A proof as a user may write one: what runs, and what lies about."""
    files = (await shell(sandbox, "find /tmp /dev/shm -mindepth 1")).split()
    return [*(f"a process: {name}" for name in await processes(sandbox)), *(f"a file: {name}" for name in files)]


async def test_real_restores_stand_their_proof() -> None:
    """After whatever an agent did, a proof of every restore finds nothing, and the same sandbox is lent again."""
    async with LocalLauncher() as launcher, SandboxPool(launcher, prover=_tell_of_leftovers, prove_every=1) as pool:
        for _ in range(3):
            async with pool.lease(SPEC) as sandbox:
                await shell(sandbox, "touch /tmp/x /dev/shm/y; (sleep 1009 &) >/dev/null 2>&1")
            await until(lambda: pool.stats().idle == 1)
        stats = pool.stats()
        assert (1, 3, 0, 0) == (stats.started, stats.proofs, stats.failed_proofs, stats.proof_errors)
