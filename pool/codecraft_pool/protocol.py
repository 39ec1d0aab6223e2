"""The guest protocol: bytes to frames and back. Knows no socket. Specification: pool/README.md.

Nothing here waits, and nothing is allocated by a number that the other side merely announced.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from codecraft_pool.errors import ProtocolError

PROTOCOL_VERSION: Final = 2
MAX_PAYLOAD_BYTES: Final = 1 << 24
MAX_READ_BYTES: Final = 1 << 23
AGENT: Final = 0xFFFF_FFFF
"""uid and gid that mean the unprivileged user given to the guest when it started."""

_HEADER: Final = struct.Struct("<IIB3s")
_U32: Final = struct.Struct("<I")
_EXIT: Final = struct.Struct("<BBHiQQQQQ")
_DONE: Final = struct.Struct("<IIIIQQII")
_DATA: Final = struct.Struct("<QI")
_HELLO: Final = struct.Struct("<III")
_ERROR: Final = struct.Struct("<i")


class Kind(IntEnum):
    """What a frame is; bit 7 tells the guest's replies from the host's requests."""

    RUN = 0x01
    CANCEL = 0x02
    WRITE = 0x03
    READ = 0x04
    RESTORE = 0x05
    PING = 0x06
    SHELL = 0x07
    SHELL_RUN = 0x08
    INTERRUPT = 0x09
    SHELL_CLOSE = 0x0A
    TOOL = 0x0B
    IMPORT = 0x0C
    HELLO = 0x80
    OUTPUT = 0x81
    EXIT = 0x82
    DONE = 0x83
    DATA = 0x84
    PONG = 0x85
    ERROR = 0x86


class Stop(IntEnum):
    """Why a command ended."""

    BY_ITSELF = 0
    WALL_LIMIT = 1
    OUTPUT_CAP = 2
    CANCELLED = 3
    RESTORED = 4
    CPU_LIMIT = 5


class ExitFlag(IntFlag):
    """What else the guest noticed when a command ended."""

    OUT_OF_MEMORY = 1
    SHELL_ENDED = 2


class Tool(IntEnum):
    """What a TOOL does: its output is specified in pool/README.md."""

    DIGEST = 1
    EXPORT = 2
    INSPECT = 3
    STAT = 4


class WriteFlag(IntFlag):
    """How WRITE treats what is there."""

    TRUNCATE = 1
    PARENTS = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """The guest's first frame."""

    version: int
    uid: int
    gid: int


class Output(NamedTuple):  # a tuple is made in half the time, and every step makes some
    """Bytes that a command printed; `stream` is 1 for stdout, 2 for stderr."""

    id: int
    stream: int
    data: bytes


class Exit(NamedTuple):
    """How a command ended; times in ns and us, memory in KiB, as on the wire."""

    id: int
    signalled: bool
    stop: Stop
    code: int
    wall_ns: int
    user_us: int
    system_us: int
    peak_kib: int
    dropped_bytes: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """A request that worked; `body` is read with `wrote` or `restored`, and empty after what has nothing to say."""

    id: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Data:
    """Part of a file."""

    id: int
    file_bytes: int
    mode: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to PING."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Error:
    """A request that could not be done, or (id 0) the guest's last words."""

    id: int
    errno: int
    message: str


Reply = Hello | Output | Exit | Done | Data | Pong | Error


@dataclass(frozen=True, slots=True)
class TreeRestore:
    """One tree of a RESTORE: where, from which snapshot directory ("" = empty), owned by whom, root's mode."""

    tree: str
    snapshot: str = ""
    uid: int = AGENT
    gid: int = AGENT
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class RestoreCounts:
    """What a RESTORE did; `kept` entries were left alone, `compared` ones of these (or of those made) by content."""

    killed: int
    removed: int
    made: int
    kept: int
    compared: int
    copied_bytes: int
    wall_ns: int


# --- encoding; the requests are in requests.py ---


