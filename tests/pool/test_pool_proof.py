"""Proofs that measure a new sandbox of their own, over fake sandboxes."""

from __future__ import annotations

import asyncio

import pytest

from codecraft_pool import FakeLauncher, LaunchError, MeasuringProver, Sandbox, SandboxPool, SandboxSpec, Snapshot
from tests.pool.settling import settle

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec()
FILES = Snapshot.from_files({"name": "x"})


class Contents:
    """Measures by the content of one file, which stands for all that can be seen."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, SandboxSpec, str], bytes] = {}
        self.recorded: list[Sandbox] = []
        self.dirt: set[str] = set()

    def knows(self, launcher: str, spec: SandboxSpec, snapshot: Snapshot | None) -> bool:
        return self._key(launcher, spec, snapshot) in self.known

    async def record(self, launcher: str, sandbox: Sandbox, snapshot: Snapshot | None) -> None:
        self.recorded.append(sandbox)
        self.known[self._key(launcher, sandbox.spec, snapshot)] = await self._look(sandbox)

    async def check(self, launcher: str, sandbox: Sandbox, snapshot: Snapshot | None, *, full: bool) -> list[str]:
        is_same = self.known[self._key(launcher, sandbox.spec, snapshot)] == await self._look(sandbox)
        return [] if is_same and sandbox.id not in self.dirt else [f"{sandbox.id} is not clean"]

    async def _look(self, sandbox: Sandbox) -> bytes:
        try:
            return await sandbox.read_file("name")
        except FileNotFoundError:
            return b""

    def _key(self, launcher: str, spec: SandboxSpec, snapshot: Snapshot | None) -> tuple[str, SandboxSpec, str]:
        return launcher, spec, "" if snapshot is None else snapshot.id


async def test_each_kind_and_snapshot_is_measured_once(launcher: FakeLauncher) -> None:
    """One new sandbox for each, ended right after; then restored ones are compared with it."""
    measures = Contents()
    prover = MeasuringProver(measures, launcher)
    async with SandboxPool(launcher, prover=prover, prove_every=1) as pool:
        for snapshot in (None, FILES, FILES, None, FILES):
            lease = await pool.acquire(SPEC)
            if snapshot is not None:
                pool.expect(SPEC, snapshot)
            lease.release()
            await settle()
        assert (5, 0, 0) == tuple(getattr(pool.stats(), n) for n in ("proofs", "failed_proofs", "proof_errors"))
    assert 2 == len(measures.recorded)
    assert all(sandbox.lost is not None for sandbox in measures.recorded)


async def test_many_at_once_wait_for_one_measure(launcher: FakeLauncher) -> None:
    """Sandboxes that are to be proved at the same time share the measure of one new sandbox."""
    measures = Contents()
    prover = MeasuringProver(measures, launcher)
    sandboxes = [await launcher.start(SPEC) for _ in range(5)]
    measures.dirt.add(sandboxes[2].id)
    found = await asyncio.gather(*(prover(sandbox, None) for sandbox in sandboxes))
    assert [[], [], ["fake-2 is not clean"], [], []] == found
    assert 1 == len(measures.recorded)


async def test_a_measure_that_cannot_be_taken_proves_nothing_and_is_tried_again(launcher: FakeLauncher) -> None:
    """The error goes to whoever wanted the proof, the sandbox that was started is ended, and the next proof works."""
    measures = Contents()
    prover = MeasuringProver(measures, launcher)
    sandbox = await launcher.start(SPEC)
    launcher.fail_starts = 1
    with pytest.raises(LaunchError, match="told to fail"):
        await prover(sandbox, None)
    proving = asyncio.create_task(prover(sandbox, None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    proving.cancel()
    await asyncio.wait([proving])
    assert proving.cancelled()
    await settle()
    assert [] == await prover(sandbox, None)
    assert [sandbox] == [each for each in launcher.sandboxes if each.lost is None]
