"""Sandboxes from bubblewrap: Linux namespaces over the host's own /usr, with no daemon and no image.

As root, the guest keeps the few capabilities it needs and commands run as a uid of the sandbox's own that nothing else
on the machine has. As anybody else, a user namespace maps that one user, commands run as it without capabilities, and
the guest is protected by being PID 1 (no signal reaches it from inside) and not dumpable (no trace, no /proc/1/mem).

Everything of the host that is visible inside is on a list; home, run, tmp and the rest are not there. There is no
network but a loopback of its own. Processes are limited in number; memory is not, beyond the size of the writable
trees.
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
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Final, cast

from codecraft_pool._aio import finish
from codecraft_pool.channel import Channel
from codecraft_pool.errors import BackendUnavailable, LaunchError
from codecraft_pool.guest_binary import guest_path
from codecraft_pool.owner import Owner
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Snapshot, remove_tree, unpack
from codecraft_pool.spec import HOME, HOSTS, STORE, WORKSPACE, SandboxSpec, writable_trees

RUN_PREFIX: Final = "codecraft-run-"
_HELLO_LIMIT_S: Final = 10.0
_END_LIMIT_S: Final = 5.0
# What the guest needs: become another user, own and open files whatever their mode, kill, and give the rest away.
_CAPABILITIES: Final = ("SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETPCAP")
# A block of uids that no distribution hands out; each sandbox of a process has its own, so that limits are counted
# apart.
_FIRST_UID: Final = 0x6000_0000
_UIDS_PER_PROCESS: Final = 4096
# Without root: what the one user is called inside. Not 0, to which /proc gives files of the guest.
_ALONE_UID: Final = 1000
_NUMBERS: Final = count()  # for all launchers of this process, whose sandboxes must not share a uid
_HOST_FILES: Final = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/mime.types",
    "/etc/magic",
)
_READ_ONLY_PROC: Final = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
_HIDDEN_PROC: Final = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/kallsyms",
    "/proc/kmsg",
)
# Of the guest's own files in /proc, those by which a process of the guest's own user could change it: no restore would
# bring that back, and all later commands would inherit it.
_GUEST_PROC: Final = ("autogroup", "coredump_filter", "oom_adj", "oom_score_adj")


class LocalLauncher:
    """Starts sandboxes with bubblewrap. Use it as ``async with LocalLauncher() as launcher``.

    Raises:
        BackendUnavailable: bubblewrap is missing or not allowed here.
    """

    name = "local"

    def __init__(self) -> None:
        self._bwrap = shutil.which("bwrap") or ""
        if not self._bwrap:
            raise BackendUnavailable(
                "the local launcher needs bubblewrap, which is not installed (Debian: apt-get install bubblewrap)"
            )
        self._guest = guest_path()
        self._is_root = os.geteuid() == 0
        self._owner = Owner.current()
        self._run_dir: Path | None = None
        self._placing: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, _Process] = {}
        self._closed = False

    @property
    def description(self) -> str:
        """In one line: what the sandboxes run on."""
        return f"bubblewrap over this machine's /usr, as {'root' if self._is_root else 'an unprivileged user'}"

    async def __aenter__(self) -> LocalLauncher:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def prepare(self, spec: SandboxSpec) -> None:
        """Check that *spec* can be had; there is no image to fetch.

        Raises:
            BackendUnavailable: The task needs root, which only a container gives.
        """
        if spec.user == "root":
            raise BackendUnavailable(
                "the local launcher gives no root user inside; choose backend='docker' for this task"
            )

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
            process.spawn(self._command(spec, uid), _etc_files(uid if self._is_root else _ALONE_UID))
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

    def _command(self, spec: SandboxSpec, uid: int) -> list[str]:
        """Return bubblewrap's command line, up to the files that `_Process.spawn` adds."""
        words = [self._bwrap, "--die-with-parent", "--as-pid-1", "--new-session", "--clearenv", "--hostname", "sandbox"]
        words += ["--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        # Without root they count within the user namespace only, for the files of its one user.
        alone = ["--unshare-user", "--uid", f"{_ALONE_UID}", "--gid", f"{_ALONE_UID}"]
        words += ["--cap-drop", "ALL"] if self._is_root else alone
        for capability in _CAPABILITIES:
            words += ["--cap-add", f"CAP_{capability}"]
        words += _mounts(self._directory() / "snapshots", self._guest, spec)
        if not self._is_root:
            words += _guards()
        agent = f"{uid}:{uid}" if self._is_root else "self"
        guest = [f"{STORE}/guest", "--agent", agent, "--max-processes", str(spec.max_processes), "--seccomp"]
        return [*words, "--", *guest]


def _mounts(snapshots: Path, guest: Path, spec: SandboxSpec) -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        link = Path("/") / name
        if link.is_symlink():
            words += ["--symlink", os.readlink(link), str(link)]
        elif link.is_dir():
            words += ["--ro-bind", str(link), str(link)]
    for path in own_packages(Path(str(files("codecraft_pool"))).parent):
        words += ["--perms", "0700", "--tmpfs", path]
    words += ["--perms", "0755", "--dir", "/etc"]
    for path in _HOST_FILES:
        words += ["--ro-bind-try", path, path]
    words += ["--proc", "/proc"]
    for path in _READ_ONLY_PROC:
        words += ["--ro-bind-try", path, path]
    for path in _HIDDEN_PROC:
        words += ["--ro-bind", "/dev/null", path] if os.path.exists(path) else []
    words += ["--dev", "/dev"]
    for tree in writable_trees():
        words += ["--perms", "0755", "--size", str(spec.tree_bytes), "--tmpfs", tree.tree]
    words += ["--remount-ro", "/dev"]  # the directory only: not the devices, nor what is mounted below
    words += ["--perms", "0700", "--dir", STORE, "--ro-bind", str(snapshots), f"{STORE}/snapshots"]
    return [*words, "--ro-bind", str(guest), f"{STORE}/guest", "--chdir", WORKSPACE]


def own_packages(home: Path) -> list[str]:
    """Return this project's packages in *home* if that is below /usr: their tasks say how they are graded."""
    return [str(path) for path in home.resolve().glob("codecraft_*") if path.is_dir() and path.is_relative_to("/usr")]


def _guards() -> list[str]:
    """Return bubblewrap's words that close files of the guest's in /proc, those that this kernel has."""
    words: list[str] = []
    for own, guests in (("/proc/self", "/proc/1"), (f"/proc/self/task/{os.getpid()}", "/proc/1/task/1")):
        for name in _GUEST_PROC:
            if os.path.exists(f"{own}/{name}"):
                words += ["--ro-bind", "/dev/null", f"{guests}/{name}"]
    return words


def _etc_files(uid: int) -> dict[str, bytes]:
    """Return the files of /etc that must not be the host's."""
    users = (
        "root:x:0:0:root:/root:/bin/sh",
        f"agent:x:{uid}:{uid}:agent:{HOME}:/bin/sh",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
    )
    groups = ("root:x:0:", f"agent:x:{uid}:", "nogroup:x:65534:")
    return {
        "/etc/passwd": "".join(f"{line}\n" for line in users).encode(),
        "/etc/group": "".join(f"{line}\n" for line in groups).encode(),
        "/etc/hosts": HOSTS,
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
    }


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
        self._socket: socket.socket | None = None
        self._stderr: int | None = None
        self._transport: asyncio.Transport | None = None
        self._channel: Channel | None = None
        self._ended = self._loop.create_future()

    def spawn(self, command: list[str], etc: dict[str, bytes]) -> None:
        """Start the process; from then on `end` is owed."""
        ours, theirs = socket.socketpair()
        stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._socket, self._stderr = ours, stderr_read
        self._running[self._id] = self
        split = command.index("--")
        try:
            with _pipes(etc) as (words, descriptors):
                self._popen = subprocess.Popen(
                    [*command[:split], *words, "--remount-ro", "/", *command[split:]],
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
        self._running.pop(self._id, None)
        if not self._ended.done():
            self._ended.set_result(None)

    async def end(self) -> None:
        """Close, and return when the process is gone; it is killed if it does not go by itself."""
        self.close()
        if self._popen is None:
            self._running.pop(self._id, None)
            self._close_stderr()
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
