"""One isolated place to run commands, whatever provides it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol

from codecraft_pool.channel import Channel, RunReply
from codecraft_pool.checkpoint import Checkpoint
from codecraft_pool.digest import Digest, DigestEntry
from codecraft_pool.errors import RequestRefused, SandboxLost, SnapshotError
from codecraft_pool.inner_sockets import connect_inside
from codecraft_pool.proof import Baseline, compare
from codecraft_pool.protocol import AGENT, MAX_READ_BYTES, Data, Done, TreeRestore, WriteFlag, restored
from codecraft_pool.requests import (
    EncodedStrings,
    encode_ping,
    encode_read,
    encode_restore,
    encode_run,
    encode_shell,
    encode_strings,
    encode_write,
)
from codecraft_pool.results import GRACE_S, check_command, check_limits, cpu_ms, limit_ms, result_of
from codecraft_pool.shell import Shell, Shells
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import (
    WORKSPACE,
    CommandResult,
    RestoreReport,
    SandboxSpec,
    default_environment,
    writable_trees,
)
from codecraft_pool.trees import SandboxStat, Trees

_RESTORE_LIMIT_S: Final = 60.0
_WRITE_CHUNK_BYTES: Final = 1 << 20


class SnapshotStore(Protocol):
    """Whatever brings a snapshot into the reach of a sandbox's guest."""

    async def place(self, snapshot: Snapshot) -> str:
        """Make *snapshot* readable inside, once however many ask, and return its directory there."""
        ...


