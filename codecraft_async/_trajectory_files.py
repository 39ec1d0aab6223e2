"""The bytes of trajectory files: compression that a crash cannot spoil, and reading what is there of it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

Compression = Literal["none", "gzip", "zstd"]
SUFFIXES: Final[dict[Compression, str]] = {"none": ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}
MAX_LINE_BYTES: Final = 256 << 20
_CHUNK_BYTES: Final = 1 << 16
_ZSTD_CHUNK_BYTES: Final = 1 << 12  # all that comes of one is in memory at once, and is lost where one is damaged
_GZIP: Final = 31  # zlib's number for gzip's header and trailer, with the largest window
_GZIP_LEVEL: Final = 3
_ZSTD_LEVEL: Final = 3


class MissingZstd(ImportError):
    """The package that zstd needs is not installed."""

    def __init__(self) -> None:
        super().__init__("zstd needs the package zstandard: pip install 'codecraft-async[zstd]', or use gzip")


class Codec(Protocol):
    """Turns lines into the bytes of one file. All of a line can be read once its bytes are written."""

    def encode(self, line: bytes) -> bytes:
        """Return what is to be written for *line*."""
        ...

    def end(self) -> bytes:
        """Return what is to be written when the file is complete."""
        ...


class _Plain:
    def encode(self, line: bytes) -> bytes:
        return line

    def end(self) -> bytes:
        return b""


class _Gzip:
    """One gzip member, flushed after each line: the window lasts, so that lines are compressed by those before."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)

    def encode(self, line: bytes) -> bytes:
        return self._stream.compress(line) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._stream.flush(zlib.Z_FINISH)


class _Zstd:
    """One zstd frame, flushed after each line."""

    def __init__(self) -> None:
        zstandard = import_zstd()
        self._block: int = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._stream = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()

    def encode(self, line: bytes) -> bytes:
        data: bytes = self._stream.compress(line) + self._stream.flush(self._block)
        return data

    def end(self) -> bytes:
        data: bytes = self._stream.flush()
        return data


def import_zstd() -> Any:
    """Return the package zstandard.

    Raises:
        MissingZstd: It is not installed.
    """
    try:
        import zstandard
    except ImportError:
        raise MissingZstd from None
    return zstandard


CODECS: Final[dict[Compression, Callable[[], Codec]]] = {"none": _Plain, "gzip": _Gzip, "zstd": _Zstd}


def compression_of(path: Path) -> Compression | None:
    """Return how a file of this name is compressed; None if it is no trajectory's name."""
    return next((kind for kind, suffix in SUFFIXES.items() if path.name.endswith(suffix)), None)


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line's bytes without its end, and its number, from 1. `is_whole`: its end was there."""

    number: int
    data: bytes
    is_whole: bool


class BrokenStream(ValueError):
    """The bytes of a compressed file make no sense."""


def read_raw_lines(path: Path) -> Iterator[RawLine]:
    """Yield the lines of a file, decompressed; the last one may not be whole.

    Raises:
        BrokenStream: From here on nothing can be had of the file: it is damaged, or a line is over `MAX_LINE_BYTES`.
        MissingZstd: It is compressed with zstd, and the package for that is not installed.
        OSError: It cannot be read.
    """
    kind = compression_of(path) or _sniff(path)
    rest, number = bytearray(), 0
    for chunk in _READERS[kind](path):
        searched = len(rest)
        rest += chunk
        if rest.find(b"\n", searched) >= 0:
            *lines, tail = rest.split(b"\n")
            rest = tail
            for line in lines:
                number += 1
                yield RawLine(number, bytes(line), True)
        if len(rest) > MAX_LINE_BYTES:
            raise BrokenStream(f"line {number + 1} is longer than {MAX_LINE_BYTES} bytes, which no recorder writes")
    if rest:
        yield RawLine(number + 1, bytes(rest), False)


def _sniff(path: Path) -> Compression:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if head == b"\x28\xb5\x2f\xfd" else "none"


def _chunks(path: Path, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(size):
            yield chunk


def _gzip_chunks(path: Path) -> Iterator[bytes]:
    """Yield what there is of all members; that the last one has no end is nothing to complain of."""
    stream = zlib.decompressobj(_GZIP)
    for chunk in _chunks(path):
        data = chunk
        while data:
            if stream.eof:
                stream = zlib.decompressobj(_GZIP)
            try:
                yield stream.decompress(data, _CHUNK_BYTES)
            except zlib.error as error:
                raise BrokenStream(f"its gzip stream is damaged: {error}") from None
            data = stream.unconsumed_tail or stream.unused_data
    while not stream.eof and (data := stream.decompress(stream.unconsumed_tail, _CHUNK_BYTES)):
        yield data


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    zstandard = import_zstd()
    make = zstandard.ZstdDecompressor().decompressobj
    stream = make()
    for chunk in _chunks(path, _ZSTD_CHUNK_BYTES):
        data = chunk
        while data:
            if stream.eof:
                stream = make()
            try:
                yield stream.decompress(data)
            except zstandard.ZstdError as error:
                raise BrokenStream(f"its zstd stream is damaged: {error}") from None
            data = stream.unused_data


_READERS: Final[dict[Compression, Callable[[Path], Iterator[bytes]]]] = {
    "none": _chunks,
    "gzip": _gzip_chunks,
    "zstd": _zstd_chunks,
}


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*, in one call wherever the system takes it in one.

    Raises:
        OSError: It cannot be written; part of it may have been.
    """
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])
