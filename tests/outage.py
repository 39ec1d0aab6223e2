"""A fake launcher whose daemon can go away and come back."""

from __future__ import annotations

from collections.abc import Callable

from codecraft_pool import DaemonUnavailable, FakeLauncher, SandboxSpec
from codecraft_pool.pool_kind import Pauses
from codecraft_pool.sandbox import Sandbox


class OutageLauncher(FakeLauncher):
    """Has no daemon while `is_out`."""

    is_out = False

    async def start(self, spec: SandboxSpec) -> Sandbox:
        if self.is_out:
            raise DaemonUnavailable("cannot create container 7: nobody answers")
        return await super().start(spec)


def shortened(fail: Callable[[Pauses, float, float], None]) -> Callable[[Pauses, float, float], None]:
    """Return what makes a pool's pauses after failed starts short; to be put in the place of `Pauses.fail`."""

    def fail_briefly(pauses: Pauses, began_at: float, now: float) -> None:
        pauses.first_s, pauses.longest_s = 0.01, 0.02
        fail(pauses, began_at, now)

    return fail_briefly
