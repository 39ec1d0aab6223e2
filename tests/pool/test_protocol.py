"""The protocol: any chunking gives the same frames, and rubbish ends with an error that says what was wrong."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecraft_pool.errors import ProtocolError
from codecraft_pool.protocol import (
    MAX_PAYLOAD_BYTES,
    Data,
    Decoder,
    Done,
    Error,
    Exit,
    Hello,
    Kind,
    Output,
    Pong,
    Reply,
    RestoreCounts,
    Stop,
    encode_frame,
    restored,
    wrote,
)
from codecraft_pool.requests import (
    encode_interrupt,
    encode_ping,
    encode_run,
    encode_shell_close,
    encode_shell_open,
    encode_shell_run,
)

ids = st.integers(1, 0xFFFF_FFFF)
u32 = st.integers(0, 0xFFFF_FFFF)
u64 = st.integers(0, (1 << 64) - 1)
short = st.binary(max_size=300)


def on_the_wire(reply: Reply) -> bytes:
    """Return the frame that a guest sends for *reply*; written apart from the decoder, after the specification."""
    match reply:
        case Hello(version, uid, gid):
            return encode_frame(0, Kind.HELLO, struct.pack("<III", version, uid, gid))
        case Output(number, stream, data):
            return encode_frame(number, Kind.OUTPUT, bytes([stream]) + data)
        case Exit(number, signalled, stop, code, wall_ns, user_us, system_us, peak_kib, dropped, flags):
            body = struct.pack("<BBHiQQQQ", signalled, stop, flags, code, wall_ns, user_us, system_us, peak_kib)
            body += struct.pack("<Q", dropped)
            return encode_frame(number, Kind.EXIT, body)
        case Done(number, body):
            return encode_frame(number, Kind.DONE, body)
        case Data(number, file_bytes, mode, data):
            return encode_frame(number, Kind.DATA, struct.pack("<QI", file_bytes, mode) + data)
        case Pong(number, data):
            return encode_frame(number, Kind.PONG, data)
        case Error(number, code, message):
            return encode_frame(number, Kind.ERROR, struct.pack("<i", code) + message.encode())


replies: st.SearchStrategy[Reply] = st.one_of(
    st.builds(Hello, u32, u32, u32),
    st.builds(Output, ids, st.sampled_from([1, 2]), short),
    st.builds(
        Exit,
        ids,
        st.booleans(),
        st.sampled_from(Stop),
        st.integers(-(1 << 31), (1 << 31) - 1),
        *[u64] * 5,
        st.integers(0, 3),
    ),
    st.builds(
        Done, ids, st.one_of(st.just(b""), st.binary(min_size=8, max_size=8), st.binary(min_size=40, max_size=40))
    ),
    st.builds(Data, ids, u64, u32, short),
    st.builds(Pong, ids, short),
    st.builds(Error, st.integers(0, 0xFFFF_FFFF), st.integers(0, 4095), st.text(max_size=80)),
)


@given(st.lists(replies, max_size=12), st.data())
def test_any_chunking_of_any_interleaving_gives_the_same_frames(frames: list[Reply], data: st.DataObject) -> None:
    """However a stream of replies to many requests is cut, the decoder returns them whole and in order."""
    stream = b"".join(map(on_the_wire, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder = Decoder()
    got: list[Reply] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.feed(stream[start:end])
    assert frames == got
    assert 0 == decoder.pending_bytes


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_rubbish_is_a_protocol_error_or_waits_for_more(rubbish: bytes, step: int) -> None:
    """Random bytes never raise anything but ProtocolError, and never make the decoder hold more than it was fed."""
    decoder = Decoder()
    try:
        for start in range(0, len(rubbish), step):
            decoder.feed(rubbish[start : start + step])
            assert decoder.pending_bytes <= start + step
    except ProtocolError as exc:
        assert str(exc)


@given(replies, st.data())
def test_a_flipped_header_never_passes_for_another_error(frame: Reply, data: st.DataObject) -> None:
    """A frame with one changed byte decodes, waits, or is a ProtocolError; nothing else."""
    wire = bytearray(on_the_wire(frame))
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    decoder = Decoder()
    try:
        decoder.feed(bytes(wire))
    except ProtocolError as exc:
        assert str(exc)
    assert decoder.pending_bytes <= len(wire)


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (struct.pack("<IIB3s", MAX_PAYLOAD_BYTES + 1, 1, Kind.PONG, b"\0\0\0"), "16777217 bytes, over the limit"),
        (struct.pack("<IIB3s", 0, 1, 0x42, b"\0\0\0"), "kind 0x42"),
        (struct.pack("<IIB3s", 0, 1, Kind.RUN, b"\0\0\0"), "kind 0x01"),
        (struct.pack("<IIB3s", 0, 1, Kind.PONG, b"\0\1\0"), "reserved bytes are 000100"),
        (encode_frame(1, Kind.HELLO, bytes(12)), "id is not 0"),
        (encode_frame(0, Kind.HELLO, bytes(11)), "HELLO of 11 bytes"),
        (encode_frame(7, Kind.OUTPUT, b""), "names no stream"),
        (encode_frame(7, Kind.OUTPUT, b"\3x"), "names no stream"),
        (encode_frame(7, Kind.EXIT, bytes(47)), "EXIT of 47 bytes for request 7"),
        (encode_frame(7, Kind.EXIT, b"\2" + bytes(47)), "no known way to end"),
        (encode_frame(7, Kind.EXIT, b"\0\x09" + bytes(46)), "malformed"),
        (encode_frame(7, Kind.EXIT, b"\0\0\4" + bytes(45)), "no known way to end"),
        (encode_frame(7, Kind.DONE, bytes(9)), "fits no request"),
        (encode_frame(7, Kind.DATA, bytes(11)), "DATA of 11 bytes"),
        (encode_frame(7, Kind.ERROR, bytes(3)), "ERROR of 3 bytes"),
    ],
)
def test_a_malformed_frame_is_named(wire: bytes, words: str) -> None:
    """Each rule of the specification that a frame can break has an error that says which."""
    with pytest.raises(ProtocolError, match=words):
        Decoder().feed(wire)


def test_a_frame_over_the_limit_is_refused_before_it_is_held() -> None:
    """The header alone is enough to refuse a frame: nothing is allocated by the announced length."""
    with pytest.raises(ProtocolError, match="over the limit of 10"):
        Decoder(max_payload_bytes=10).feed(struct.pack("<IIB3s", 11, 1, Kind.PONG, b"\0\0\0"))


def test_a_request_over_the_limit_is_refused_by_the_encoder() -> None:
    """A host does not send what its guest must refuse."""
    with pytest.raises(ProtocolError, match="PING of 16777217 bytes is over the frame limit"):
        encode_ping(1, bytes(MAX_PAYLOAD_BYTES + 1))


def test_a_run_is_laid_out_as_specified() -> None:
    """The bytes of a RUN are those of pool/README.md."""
    frame = encode_run(
        9,
        ["sh", "-c", "é"],
        cwd="/w",
        env=["A=b"],
        stdin=b"in",
        limit_ms=1500,
        max_output_bytes=77,
        uid=1,
        gid=2,
        cpu_ms=250,
        max_file_bytes=1 << 40,
        max_processes=12,
    )
    body = (
        struct.pack("<IQIIIIQI", 1500, 77, 1, 2, 0, 250, 1 << 40, 12)
        + b"\2\0\0\0/w"
        + b"\3\0\0\0"
        + b"\2\0\0\0sh\2\0\0\0-c\2\0\0\0\xc3\xa9"
        + b"\1\0\0\0\3\0\0\0A=b"
        + b"\2\0\0\0in"
    )
    assert struct.pack("<IIB3s", len(body), 9, 1, b"\0\0\0") + body == frame


def test_requests_of_shells_are_laid_out_as_specified() -> None:
    """The bytes of SHELL, SHELL_RUN, INTERRUPT and SHELL_CLOSE are those of pool/README.md."""
    opened = encode_shell_open(9, 3, ["sh"], cwd="/w", env=["A=b"], uid=1, gid=2, merge_stderr=True)
    body = struct.pack("<IIII", 3, 1, 2, 1) + b"\2\0\0\0/w\1\0\0\0\2\0\0\0sh\1\0\0\0\3\0\0\0A=b"
    assert struct.pack("<IIB3s", len(body), 9, 7, b"\0\0\0") + body == opened
    run = encode_shell_run(9, 3, "é", limit_ms=1500, max_output_bytes=77, cpu_ms=250)
    body = struct.pack("<IIQII", 3, 1500, 77, 250, 0) + b"\2\0\0\0\xc3\xa9"
    assert struct.pack("<IIB3s", len(body), 9, 8, b"\0\0\0") + body == run
    assert struct.pack("<IIB3s", 0, 9, 9, b"\0\0\0") == encode_interrupt(9)
    assert struct.pack("<IIB3sI", 4, 9, 10, b"\0\0\0", 3) == encode_shell_close(9, 3)


def test_the_answers_to_write_and_restore_are_told_apart_by_length() -> None:
    """A DONE that fits the other request is a protocol error."""
    write = Done(1, struct.pack("<Q", 5))
    restore = Done(2, struct.pack("<IIIIQQII", 1, 2, 3, 4, 6, 7, 5, 0))
    assert 5 == wrote(write)
    assert RestoreCounts(1, 2, 3, 4, 5, 6, 7) == restored(restore)
    with pytest.raises(ProtocolError, match="a WRITE was answered by 40 bytes"):
        wrote(restore)
    with pytest.raises(ProtocolError, match="a RESTORE was answered by 8 bytes"):
        restored(write)
