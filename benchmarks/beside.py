"""Our side of a comparison with other people's sandboxes: as many, the same commands, the same disturbance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from benchmarks.bench import Bench, must, rate_of
from codecraft_pool import Sandbox, SandboxSpec

NUMBER: Final = 8
COMMAND: Final = "/bin/true"
DISTURB: Final = "for i in 0 1 2 3 4 5 6 7 8 9; do echo new > /workspace/made$i; done; echo x > /tmp/x"
CHECK: Final = "test ! -e /workspace/made0 -a ! -e /tmp/x"


@asynccontextmanager
async def open_ours(bench: Bench, launcher: str) -> AsyncGenerator[list[Sandbox]]:
    """As many sandboxes as each peer has."""
    async with bench.launcher(launcher) as ready:
        spec = SandboxSpec()
        yield await asyncio.gather(*(ready.start(spec) for _ in range(NUMBER)))


async def our_rate(sandboxes: Sequence[Sandbox], command: str | list[str], seconds: float) -> float:
    """Commands per second, one under way in each sandbox."""
    return await rate_of([partial(_run, sandbox, command) for sandbox in sandboxes], seconds)


async def _run(sandbox: Sandbox, command: str | list[str]) -> None:
    await must(sandbox, command)


async def our_reset(sandbox: Sandbox) -> tuple[float, float]:
    """Return how long a restore took, and until the first command after it had ended, in seconds."""
    await must(sandbox, DISTURB)
    began = time.perf_counter()
    await sandbox.restore()
    reset_s = time.perf_counter() - began
    await must(sandbox, CHECK)
    return reset_s, time.perf_counter() - began
