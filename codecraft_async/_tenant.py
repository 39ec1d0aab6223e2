"""Holding one sandbox of a pool at a time."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from codecraft_async.runtime import Runtime, sandbox_spec, snapshot_of
from codecraft_curriculum import Task
from codecraft_pool import Launcher, Lease, PoolError, Sandbox, SandboxPool, SandboxSpec, Snapshot

LEND_LIMIT_S: Final = 120.0


class Tenant:
    """Holds what an environment's episodes run in, and gives it back; nothing is owned but the lease."""

    def __init__(self, runtime: Runtime, *, limit_s: float) -> None:
        self._runtime = runtime
        self._limit_s = limit_s
        self._pool: SandboxPool | None = None
        self._lease: Lease | None = None
        self._has_slow_root = False

    @property
    def sandbox(self) -> Sandbox | None:
        """The sandbox that is held."""
        return None if self._lease is None else self._lease.sandbox

    @property
    def launcher(self) -> Launcher | None:
        """What started it; None before the first one."""
        return None if self._pool is None else self._pool.launcher

    @property
    def is_to_be_given_back(self) -> bool:
        """Whether the sandbox at hand would be a faster one after that: it runs from its image, where opening files is
        slow, and the copy of the image has come since; sandboxes take it up when they are restored."""
        return self._has_slow_root and not _roots_are_being_copied(self.launcher)

    @property
    def restore_s(self) -> float:
        """How long the restore took that it came from, in seconds; 0 if it is new."""
        return 0.0 if self._lease is None or self._lease.restored is None else self._lease.restored.wall_s

    async def move(self, task: Task, is_empty: bool = False, *, snapshot: Snapshot | None = None) -> Sandbox:
        """Let go of the sandbox at hand, and hold another, with *snapshot*, else the task's workspace, or with none.

        Cancellation leaves none held.

        Raises:
            LaunchError, AcquireTimeout, SandboxLost, RequestRefused: None can be had.
        """
        self._pool = pool = await self._runtime.pool()
        spec = sandbox_spec(task)
        if snapshot is None and not is_empty:
            snapshot = snapshot_of(task.workspace)
        if self._lease is not None:
            if self._lease.sandbox.spec != spec:
                pool.expect(spec, snapshot)  # else what comes back would be restored, to be ended for it right after
            self.leave()
        self._lease = await pool.acquire(spec, snapshot=snapshot, limit_s=self._limit_s)
        self._has_slow_root = _roots_are_being_copied(pool.launcher)
        return self._lease.sandbox

    async def lend(
        self, spec: SandboxSpec, snapshot: Snapshot | None = None, *, limit_s: float = LEND_LIMIT_S
    ) -> Lease:
        """Return another sandbox, for a grading, with *snapshot* or empty; whoever asks gives it back."""
        pool = await self._runtime.pool()
        return await pool.acquire(spec, snapshot=snapshot, limit_s=limit_s)

    def move_soon(self, task: Task) -> None:
        """Leave, and have a sandbox made ready for *task* meanwhile; a hint, which may be wrong."""
        if self._pool is None:
            return
        with suppress(PoolError):  # whatever keeps it from being made ready, the next reset will tell
            self._pool.expect(sandbox_spec(task), snapshot_of(task.workspace))
            self.leave()

    def leave(self) -> None:
        """Give the sandbox back, if one is held."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def forget(self) -> None:
        """Let go of everything without a word, after the pool's event loop has been closed."""
        self._lease = self._pool = None


def _roots_are_being_copied(launcher: Launcher | None) -> bool:
    return launcher is not None and launcher.stats().roots == "copying"


__all__ = ["LEND_LIMIT_S", "Tenant"]
