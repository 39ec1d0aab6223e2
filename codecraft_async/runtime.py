"""What the environments of one process share: a launcher, a pool, and how tasks become sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache

from codecraft_curriculum import Task, Workspace
from codecraft_pool import (
    Baselines,
    Choice,
    Entry,
    ImageProgress,
    Launcher,
    MeasuringProver,
    Recipe,
    SandboxPool,
    SandboxSpec,
    Snapshot,
    open_launcher,
)

_PREWARM_LIMIT_S = 900.0
# A proof of a snapshot that has none yet starts a sandbox; spread over so many restores, that costs next to nothing.
PROVE_EVERY = 1000


class Runtime:
    """Opens a launcher and a pool when they are first needed, on the loop that needs them, and closes them with
    `aclose`.

    Args:
        backend: "auto", "docker", "local", or a launcher, which stays open.
        tasks: Every task that will be asked for; their images are had before the first sandbox starts.
        max_sandboxes: Most sandboxes at once.
        progress: Told how images are pulled or built.
        prove_every: Every so many restores of one kind of sandbox, one is compared with a new sandbox, which is
            started for that beside *max_sandboxes*; what differs is lent to nobody any more (see the pool's
            `quarantined`). 0: none is.
        recipes: How images are made that are no image of this package, nor anybody's.

    Raises:
        ValueError: *prove_every* is less than 0.
    """

    def __init__(
        self,
        backend: str | Launcher,
        tasks: Sequence[Task],
        *,
        max_sandboxes: int,
        progress: ImageProgress | None = None,
        prove_every: int = PROVE_EVERY,
        recipes: Sequence[Recipe] = (),
    ) -> None:
        if prove_every < 0:
            raise ValueError(f"prove_every is {prove_every}; it must be at least 0 (0: no restore is proved)")
        self._prove_every = prove_every
        self._backend = backend
        self._specs = list(dict.fromkeys(sandbox_spec(task) for task in tasks))
        self.max_sandboxes = max_sandboxes
        self._progress = progress
        self._recipes = recipes
        self._opening: asyncio.Task[SandboxPool] | None = None
        self._stack = AsyncExitStack()
        self._closed = False
        self.choice: Choice | None = None

    async def pool(self) -> SandboxPool:
        """Return the pool, opened once however many ask.

        Raises:
            LaunchError: No launcher can be had, or its sandboxes do not start; says why and what to do.
            RuntimeError: It belongs to another event loop.
        """
        if self._closed:
            raise RuntimeError("the environment is closed; make a new one")
        if self._opening is None or (self._opening.done() and _failed(self._opening)):
            self._opening = asyncio.create_task(self._open())
        if self._opening.get_loop() is not asyncio.get_running_loop():
            raise RuntimeError(
                "the environment's sandboxes belong to another event loop; use it from there, or make a new one"
            )
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if not (opening.cancelled() and self._closed):
                raise
            raise RuntimeError("the environment was closed while its sandboxes were being started") from None

    async def _open(self) -> SandboxPool:
        try:
            self.choice = await self._stack.enter_async_context(
                open_launcher(self._backend, self._specs, progress=self._progress, recipes=self._recipes)
            )
            launcher = self.choice.launcher
            prover = MeasuringProver(Baselines(), launcher)
            pool = SandboxPool(launcher, max_sandboxes=self.max_sandboxes, prover=prover, prove_every=self._prove_every)
            return await self._stack.enter_async_context(pool)
        except BaseException:
            await self._stack.aclose()
            raise

    async def prewarm(self, *, progress: Callable[[int], None] | None = None) -> None:
        """Start as many sandboxes as there may be, if all tasks can use the same kind; *progress* is told how many are.

        Raises:
            LaunchError: One did not start.
        """
        pool = await self.pool()
        if len(self._specs) == 1:
            await pool.prewarm(self._specs[0], self.max_sandboxes, limit_s=_PREWARM_LIMIT_S, progress=progress)

    async def aclose(self) -> None:
        """End every sandbox and close the launcher. Idempotent."""
        self._closed = True
        if self._opening is None:
            return
        if self._opening.get_loop().is_closed():
            self.abandon()
            return
        self._opening.cancel()
        await asyncio.wait([self._opening])
        if not self._opening.cancelled():
            self._opening.exception()
        await self._stack.aclose()

    def abandon(self) -> None:
        """Let go of everything without waiting, after the event loop that it belonged to has been closed.

        The sandboxes end when their connections are collected.
        """
        self._closed = True
        self._opening = None
        self._stack = AsyncExitStack()


def _failed(task: asyncio.Task[SandboxPool]) -> bool:
    return task.cancelled() or task.exception() is not None


@lru_cache(maxsize=4096)
def _spec(image: str, user: str, memory_bytes: int, max_processes: int) -> SandboxSpec:
    return SandboxSpec(
        image=image, user="root" if user == "root" else "agent", memory_bytes=memory_bytes, max_processes=max_processes
    )


def sandbox_spec(task: Task) -> SandboxSpec:
    """Return the kind of sandbox that *task* needs; tasks that need the same share sandboxes."""
    return _spec(task.image, task.user, task.limits.memory_bytes, task.limits.max_processes)


@lru_cache(maxsize=1024)
def snapshot_of(workspace: Workspace) -> Snapshot:
    """Return the snapshot that a task's workspace is restored from."""
    entries: dict[str, Entry] = {}
    for path, item in workspace.files.items():
        if item.kind == "symlink":
            entries[path] = Entry("link", item.target.encode(), item.mode)
        else:
            entries[path] = Entry("file" if item.kind == "file" else "dir", item.data, item.mode)
    return Snapshot.from_files(entries)
