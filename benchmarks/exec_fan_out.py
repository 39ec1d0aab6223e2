"""What is measured against: one `docker exec` per command through aiodocker, into all containers at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.results import BenchmarkError
from codecraft_pool import WORKSPACE, DockerDaemon
from codecraft_pool.containers import OWNER_LABEL, ROLE_LABEL
from codecraft_pool.owner import Owner
from codecraft_pool.spec import default_environment

_LIST_LIMIT_S: Final = 30.0
_GRACE_S: Final = 120.0


class ExecFanOut:
    """Runs commands by exec in the containers that serve this process's environments.

    Each container has one exec under way at any time: created, started, read to the end of its output, and inspected
    for its exit status, with the user, directory and environment of an agent's command.
    """

    def __init__(self, containers: Sequence[Any]) -> None:
        self._containers = containers

    @classmethod
    async def over_own_containers(cls, daemon: DockerDaemon, expected: int) -> ExecFanOut:
        """Return the fan-out over every sandbox that this process has started.

        Raises:
            BenchmarkError: Those are not *expected* many, so it would not be the same containers.
        """
        found = await own_containers(daemon, "sandbox")
        if len(found) != expected:
            raise BenchmarkError(f"the daemon lists {len(found)} sandboxes of this process, not {expected}")
        return cls(found)

    async def measure(self, command: str, seconds: float) -> float:
        """Return commands per second, counted for *seconds* from when as many have ended as there are containers.

        No container waits for another one; execs that end after the time are waited for and not counted.

        Raises:
            BenchmarkError: A command or a call failed, or none came to its end in that time.
        """
        ended: list[float] = []
        limit_s = seconds + _GRACE_S
        try:
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
                for container in self._containers:
                    group.create_task(self._keep_running(container, command, seconds, ended))
        except TimeoutError:
            raise BenchmarkError(f"exec of {command!r} did not come to its end within {limit_s:g} s") from None
        except ExceptionGroup as several:
            raise BenchmarkError(f"exec of {command!r} failed: {several.exceptions[0]}") from several
        ramp = len(self._containers) - 1
        counted = [moment - ended[ramp] for moment in ended[ramp + 1 :] if moment - ended[ramp] <= seconds]
        if not counted:
            raise BenchmarkError(f"not one exec of {command!r} ended within {seconds:g} s; give more --seconds")
        return len(counted) / max(counted)

    async def _keep_running(self, container: Any, command: str, seconds: float, ended: list[float]) -> None:
        ramp = len(self._containers)
        while len(ended) < ramp or time.perf_counter() - ended[ramp - 1] < seconds:
            await _execute(container, command)
            ended.append(time.perf_counter())


async def own_containers(daemon: DockerDaemon, *roles: str) -> list[Any]:
    """Return the running containers that this process has started, by default those of every role."""
    labels = [f"{OWNER_LABEL}={Owner.current()}", *(f"{ROLE_LABEL}={role}" for role in roles)]
    client: Any = daemon.client
    async with asyncio.timeout(_LIST_LIMIT_S):
        found: list[Any] = await client.containers.list(filters={"label": labels})
    return found


async def _execute(container: Any, command: str) -> None:
    execution = await container.exec(
        ["/bin/sh", "-c", command], user="1000:1000", environment=default_environment(), workdir=WORKSPACE
    )
    async with execution.start(detach=False) as stream:
        while await stream.read_out() is not None:
            pass
    status = (await execution.inspect())["ExitCode"]
    if status != 0:
        raise BenchmarkError(f"it ended with status {status}")
