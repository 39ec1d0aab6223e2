"""What all measurements share: the options, the floor, one event loop, and the launchers of the backend asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from benchmarks.floor import Floor
from benchmarks.results import BenchmarkError, Unavailable
from benchmarks.stepping import wait_for_roots
from codecraft_pool import (
    DockerLauncher,
    Launcher,
    LaunchError,
    LocalLauncher,
    Sandbox,
    SandboxPool,
    SandboxSpec,
    connect_daemon,
)
from codecraft_pool.docker_daemon import DaemonInfo

T = TypeVar("T")
_POLL_S: Final = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for. `seconds` is the length of each timed stretch of commands; `only` names the rows,
    none of them all.
    """

    backend: str = "auto"
    envs: int = 64
    rounds: int = 5
    seconds: float = 1.5
    only: tuple[str, ...] = ()


class Bench:
    """Handed to every measurement. `backend` is "docker" or "local"; `daemon` is what answers, if one does.

    Raises:
        LaunchError: Docker was asked for, and no daemon answers.
    """

    def __init__(
        self,
        options: Options,
        floor: Floor,
        runner: asyncio.Runner,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.options = options
        self.floor = floor
        self.tell = tell
        self._runner = runner
        self._no_daemon = "the local backend was asked for"
        self.daemon: DaemonInfo | None = None
        if options.backend != "local":
            try:
                self.daemon = self.run(_daemon_info())
            except LaunchError as exc:
                if options.backend == "docker":
                    raise
                self._no_daemon = str(exc)
        self.backend = "local" if self.daemon is None else "docker"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* on the benchmark's own event loop to its end."""
        return self._runner.run(work)

    def wants(self, *rows: str) -> bool:
        """Whether any of these rows is asked for."""
        return not self.options.only or any(row in self.options.only for row in rows)

    def need_docker(self, what: str) -> DaemonInfo:
        """Return the daemon.

        Raises:
            Unavailable: None is used.
        """
        if self.daemon is None:
            raise Unavailable(f"{what} needs containers: {self._no_daemon}")
        return self.daemon

    @asynccontextmanager
    async def launcher(self, name: str = "") -> AsyncGenerator[Launcher]:
        """Open the launcher called *name*, by default that of the backend; nothing is started yet.

        Raises:
            Unavailable: It cannot be used here.
        """
        if (name or self.backend) == "docker":
            self.need_docker("this")
            async with await connect_daemon() as daemon, DockerLauncher(daemon) as docker:
                yield docker
            return
        try:
            local = LocalLauncher()
        except LaunchError as exc:
            raise Unavailable(str(exc)) from exc
        async with local:
            yield local

    @asynccontextmanager
    async def pool(self, spec: SandboxSpec, warm: int, name: str = "") -> AsyncGenerator[SandboxPool]:
        """A pool with *warm* sandboxes of *spec* that are idle."""
        async with self.launcher(name) as launcher, SandboxPool(launcher, max_sandboxes=warm) as pool:
            await pool.prewarm(spec, warm)
            await all_idle(pool, warm)
            yield pool

    @asynccontextmanager
    async def sandbox(self, spec: SandboxSpec, name: str = "") -> AsyncGenerator[Sandbox]:
        """One sandbox, straight from the launcher."""
        async with self.launcher(name) as launcher:
            sandbox = await launcher.start(spec)
            try:
                await asyncio.to_thread(wait_for_roots, launcher)
                await sandbox.restore()
                yield sandbox
            finally:
                sandbox.close()


async def _daemon_info() -> DaemonInfo:
    async with await connect_daemon() as daemon:
        return daemon.info


async def all_idle(pool: SandboxPool, number: int, *, limit_s: float = 60.0) -> None:
    """Return when *number* sandboxes of *pool* are idle."""
    try:
        async with asyncio.timeout(limit_s):
            while True:
                if pool.stats().idle >= number:
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise BenchmarkError(f"{number} sandboxes were not idle within {limit_s:g} s: {pool!r}") from None


async def must(sandbox: Sandbox, command: str | list[str], *, limit_s: float = 60.0) -> str:
    """Run *command* and return what it printed.

    Raises:
        BenchmarkError: It did not end with status 0.
    """
    result = await sandbox.run(command, limit_s=limit_s)
    if result.exit_code != 0:
        said = " ".join(result.stderr.decode(errors="replace").split())[-200:]
        raise BenchmarkError(f"{command!r} in {sandbox.id} ended with status {result.exit_code}: {said}")
    return result.stdout.decode(errors="replace")


async def rate_of(each: list[Callable[[], Coroutine[Any, Any, None]]], seconds: float) -> float:
    """Call every function over and over for *seconds*, all side by side and none waiting for another; calls per second.

    Raises:
        BenchmarkError: It did not come to its end in time.
    """
    calls = 0
    began = time.perf_counter()

    async def keep_calling(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        nonlocal calls
        while time.perf_counter() - began < seconds:
            await call()
            calls += 1

    try:
        async with asyncio.timeout(seconds + 60.0), asyncio.TaskGroup() as group:
            for call in each:
                group.create_task(keep_calling(call))
    except TimeoutError:
        raise BenchmarkError(f"calls did not come to their end within {seconds + 60.0:g} s") from None
    return calls / (time.perf_counter() - began)
