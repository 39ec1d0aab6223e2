"""What the tests of the pool on fake sandboxes share."""

from __future__ import annotations

import asyncio

_TURNS = 80  # of the event loop: more than any chain of tasks without a wait takes here


async def settle() -> None:
    """Return when whatever needs no time has happened."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
