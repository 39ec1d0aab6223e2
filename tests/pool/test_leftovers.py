"""Nothing is left behind: no container, volume, process or directory, however the program that owned them ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from codecraft_pool import (
    DockerDaemon,
    DockerLauncher,
    LaunchError,
    LocalLauncher,
    PoolClosed,
    Sandbox,
    SandboxLost,
    SandboxPool,
    Snapshot,
    connect_daemon,
    reap,
)
from codecraft_pool.containers import OWNER_LABEL
from codecraft_pool.owner import Owner
from tests.pool.launchers import EVERY_WAY, SPEC, containers_of, host_processes, open_backend, script, shell, volumes

pytestmark = pytest.mark.anyio

BUSY: Final = """
import asyncio, json, sys, uvloop
from codecraft_pool import SandboxPool, Snapshot
from codecraft_pool.containers import OWNER_LABEL
from codecraft_pool.owner import Owner
from tests.pool.launchers import SPEC, open_backend

async def main(backend, mark, count):
    async with open_backend(backend) as launcher, SandboxPool(launcher) as pool:
        await pool.prewarm(SPEC, count)
        leases = [await pool.acquire(SPEC) for _ in range(count)]
        snapshot = Snapshot.from_files({"closed/file": "x"})
        text = f"setsid sleep {mark} & (setsid sleep {mark} &) ; sleep {mark}"
        for lease in leases:
            await lease.sandbox.restore(snapshot)
        work = [asyncio.create_task(lease.sandbox.run(text, limit_s=600)) for lease in leases]
        for lease in leases:
            while int((await lease.sandbox.run(f"grep -l {mark} /proc/*/cmdline | wc -l")).stdout) < 3:
                pass
        print(json.dumps({"owner": str(Owner.current())}), flush=True)
        try:
            await asyncio.wait(work)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)

try:
    (asyncio if sys.argv[4] == "asyncio" else uvloop).run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
except KeyboardInterrupt:
    print(json.dumps("interrupted"), flush=True)
"""
LEFT_LIMIT_S: Final = 5.0  # the daemon says that a container is gone a moment before its list does
MARKS = iter(range(100_000, 1 << 30, os.getpid()))


@pytest.fixture(name="daemon")
async def open_daemon(base_image: str) -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon() as daemon:
        yield daemon


def run_directories(owner: str) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"codecraft-run-{owner}-*"))


async def nothing_left(owner: str, mark: str, volumes_before: set[str] | None) -> None:
    """Return when no container, volume or process is left."""
    began = time.monotonic()
    left: list[str] = []
    while time.monotonic() < began + LEFT_LIMIT_S:
        left = [*host_processes(f"sleep {mark}"), *host_processes(f"codecraft-run-{owner}-")]
        if volumes_before is not None:
            async with await connect_daemon() as daemon:
                left += await containers_of(daemon, owner)
                left += sorted(await volumes(daemon) - volumes_before)
        if not left:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{LEFT_LIMIT_S:g} s later there still are: {left}")


async def volumes_now(backend: str) -> set[str] | None:
    if backend == "local":
        return None
    async with await connect_daemon() as daemon:
        return await volumes(daemon)


@pytest.mark.parametrize("backend", EVERY_WAY)
@pytest.mark.parametrize(
    ("number", "count", "loop"),
    [(signal.SIGKILL, 16, "uvloop"), (signal.SIGTERM, 2, "asyncio"), (signal.SIGINT, 2, "asyncio")],
    ids=["SIGKILL", "SIGTERM", "SIGINT"],
)
def test_killed_while_busy(
    request: pytest.FixtureRequest, backend: str, number: signal.Signals, count: int, loop: str
) -> None:
    """Five seconds after its program was killed nothing of its busy sandboxes is left."""
    if backend != "local":
        request.getfixturevalue("base_image")
    asyncio.run(kill_while_busy(backend, number, count, loop))


async def kill_while_busy(backend: str, number: signal.Signals, count: int, loop: str) -> None:
    mark = str(next(MARKS))
    before = await volumes_now(backend)
    async with script(BUSY, backend, mark, str(count), loop) as busy:
        owner = (await busy.line())["owner"]
        assert count * 3 <= len(host_processes(f"sleep {mark}"))
        os.killpg(busy.process.pid, number)
        if number == signal.SIGINT:  # the way out through every `async with`
            assert "interrupted" == await busy.line()
            assert [] == run_directories(owner)
            assert 0 == await busy.end()
        else:
            assert -number == await busy.end()
        await nothing_left(owner, mark, before)
    await reap(None)
    assert [] == run_directories(owner)


STARTING: Final = """
import asyncio, json, sys, uvloop
from codecraft_pool.containers import OWNER_LABEL
from codecraft_pool.owner import Owner
from tests.pool.launchers import SPEC, open_backend

