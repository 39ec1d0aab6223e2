"""Proofs of clean resets as environments make them, in real sandboxes: no false alarm, and no leak unfound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

import pytest

from codecraft_async import CodeVectorEnv
from codecraft_async.curriculum import Curriculum, Workspace, WorkspaceFile
from codecraft_async.pool import FakeLauncher, RestoreReport, Sandbox, Snapshot
from tests.conftest import UVLOOP
from tests.envs.code_envs import make_task, vector
from tests.pool.launchers import BACKENDS, open_backend

pytestmark = pytest.mark.anyio

TASKS: Final = [
    make_task(
        f"task-{number}",
        workspace=Workspace(
            {f"file-{i}": WorkspaceFile(bytes([number]) * i) for i in range(1 + number * 20)}
            | {"a/b": WorkspaceFile(b"c")}
        ),
    )
    for number in range(3)
]
# What agents leave behind: files, modes, times, links, attributes, flags, processes, objects, sockets, queues.
DEEDS: Final = (
    "echo x >>a/b; rm file-0; mkdir -p new/deep; ln -s /etc/passwd link; ln a/b again; chmod 700 a; touch -d @7 .",
    'python3 -I -c \'import os; os.setxattr("a", b"user.note", b"x"); os.mkfifo("/tmp/p")\';'
    " chattr +d a/b 2>/dev/null; :",
    "sleep 99 >/dev/null 2>&1 & mkdir ~/.cache; echo x >/dev/shm/x; echo y >/var/tmp/y; umask 0; ulimit -n 9",
    "python3 -I -c 'import ctypes, socket; ctypes.CDLL(None).shmget(7, 4096, 0o1600); s = socket.socket();"
    ' s.bind(("127.0.0.1", 0)); s.listen()\'',
    "chmod 000 a; chmod 500 .; :>file-0; for i in $(seq 200); do :>/tmp/$i; done",
)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """What is compared comes from guests, who know nothing of the loop."""
    return UVLOOP


@pytest.fixture(name="env", params=BACKENDS)
async def make_env(request: pytest.FixtureRequest) -> AsyncGenerator[CodeVectorEnv]:
    if request.param == "docker":
        request.getfixturevalue("base_image")
    async with open_backend(request.param) as launcher:
        tasks = Curriculum(tuple(TASKS))
        env = CodeVectorEnv(2, curriculum=tasks, backend=launcher, max_episode_steps=1, prove_every=1)
        await env.areset()
        yield env
        await env.aclose()


async def until(is_so: Callable[[], Awaitable[bool]], *, limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not await is_so():  # noqa: ASYNC110  # the pool restores in the background
            await asyncio.sleep(0.01)


async def test_no_false_alarm(env: CodeVectorEnv) -> None:
    """Fifty restores and more, of three workspaces, after all that agents do: each is proved clean."""
    pool = await env.runtime.pool()
    for number in range(60):
        await env.astep((DEEDS[number % len(DEEDS)], DEEDS[(number // 2) % len(DEEDS)]))
    stats = pool.stats()
    assert (0, 0, 0) == (stats.failed_proofs, stats.proof_errors, stats.replaced)
    assert 50 <= stats.proofs
    assert [] == pool.quarantined()


@pytest.mark.parametrize("root", ["/workspace", "/home/agent", "/dev/shm"])
async def test_a_leak_is_found(env: CodeVectorEnv, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """A restore that leaves one file behind is counted, and its sandbox is kept apart, with what is wrong with it."""
    pool = await env.runtime.pool()
    restore, leaky = Sandbox.restore, set[str]()

    async def leave(sandbox: Sandbox, snapshot: Snapshot | None = None) -> RestoreReport:
        leaky.update({sandbox.id} if not leaky else ())
        report = await restore(sandbox, snapshot)
        if sandbox.id in leaky:
            await sandbox.write_file("left", b"by the episode before", root=root)
        return report

    monkeypatch.setattr(Sandbox, "restore", leave)
    for _ in range(6):
        await env.astep(("true", "true"))

    async def is_found() -> bool:
        return pool.stats().failed_proofs > 0

    await until(is_found)
    (entry,) = pool.quarantined()
    assert leaky == {entry.sandbox.id}
    assert [f"'{root}/left' is new"] == [line for line in entry.differences if "left" in line]
    assert (1, 0, 1) == tuple(getattr(pool.stats(), name) for name in ("failed_proofs", "proof_errors", "quarantined"))
    _, _, _, _, info = await env.astep(("true", "true"))
    assert [True, True] == info["valid"].tolist()


def test_how_often_is_checked() -> None:
    """A negative number is an error at once."""
    with pytest.raises(ValueError, match="prove_every is -1; it must be at least 0"):
        vector(FakeLauncher(), 2, prove_every=-1)


async def test_no_proofs_where_none_are_wanted() -> None:
    """Zero turns them off."""
    env = vector(FakeLauncher(), 2, prove_every=0)
    await env.areset()
    for _ in range(12):
        await env.astep(("true", "true"))
    assert 0 == (await env.runtime.pool()).stats().proofs
    await env.aclose()
