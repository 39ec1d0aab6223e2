"""The reaper removes what the dead left, and nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from codecraft_pool import CallRefused, DockerDaemon, DockerLauncher, LocalLauncher, Snapshot, connect_daemon, reap
from codecraft_pool.containers import OWNER_LABEL, Containers
from codecraft_pool.local_launcher import RUN_PREFIX
from codecraft_pool.owner import Owner
from tests.pool.launchers import IS_ROOT, SPEC, containers_of

pytestmark = pytest.mark.anyio


@pytest.fixture(name="temporary")
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
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


async def create(daemon: DockerDaemon, name: str, label: str) -> None:
    config: dict[str, Any] = {"Image": "codecraft/base", "Cmd": ["true"], "Labels": {OWNER_LABEL: label}}
    await Containers(daemon).create(name, config)


@pytest.mark.docker
async def test_containers(daemon: DockerDaemon, dead: Owner) -> None:
    """Those of the dead go; those of the living, of other machines and of unknown owners stay."""
    foreign = Owner("0" * 8, dead.pid, dead.start)
    unknown = f"nobody-{os.getpid()}"
    await create(daemon, f"left-{dead}", str(dead))
    await create(daemon, f"kept-{dead}", str(foreign))
    await create(daemon, f"kept-{unknown}", unknown)
    try:
        async with DockerLauncher(daemon) as launcher:
            sandbox = await launcher.start(SPEC)
            reaped = await reap(daemon)
            assert f"left-{dead}" in reaped.containers
            assert {sandbox.id, f"kept-{dead}", f"kept-{unknown}"} <= set(reaped.kept)
            await sandbox.ping()
        assert [] == await containers_of(daemon, dead)
    finally:
        for name in (f"left-{dead}", f"kept-{dead}", f"kept-{unknown}"):
            await Containers(daemon).remove(name)


@pytest.mark.docker
async def test_container_that_cannot_be_removed(
    daemon: DockerDaemon, dead: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stubborn leftover keeps nobody from going on."""

    async def refuse(self: Containers, name: str) -> None:
        raise CallRefused(f"remove container {name}", 500, "device or resource busy")

    await create(daemon, f"left-{dead}", str(dead))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Containers, "remove", refuse)
            assert f"left-{dead}" in (await reap(daemon)).kept
        async with asyncio.TaskGroup() as group:  # as two programs that start at the same time would
            both = [group.create_task(reap(daemon)) for _ in range(2)]
        assert any(f"left-{dead}" in each.result().containers for each in both)
    finally:
        await Containers(daemon).remove(f"left-{dead}")
