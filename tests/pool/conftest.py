"""What the tests of sandboxes and pools take for granted, unless a file says otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from codecraft_pool import FakeLauncher


@pytest.fixture(name="launcher")
async def make_launcher() -> AsyncGenerator[FakeLauncher]:
    """Fake sandboxes."""
    async with FakeLauncher() as launcher:
        yield launcher
