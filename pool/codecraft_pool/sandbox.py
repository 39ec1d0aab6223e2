"""One isolated place to run commands, whatever provides it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from codecraft_pool.channel import Channel, RunReply
from codecraft_pool.errors import RequestRefused, SandboxLost
from codecraft_pool.protocol import (
    AGENT,
    MAX_READ_BYTES,
    Data,
    Done,
    EncodedStrings,
    Exit,
    Stop,
    TreeRestore,
    WriteFlag,
    encode_ping,
    encode_read,
    encode_restore,
    encode_run,
    encode_shell,
    encode_strings,
    encode_write,
    restored,
)
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import (
    WORKSPACE,
    CommandResult,
    RestoreReport,
    SandboxSpec,
    default_environment,
    writable_trees,
)

# A guest answers within milliseconds of a limit; a machine under heavy load may take seconds. Past this it is taken for
# dead.
_GRACE_S: Final = 15.0
_RESTORE_LIMIT_S: Final = 60.0
_WRITE_CHUNK_BYTES: Final = 1 << 20
_MAX_LIMIT_S: Final = 4_000_000.0
_MAX_ARGUMENTS: Final = 4096


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

    @property
    def lost(self) -> SandboxLost | None:
        """Why the sandbox is gone, or None while it lives."""
        return self._channel.error

    def fits(self, spec: SandboxSpec) -> bool:
        """Say whether this sandbox, restored, is as good as a new one of *spec*."""
        return self.lost is None and self.spec == spec and spec.reusable

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
    ) -> CommandResult:
        """Run a command and return how it ended and what it printed.

        A `str` is run by *shell* (``shell -c command``), a sequence as it is. *env* is added to the default
        environment. *limit_s* is wall time in seconds; *max_output_bytes* caps stdout and stderr together; at either,
        the command and all its descendants are killed. *merge_stderr* sends stderr into stdout, in the order of
        writing. Cancellation kills the command and leaves the sandbox usable.

        Raises:
            ValueError: A limit is not positive, or a text holds a NUL.
            RequestRefused: The working directory cannot be entered.
            SandboxLost: The sandbox died.
        """
        argv = (shell, "-c", command) if isinstance(command, str) else command
        _check_command(argv, cwd, limit_s, max_output_bytes)
        encoded = self._default_env if env is None else _encode_environment(self._environment | dict(env))
        channel = self._channel
        request_id = channel.next_id()
        frame = encode_run(
            request_id,
            encode_shell(shell, command) if isinstance(command, str) else argv,
            cwd=cwd,
            env=encoded,
            stdin=stdin,
            limit_ms=max(1, int(limit_s * 1000)),
            max_output_bytes=max_output_bytes,
            uid=self._uid,
            gid=self._uid,
            merge_stderr=merge_stderr,
        )
        reply = await channel.request(request_id, frame, what="end a command", limit_s=limit_s + _GRACE_S, is_run=True)
        assert isinstance(reply, RunReply) and reply.exit is not None
        return _result(reply, reply.exit)

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
            await self._channel.request(request_id, frame, what=f"write {path!r}", limit_s=_GRACE_S)
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
            part = await self._channel.request(request_id, frame, what=f"read {path!r}", limit_s=_GRACE_S)
            assert isinstance(part, Data)
            data += part.data
            if len(data) > max_bytes:
                what = f"{path!r} has {max(part.file_bytes, len(data))} bytes, over the limit of {max_bytes}"
                raise RequestRefused(self.id, f"read {path!r}", errno.EFBIG, what)
            if len(part.data) < length:
                return bytes(data)

    async def restore(self, snapshot: Snapshot | None = None) -> RestoreReport:
        """End every process and bring every writable tree back.

        The workspace becomes what *snapshot* is (empty if None), the other trees become empty. After an error the
        sandbox is in an unknown state and must be closed.

        Raises:
            RequestRefused: The guest could not do all of it.
            SandboxLost: The sandbox died.
        """
        if self._channel.error is not None:
            raise SandboxLost(self.id, self._channel.error.reason)
        try:
            where = "" if snapshot is None else await self._store.place(snapshot)
        except SandboxLost as exc:  # it can never again be given a snapshot
            self._channel.lost(str(exc))
            raise
        return await self._restore(writable_trees(where, uid=self._uid))

    async def end_processes(self) -> RestoreReport:
        """End every process that runs in the sandbox and leave its files alone."""
        return await self._restore(())

    async def _restore(self, trees: Sequence[TreeRestore]) -> RestoreReport:
        request_id = self._channel.next_id()
        frame = encode_restore(request_id, trees)
        done = await self._channel.request(request_id, frame, what="restore", limit_s=_RESTORE_LIMIT_S)
        assert isinstance(done, Done)
        counts = restored(done)
        return RestoreReport(counts.killed, counts.removed, counts.made, counts.copied_bytes, counts.wall_ns / 1e9)

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


def _check_command(argv: Sequence[str], cwd: str, limit_s: float, max_output_bytes: int) -> None:
    if not 0 < limit_s <= _MAX_LIMIT_S:
        raise ValueError(f"limit_s is {limit_s!r}; it must be more than 0 and at most {_MAX_LIMIT_S:g} seconds")
    if max_output_bytes < 1:
        raise ValueError(f"max_output_bytes is {max_output_bytes!r}; it must be at least 1")
    if not argv:
        raise ValueError("the command is empty; give a shell text or a non-empty argument list")
    if len(argv) > _MAX_ARGUMENTS:
        raise ValueError(f"the command has {len(argv)} arguments, over the protocol's limit of {_MAX_ARGUMENTS}")
    for item in argv:  # not any(...): this is on the path of every step
        if "\0" in item:
            raise ValueError("the command holds a NUL character, which no program can be given")
    if "\0" in cwd:
        raise ValueError("the working directory holds a NUL character, which no path can have")


def _result(reply: RunReply, end: Exit) -> CommandResult:
    return CommandResult(
        stdout=b"".join(reply.stdout),
        stderr=b"".join(reply.stderr),
        exit_code=-1 if end.signalled else end.code,
        signal=end.code if end.signalled else 0,
        timed_out=end.stop is Stop.WALL_LIMIT,
        truncated=end.stop is Stop.OUTPUT_CAP,
        wall_s=end.wall_ns / 1e9,
        user_s=end.user_us / 1e6,
        system_s=end.system_us / 1e6,
        peak_memory_bytes=end.peak_kib * 1024,
    )
