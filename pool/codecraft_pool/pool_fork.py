"""Forks: sandboxes whose trees are made equal to those of a live one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from codecraft_pool.errors import PoolError
from codecraft_pool.spec import WORKSPACE

if TYPE_CHECKING:
    from codecraft_pool.sandbox import Sandbox


@runtime_checkable
class Forkable(Protocol):
    """The part of a sandbox that forks need."""

    async def snapshot(self) -> Any:
        """Return what its writable trees hold now; nothing that runs is disturbed."""
        ...

    async def restore(self, snapshot: Any, /) -> object:
        """End every process and bring the trees to what *snapshot* holds."""
        ...

    def close(self) -> None:
        """End the sandbox."""
        ...


class Held(Protocol):
    """The part of a lease that forks need."""

    @property
    def sandbox(self) -> Any:
        """The sandbox that is lent."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


HeldT = TypeVar("HeldT", bound=Held)


def check_forkable(sandbox: object) -> Forkable:
    """Return *sandbox* as one that can be forked.

    Raises:
        PoolError: It cannot.
    """
    if not isinstance(sandbox, Forkable):
        raise PoolError(f"{sandbox!r} cannot be forked: it takes no snapshots")
    return sandbox


async def take_checkpoint(sandbox: Sandbox) -> Any:
    """Return what copies of *sandbox* are brought to.

    Raises:
        PoolError: The sandbox cannot be forked, or commands have changed its root file system, which copies would not
            have.
    """
    checkpoint = await check_forkable(sandbox).snapshot()
    if await sandbox.has_changed_system():
        raise PoolError(
            f"sandbox {sandbox.id} cannot be forked: its commands have changed the root file system outside of the "
            f"writable trees, which is in no checkpoint; fork it before that, or keep what is to be copied in "
            f"{WORKSPACE} (packages for Python: a virtual environment there)"
        )
    return checkpoint


async def lease_copies(checkpoint: object, count: int, acquire: Callable[[], Awaitable[HeldT]]) -> list[HeldT]:
    """Return *count* leases that *acquire* gives, all brought to *checkpoint* at the same time.

    All or nothing: on any failure, and on cancellation, those that were had are given back.
    """
    held: list[HeldT] = []

    async def one() -> None:
        lease = await acquire()
        held.append(lease)
        try:
            await check_forkable(lease.sandbox).restore(checkpoint)
        except Exception:
            lease.sandbox.close()  # in an unknown state; the pool replaces it
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())
    except BaseException as exc:
        for lease in held:
            lease.release()
        if isinstance(exc, BaseExceptionGroup):
            raise exc.exceptions[0] from exc
        raise
    return held


__all__ = ["Forkable", "check_forkable", "lease_copies", "take_checkpoint"]