async def main(backend):
    async with open_backend(backend) as launcher:
        await launcher.start(SPEC)
        print(json.dumps({"owner": str(Owner.current())}), flush=True)
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(launcher.start(SPEC))
        print(json.dumps("started"), flush=True)
        await asyncio.Event().wait()

uvloop.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("backend", EVERY_WAY)
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_killed_while_starting(request: pytest.FixtureRequest, backend: str, seconds: float) -> None:
    """Of sandboxes in every stage of starting only containers that were not started can stay, for the next to remove.

    Those that the daemon starts after the kill find nobody at their socket, and end.
    """
    if backend != "local":
        request.getfixturevalue("base_image")
    asyncio.run(kill_while_starting(backend, seconds))


async def kill_while_starting(backend: str, seconds: float) -> None:
    before = await volumes_now(backend)
    async with script(STARTING, backend) as starting:
        owner = (await starting.line())["owner"]
        await asyncio.sleep(seconds)  # a stage like any other; the test holds for all
        starting.process.kill()
        await starting.process.wait()
    if backend != "local":
        async with await connect_daemon() as daemon:
            await until_none_runs(daemon, owner)
            await reap(daemon)
    await nothing_left(owner, f"codecraft-run-{owner}", before)
    await reap(None)
    assert [] == run_directories(owner)


async def until_none_runs(daemon: DockerDaemon, owner: str, *, limit_s: float = 30.0) -> None:
    """Return when no container of the owner runs, several times in a row: a call may still be on its way."""
    quiet = 0
    async with asyncio.timeout(limit_s):
        while quiet < 5:
            filters = json.dumps({"label": [f"{OWNER_LABEL}={owner}"], "status": ["running", "restarting", "removing"]})
            running = await daemon.get_json(f"containers/json?{urlencode({'all': 1, 'filters': filters})}")
            quiet = 0 if running else quiet + 1
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("backend", EVERY_WAY)
async def test_closed_with_all_at_work(request: pytest.FixtureRequest, backend: str) -> None:
    """Leaving the launcher ends sandboxes that nobody closed, with what runs in them, and waits for it."""
    if backend != "local":
        request.getfixturevalue("base_image")
    mark, owner = str(next(MARKS)), str(Owner.current())
    before = await volumes_now(backend)
    async with open_backend(backend) as launcher:
        sandboxes = [await launcher.start(SPEC) for _ in range(2)]
        running = [asyncio.create_task(sandbox.run(f"sleep {mark}")) for sandbox in sandboxes]
        await sandboxes[0].restore(Snapshot.from_files({"f": "x"}))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert 2 == len(await asyncio.gather(*running, return_exceptions=True))
    assert all(sandbox.lost for sandbox in sandboxes)
    await nothing_left(owner, mark, before)
    assert [] == run_directories(owner)
    await launcher.aclose()
    with pytest.raises(LaunchError, match="closed"):
        await launcher.start(SPEC)
    with pytest.raises(SandboxLost):
        await sandboxes[0].restore(Snapshot.from_files({"g": "x"}))
    assert [] == run_directories(owner)


