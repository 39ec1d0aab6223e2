"""What starts sandboxes."""

from __future__ import annotations

from typing import Protocol

from codecraft_pool.sandbox import Sandbox
from codecraft_pool.spec import SandboxSpec


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
