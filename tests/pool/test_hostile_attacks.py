"""Each attack of the table, in every launcher: the pool goes on, the next episode is clean, nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from codecraft_pool import CommandResult, Entry, RequestRefused, Sandbox, SandboxPool, SandboxSpec, Snapshot
from tests.conftest import ASYNCIO, UVLOOP
from tests.pool.attacks import ATTACKS, C_NAME, OUTPUT_CAP, Attack, compiled
from tests.pool.attacks.census import census
from tests.pool.launchers import ALL_BACKENDS, MIB, open_pool

pytestmark = pytest.mark.anyio

# Small, so that little of the machine's memory has to be written to before a limit is reached.
SPEC: Final = SandboxSpec(memory_bytes=192 * MIB, max_processes=64, tree_bytes=24 * MIB, tree_files=4096)
SNAPSHOT: Final = Snapshot.from_files({"keep": "kept\n", "sub/file": "content\n" * 100, "link": Entry("link", b"keep")})


@dataclass(slots=True)
class Arena:
    """A pool of two sandboxes: one is attacked, in the other lives a neighbour; and what a clean one looks like."""

    pool: SandboxPool
    neighbour: Sandbox
    limits_memory: bool
    clean: list[str] = field(default_factory=list[str])


@pytest.fixture(scope="module", name="backend", params=ALL_BACKENDS)
def choose_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(scope="module")
def anyio_backend(backend: str) -> tuple[str, dict[str, Any]]:
    """Attacks are on the guest, which knows nothing of the loop: each launcher is attacked on one."""
    return ASYNCIO if backend == "docker" else UVLOOP


@pytest.fixture(scope="module", name="arena")
async def make_arena(request: pytest.FixtureRequest, backend: str) -> AsyncGenerator[Arena]:
    opened = open_pool(request, warm=2, most=2, spec=SPEC, backend=backend)
    async with opened as pool, pool.lease(SPEC) as neighbour:
        arena = Arena(pool, neighbour, backend == "docker" or "memory limited" in pool.launcher.description)
        async with pool.lease(SPEC) as victim:
            await victim.restore(SNAPSHOT)
            arena.clean = await census(victim)
        yield arena


@asynccontextmanager
async def canary(sandbox: Sandbox) -> AsyncGenerator[None]:
    """While this is open somebody works in *sandbox*, and every answer must be right."""
    done = asyncio.Event()
    singing = asyncio.create_task(_sing(sandbox, done))
    try:
        yield
    finally:
        done.set()
        assert await singing > 0


async def _sing(sandbox: Sandbox, done: asyncio.Event) -> int:
    number = 0
    while not done.is_set() or number == 0:
        number += 1
        await sandbox.write_file("song", str(number).encode())
        result = await sandbox.run(f"cat song; echo {number} >&2; exit {number % 100}", limit_s=30)
        text = str(number).encode()
        assert (text, text + b"\n", number % 100, 0) == (
            result.stdout,
            result.stderr,
            result.exit_code,
            result.signal,
        ), result
        assert text == await sandbox.read_file("song")
    return number


async def perform(attack: Attack, victim: Sandbox) -> CommandResult:
    """Run an attack, while the guest must keep answering."""
    if attack.language == "c":
        await victim.write_file(C_NAME, compiled(attack.program), root="/tmp", mode=0o755)
    running = asyncio.create_task(victim.run(attack.argv(), limit_s=attack.limit_s, max_output_bytes=OUTPUT_CAP))
    while not running.done():
        await victim.ping(limit_s=10)
        await asyncio.wait([running], timeout=0.05)
    return running.result()


async def ask(victim: Sandbox) -> None:
    """After an attack in the same episode, a command's answer is its own, or there is none."""
    try:
        result = await victim.run("echo out; echo err >&2; exit 7", limit_s=5, cwd="/")
    except RequestRefused:
        return
    if (
        result.signal or result.timed_out or result.exit_code in (2, 126, 127)
    ):  # killed, stopped, or no process to be had
        return
    assert 7 == result.exit_code, result
    assert (b"out\n", b"err\n") == (result.stdout.replace(b"forged\n", b""), result.stderr.replace(b"forged\n", b""))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.replace(" ", "-").replace("/", "-"))
async def test_attack(arena: Arena, attack: Attack) -> None:
    """It ends as the table says; then another episode finds a sandbox as good as new, and the neighbour saw nothing."""
    pool = arena.pool
    if attack.needs_memory_limit and not arena.limits_memory:
        pytest.skip("nothing here would limit the sandbox's memory")
    replaced = pool.stats().replaced
    async with canary(arena.neighbour):
        async with pool.lease(SPEC) as victim:
            await victim.restore(SNAPSHOT)
            result = await perform(attack, victim)
            assert attack.ends(result), result
            if attack.prints is not None:
                assert attack.prints == result.stdout.decode(), result
            await ask(victim)
        async with pool.lease(SPEC) as successor:
            await successor.restore(SNAPSHOT)
            assert arena.clean == await census(successor)
    if not attack.may_lose:
        assert replaced == pool.stats().replaced
