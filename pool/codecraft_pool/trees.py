"""What the guest can say of, take out of and put into whole trees, over one channel: the tools, and IMPORT."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from codecraft_pool.channel import Channel, RunReply
from codecraft_pool.digest import Digest, DigestEntry
from codecraft_pool.errors import ProtocolError, RequestRefused
from codecraft_pool.protocol import AGENT, Stop, Tool
from codecraft_pool.requests import encode_import, encode_tool

_GRACE_S: Final = 15.0
_PIECE_BYTES: Final = 1 << 20
_DIGEST_CONTENTS: Final = 1
_DIGEST_LAYER: Final = 2
_DIGEST_ALONE: Final = 4
_MAX_PATHS: Final = 64
_WHY: Final[Mapping[Stop, str]] = {
    Stop.WALL_LIMIT: "it took longer than {limit_s:g} s",
    Stop.OUTPUT_CAP: "the answer is larger than {max_bytes} bytes",
    Stop.CANCELLED: "it was cancelled",
    Stop.RESTORED: "the sandbox was restored meanwhile",
}


@dataclass(frozen=True, slots=True)
class TreeUse:
    """What the file system of a tree holds and may hold; 0 where it has no limit."""

    bytes_used: int
    bytes_limit: int
    files_used: int
    files_limit: int


@dataclass(frozen=True, slots=True)
class SandboxStat:
    """What a sandbox uses. `processes` leaves out the guest; memory in bytes.

    `memory_bytes` is the kernel's count for the sandbox where it can be seen inside (then `memory_limit_bytes` is its
    limit, if there is one), else the sum of what its processes hold, shared pages counted more than once.
    """

    processes: int
    memory_bytes: int
    memory_limit_bytes: int | None
    guest_bytes: int
    trees: Mapping[str, TreeUse]


class Trees:
    """The tools of one sandbox's guest."""

    def __init__(self, sandbox: str, channel: Channel) -> None:
        self._sandbox = sandbox
        self._channel = channel

    async def digest(self, paths: Sequence[str], *, contents: bool, limit_s: float, max_bytes: int) -> Digest:
        """Return what is in the trees."""
        flags = _DIGEST_CONTENTS if contents else 0
        return Digest.parse(await self._tool(Tool.DIGEST, paths, flags=flags, limit_s=limit_s, max_bytes=max_bytes))

    async def layer(self, *, limit_s: float, max_bytes: int) -> Digest:
        """Return what is in the layer over the root file system."""
        flags = _DIGEST_CONTENTS | _DIGEST_LAYER
        return Digest.parse(await self._tool(Tool.DIGEST, (), flags=flags, limit_s=limit_s, max_bytes=max_bytes))

    async def look_at(self, paths: Sequence[str], *, limit_s: float, max_bytes: int) -> dict[str, DigestEntry]:
        """Return what is at each path, without what is below it."""
        found: dict[str, DigestEntry] = {}
        flags = _DIGEST_CONTENTS | _DIGEST_ALONE
        for at in range(0, len(paths), _MAX_PATHS):
            some = paths[at : at + _MAX_PATHS]
            data = await self._tool(Tool.DIGEST, some, flags=flags, limit_s=limit_s, max_bytes=max_bytes)
            found.update(Digest.parse(data))
        return found

    async def export(self, path: str, *, limit_s: float, max_bytes: int) -> bytes:
        """Return the stream of a tree."""
        return await self._tool(Tool.EXPORT, [path], limit_s=limit_s, max_bytes=max_bytes)

    async def take(self, path: str, stream: bytes, *, uid: int = AGENT, limit_s: float) -> None:
        """End every process and make a tree what *stream* says, given to *uid* where it says "the agent"."""
        end = max(1, len(stream))
        for at in range(0, end, _PIECE_BYTES):  # one piece at a time, for the guest to keep up
            request_id = self._channel.next_id()
            piece = stream[at : at + _PIECE_BYTES]
            last = at + _PIECE_BYTES >= end
            frame = encode_import(request_id, path, piece, first=at == 0, last=last, uid=uid, gid=uid)
            await self._channel.request(request_id, frame, what=f"import {path}", limit_s=limit_s)

    async def inspect(self, *, limit_s: float) -> tuple[str, ...]:
        """Return the lines of INSPECT, sorted."""
        data = await self._tool(Tool.INSPECT, (), limit_s=limit_s, max_bytes=_PIECE_BYTES)
        return tuple(sorted(data.decode("ascii", "replace").splitlines()))

    async def stat(self, paths: Sequence[str], *, limit_s: float) -> SandboxStat:
        """Return what the sandbox uses, and what the trees hold."""
        data = await self._tool(Tool.STAT, paths, limit_s=limit_s, max_bytes=_PIECE_BYTES)
        return _parse_stat(data.decode("ascii", "replace"), paths)

    async def _tool(self, tool: Tool, paths: Sequence[str], *, flags: int = 0, limit_s: float, max_bytes: int) -> bytes:
        what = f"{tool.name.lower()} {' '.join(paths)}".rstrip()
        request_id = self._channel.next_id()
        limit_ms = max(1, int(limit_s * 1000))
        frame = encode_tool(request_id, tool, paths, limit_ms=limit_ms, max_output_bytes=max_bytes, flags=flags)
        reply = await self._channel.request(request_id, frame, what=what, limit_s=limit_s + _GRACE_S, is_run=True)
        assert isinstance(reply, RunReply) and reply.exit is not None
        end = reply.exit
        if end.stop is not Stop.BY_ITSELF:
            why = _WHY.get(end.stop, "it was stopped").format(limit_s=limit_s, max_bytes=max_bytes)
            code = errno.EFBIG if end.stop is Stop.OUTPUT_CAP else errno.ECANCELED
            raise RequestRefused(self._sandbox, what, code, why)
        if end.signalled or end.code != 0:
            words = b"".join(reply.stderr).decode("utf-8", "replace")
            why = f"signal {end.code} killed it" if end.signalled else words
            raise RequestRefused(self._sandbox, what, errno.EIO, why)
        return b"".join(reply.stdout)


def _parse_stat(text: str, paths: Sequence[str]) -> SandboxStat:
    values: dict[str, int] = {}
    trees: list[TreeUse] = []
    try:
        for line in text.splitlines():
            key, *numbers = line.split()
            if key == "tree":
                trees.append(TreeUse(*map(int, numbers)))
            else:
                (values[key],) = map(int, numbers)
        limit = values["memory_limit_bytes"]
        return SandboxStat(
            processes=values["processes"],
            memory_bytes=values["memory_bytes"],
            memory_limit_bytes=limit if 0 <= limit < 1 << 60 else None,
            guest_bytes=values["guest_bytes"],
            trees=dict(zip(paths, trees, strict=True)),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise ProtocolError(f"what the guest says of its use is malformed: {exc!r}") from exc
