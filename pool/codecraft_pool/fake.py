"""A launcher without sandboxes, for tests of code that uses the pool: commands are answered by a function of yours.

Everything above the bytes is the real thing: the pool, `Sandbox`, the channel and the protocol; only the guest is
played here.
"""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from codecraft_pool.channel import Channel
from codecraft_pool.errors import LaunchError
from codecraft_pool.protocol import PROTOCOL_VERSION, Kind, encode_frame
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import SandboxSpec


@dataclass(frozen=True, slots=True)
class FakeAnswer:
    """What a fake command prints and how it ends."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0


@dataclass(slots=True)
class FakeFiles:
    """The files of one fake sandbox, by path relative to the workspace; back to the snapshot's after a restore."""

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])


Answer = Callable[[FakeFiles, list[str]], Awaitable[FakeAnswer]]


async def _silent(files: FakeFiles, argv: list[str]) -> FakeAnswer:
    return FakeAnswer()


class FakeLauncher:
    """Starts fake sandboxes. *answer* is awaited with the sandbox's files and the argv of each command.

    `sandboxes` lists all that were started; closing one of them is how a test plays its death. `fail_starts` is how
    many of the next starts fail.
    """

    name = "fake"
    description = "nothing at all: answers come from a function"

    def __init__(self, answer: Answer = _silent) -> None:
        self._answer = answer
        self.sandboxes: list[Sandbox] = []
        self.fail_starts = 0
        self.snapshots: dict[str, Snapshot] = {}

    async def __aenter__(self) -> FakeLauncher:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def prepare(self, spec: SandboxSpec) -> None:
        """There is nothing to prepare."""

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Return a new fake sandbox.

        Raises:
            LaunchError: `fail_starts` said so.
        """
        await asyncio.sleep(0)
        if self.fail_starts > 0:
            self.fail_starts -= 1
            raise LaunchError("the fake launcher was told to fail this start")
        name = f"fake-{len(self.sandboxes)}"
        guest = _FakeGuest(self._answer, self.snapshots)
        guest.channel = Channel(name, guest)
        guest.send(0, Kind.HELLO, struct.pack("<III", PROTOCOL_VERSION, 1000, 1000))
        await guest.channel.hello(limit_s=1.0)
        sandbox = Sandbox(name, spec, guest.channel, self)
        self.sandboxes.append(sandbox)
        return sandbox

    async def place(self, snapshot: Snapshot) -> str:
        """Keep *snapshot* for restores."""
        self.snapshots[snapshot.id] = snapshot
        return snapshot.id

    async def aclose(self) -> None:
        """Close every fake sandbox."""
        for sandbox in self.sandboxes:
            sandbox.close()


class _Reader:
    """Reads the fields of a request."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(f"<{form}", self._payload, self._at)
        self._at += struct.calcsize(f"<{form}")
        return int(value)

    def bytes(self) -> bytes:
        length = self.number("I")
        self._at += length
        return self._payload[self._at - length : self._at]

    def text(self) -> str:
        return self.bytes().decode("utf-8", "surrogateescape")


class _FakeGuest:
    """The guest's end: one whole request per write, which is how a channel writes."""

    def __init__(self, answer: Answer, snapshots: dict[str, Snapshot]) -> None:
        self.channel: Channel | None = None
        self._answer = answer
        self._snapshots = snapshots
        self._files = FakeFiles()
        self._running: dict[int, asyncio.Task[None]] = {}

    def send(self, request_id: int, kind: Kind, payload: bytes) -> None:
        assert self.channel is not None
        self.channel.feed(encode_frame(request_id, kind, payload))

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()

    def write(self, data: bytes) -> None:
        _, request_id, kind = struct.unpack_from("<IIB", data)
        if kind == Kind.CANCEL:
            self._stop(request_id, 3)
            return
        work = self._serve(request_id, Kind(kind), _Reader(data[12:]), data[12:])
        task = self._running[request_id] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda _: self._running.pop(request_id, None))

    def _stop(self, request_id: int, reason: int) -> None:
        task = self._running.get(request_id)
        if task is not None and not task.done():
            task.cancel()
            self.send(request_id, Kind.EXIT, struct.pack("<BBHiQQQQ", 1, reason, 0, 9, 0, 0, 0, 0))

    async def _serve(self, request_id: int, kind: Kind, fields: _Reader, payload: bytes) -> None:
        if kind is Kind.RUN:
            await self._run(request_id, fields)
        elif kind is Kind.WRITE:
            self._write(request_id, fields)
        elif kind is Kind.READ:
            self._read(request_id, fields)
        elif kind is Kind.RESTORE:
            self._restore(request_id, fields)
        else:
            self.send(request_id, Kind.PONG, payload)

    async def _run(self, request_id: int, fields: _Reader) -> None:
        for form in "IQIII":
            fields.number(form)
        fields.text()
        argv = [fields.text() for _ in range(fields.number("I"))]
        answer = await self._answer(self._files, argv)
        for stream, data in ((b"\1", answer.stdout), (b"\2", answer.stderr)):
            if data:
                self.send(request_id, Kind.OUTPUT, stream + data)
        self.send(request_id, Kind.EXIT, struct.pack("<BBHiQQQQ", 0, 0, 0, answer.exit_code, 0, 0, 0, 0))

    def _write(self, request_id: int, fields: _Reader) -> None:
        fields.text()
        path = fields.text()
        _, offset, _, _, _ = (fields.number(form) for form in "IQIII")
        data = fields.bytes()
        self._files.files[path] = self._files.files.get(path, b"")[:offset] + data
        self.send(request_id, Kind.DONE, struct.pack("<Q", len(data)))

    def _read(self, request_id: int, fields: _Reader) -> None:
        fields.text()
        path = fields.text()
        offset, length = fields.number("Q"), fields.number("I")
        data = self._files.files.get(path)
        if data is None:
            self.send(request_id, Kind.ERROR, struct.pack("<i", errno.ENOENT) + b"No such file or directory")
            return
        self.send(request_id, Kind.DATA, struct.pack("<QI", len(data), 0o644) + data[offset : offset + length])

    def _restore(self, request_id: int, fields: _Reader) -> None:
        fields.number("I")
        for other in [other for other in self._running if other != request_id]:
            self._stop(other, 4)
        if fields.number("I"):
            fields.text()
            snapshot = self._snapshots.get(fields.text())
            entries = () if snapshot is None else snapshot.entries.items()
            self._files.files = {path: entry.data for path, entry in entries if entry.kind == "file"}
        self.send(request_id, Kind.DONE, struct.pack("<IIIIQQ", 0, 0, 0, 0, 0, 0))