STEPS: Final = {"local": (0, 1, 2, 3, 5, 10, 20, 100), "docker": (0, 5, 40, 120)}


async def wait_for_start(start: asyncio.Task[Sandbox]) -> None:
    """A start that was cut short has ended, by working or by an error of the launcher's."""
    await asyncio.wait([start], timeout=30)
    assert start.done()
    if not start.cancelled() and start.exception() is not None:
        assert isinstance(start.exception(), LaunchError)


@pytest.mark.parametrize("backend", EVERY_WAY)
async def test_cancelled_while_starting(request: pytest.FixtureRequest, backend: str) -> None:
    """A start that is cancelled leaves nothing, wherever it stood, and the launcher goes on."""
    if backend != "local":
        request.getfixturevalue("base_image")
    before = await volumes_now(backend)
    async with open_backend(backend) as launcher:
        for steps in STEPS[backend.partition("-")[0]]:
            start = asyncio.create_task(launcher.start(SPEC))
            for _ in range(steps):
                await asyncio.sleep(0 if backend == "local" else 0.002)
            start.cancel()
            await wait_for_start(start)
        await (await launcher.start(SPEC)).ping()
    await nothing_left(str(Owner.current()), "none", before)
    assert [] == run_directories(str(Owner.current()))


@pytest.mark.parametrize("backend", EVERY_WAY)
async def test_closed_while_starting(request: pytest.FixtureRequest, backend: str) -> None:
    """A start that is overtaken by the launcher's end leaves nothing, wherever it stood."""
    if backend != "local":
        request.getfixturevalue("base_image")
    before = await volumes_now(backend)
    for steps in STEPS[backend.partition("-")[0]]:
        async with open_backend(backend) as launcher:
            await launcher.prepare(SPEC)
            start = asyncio.create_task(launcher.start(SPEC))
            for _ in range(steps):
                await asyncio.sleep(0 if backend == "local" else 0.002)
            await launcher.aclose()
            await wait_for_start(start)
        assert [] == run_directories(str(Owner.current()))
    await nothing_left(str(Owner.current()), "none", before)


@pytest.mark.docker
async def test_volume_that_the_daemon_forgot(daemon: DockerDaemon) -> None:
    """The launcher's end removes a volume that outlived its containers, and leaves alone what others have."""
    owner = Owner.current()
    foreign = {"Name": f"codecraft-foreign-{os.getpid()}", "Labels": {OWNER_LABEL: str(Owner("0" * 8, 1, 1))}}
    forgotten = {"Name": f"codecraft-forgotten-{os.getpid()}", "Labels": {OWNER_LABEL: str(owner)}}
    client: Any = daemon.client.volumes
    await client.create(foreign)
    try:
        async with DockerLauncher(daemon) as other:
            await other.start(SPEC)
            async with DockerLauncher(daemon) as launcher:
                await launcher.start(SPEC)
                await client.create(forgotten)
            left = await volumes(daemon)
            assert forgotten["Name"] not in left
            assert foreign["Name"] in left
            await (await other.start(SPEC)).ping()
    finally:
        await (await client.get(foreign["Name"])).delete()


@pytest.mark.parametrize("backend", EVERY_WAY)
async def test_pool_closed_while_starting(request: pytest.FixtureRequest, backend: str) -> None:
    """A pool that is closed in the middle of its prewarming leaves nothing."""
    if backend != "local":
        request.getfixturevalue("base_image")
    before = await volumes_now(backend)
    async with open_backend(backend) as launcher:
        async with SandboxPool(launcher) as pool:
            warming = asyncio.create_task(pool.prewarm(SPEC, 4))
            while pool.stats().started < 1:  # noqa: ASYNC110  # a pool tells nobody
                await asyncio.sleep(0.001)
        (ended,) = await asyncio.gather(warming, return_exceptions=True)
        assert ended is None or isinstance(ended, PoolClosed)
    await nothing_left(str(Owner.current()), "none", before)


