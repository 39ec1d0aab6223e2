"""The reaper removes what the dead left, and nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from codecraft_pool import (
    CallRefused,
    DockerDaemon,
    DockerLauncher,
    LocalLauncher,
    Reaped,
    Snapshot,
    _host_leftovers,
    connect_daemon,
    leftovers,
    reap,
    reaper,
)
from codecraft_pool.containers import OWNER_LABEL, Containers
from codecraft_pool.leftovers import (
    BOOT_LABEL,
    HOST_LABEL,
    this_host,
)
from codecraft_pool.local_launcher import RUN_PREFIX
from codecraft_pool.owner import Owner
from codecraft_pool.recipes import SCRATCH_PREFIX, DockerfileRecipe
from tests.conftest import IMAGE
from tests.pool.fake_engine import Recorder
from tests.pool.launchers import IS_ROOT, SPEC, containers_of

pytestmark = pytest.mark.anyio


@pytest.fixture(name="temporary")
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for directories of this test's own, and no cgroups but those that it makes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_host_leftovers, "cgroup_roots", list)
    return tmp_path


@pytest.fixture(name="dead")
def _dead() -> Owner:
    """A process of this machine that has ended."""
    program = "from codecraft_pool.owner import Owner; print(Owner.current())"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    owner = Owner.parse(ran.stdout.strip())
    assert owner is not None, ran.stderr
    return owner


@pytest.fixture(name="daemon")
async def open_daemon(base_image: str) -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon() as daemon:
        yield daemon


def run_directory(temporary: Path, owner: object, end: str = "x") -> Path:
    path = temporary / f"{RUN_PREFIX}{owner}-{end}"
    (path / "snapshots" / "0123" / "closed").mkdir(parents=True)
    (path / "snapshots" / "0123" / "closed" / "file").write_text("x")
    (path / "snapshots" / "0123" / "closed").chmod(0o000)
    return path


async def test_directories_of_the_dead(temporary: Path, dead: Owner) -> None:
    """They go, whatever the modes in them; those of the living stay."""
    left = [run_directory(temporary, dead), run_directory(temporary, dead, "y")]
    alive = run_directory(temporary, Owner.current())
    async with LocalLauncher() as launcher:
        sandbox = await launcher.start(SPEC)
        reaped = await reap(None)
        assert sorted(map(str, left)) == sorted(reaped.directories)
        assert [False, False, True] == [path.exists() for path in [*left, alive]]
        assert 2 == len(reaped.kept)
        await sandbox.restore(Snapshot.from_files({"still": "there"}))


async def test_directories_that_are_not_ours(temporary: Path, dead: Owner) -> None:
    """Names that name no owner, links, files and directories of other users are left alone."""
    unnamed = temporary / f"{RUN_PREFIX}mine"
    unnamed.mkdir()
    outside = temporary / "outside"
    outside.mkdir()
    link = temporary / f"{RUN_PREFIX}{dead}-link"
    link.symlink_to(outside)
    file = temporary / f"{RUN_PREFIX}{dead}-file"
    file.write_text("x")
    kept = [unnamed, outside, link, file]
    if IS_ROOT:
        kept.append(run_directory(temporary, dead, "theirs"))
        os.chown(kept[-1], 65534, 65534)
    reaped = await reap(None)
    assert ([], [str(unnamed)]) == (reaped.directories, reaped.kept)
    assert all(path.exists() for path in kept)


async def test_directories_of_another_namespace(temporary: Path) -> None:
    """Whether their owner lives cannot be seen, so they stay, until the machine has been started anew."""
    foreign = Owner("0" * 8, 1, 1)
    recent, old = run_directory(temporary, foreign), run_directory(temporary, foreign, "old")
    os.utime(old, (1_000_000, 1_000_000))
    reaped = await reap(None)
    assert ([str(old)], [str(recent)]) == (reaped.directories, reaped.kept)


async def test_directory_that_vanishes(temporary: Path, dead: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that another process removes at this very moment is no error."""

    def glob(self: Path, pattern: str) -> list[Path]:
        return [temporary / f"{RUN_PREFIX}{dead}-gone"]

    monkeypatch.setattr(Path, "glob", glob)
    assert ([], []) == ((reaped := await reap(None)).directories, reaped.kept)


