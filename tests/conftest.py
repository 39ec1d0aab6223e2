"""Every asynchronous test runs on both event loops, asyncio in debug mode and uvloop; some need a container daemon."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler.loadfile import LoadFileScheduling  # type: ignore[import-untyped]  # it has no types

from codecraft_pool import Images, LaunchError, connect_daemon

IMAGE: Final = "codecraft/base"
IMAGE_LIMIT_S: Final = 900.0
NO_DAEMON: Final = pytest.StashKey[str]()
# They start what removes the leftovers of the dead, or leave such: of those only one may run at a time.
REAPING: Final = frozenset(
    f"test_{name}.py"
    for name in (
        *(
            "backend",
            "benchmark",
            "benchmark_intercode",
            "cgroups",
            "cli",
            "code_vector",
            "demo",
            "demo_metrics",
            "leftovers",
            "packaging",
        ),
        *(
            "bash",
            "hostile_bash",
            "env_branches",
            "eval_cli",
            "guide",
            "killed_containers",
            "pulls",
            "readme",
            "reaper",
            "recovery",
            "registered",
            "sandboxed_env",
            "swe_pytest",
        ),
        *("killed_containers", "trajectory_cli"),
    )
)
# What takes long and cannot depend on the loop runs on one: such a module has an `anyio_backend` of its own.
ASYNCIO: Final[tuple[str, dict[str, Any]]] = ("asyncio", {"debug": True})
UVLOOP: Final[tuple[str, dict[str, Any]]] = ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="module", params=[pytest.param(ASYNCIO, id="asyncio"), pytest.param(UVLOOP, id="uvloop")])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The loop that the test runs on."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """Keeps the tests of a file in one process, for they share its sandboxes, and those that reap in one as well."""

    def _split_scope(self, nodeid: str) -> str:
        path: str = super()._split_scope(nodeid)
        return "reaping" if Path(path).name in REAPING else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """With `-n` this distributes the tests."""
    return ByFile(config, log)


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


@contextmanager
def alone(what: str) -> Generator[None]:
    """While this is open no other worker of this user's does the same."""
    with (Path(tempfile.gettempdir()) / f"codecraft-tests-{os.geteuid()}-{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def base_image() -> str:
    """The name of an image that is at the daemon; it is built by its recipe if it was not, once for all workers."""
    with alone("base-image"), ThreadPoolExecutor(1) as thread:  # the tests' own loop is not to be disturbed
        thread.submit(asyncio.run, _ensure_image()).result(IMAGE_LIMIT_S)
    return IMAGE


async def _ensure_image() -> None:
    async with await connect_daemon() as daemon:
        await Images(daemon).ensure(IMAGE)
