"""Every asynchronous test runs on both event loops, asyncio in debug mode and uvloop; some need a container daemon."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from codecraft_pool import Images, LaunchError, connect_daemon

IMAGE: Final = "codecraft/base"
IMAGE_LIMIT_S: Final = 900.0
NO_DAEMON: Final = pytest.StashKey[str]()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"debug": True}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The loop that the test runs on."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find out once whether the tests that need a daemon can run."""
    if session.config.option.collectonly or not any(item.get_closest_marker("docker") for item in session.items):
        return
    try:
        asyncio.run(_ask_daemon())
    except LaunchError as exc:
        session.config.stash[NO_DAEMON] = str(exc)


async def _ask_daemon() -> None:
    async with await connect_daemon(limit_s=15.0):
        pass


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a daemon, tests that need one are skipped; on a build machine they fail."""
    reason = item.config.stash.get(NO_DAEMON, "")
    if reason and item.get_closest_marker("docker"):
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(f"a container daemon is needed: {reason}", pytrace=False)
        pytest.skip(f"a container daemon is needed: {reason}")


@pytest.fixture(scope="session")
def base_image() -> str:
    """The name of an image that is at the daemon; it is built by its recipe if it was not."""
    with ThreadPoolExecutor(1) as thread:  # the tests' own loop is not to be disturbed
        thread.submit(asyncio.run, _ensure_image()).result(IMAGE_LIMIT_S)
    return IMAGE


async def _ensure_image() -> None:
    async with await connect_daemon() as daemon:
        await Images(daemon).ensure(IMAGE)