def encode_frame(request_id: int, kind: int, payload: bytes) -> bytes:
    """Return one frame.

    Raises:
        ProtocolError: The payload is larger than a frame may be.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ProtocolError(
            f"a {Kind(kind).name} of {len(payload)} bytes is over the frame limit of {MAX_PAYLOAD_BYTES}"
        )
    return _HEADER.pack(len(payload), request_id, kind, b"\0\0\0") + payload


# --- decoding ---------------------------------------------------------------------------------------------------------


class Decoder:
    """Cuts a byte stream into replies. After a ProtocolError it must not be fed again."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = max_payload_bytes

    def feed(self, data: bytes | bytearray | memoryview) -> list[Reply]:
        """Return the frames that *data* completes, in order; keep the rest for the next call.

        Raises:
            ProtocolError: The bytes are no frame of the guest; says what was wrong.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Reply] = []
        start, have = 0, len(buffer)
        while have - start >= _HEADER.size:
            length, request_id, kind, spare = _HEADER.unpack_from(buffer, start)
            _check_header(length, kind, spare, self._limit)
            end = start + _HEADER.size + length
            if end > have:
                break
            frames.append(_parse_reply(request_id, kind, bytes(buffer[start + _HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return frames

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame; not 0 at the end of a stream means it was cut in mid-frame."""
        return len(self._buffer)


def _check_header(length: int, kind: int, spare: bytes, limit: int) -> None:
    if length > limit:
        raise ProtocolError(f"a frame announces {length} bytes, over the limit of {limit}")
    if kind not in _PARSERS:
        raise ProtocolError(f"a frame has kind {kind:#04x}, which no guest sends")
    if spare != b"\0\0\0":
        raise ProtocolError(f"a frame's reserved bytes are {spare.hex()}, not zero")


def _parse_reply(request_id: int, kind: int, payload: bytes) -> Reply:
    try:
        return _PARSERS[kind](request_id, payload)
    except (struct.error, ValueError) as exc:
        raise ProtocolError(
            f"a {Kind(kind).name} of {len(payload)} bytes for request {request_id} is malformed: {exc}"
        ) from exc


def _hello(request_id: int, payload: bytes) -> Hello:
    if request_id:
        raise ValueError("its id is not 0")
    return Hello(*_HELLO.unpack(payload))


def _output(request_id: int, payload: bytes) -> Output:
    if not payload or payload[0] not in (1, 2):
        raise ValueError("it names no stream")
    return Output(request_id, payload[0], payload[1:])


_STOPS: Final = tuple(Stop)  # looked up in a fraction of the time of a call


def _exit(request_id: int, payload: bytes) -> Exit:
    how, stop, flags, code, wall_ns, user_us, system_us, peak_kib, dropped = _EXIT.unpack(payload)
    if how > 1 or flags > 3 or stop >= len(_STOPS):
        raise ValueError("it says no known way to end")
    return Exit(request_id, how == 1, _STOPS[stop], code, wall_ns, user_us, system_us, peak_kib, dropped, flags)


def _done(request_id: int, payload: bytes) -> Done:
    if len(payload) not in (0, 8, _DONE.size):
        raise ValueError("its length fits no request")
    return Done(request_id, payload)


def _data(request_id: int, payload: bytes) -> Data:
    file_bytes, mode = _DATA.unpack_from(payload)
    return Data(request_id, file_bytes, mode, payload[_DATA.size :])


def _pong(request_id: int, payload: bytes) -> Pong:
    return Pong(request_id, payload)


def _error(request_id: int, payload: bytes) -> Error:
    (code,) = _ERROR.unpack_from(payload)
    return Error(request_id, code, payload[_ERROR.size :].decode("utf-8", "replace"))


_PARSERS: Final[Mapping[int, Callable[[int, bytes], Reply]]] = {
    int(Kind.HELLO): _hello,
    int(Kind.OUTPUT): _output,
    int(Kind.EXIT): _exit,
    int(Kind.DONE): _done,
    int(Kind.DATA): _data,
    int(Kind.PONG): _pong,
    int(Kind.ERROR): _error,
}


def wrote(done: Done) -> int:
    """Return how many bytes a WRITE wrote."""
    if len(done.body) != 8:
        raise ProtocolError(f"request {done.id}: a WRITE was answered by {len(done.body)} bytes")
    (count,) = struct.unpack("<Q", done.body)
    return int(count)


def restored(done: Done) -> RestoreCounts:
    """Return what a RESTORE did."""
    if len(done.body) != _DONE.size:
        raise ProtocolError(f"request {done.id}: a RESTORE was answered by {len(done.body)} bytes")
    killed, removed, made, kept, copied_bytes, wall_ns, compared, _ = _DONE.unpack(done.body)
    return RestoreCounts(killed, removed, made, kept, compared, copied_bytes, wall_ns)