async def test_two_launchers_of_one_process() -> None:
    """They do not share uids, nor anything that the end of one takes from the other."""
    async with LocalLauncher() as one:
        kept = await one.start(SPEC)
        async with LocalLauncher() as two:
            other = await two.start(SPEC)
            assert kept.id != other.id
            if os.geteuid() == 0:
                assert await shell(kept, "id -u") != await shell(other, "id -u")
        assert other.lost
        await kept.restore(Snapshot.from_files({"f": "x"}))
        assert b"x" == await kept.read_file("f")


# --- containers that end or stop answering behind our back ------------------------------------------------------------


@pytest.mark.docker
async def test_two_docker_launchers_of_one_process(daemon: DockerDaemon) -> None:
    """Their containers have names of their own, and the end of one leaves the other's alone."""
    async with DockerLauncher(daemon, roots="image") as one:
        kept = await one.start(SPEC)
        async with DockerLauncher(daemon, roots="image") as two:
            other = await two.start(SPEC)
            assert 4 == len(await containers_of(daemon, Owner.current()))
        assert other.lost
        await kept.restore(Snapshot.from_files({"f": "x"}))
        assert b"x" == await kept.read_file("f")
    assert [] == await containers_of(daemon, Owner.current())


@pytest.mark.docker
async def test_killed_container(daemon: DockerDaemon) -> None:
    """A container killed from outside is a lost sandbox; the pool lends another."""
    async with DockerLauncher(daemon) as launcher, SandboxPool(launcher) as pool:
        async with pool.lease(SPEC) as sandbox:
            running = asyncio.create_task(sandbox.run("sleep 1001"))
            await daemon.client.containers.container(sandbox.id).kill()
            with pytest.raises(SandboxLost, match="its channel closed"):
                await running
        async with pool.lease(SPEC) as other:
            assert other.id != sandbox.id
            assert "on\n" == await shell(other, "echo on")
        assert 1 == pool.stats().replaced
    assert [] == await containers_of(daemon, Owner.current())


@pytest.mark.docker
async def test_killed_depot(daemon: DockerDaemon) -> None:
    """Sandboxes that can get no snapshot any more are lost, and those the pool starts instead can."""
    async with DockerLauncher(daemon, roots="image") as launcher, SandboxPool(launcher) as pool:
        await pool.prewarm(SPEC, 2)
        (depot,) = set(await containers_of(daemon, Owner.current())) - set(await _lent_names(pool))
        await daemon.client.containers.container(depot).kill()
        failures = 0
        for i in range(6):
            try:
                async with pool.lease(SPEC) as sandbox:
                    await sandbox.restore(Snapshot.from_files({"f": str(i)}))
                    assert str(i).encode() == await sandbox.read_file("f")
            except SandboxLost:
                failures += 1
        assert failures <= 2
    assert [] == await containers_of(daemon, Owner.current())


async def _lent_names(pool: SandboxPool) -> list[str]:
    leases = [await pool.acquire(SPEC) for _ in range(2)]
    for lease in leases:
        lease.release()
    return [lease.sandbox.id for lease in leases]


@pytest.mark.docker
async def test_paused_container(daemon: DockerDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that does not answer is lost at its deadline, and its container, which cannot end, is removed."""
    monkeypatch.setattr("codecraft_pool.container_lives.GONE_LIMIT_S", 0.5)
    async with DockerLauncher(daemon) as launcher:
        sandbox = await launcher.start(SPEC)
        await daemon.client.containers.container(sandbox.id).pause()
        with pytest.raises(SandboxLost, match=r"did not answer a ping within 0\.3 s"):
            await sandbox.ping(limit_s=0.3)
        async with asyncio.timeout(10):
            while sandbox.id in await containers_of(daemon, Owner.current()):  # noqa: ASYNC110  # a daemon tells nobody
                await asyncio.sleep(0.05)
        other: Sandbox = await launcher.start(SPEC)
        await other.ping()
    assert [] == await containers_of(daemon, Owner.current())
