"""Proofs of a clean restore: a restored sandbox is compared with what a new one was like."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from codecraft_pool.launcher import Launcher
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import SandboxSpec


class Prover(Protocol):
    """Says how a restored sandbox differs from a new one that was restored to the same snapshot."""

    async def __call__(self, sandbox: Sandbox, snapshot: Snapshot | None, /) -> Sequence[str]:
        """Return the differences, readable; none if it is clean."""
        ...


class Measures(Protocol):
    """What new sandboxes were like, by launcher, spec and snapshot."""

    def knows(self, launcher: str, spec: SandboxSpec, snapshot: Snapshot | None) -> bool:
        """Whether `check` has something to compare with."""
        ...

    async def record(self, launcher: str, sandbox: Sandbox, snapshot: Snapshot | None) -> object:
        """Take *sandbox*, new and just restored to *snapshot*, as the measure."""
        ...

    async def check(self, launcher: str, sandbox: Sandbox, snapshot: Snapshot | None, *, full: bool) -> Sequence[str]:
        """Return what tells a sandbox, just restored to *snapshot*, from the measure."""
        ...


class MeasuringProver:
    """A `Prover` that starts a sandbox of its own, once for each spec and snapshot, and takes that as the measure.

    It is there, beside the pool's own, as long as it is measured; only one at a time is.

    Args:
        measures: Knows, records and compares.
        launcher: Starts the measured sandboxes; the pool's.
        full: Compare the content of every file too, and not only what else can be seen.
    """

    def __init__(self, measures: Measures, launcher: Launcher, *, full: bool = True) -> None:
        self._measures = measures
        self._launcher = launcher
        self._full = full
        self._measuring = asyncio.Lock()

    async def __call__(self, sandbox: Sandbox, snapshot: Snapshot | None, /) -> Sequence[str]:
        """Return the differences to a new sandbox.

        Raises:
            LaunchError: The sandbox to be measured cannot be started.
            RequestRefused, SandboxLost: One of the two could not be looked into.
        """
        name = self._launcher.name
        async with self._measuring:
            if not self._measures.knows(name, sandbox.spec, snapshot):
                await self._measure(sandbox.spec, snapshot)
        return await self._measures.check(name, sandbox, snapshot, full=self._full)

    async def _measure(self, spec: SandboxSpec, snapshot: Snapshot | None) -> None:
        new = await self._launcher.start(spec)
        try:
            await new.restore(snapshot)
            await self._measures.record(self._launcher.name, new, snapshot)
        finally:
            new.close()


__all__ = ["Measures", "MeasuringProver", "Prover"]
