"""What counts as clean: baselines that are kept, and roots whose bytes come from elsewhere after a restore."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Literal

import pytest

from codecraft_pool import Baselines, DockerLauncher, FakeLauncher, Sandbox, SandboxSpec, Snapshot, connect_daemon
from codecraft_pool.image_roots import RootsChoice
from tests.conftest import ASYNCIO
from tests.pool.attacks.census import census
from tests.pool.launchers import SPEC, shell

pytestmark = pytest.mark.anyio

FILES = Snapshot.from_files({"keep": "kept\n"})
USE = "echo x >>keep; mkdir -p /tmp/deep/er; touch /var/tmp/x /dev/shm/y ~/.profile; sleep 60 >/dev/null 2>&1 &"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """What is compared comes from guests, who know nothing of the loop."""
    return ASYNCIO


@pytest.fixture(name="fake")
async def make_fake() -> AsyncGenerator[Sandbox]:
    async with FakeLauncher() as launcher:
        yield await launcher.start(SandboxSpec())


def snapshots(count: int, *, files: int = 1) -> list[Snapshot]:
    return [Snapshot.from_files({f"{i}-{j}": "x" for j in range(files)}) for i in range(count)]


async def test_the_baselines_last_used_are_kept(fake: Sandbox) -> None:
    """Both recording and checking use one."""
    baselines = Baselines(max_kept=2)
    first, second, third = snapshots(3)
    for snapshot in (first, second):
        await fake.restore(snapshot)
        await baselines.record("here", fake, snapshot)
    await fake.restore(first)
    assert [] == await baselines.check("here", fake, first)
    await baselines.record("here", fake, third)
    assert [True, False, True] == [baselines.knows("here", fake.spec, each) for each in (first, second, third)]


async def test_large_baselines_take_the_place_of_many(fake: Sandbox) -> None:
    """The entries of all trees count together; the latest is kept whatever its size."""
    baselines = Baselines(max_entries=40)
    for snapshot in [*snapshots(3, files=10), *snapshots(1, files=100)]:
        await fake.restore(snapshot)
        await baselines.record("here", fake, snapshot)
        assert baselines.knows("here", fake.spec, snapshot)
    assert 1 == len(baselines)


def test_no_baselines_are_none() -> None:
    """One at least is kept."""
    with pytest.raises(ValueError, match="max_kept is 0; it must be at least 1"):
        Baselines(max_kept=0)


async def test_roots_of_another_making_prove_nothing(fake: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox is not said to be unclean, and the next measure is taken of a new one."""
    root = "given"

    async def inspect(_: Sandbox, **__: object) -> tuple[str, ...]:
        return (f"root {root}", f"mount / {root}")

    monkeypatch.setattr(Sandbox, "inspect", inspect)
    baselines = Baselines()
    await baselines.record("here", fake, None)
    assert [] == await baselines.check("here", fake, None)
    root = "own"
    with pytest.raises(KeyError, match="fake-0 and the one it is compared with have roots of different makings"):
        await baselines.check("here", fake, None)
    assert not baselines.knows("here", fake.spec, None)


@pytest.mark.docker
@pytest.mark.parametrize("reset", ["restore", "overlay"])
@pytest.mark.parametrize("roots", ["auto", "volume"])
async def test_a_copied_root_makes_no_difference(
    base_image: str, roots: RootsChoice, reset: Literal["restore", "overlay"]
) -> None:
    """A sandbox that has taken up a copy of its root at a restore is as one that has not, and as one started on it."""
    assert base_image == SPEC.image
    spec = replace(SPEC, reset=reset)
    async with await connect_daemon() as daemon, DockerLauncher(daemon, roots=roots) as launcher:
        used, baselines = await launcher.start(spec), Baselines()
        await used.restore(FILES)
        await baselines.record("docker", used, FILES)
        before = await census(used)
        await launcher._roots.settle()  # pyright: ignore[reportPrivateUsage]
        for _ in range(2):
            await shell(used, USE)
            assert await baselines.check("docker", used, FILES, full=True)
            await used.restore(FILES)
            assert [] == await baselines.check("docker", used, FILES, full=True)
            assert before == await census(used)
        late = await launcher.start(spec)
        await late.restore(FILES)
        assert [] == await baselines.check("docker", late, FILES, full=True)
        assert before == await census(late)
