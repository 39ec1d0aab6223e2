"""The daemon's attach stream, cut into its parts."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecraft_pool import ProtocolError
from codecraft_pool.attach import Demultiplexer

PARTS = st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=200)), max_size=12)


def encode(parts: list[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack(">BxxxI", stream, len(data)) + data for stream, data in parts)


@given(PARTS, st.data())
def test_any_chunking(parts: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """However the bytes arrive, the same parts come out, each as soon as it is whole."""
    stream = encode(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    demultiplexer = Demultiplexer()
    out: list[tuple[int, bytes]] = []
    fed = 0
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out += demultiplexer.feed(stream[start:end])
        fed = end
        whole = 0
        while len(encode(parts[: whole + 1])) <= fed and whole < len(parts):
            whole += 1
        assert parts[:whole] == out
    assert parts == out


def test_byte_by_byte() -> None:
    """Single bytes do as well."""
    demultiplexer = Demultiplexer()
    out = [part for byte in encode([(1, b"ab"), (2, b""), (1, b"c")]) for part in demultiplexer.feed(bytes([byte]))]
    assert [(1, b"ab"), (2, b""), (1, b"c")] == out


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"\x03\0\0\0\0\0\0\x01", "stream 3 with 1 bytes"),
        (b"HTTP/1.1", "stream 72"),
        (b"\x01\0\0\0\xff\xff\xff\xff", "stream 1 with 4294967295 bytes"),
    ],
)
def test_rubbish(header: bytes, why: str) -> None:
    """What is no part of a stream is refused at its header, before anything is waited for."""
    demultiplexer = Demultiplexer()
    assert [(1, b"x")] == demultiplexer.feed(encode([(1, b"x")]))
    with pytest.raises(ProtocolError, match=why):
        demultiplexer.feed(header)


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes(data: bytes, size: int) -> None:
    """Whatever comes, it is parts or a `ProtocolError`, and no more is kept than was fed."""
    demultiplexer = Demultiplexer()
    got = 0
    try:
        for start in range(0, len(data), size):
            got += sum(8 + len(part) for _, part in demultiplexer.feed(data[start : start + size]))
    except ProtocolError:
        return
    assert got <= len(data)
