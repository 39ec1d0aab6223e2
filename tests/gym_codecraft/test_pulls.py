"""A task's image is pulled when the task is first started, which is shown; what is there is not pulled again."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from codecraft_async.gym_codecraft import CodeCraftEnv
from codecraft_async.gym_codecraft.progress import PullLines
from codecraft_async.pool import connect_daemon
from tests.gym_codecraft.students import NEW, act, write_curriculum
from tests.pool.registry import forget, publish, run_registry

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@pytest.fixture
def anyio_backend() -> str:
    """One loop: what is tried is the daemon's and the registry's."""
    return "asyncio"


async def test_an_image_is_pulled_once_and_shown(tmp_path: Path) -> None:
    """From a registry that ends afterwards, as where there is no network."""
    shown = io.StringIO()
    async with await connect_daemon() as daemon:
        with run_registry(tmp_path) as registry:
            image = f"{registry.host}/team/task:{os.urandom(4).hex()}"
            await publish(daemon, image)
            env = CodeCraftEnv(
                curriculum=write_curriculum(tmp_path, t1=dict(NEW, docker=image)),
                backend="docker",
                progress=PullLines(shown),
            )
            await env.areset()
            assert "" == shown.getvalue()
            first, _ = await act(env, "start", task_id="1")
            assert first.startswith("Task 1:")
            assert " Downloading\n" in shown.getvalue()
            assert " Pull complete\n" in shown.getvalue()
        try:
            pulled = shown.getvalue()
            await env.aclose()
            env = CodeCraftEnv(
                curriculum=write_curriculum(tmp_path, t1=dict(NEW, docker=image)),
                backend="docker",
                progress=PullLines(shown),
            )
            await env.areset(options={"task_id": "1"})
            assert ("File a written.", 0.0) == await act(env, "write_file", path="a", content="")
            await env.aclose()
            assert pulled == shown.getvalue()
        finally:
            await forget(daemon, image)
