"""What starts sandboxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from codecraft_pool.lanes import LaneStats
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.spec import SandboxSpec


@dataclass(frozen=True, slots=True)
class LauncherStats:
    """How a launcher reaches its sandboxes ("unix", "attach", "socketpair", "fake"; "" while it is not known yet), why
    not by the quickest way, what it asks of a daemon at once, and where root file systems are read from ("image",
    "copying" while copies are being made, "volume"; "" where that is no question)."""

    transport: str = ""
    transport_reason: str = ""
    lanes: Mapping[str, LaneStats] = field(default_factory=dict[str, LaneStats])
    roots: str = ""


class Launcher(Protocol):
    """Starts sandboxes and owns what they share. Used as ``async with``; leaving it ends every sandbox it started."""

    @property
    def name(self) -> str:
        """ "docker", "local" or another short name."""
        ...

    @property
    def description(self) -> str:
        """In one line: what the sandboxes run on."""
        ...

    def stats(self) -> LauncherStats:
        """Return how it reaches its sandboxes, and its queues."""
        ...

    async def prepare(self, spec: SandboxSpec) -> None:
        """Have everything ready that *spec* needs (its image), so that `start` is quick. Idempotent.

        Raises:
            LaunchError: It cannot be had; says what to do.
        """
        ...

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Return a new sandbox, clean, with empty trees.

        Cancellation leaves nothing behind.

        Raises:
            LaunchError: It cannot be started; says what to do.
        """
        ...

    async def aclose(self) -> None:
        """End every sandbox, and whatever the launcher made for them. Idempotent."""
        ...
