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
from itertools import count
from typing import Self

from codecraft_pool.channel import Channel
from codecraft_pool.errors import LaunchError
from codecraft_pool.fake_trees import answer_tool, imported
from codecraft_pool.launcher import LauncherStats
from codecraft_pool.protocol import PROTOCOL_VERSION, Kind, Tool, encode_frame
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import WORKSPACE, SandboxSpec


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
        self._numbers = count()

    def stats(self) -> LauncherStats:
        """Return how it reaches its sandboxes: not at all."""
        return LauncherStats(transport="fake")

    async def __aenter__(self) -> Self:
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
        name = f"fake-{next(self._numbers)}"
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
        self._stream = b""
        self._running: dict[int, asyncio.Task[None]] = {}
        self._commands: set[int] = set()
        self._shells: dict[int, str] = {}

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
        if kind == Kind.INTERRUPT:
            return  # what answers here knows no signals
        work = self._serve(request_id, Kind(kind), _Reader(data[12:]), data[12:])
        task = self._running[request_id] = asyncio.get_running_loop().create_task(work)
        if kind in (Kind.RUN, Kind.SHELL_RUN):
            self._commands.add(request_id)
        task.add_done_callback(lambda _: self._ended(request_id))

    def _ended(self, request_id: int) -> None:
        self._running.pop(request_id, None)
        self._commands.discard(request_id)

    def _stop(self, request_id: int, reason: int) -> None:
        task = self._running.get(request_id)
        if task is not None and not task.done():
            task.cancel()
            self.send(request_id, Kind.EXIT, struct.pack("<BBHiQQQQQ", 1, reason, 0, 9, *bytes(5)))

    async def _serve(self, request_id: int, kind: Kind, fields: _Reader, payload: bytes) -> None:
        if kind is Kind.RUN:
            await self._run(request_id, fields)
        elif kind in (Kind.SHELL, Kind.SHELL_RUN, Kind.SHELL_CLOSE):
            await self._shell(request_id, kind, fields)
        elif kind is Kind.WRITE:
            self._write(request_id, fields)
        elif kind is Kind.READ:
            self._read(request_id, fields)
        elif kind is Kind.RESTORE:
            self._restore(request_id, fields)
        elif kind is Kind.TOOL:
            self._tool(request_id, fields)
        elif kind is Kind.IMPORT:
            self._import(request_id, fields)
        else:
            self.send(request_id, Kind.PONG, payload)

    async def _run(self, request_id: int, fields: _Reader) -> None:
        for form in "IQIIIIQI":
            fields.number(form)
        fields.text()
        await self._give_answer(request_id, [fields.text() for _ in range(fields.number("I"))])

    async def _shell(self, request_id: int, kind: Kind, fields: _Reader) -> None:
        number = fields.number("I")
        if kind is Kind.SHELL_RUN:
            program = self._shells.get(number)
            for form in "IQII":
                fields.number(form)
            if program is None:
                self.send(request_id, Kind.ERROR, struct.pack("<i", errno.ESRCH) + b"there is no such shell")
                return
            await self._give_answer(request_id, [program, "-c", fields.text()])
            return
        if kind is Kind.SHELL:
            for form in "III":
                fields.number(form)
            fields.text()
            fields.number("I")
            if number in self._shells:
                self.send(request_id, Kind.ERROR, struct.pack("<i", errno.EBUSY) + b"the shell is open already")
                return
            self._shells[number] = fields.text()
        else:
            self._shells.pop(number, None)
        self.send(request_id, Kind.DONE, b"")

    async def _give_answer(self, request_id: int, argv: list[str]) -> None:
        answer = await self._answer(self._files, argv)
        for stream, data in ((b"\1", answer.stdout), (b"\2", answer.stderr)):
            if data:
                self.send(request_id, Kind.OUTPUT, stream + data)
        self.send(request_id, Kind.EXIT, struct.pack("<BBHiQQQQQ", 0, 0, 0, answer.exit_code, *bytes(5)))

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

    def _tool(self, request_id: int, fields: _Reader) -> None:
        tool, _, _, _ = (fields.number(form) for form in "IIQI")
        paths = [fields.text() for _ in range(fields.number("I"))]
        self.send(request_id, Kind.OUTPUT, b"\1" + answer_tool(Tool(tool), paths, self._files.files))
        self.send(request_id, Kind.EXIT, struct.pack("<BBHiQQQQQ", *[0] * 9))

    def _import(self, request_id: int, fields: _Reader) -> None:
        flags, tree, _, _, piece = (fields.number("I"), fields.text(), *map(fields.number, "II"), fields.bytes())
        if tree == WORKSPACE:
            self._stream = piece if flags & 1 else self._stream + piece
            if flags & 2:
                self._files.files = imported(self._stream)
        self.send(request_id, Kind.DONE, struct.pack("<Q", len(piece)))

    def _restore(self, request_id: int, fields: _Reader) -> None:
        fields.number("I")
        self._shells.clear()
        for command in list(self._commands):
            self._stop(command, 4)
        if fields.number("I"):
            fields.text()
            snapshot = self._snapshots.get(fields.text())
            self._files.files = {} if snapshot is None else snapshot.contents()
        self.send(request_id, Kind.DONE, struct.pack("<IIIIQQII", 0, 0, 0, 0, 0, 0, 0, 0))
