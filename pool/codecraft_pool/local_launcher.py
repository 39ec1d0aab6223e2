"""Sandboxes from bubblewrap: Linux namespaces over the host's own /usr, with no daemon and no image.

As root, the guest keeps the few capabilities it needs and commands run as a uid of the sandbox's own that nothing else
on the machine has. As anybody else, a user namespace maps that one user, commands run as it without capabilities, and
the guest is protected by being PID 1 (no signal reaches it from inside) and not dumpable (no trace, no /proc/1/mem).

Everything of the host that is visible inside is on a list; home, run, tmp and the rest are not there. There is no
network but a loopback of its own. Processes are limited in number. Where control groups can be made, memory, processes
and CPU are limited as in a container; elsewhere each process's own memory is, which bounds no sandbox as a whole.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, cast

from codecraft_pool._aio import finish
from codecraft_pool.bubblewrap import Source, bubblewrap_command, check_root
from codecraft_pool.cgroups import ControlGroup, ControlGroups, GroupLimits, group_name
from codecraft_pool.channel import Channel
from codecraft_pool.errors import BackendUnavailable, LaunchError
from codecraft_pool.guest_binary import guest_path
from codecraft_pool.launcher import LauncherStats
from codecraft_pool.owner import RUN_PREFIX as RUN_PREFIX
from codecraft_pool.owner import Owner
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Snapshot, remove_tree, unpack
from codecraft_pool.spec import STORE, SandboxSpec

_HELLO_LIMIT_S: Final = 10.0
_END_LIMIT_S: Final = 5.0
_GROUP_PAUSE_S: Final = 0.01
# A block of uids that no distribution hands out; each sandbox of a process has its own, so that limits are counted
# apart.
_FIRST_UID: Final = 0x6000_0000
_UIDS_PER_PROCESS: Final = 4096
_NUMBERS: Final = count()  # for all launchers of this process, whose sandboxes must not share a uid


class LocalLauncher:
    """Starts sandboxes with bubblewrap. Use it as ``async with LocalLauncher() as launcher``.

    Args:
        root: A directory with a root file system (an unpacked image, a debootstrap), which sandboxes get read-only; by
            default they get this machine's /usr. It must not change while sandboxes run.

    Raises:
        BackendUnavailable: bubblewrap is missing or not allowed here, or *root* holds no root file system.
    """

    name = "local"

    def __init__(self, *, root: Path | str | None = None) -> None:
        self._bwrap = shutil.which("bwrap") or ""
        if not self._bwrap:
            raise BackendUnavailable(
                "the local launcher needs bubblewrap, which is not installed (Debian: apt-get install bubblewrap)"
            )
        self._root = None if root is None else check_root(Path(root))
        self._guest = guest_path()
        self._is_root = os.geteuid() == 0
        self._owner = Owner.current()
        self._groups = ControlGroups.find()
        self._run_dir: Path | None = None
        self._placing: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, _Process] = {}
        self._closed = False

    @property
    def description(self) -> str:
        """In one line: what the sandboxes run on."""
        user = "root" if self._is_root else "an unprivileged user"
        over = "this machine's /usr" if self._root is None else str(self._root)
        return f"bubblewrap over {over}, as {user}; {self._groups.description}"

    def stats(self) -> LauncherStats:
        """Return how it reaches its sandboxes."""
        return LauncherStats(transport="socketpair")

    async def __aenter__(self) -> LocalLauncher:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def prepare(self, spec: SandboxSpec) -> None:
        """Check that *spec* can be had; there is no image to fetch.

        Raises:
            BackendUnavailable: The task needs root or a layer over the root file system, which only a container gives.
        """
        if spec.user == "root" or spec.reset == "overlay":
            what = "root user inside" if spec.user == "root" else "layer over the root file system"
            raise BackendUnavailable(f"the local launcher gives no {what}; choose backend='docker' for this task")

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Return a new sandbox.

        Raises:
            LaunchError: bubblewrap or the guest did not come up; says what it printed.
        """
        if self._closed:
            raise LaunchError("the local launcher is closed")
        await self.prepare(spec)
        number = next(_NUMBERS)
        sandbox_id = f"local-{self._owner.pid}-{number}"
        uid = _FIRST_UID + (self._owner.pid & 0xFFFF) * _UIDS_PER_PROCESS + number % _UIDS_PER_PROCESS
        process = _Process(sandbox_id, self._running)
        try:
            group = self._groups.make(
                group_name(self._owner, number), GroupLimits(spec.memory_bytes, spec.cpus, spec.max_processes)
            )
            own_memory = None if self._groups.limits_memory else spec.memory_bytes
            source = Source(self._bwrap, self._guest, self._directory() / "snapshots", self._root)
            command = bubblewrap_command(source, spec, uid if self._is_root else None)
            process.spawn(*command, group, data_bytes=own_memory)
            channel = await process.connect()
            await channel.hello(limit_s=_HELLO_LIMIT_S)
            sandbox = Sandbox(sandbox_id, spec, channel, self)
            await sandbox.restore()
        except OSError as exc:  # what the guest refuses and how it dies are OSErrors too
            await finish(process.end())
            raise LaunchError(f"bubblewrap could not start a sandbox: {exc}; 'codecraft doctor' tells more") from exc
        except BaseException:
            await finish(process.end())
            raise
        return sandbox

    async def place(self, snapshot: Snapshot) -> str:
        """Put *snapshot* where every sandbox sees it, read-only, once however many ask.

        Raises:
            LaunchError: The launcher is closed.
        """
        if self._closed:
            raise LaunchError("the local launcher is closed")
        task = self._placing.get(snapshot.id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            unpacking = asyncio.to_thread(unpack, snapshot, self._directory() / "snapshots")
            task = self._placing[snapshot.id] = asyncio.create_task(unpacking)
        await asyncio.shield(task)
        return f"{STORE}/snapshots/{snapshot.id}"

    async def aclose(self) -> None:
        """End every sandbox and remove the run directory. Idempotent."""
        self._closed = True
        processes = list(self._running.values())
        placing, self._placing = list(self._placing.values()), {}
        await finish(asyncio.gather(*(process.end() for process in processes), *placing, return_exceptions=True))
        if self._run_dir is not None:
            await finish(_remove(self._run_dir))
            self._run_dir = None

    def _directory(self) -> Path:
        if self._run_dir is None:
            self._run_dir = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{self._owner}-"))
            (self._run_dir / "snapshots").mkdir(mode=0o755)
        return self._run_dir


async def _remove(path: Path) -> None:
    try:
        await asyncio.to_thread(remove_tree, path)
    except RuntimeError:  # the interpreter is ending and gives out no threads any more
        remove_tree(path)


class _Process(asyncio.Protocol):
    """One bubblewrap process and the socket to the guest in it; owns both."""

    def __init__(self, sandbox_id: str, running: dict[str, _Process]) -> None:
        self._id = sandbox_id
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._popen: subprocess.Popen[bytes] | None = None
        self._group: ControlGroup | None = None
        self._socket: socket.socket | None = None
        self._stderr: int | None = None
        self._transport: asyncio.Transport | None = None
        self._channel: Channel | None = None
        self._ended = self._loop.create_future()

    def spawn(self, command: list[str], etc: dict[str, bytes], group: ControlGroup, *, data_bytes: int | None) -> None:
        """Start the process in *group*, which it then owns; from then on `end` is owed."""
        self._group = group
        ours, theirs = socket.socketpair()
        stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._socket, self._stderr = ours, stderr_read
        self._running[self._id] = self
        split = command.index("--")
        try:
            with _pipes(etc) as (words, descriptors):
                shown = group.shown_inside()
                words += ["--perms", "0700", "--dir", "/sys"] if shown else []  # for the guest alone
                for path, inside in shown:
                    words += ["--ro-bind", str(path), inside]
                whole = [*command[:split], *words, "--remount-ro", "/", *command[split:]]
                self._popen = subprocess.Popen(
                    group.entering(whole, data_bytes=data_bytes),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=stderr_write,
                    pass_fds=descriptors,
                    env={},
                    start_new_session=True,  # Ctrl-C is for the program, which then ends its sandboxes in order
                )
        finally:
            theirs.close()
            os.close(stderr_write)
        self._loop.add_reader(stderr_read, self._read_stderr)
        pidfd = os.pidfd_open(self._popen.pid)
        self._loop.add_reader(pidfd, self._reap, pidfd)

    async def connect(self) -> Channel:
        """Return the channel to the guest."""
        assert self._socket is not None
        self._channel = Channel(self._id, self)
        await self._loop.create_connection(lambda: self, sock=self._socket)
        return self._channel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        assert self._channel is not None
        self._channel.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_stderr()
        if self._channel is not None:
            if self._group is not None and self._group.had_too_little_memory():
                self._channel.feed_stderr(b"it had reached its memory limit, and the kernel killed processes for it")
            self._channel.eof()

    def write(self, data: bytes) -> None:
        """Send bytes to the guest."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Drop the connection: the guest ends everything and itself."""
        if self._transport is not None:
            self._transport.abort()
        elif self._socket is not None:
            self._socket.close()

    def _read_stderr(self) -> None:
        if self._stderr is None:
            return
        try:
            words = os.read(self._stderr, 4096)
        except BlockingIOError:
            return
        if words and self._channel is not None:
            self._channel.feed_stderr(words)
        if not words:
            self._close_stderr()

    def _close_stderr(self) -> None:
        if self._stderr is not None:
            self._loop.remove_reader(self._stderr)
            os.close(self._stderr)
            self._stderr = None

    def _reap(self, pidfd: int) -> None:
        """The process has ended: collect it."""
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        assert self._popen is not None
        self._popen.wait()  # returns at once: the pidfd was readable
        self._read_stderr()
        self._close_stderr()
        self._remove_group(self._loop.time() + _END_LIMIT_S)

    def _remove_group(self, deadline_s: float) -> None:
        """Remove the group, which the kernel may hold for a moment longer than the process; then all is over."""
        assert self._group is not None
        if not self._group.remove() and self._loop.time() < deadline_s:
            self._loop.call_later(_GROUP_PAUSE_S, self._remove_group, deadline_s)
            return
        self._running.pop(self._id, None)
        if not self._ended.done():
            self._ended.set_result(None)

    async def end(self) -> None:
        """Close, and return when the process is gone; it is killed if it does not go by itself."""
        self.close()
        if self._popen is None:
            self._running.pop(self._id, None)
            self._close_stderr()
            if self._group is not None:
                self._group.remove()
            return
        await asyncio.wait([self._ended], timeout=_END_LIMIT_S)
        if not self._ended.done():
            self._popen.kill()
            await asyncio.wait([self._ended], timeout=_END_LIMIT_S)


@contextmanager
def _pipes(etc: dict[str, bytes]) -> Generator[tuple[list[str], list[int]]]:
    """Yield bubblewrap's words for small read-only files, and the descriptors it reads them from.

    Each file is smaller than a pipe's buffer, so that writing it cannot block.
    """
    words: list[str] = []
    descriptors: list[int] = []
    try:
        for path, content in etc.items():
            read, write = os.pipe2(os.O_CLOEXEC)
            descriptors.append(read)
            os.write(write, content)
            os.close(write)
            words += ["--perms", "0444", "--ro-bind-data", str(read), path]
        yield words, descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
