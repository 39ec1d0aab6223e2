"""A container engine of the test's own, to be stopped, killed and frozen: never do that to the machine's.

Everything of it is below one temporary directory: its socket, state, images and its containerd. Leaving it ends every
process and mount of it, also when the test has failed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from codecraft_pool import DaemonUnavailable, connect_daemon
from tests.pool.tiny_image import tiny_rootfs

IMAGE: Final = "tiny"
START_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 30.0
_CONTAINERD: Final = """
version = 2
root = "{root}/containerd"
state = "{root}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{root}/containerd.sock"
"""


class OwnEngine:
    """One dockerd and one containerd. Use `own_engine`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = f"unix://{root}/docker.sock"
        self._containerd: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start what is not running, and return when the daemon answers."""
        if self._containerd is None:
            config = self.root / "containerd.toml"
            config.write_text(_CONTAINERD.format(root=self.root))
            self._containerd = self._spawn("containerd", "--config", str(config))
        (self.root / "daemon.json").write_text("{}")  # not the machine's own
        words = ["--config-file", f"{self.root}/daemon.json", "--host", self.address, "--bridge", "none"]
        words += ["--containerd", f"{self.root}/containerd.sock"]
        words += ["--data-root", f"{self.root}/data", "--exec-root", f"{self.root}/exec", "--iptables=false"]
        words += ["--pidfile", f"{self.root}/docker.pid", "--storage-driver", "vfs", "--ip-masq=false"]
        self._dockerd = self._spawn("dockerd", *words)
        async with asyncio.timeout(START_LIMIT_S):
            while not await self.answers():
                assert self._dockerd.poll() is None, self.log("dockerd")
                await asyncio.sleep(0.05)

    async def answers(self) -> bool:
        """Whether the daemon answers."""
        try:
            async with await connect_daemon(address=self.address, limit_s=2.0):
                return True
        except DaemonUnavailable:
            return False

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the daemon; SIGKILL leaves its containers running."""
        assert self._dockerd is not None
        self._dockerd.send_signal(number)
        await asyncio.to_thread(self._dockerd.wait, STOP_LIMIT_S)

    def freeze(self) -> None:
        """Have the daemon take connections, and answer nothing."""
        assert self._dockerd is not None
        self._dockerd.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._dockerd is not None
        self._dockerd.send_signal(signal.SIGCONT)

    async def load(self) -> None:
        """Have the tiny image."""
        async with await connect_daemon(address=self.address) as daemon:
            params = [("fromSrc", "-"), ("repo", IMAGE)]
            async with daemon.messages("images/create", what="import", params=params, data=tiny_rootfs()) as messages:
                async for _ in messages:
                    pass

    def log(self, name: str) -> str:
        """The end of what a process said."""
        return (self.root / f"{name}.log").read_text(errors="replace")[-2000:]

    def _spawn(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        program = shutil.which(name)
        assert program is not None, f"{name} is not installed"
        # In a network namespace of its own: a daemon without a bridge removes the bridge of the machine's.
        with (self.root / f"{name}.log").open("ab") as log:
            # It goes with the tests, should they be killed before they can end it.
            command = ["setpriv", "--pdeathsig", "TERM", "unshare", "--net", program, *words]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    async def end(self) -> None:
        """End every process and mount, and remove the directory."""
        for process in (self._dockerd, self._containerd):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(process.wait, STOP_LIMIT_S)
                if process.poll() is None:
                    process.kill()
                    await asyncio.to_thread(process.wait, STOP_LIMIT_S)
        await asyncio.to_thread(self._sweep)

    def _sweep(self) -> None:
        for pid in self._left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in self._mounts():
            subprocess.run(["umount", "--lazy", path], check=False, timeout=20)
        shutil.rmtree(self.root, ignore_errors=True)

    def _left(self) -> list[int]:
        """Processes that have the directory in their command line: shims of containers."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if os.fsencode(self.root) in path.read_bytes():
                    found.append(int(path.parent.name))
        return [pid for pid in found if pid != os.getpid()]

    def _mounts(self) -> list[str]:
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return sorted((point for point in points if point.startswith(f"{self.root}/")), reverse=True)


@asynccontextmanager
async def own_engine() -> AsyncGenerator[OwnEngine]:
    """An engine that runs and has the tiny image."""
    engine = OwnEngine(Path(tempfile.mkdtemp(prefix="codecraft-engine-")))
    try:
        await engine.start()
        await engine.load()
        yield engine
    finally:
        await engine.end()
