"""A fake launcher whose daemon can go away and come back."""

from __future__ import annotations

from codecraft_pool import DaemonUnavailable, FakeLauncher, SandboxSpec
from codecraft_pool.sandbox import Sandbox


class OutageLauncher(FakeLauncher):
    """Has no daemon while `is_out`."""

    is_out = False

    async def start(self, spec: SandboxSpec) -> Sandbox:
        if self.is_out:
            raise DaemonUnavailable("cannot create container 7: nobody answers")
        return await super().start(spec)