async def test_directory_with_a_mount(temporary: Path, dead: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in which something is mounted is kept, and why is said: behind a mount may be anything."""
    path = run_directory(temporary, dead)
    monkeypatch.setattr(_host_leftovers, "_has_mounts", lambda _: True)
    reaped = await reap(None)
    assert [f"its owner, process {dead.pid}, has ended; something is mounted in it"] == [
        each.reason for each in reaped.findings
    ]
    assert (path / "snapshots").exists()


async def test_scratch_directories_of_the_dead(temporary: Path, dead: Owner) -> None:
    """What a killed build of an image left goes too; that of a running one stays."""
    left, alive = temporary / f"{SCRATCH_PREFIX}{dead}-x", temporary / f"{SCRATCH_PREFIX}{Owner.current()}-x"
    left.mkdir()
    alive.mkdir()
    assert [str(left)] == (await reap(None)).directories
    assert (False, True) == (left.exists(), alive.exists())


async def test_dry_run(temporary: Path, dead: Owner) -> None:
    """It says the same and removes nothing."""
    path = run_directory(temporary, dead)
    reaped = await reap(None, dry_run=True)
    assert [("would remove", str(path))] == [(each.action, each.name) for each in reaped.findings]
    assert ([], [], True) == (reaped.directories, reaped.kept, path.exists())


# --- cgroups ----------------------------------------------------------------------------------------------------------


@contextmanager
def sleeper(**options: Any) -> Generator[tuple[subprocess.Popen[Any], Owner]]:
    """A process that does nothing, for a while."""
    with subprocess.Popen(["sleep", "1003"], **options) as process:
        try:
            start = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
            yield process, Owner(Owner.current().boot, process.pid, start)
        finally:
            process.kill()


async def test_cgroups(temporary: Path, dead: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below each hierarchy those of the dead go, with those below them; nothing else goes."""
    left = temporary / "pids" / "scope" / f"codecraft-{dead}-0"
    (left / "command").mkdir(parents=True)
    kept = [
        temporary / "memory" / f"codecraft-{Owner.current()}-0",
        temporary / "memory" / f"codecraft-{Owner('0' * 8, 1, 1)}-0",
        temporary / "memory" / "codecraft-mine",
        temporary / "memory" / f"other-{dead}-0",
        temporary / "memory" / f"codecraft-{dead}",
    ]
    for path in kept:
        path.mkdir(parents=True)
    monkeypatch.setattr(
        _host_leftovers, "cgroup_roots", lambda: [temporary / "pids", temporary / "memory", temporary / "none"]
    )
    reaped = await reap(None)
    assert ([str(left)], set(map(str, kept[:2]))) == (reaped.removed("cgroup"), set(reaped.kept))
    assert (False, [True] * 5) == (left.exists(), [path.exists() for path in kept])


async def test_cgroup_with_a_process_in_it(dead: Owner) -> None:
    """A cgroup of the kernel's is removed when it is empty, not before: whoever is in it keeps its limits."""
    root = next((root for root in _host_leftovers.cgroup_roots() if (root / "cgroup.procs").exists()), None)
    if not IS_ROOT or root is None or not os.access(root, os.W_OK):
        pytest.skip("no cgroup can be made here")
    busy, empty = root / f"codecraft-{dead}-busy", root / f"codecraft-{dead}-empty"
    (empty / "below").mkdir(parents=True)
    busy.mkdir()
    with sleeper() as (process, _):
        try:
            (busy / "cgroup.procs").write_text(str(process.pid))
            reaped = await reap(None)
            assert str(empty) in reaped.removed("cgroup")
            reasons = [each.reason for each in reaped.findings if each.name == str(busy)]
            assert [f"its owner, process {dead.pid}, has ended; it could not be removed: Device or resource busy"] == (
                reasons
            )
        finally:
            process.kill()
            process.wait()
            async with asyncio.timeout(10):
                while busy.exists():
                    await reap(None)
    assert (False, False) == (empty.exists(), busy.exists())


# --- containers, volumes and images -----------------------------------------------------------------------------------


async def create(daemon: DockerDaemon, name: str, label: str, image: str = IMAGE, **labels: str) -> None:
    config: dict[str, Any] = {"Image": image, "Cmd": ["true"], "Labels": {OWNER_LABEL: label, **labels}}
    await Containers(daemon).create(name, config)


@asynccontextmanager
async def created(daemon: DockerDaemon, *owners: Owner, **labels: str) -> AsyncGenerator[list[str]]:
    """Containers that were never started, one of each owner; gone afterwards."""
    names = [f"codecraft-{owner}-reaper-test" for owner in owners]
    try:
        for name, owner in zip(names, owners, strict=True):
            await create(daemon, name, str(owner), **labels)
        yield names
    finally:
        for name in names:
            await Containers(daemon).remove(name)


def fate(reaped: Reaped, name: str) -> tuple[str, str]:
    """What became of one leftover, and why."""
    return next((each.action, each.reason) for each in reaped.findings if each.name == name)


@pytest.mark.docker
async def test_containers(daemon: DockerDaemon, dead: Owner) -> None:
    """Those of the dead go; those of the living and of other machines stay."""
    foreign = Owner("0" * 8, dead.pid, dead.start)
    async with created(daemon, dead, foreign) as (left, kept), DockerLauncher(daemon) as launcher:
        sandbox = await launcher.start(SPEC)
        reaped = await reap(daemon)
        assert left in reaped.containers
        assert {sandbox.id, kept} <= set(reaped.kept)
        await sandbox.ping()
        assert [] == await containers_of(daemon, dead)


@pytest.mark.docker
async def test_containers_that_are_not_ours(daemon: DockerDaemon, dead: Owner) -> None:
    """A label that names nobody, or a name that is not one of ours: made by somebody from an image with our labels."""
    names = {f"mine-{dead}": str(dead), f"codecraft-{dead}-rubbish": "nobody", f"codecraft-{dead}-empty": ""}
    try:
        for name, label in names.items():
            await create(daemon, name, label)
        reaped = await reap(daemon)
        assert [("kept", "it does not say which process owns it")] * 3 == [fate(reaped, name) for name in names]
    finally:
        for name in names:
            await Containers(daemon).remove(name)


@pytest.mark.docker
async def test_containers_of_an_earlier_boot(daemon: DockerDaemon) -> None:
    """Those of this machine that were made before it was last started go; those of another host's boot stay."""
    before, elsewhere = Owner("0" * 8, os.getpid(), 1), Owner("1" * 8, os.getpid(), 1)
    async with (
        created(daemon, before, **{HOST_LABEL: this_host(), BOOT_LABEL: "00000000"}) as (left,),
        created(daemon, elsewhere, **{HOST_LABEL: "other/01234567", BOOT_LABEL: "00000000"}) as (kept,),
    ):
        reaped = await reap(daemon)
        assert ("removed", "its owner ended when this machine was last started") == fate(reaped, left)
        assert "kept" == fate(reaped, kept)[0]


@pytest.mark.docker
async def test_containers_past_their_time(daemon: DockerDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody here can judge goes when it was made long ago by the daemon's clock and has never run."""
    foreign = Owner("0" * 8, os.getpid(), 1)
    async with created(daemon, foreign) as (name,):
        assert "kept" == fate(await reap(daemon), name)[0]
        monkeypatch.setattr(leftovers, "UNUSED_LIMIT_S", -10)
        action, reason = fate(await reap(daemon, dry_run=True), name)
        assert "would remove" == action
        assert reason.startswith("it does not run, and nobody needs one that was created 0.0 hours ago")


@pytest.mark.docker
async def test_containers_of_another_user(daemon: DockerDaemon) -> None:
    """A container of another user's process stays while that process runs, and goes when it has ended."""
    if not IS_ROOT:
        pytest.skip("only root can be another user")
    with sleeper(user=65534, group=65534) as (process, owner):
        async with created(daemon, owner) as (name,):
            assert ("kept", f"its owner, process {process.pid}, is running") == fate(await reap(daemon), name)
            process.kill()
            process.wait()
            assert name in (await reap(daemon)).containers


@pytest.mark.docker
async def test_container_that_cannot_be_removed(
    daemon: DockerDaemon, dead: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stubborn leftover keeps nobody from going on."""

    async def refuse(self: Containers, name: str) -> None:
        raise CallRefused(f"remove container {name}", 500, "device or resource busy")

    async with created(daemon, dead) as (name,):
        with monkeypatch.context() as patch:
            patch.setattr(Containers, "remove", refuse)
            action, reason = fate(await reap(daemon), name)
            assert "kept" == action
            assert reason.endswith("the container daemon says: device or resource busy")
        async with asyncio.TaskGroup() as group:  # as two programs that start at the same time would
            both = [group.create_task(reap(daemon)) for _ in range(2)]
        assert any(name in each.result().containers for each in both)


@pytest.mark.docker
async def test_container_that_hangs_in_its_removal(
    daemon: DockerDaemon, dead: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that does not come to the end of a removal holds up the others' not at all, and a start for seconds."""
    remove = Containers.remove
    hanging = Owner(dead.boot, dead.pid, dead.start + 1)

    async def hang(self: Containers, name: str) -> None:
        await (asyncio.Event().wait() if str(hanging) in name else remove(self, name))

    async with created(daemon, hanging, dead) as (stuck, left):
        with monkeypatch.context() as patch:
            patch.setattr(Containers, "remove", hang)
            patch.setattr(reaper, "REMOVE_LIMIT_S", 2.0)
            reaped = await reap(daemon)
        reason = f"its owner, process {dead.pid}, has ended; it was not gone within 2 s"
        assert ("kept", reason) == fate(reaped, stuck)
        assert left in reaped.containers


@pytest.mark.docker
async def test_volumes(daemon: DockerDaemon, dead: Owner) -> None:
    """A volume of the dead goes, unless a container has it; the depot's says whose it is and goes with its launcher."""
    name = f"codecraft-{dead}-volume"
    foreign = f"codecraft-foreign-{os.getpid()}"
    try:
        await make_volume(daemon, name, str(dead))
        await make_volume(daemon, foreign, str(Owner("0" * 8, 1, 1)))
        async with DockerLauncher(daemon) as launcher:
            await launcher.start(SPEC)
            ours = await volumes_of(daemon, Owner.current())
            assert 1 == len(ours)
            reaped = await reap(daemon)
            assert name in reaped.removed("volume")
            assert "kept" == fate(reaped, foreign)[0]
            assert ours == await volumes_of(daemon, Owner.current())
        assert set() == await volumes_of(daemon, Owner.current())
    finally:
        volumes: Any = daemon.client.volumes
        await daemon.call(None, (await volumes.get(foreign)).delete, what="remove the volume")


async def make_volume(daemon: DockerDaemon, name: str, owner: str) -> None:
    volumes: Any = daemon.client.volumes
    config = {"Name": name, "Labels": {OWNER_LABEL: owner}}
    await daemon.call(None, lambda: volumes.create(config), what="make a volume")


async def volumes_of(daemon: DockerDaemon, owner: Owner) -> set[str]:
    answer = await daemon.get_json(f"volumes?filters=%7B%22label%22%3A%5B%22{OWNER_LABEL}%3D{owner}%22%5D%7D")
    return {str(each["Name"]) for each in answer["Volumes"] or []}


@pytest.mark.docker
async def test_images_only_when_asked(daemon: DockerDaemon, dead: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recipe made goes only when that is asked for, and not while a container uses it."""
    recipe = DockerfileRecipe(f"codecraft/reaper-test-{os.getpid()}", f"FROM scratch\nLABEL by={dead}\n")
    name, ours = f"{recipe.name}:{recipe.digest()}", reaper._images  # pyright: ignore[reportPrivateUsage]

    async def of_this_test(daemon: DockerDaemon) -> list[leftovers.Leftover]:
        return [each for each in await ours(daemon) if each.name.startswith(recipe.name)]

    monkeypatch.setattr(reaper, "_images", of_this_test)  # others use the images of this machine
    await recipe.build(daemon, progress=Recorder())
    container = f"codecraft-{Owner.current()}-uses"
    await create(daemon, container, str(Owner.current()), image=name)
    try:
        assert [] == (await reap(daemon)).removed("image")
        action, reason = fate(await reap(daemon, images=True), name)
        assert "kept" == action
        assert "it is in use" in reason
    finally:
        await Containers(daemon).remove(container)
    assert "would remove" == fate(await reap(daemon, images=True, dry_run=True), name)[0]
    assert [name] == (await reap(daemon, images=True)).removed("image")
    assert [] == await of_this_test(daemon)