class Sandbox:
    """Run commands, move files and go back to a snapshot. Made by a launcher; ends with `close`.

    Several requests may be under way at once. All methods raise `SandboxLost` when the sandbox has died; nothing else
    that a program inside does becomes an exception.
    """

    def __init__(self, sandbox_id: str, spec: SandboxSpec, channel: Channel, store: SnapshotStore) -> None:
        self.id = sandbox_id
        self.spec = spec
        self._channel = channel
        self._store = store
        self._environment = default_environment()
        self._default_env = _encode_environment(self._environment)
        self._uid = 0 if spec.user == "root" else AGENT
        self._shells = Shells(sandbox_id, channel)
        self._trees = Trees(sandbox_id, channel)

    @property
    def lost(self) -> SandboxLost | None:
        """Why the sandbox is gone, or None while it lives."""
        return self._channel.error

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Have *on_lost* called once, when the sandbox is gone (also when it was closed)."""
        self._channel.on_lost = on_lost

    def __repr__(self) -> str:
        return f"<Sandbox {self.id} {self.spec.image} {'lost' if self.lost else 'alive'}>"

    async def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = WORKSPACE,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        limit_s: float = 10.0,
        max_output_bytes: int = 1 << 20,
        merge_stderr: bool = False,
        shell: str = "/bin/sh",
        cpu_limit_s: float | None = None,
        max_file_bytes: int | None = None,
        max_processes: int | None = None,
        user: Literal["agent", "root"] | None = None,
    ) -> CommandResult:
        """Run a command and return how it ended and what it printed.

        A `str` is run by *shell* (``shell -c command``), a sequence as it is. *env* is added to the default
        environment. *limit_s* is wall time in seconds; *max_output_bytes* caps stdout and stderr together; at either,
        the command and all its descendants are killed; so they are when, together, they have used *cpu_limit_s* seconds
        of CPU time (looked at now and then: the last 10 ms are not exact). *merge_stderr* sends stderr into stdout, in
        the order of writing. A process that makes a file larger than *max_file_bytes* gets SIGXFSZ. *max_processes* can
        only lower the sandbox's own limit; it counts all processes of the command's user, also those of other commands.
        *user* is who runs it, by default the sandbox's own; in one of root's it can be the agent, without capabilities.
        Cancellation kills the command and leaves the sandbox usable.

        Raises:
            ValueError: A limit is not positive, a text holds a NUL, or *user* is root in a sandbox of the agent's.
            RequestRefused: The working directory cannot be entered.
            SandboxLost: The sandbox died.
        """
        argv = (shell, "-c", command) if isinstance(command, str) else command
        check_command(argv, cwd)
        check_limits(limit_s, max_output_bytes, cpu_limit_s, max_file_bytes, max_processes)
        encoded = self._default_env if env is None else _encode_environment(self._environment | dict(env))
        uid = self._uid_of(user)
        channel = self._channel
        request_id = channel.next_id()
        frame = encode_run(
            request_id,
            encode_shell(shell, command) if isinstance(command, str) else argv,
            cwd=cwd,
            env=encoded,
            stdin=stdin,
            limit_ms=limit_ms(limit_s),
            max_output_bytes=max_output_bytes,
            uid=uid,
            gid=uid,
            merge_stderr=merge_stderr,
            cpu_ms=cpu_ms(cpu_limit_s),
            max_file_bytes=max_file_bytes or 0,
            max_processes=max_processes or 0,
        )
        reply = await channel.request(request_id, frame, what="end a command", limit_s=limit_s + GRACE_S, is_run=True)
        assert isinstance(reply, RunReply) and reply.exit is not None
        return result_of(reply, reply.exit)

    def shell(
        self,
        *,
        cwd: str = WORKSPACE,
        env: Mapping[str, str] | None = None,
        shell: str | Sequence[str] = "/bin/sh",
        merge_stderr: bool = False,
        user: Literal["agent", "root"] | None = None,
    ) -> Shell:
        """Return a persistent shell, to be used with ``async with``; see `Shell`.

        *shell* is any POSIX shell, or a whole command line of a program that reads and reports as one does; it is given
        one more argument, ``-s``. *cwd* is where it starts; *env* and *user* are as for `run`.
        """
        argv = (shell,) if isinstance(shell, str) else tuple(shell)
        check_command(argv, cwd)
        encoded = self._default_env if env is None else _encode_environment(self._environment | dict(env))
        return Shell(self._shells, argv, cwd=cwd, env=encoded, uid=self._uid_of(user), merge_stderr=merge_stderr)

    def _uid_of(self, user: Literal["agent", "root"] | None) -> int:
        if user == "root" != self.spec.user:
            raise ValueError(f"sandbox {self.id} is made for the agent alone: nothing in it can run as root")
        return AGENT if user == "agent" else self._uid

    async def write_file(self, path: str, data: bytes, *, root: str = WORKSPACE, mode: int = 0o644) -> None:
        """Write a whole file as the sandbox's user, making missing directories. *path* is relative to *root*.

        *mode* is that of a new file; one that is there keeps its own.

        Raises:
            RequestRefused: It cannot be written there (an OSError; its `errno` says why).
            SandboxLost: The sandbox died.
        """
        flags = WriteFlag.TRUNCATE | WriteFlag.PARENTS
        for offset in range(0, max(1, len(data)), _WRITE_CHUNK_BYTES):
            request_id = self._channel.next_id()
            chunk = data[offset : offset + _WRITE_CHUNK_BYTES]
            frame = encode_write(
                request_id, root, path, chunk, mode=mode, offset=offset, flags=flags, uid=self._uid, gid=self._uid
            )
            await self._channel.request(request_id, frame, what=f"write {path!r}", limit_s=GRACE_S)
            flags = WriteFlag(0)

    async def read_file(self, path: str, *, root: str = WORKSPACE, max_bytes: int = 1 << 20) -> bytes:
        """Return a whole regular file. *path* is relative to *root*; links out of it are refused.

        Raises:
            RequestRefused: It is not there, no regular file, or larger than *max_bytes* (errno EFBIG).
            SandboxLost: The sandbox died.
        """
        data = bytearray()
        while True:
            request_id = self._channel.next_id()
            length = min(MAX_READ_BYTES, max_bytes - len(data) + 1)
            frame = encode_read(request_id, root, path, offset=len(data), length=length)
            part = await self._channel.request(request_id, frame, what=f"read {path!r}", limit_s=GRACE_S)
            assert isinstance(part, Data)
            data += part.data
            if len(data) > max_bytes:
                what = f"{path!r} has {max(part.file_bytes, len(data))} bytes, over the limit of {max_bytes}"
                raise RequestRefused(self.id, f"read {path!r}", errno.EFBIG, what)
            if len(part.data) < length:
                return bytes(data)

    def connect(self, path: str) -> socket.socket:
        """Return a non-blocking connection to the unix socket *path*, for the caller to own.

        That is possible where this process is root, on the machine of a daemon whose sandboxes are spoken to over unix
        sockets. It ends no later than whoever listens.

        Raises:
            ValueError: The path is not absolute, or has "..".
            RequestRefused: Nobody listens there (an OSError; its `errno` says why), or there is no such way from here
                (errno ENOTSUP).
            SandboxLost: The sandbox died.
        """
        if self._channel.error is not None:
            raise type(self._channel.error)(self.id, self._channel.error.reason)
        return connect_inside(self.id, self._channel.guest_process, path)

    async def restore(
        self, snapshot: Snapshot | Checkpoint | None = None, *, trust_record: bool = True
    ) -> RestoreReport:
        """End every process and bring every writable tree back. Persistent shells end, too.

        The workspace becomes what *snapshot* is (empty if None), the other trees become empty; with a `Checkpoint` all
        of them become what they were then. Going back to the snapshot of the restore before touches only what has
        changed since; `trust_record=False` compares every file with it by content. After an error or a cancellation the
        sandbox is in an unknown state, and must be restored again or closed.

        Raises:
            RequestRefused: The guest could not do all of it.
            SnapshotError: The checkpoint is of a sandbox whose commands run as another user.
            SandboxLost: The sandbox died.
        """
        if self._channel.error is not None:
            raise type(self._channel.error)(self.id, self._channel.error.reason)
        if isinstance(snapshot, Checkpoint):
            return await self._restore_checkpoint(snapshot)
        try:
            where = "" if snapshot is None else await self._store.place(snapshot)
        except SandboxLost as exc:  # it can never again be given a snapshot
            self._channel.lost(str(exc))
            raise
        return await self._restore(writable_trees(where, uid=self._uid), full=not trust_record)

    async def _restore_checkpoint(self, checkpoint: Checkpoint) -> RestoreReport:
        if checkpoint.user != self.spec.user:
            raise SnapshotError(
                f"the checkpoint {checkpoint.id[:12]} is of a sandbox whose commands run as {checkpoint.user}; sandbox "
                f"{self.id} runs them as {self.spec.user}"
            )
        report = await self._restore(writable_trees(uid=self._uid))
        for path, stream in checkpoint.trees.items():
            await self._trees.take(path, stream, limit_s=_RESTORE_LIMIT_S)
        return replace(report, copied_bytes=checkpoint.size_bytes)

    async def snapshot(self, *, limit_s: float = 60.0, max_bytes: int = 1 << 30) -> Checkpoint:
        """Return what is in the writable trees now, for `restore` here or in another sandbox of the same user.

        What commands changed elsewhere, in a layer over the root file system (`spec.reset` is "overlay"), is no part of
        it; `has_changed_system` tells.

        Files, directories, links and FIFOs, with their modes, owners, times, users' attributes, holes and several
        names; not sockets. Commands go on running meanwhile: what they change at that moment is in it or not. Processes
        are no part of it. *limit_s* and *max_bytes* are for each tree.

        Raises:
            RequestRefused: A tree is larger than *max_bytes* (errno EFBIG), or changed too much while it was read.
            SandboxLost: The sandbox died.
        """
        paths = [tree.tree for tree in writable_trees()]
        streams = {path: await self._trees.export(path, limit_s=limit_s, max_bytes=max_bytes) for path in paths}
        return Checkpoint(streams, self.spec.user)

    async def digest(
        self,
        paths: Sequence[str] | None = None,
        *,
        contents: bool = True,
        limit_s: float = 60.0,
        max_bytes: int = 256 << 20,
    ) -> Digest:
        """Return what is in the trees *paths* (all writable ones by default), with or without digests of contents.

        Commands go on running meanwhile. *max_bytes* bounds the answer, which takes about 150 bytes for each entry.

        Raises:
            RequestRefused: A tree cannot be read, or the answer is too large (errno EFBIG).
            SandboxLost: The sandbox died.
        """
        trees = [tree.tree for tree in writable_trees()] if paths is None else paths
        return await self._trees.digest(trees, contents=contents, limit_s=limit_s, max_bytes=max_bytes)

    async def layer(self, *, limit_s: float = 60.0, max_bytes: int = 64 << 20) -> Digest:
        """Return what commands have put into the layer over the root file system (`spec.reset` is "overlay").

        A new layer has a few entries, which the guest made. A "char" with the mode 0 says that what the image has there
        is removed; a "dir" with `several` 1, that what the image has in it is not there (but maybe what it has in
        another one, which was renamed). Attributes and the writable trees are no part of it: see `digest`.

        Raises:
            RequestRefused: There is no layer, or the answer is too large (errno EFBIG).
            SandboxLost: The sandbox died.
        """
        return await self._trees.layer(limit_s=limit_s, max_bytes=max_bytes)

    async def look_at(
        self, paths: Sequence[str], *, limit_s: float = 60.0, max_bytes: int = 64 << 20
    ) -> dict[str, DigestEntry]:
        """Return what is at each of *paths*, without what is below it; a path where nothing is is left out.

        No link is followed: nothing is at a path that runs through one.

        Raises:
            RequestRefused: One is not absolute, or cannot be read.
            SandboxLost: The sandbox died.
        """
        return await self._trees.look_at(paths, limit_s=limit_s, max_bytes=max_bytes)

    async def stat(self, *, limit_s: float = 10.0) -> SandboxStat:
        """Return how many processes there are and what memory and space they use."""
        return await self._trees.stat([tree.tree for tree in writable_trees()], limit_s=limit_s)

    async def inspect(self, *, limit_s: float = 10.0) -> tuple[str, ...]:
        """Return what can be seen of the sandbox besides files, as sorted lines of text that start with a keyword.

        Processes, mounts, sockets, network, System V and POSIX objects, devices, and what of the guest's own state
        commands inherit.
        """
        return await self._trees.inspect(limit_s=limit_s)

    async def has_changed_system(self) -> bool:
        """Whether anything was changed in the root file system since the last restore, be it and changed back.

        That can be where `spec.reset` is "overlay" only. Opening a file there for writing is a change.

        Raises:
            RequestRefused: The guest could not look.
            SandboxLost: The sandbox died.
        """
        return self.spec.reset == "overlay" and "layer new" not in await self.inspect()

    async def baseline(self) -> Baseline:
        """Return what the sandbox is like; of a new one, the measure for `prove_clean` of others."""
        return Baseline(await self.inspect(), await self.digest())

    async def prove_clean(self, baseline: Baseline, *, full: bool = True) -> list[str]:
        """Return what tells this sandbox from the one that *baseline* is of, as readable lines; empty if nothing does.

        To be asked right after a restore to the same snapshot. Not *full*, it leaves out the files.
        """
        return await compare(self, baseline, full=full)

    async def end_processes(self, *, keep_system: bool = True) -> RestoreReport:
        """End every process that runs in the sandbox and leave its files alone.

        Without *keep_system*, what commands did to the root file system is undone (where `spec.reset` is "overlay"; it
        cannot be changed elsewhere), and only the writable trees stay: graders can trust programs again.
        """
        return await self._restore((), system=not keep_system)

    async def _restore(
        self, trees: Sequence[TreeRestore], *, full: bool = False, system: bool = False
    ) -> RestoreReport:
        request_id = self._channel.next_id()
        frame = encode_restore(request_id, trees, full=full, system=system)
        done = await self._channel.request(request_id, frame, what="restore", limit_s=_RESTORE_LIMIT_S)
        self._shells.forget()
        assert isinstance(done, Done)
        counts = restored(done)
        return RestoreReport(
            killed=counts.killed,
            removed=counts.removed,
            made=counts.made,
            kept=counts.kept,
            compared=counts.compared,
            copied_bytes=counts.copied_bytes,
            wall_s=counts.wall_ns / 1e9,
        )

    async def ping(self, *, limit_s: float = 5.0) -> None:
        """Return once the guest has answered.

        Raises:
            SandboxLost: It did not, within *limit_s* seconds.
        """
        request_id = self._channel.next_id()
        await self._channel.request(request_id, encode_ping(request_id), what="answer a ping", limit_s=limit_s)

    def close(self) -> None:
        """End the sandbox at once, with everything that runs in it. Idempotent."""
        self._channel.close()


def _encode_environment(environment: Mapping[str, str]) -> EncodedStrings:
    items = [f"{name}={value}" for name, value in environment.items()]
    if any("\0" in item for item in items):
        raise ValueError("the environment holds a NUL character, which no variable can have")
    return encode_strings(items)
