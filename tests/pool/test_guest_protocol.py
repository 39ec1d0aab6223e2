"""The channel: frames that break the rules end it with a reason, and its end is the sandbox's end."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from codecraft_pool.protocol import Error, Exit, Hello, Reply, Tool, TreeRestore, encode_frame
from codecraft_pool.requests import (
    encode_import,
    encode_ping,
    encode_read,
    encode_restore,
    encode_run,
    encode_shell_open,
    encode_shell_run,
    encode_tool,
    encode_write,
)
from tests.pool.guest_harness import BUILDS, PATH, Guest, GuestEnded, binary, needs_root, pong

pytestmark = needs_root

RUN = encode_run(7, ["true"], env=["A=1"], stdin=b"xyz")
WRITE = encode_write(7, "/ws", "a", b"data")
READ = encode_read(7, "/ws", "a")
SHELL = encode_shell_open(7, 1, ["sh"], env=["A=1"])
SHELL_RUN = encode_shell_run(7, 1, "true")
RESTORE = encode_restore(7, [TreeRestore("/ws", "/snap")])
TOOL = encode_tool(7, Tool.DIGEST, ["/ws", "/tmp"])
IMPORT = encode_import(7, "/ws", b"CCTR", first=True, last=True)


def header(length: int, request_id: int, kind: int, spare: bytes = b"\0\0\0") -> bytes:
    """Return a header that need not be right."""
    return struct.pack("<IIB", length, request_id, kind) + spare


def changed(frame: bytes, *, payload: bytes) -> bytes:
    """Return *frame* with another payload."""
    return encode_frame(7, frame[8], payload)


MALFORMED = {
    "too long": (header((1 << 24) + 1, 7, 6), "limit of 16777216"),
    "longest": (header(0xFFFFFFFF, 7, 6), "limit of 16777216"),
    "id 0": (header(0, 0, 6), "id 0"),
    "kind 0": (header(0, 7, 0), "0x00 is not a kind"),
    "kind 13": (header(0, 7, 13), "0x0d is not a kind"),
    "a reply": (header(0, 7, 0x80), "0x80 is not a kind"),
    "reserved": (header(0, 7, 6, b"\0\1\0"), "reserved"),
    "CANCEL with payload": (encode_frame(7, 2, b"x"), "CANCEL"),
    "PING too long": (encode_ping(7, bytes(4097)), "PING of 4097 bytes"),
    "RUN spare": (changed(RUN, payload=RUN[12:] + b"\0"), "do not fit"),
    "RUN short": (changed(RUN, payload=RUN[12:-1]), "do not fit"),
    "RUN without arguments": (encode_run(7, []), "argument count"),
    "RUN with too many arguments": (encode_run(7, ["x"] * 4097), "argument count"),
    "RUN with too many variables": (encode_run(7, ["x"], env=["A="] * 4097), "environment count"),
    "RUN with a huge count": (changed(RUN, payload=RUN[12:52] + struct.pack("<II", 0, 0xFFFFFFFF)), "argument count"),
    "RUN with a huge string": (changed(RUN, payload=RUN[12:52] + struct.pack("<I", 0xFFFFFFFF)), "argument count"),
    "WRITE spare": (changed(WRITE, payload=WRITE[12:] + b"x"), "do not fit"),
    "WRITE short": (changed(WRITE, payload=WRITE[12:-1]), "do not fit"),
    "READ spare": (changed(READ, payload=READ[12:] + b"x"), "do not fit"),
    "READ short": (changed(READ, payload=READ[12:-1]), "do not fit"),
    "RESTORE spare": (changed(RESTORE, payload=RESTORE[12:] + b"x"), "do not fit"),
    "RESTORE short": (changed(RESTORE, payload=RESTORE[12:-1]), "do not fit"),
    "SHELL spare": (changed(SHELL, payload=SHELL[12:] + b"\0"), "do not fit"),
    "SHELL short": (changed(SHELL, payload=SHELL[12:-1]), "do not fit"),
    "SHELL without arguments": (encode_shell_open(7, 1, []), "argument count"),
    "SHELL with too many variables": (encode_shell_open(7, 1, env=["A="] * 4097), "environment count"),
    "SHELL_RUN spare": (changed(SHELL_RUN, payload=SHELL_RUN[12:] + b"\0"), "do not fit"),
    "SHELL_RUN short": (changed(SHELL_RUN, payload=SHELL_RUN[12:-1]), "do not fit"),
    "SHELL_CLOSE short": (encode_frame(7, 0x0A, b"\1\0\0"), "do not fit"),
    "INTERRUPT with payload": (encode_frame(7, 9, b"x"), "INTERRUPT"),
    "TOOL spare": (changed(TOOL, payload=TOOL[12:] + b"x"), "do not fit"),
    "TOOL short": (changed(TOOL, payload=TOOL[12:-1]), "do not fit"),
    "TOOL of too many": (encode_tool(7, Tool.DIGEST, ["/ws"] * 65), "path count"),
    "IMPORT spare": (changed(IMPORT, payload=IMPORT[12:] + b"x"), "do not fit"),
    "IMPORT short": (changed(IMPORT, payload=IMPORT[12:-1]), "do not fit"),
    "RESTORE of too many": (encode_restore(7, [TreeRestore("/ws")] * 65), "tree count"),
}


@pytest.fixture(name="build", params=BUILDS)
def _build(request: pytest.FixtureRequest) -> str:
    build: str = request.param
    return build


@pytest.fixture(name="guest")
def _guest(build: str) -> Iterator[Guest]:
    with Guest(build) as guest:
        yield guest


def last_words(guest: Guest) -> Error:
    """Return the ERROR that ends the stream; the guest must have ended with it, with status 1."""
    frame = guest.next_frame()
    while not (isinstance(frame, Error) and frame.id == 0):
        frame = guest.next_frame()
    with pytest.raises(GuestEnded):
        guest.next_frame()
    assert 1 == guest.status()
    assert f"guest: {frame.message}\n" == guest.log()
    return frame


def test_hello_says_who_the_agent_is(build: str) -> None:
    """The first frame has the protocol's version and the agent's numbers."""
    with Guest(build, args=["--agent", "1234:5678"]) as guest:
        assert Hello(2, 1234, 5678) == guest.hello


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_frames_end_the_channel(guest: Guest, name: str) -> None:
    """Each breach has a message that names it; good requests before it were answered."""
    frame, words = MALFORMED[name]
    guest.send(encode_ping(3, b"before"), frame)
    assert b"before" == pong(guest.next_frame()).data
    assert words in last_words(guest).message


def test_an_id_in_use_ends_the_channel(guest: Guest) -> None:
    """Two running commands of one id could not be told apart."""
    guest.send(encode_run(9, ["sleep", "60"], env=[PATH]), encode_run(9, ["true"], env=[PATH]))
    assert "id 9" in last_words(guest).message


def test_every_truncation_of_a_run_is_refused(build: str) -> None:
    """A payload cut anywhere is refused, and read no further than it goes."""
    payload = RUN[12:]
    for size in range(0, len(payload), 5 if build == "release" else 11):
        with Guest(build) as guest:
            guest.send(changed(RUN, payload=payload[:size]))
            assert "RUN" in last_words(guest).message


def test_an_announcement_is_not_an_allocation(guest: Guest) -> None:
    """A header that promises 16 MiB costs nothing until the bytes come."""
    if guest.build == "sanitized":
        pytest.skip("the sanitizer's memory is its own")
    guest.send(header(1 << 24, 7, 1) + bytes(100))
    time.sleep(0.1)
    status = Path(f"/proc/{guest.pid()}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 4096


def test_frames_in_single_bytes_and_all_at_once(guest: Guest) -> None:
    """How the bytes are cut does not matter."""
    for byte in encode_ping(1, b"slow") + encode_run(2, ["echo", "x"], env=[PATH]):
        guest.send(bytes([byte]))
    assert b"slow" == pong(guest.next_frame()).data
    assert isinstance(guest.frames_of(2)[-1], Exit)
    guest.send(b"".join(encode_ping(i, str(i).encode()) for i in range(1, 5001)))
    assert [str(i).encode() for i in range(1, 5001)] == [pong(guest.next_frame()).data for _ in range(5000)]


def test_a_host_that_does_not_read_is_not_read_either(guest: Guest) -> None:
    """Replies that pile up stop the guest from taking requests: its memory is bounded. Later all is answered."""
    frames = b"".join(encode_ping(i, bytes(4096)) for i in range(1, 1001))
    sent = 0
    idle = 0
    while idle < 20 and sent < len(frames):
        size = guest.send_without_reading(frames[sent : sent + 65536])
        sent += size
        idle = 0 if size else idle + 1
        time.sleep(0.005)
    assert sent < 1 << 20  # two pipes, one chunk of requests and the queue
    if guest.build == "release":
        status = Path(f"/proc/{guest.pid()}/status").read_text()
        assert int(status.split("VmRSS:")[1].split()[0]) < 4096
    guest.send(frames[sent:])
    assert list(range(1, 1001)) == [pong(guest.next_frame()).id for _ in range(1000)]


@pytest.mark.parametrize("seed", range(12))
def test_rubbish_ends_with_a_reason(build: str, seed: int) -> None:
    """Random bytes, and valid frames with random damage, end in an ERROR with id 0 or are answered; never a hang."""
    chance = random.Random(seed)
    with Guest(build) as guest:
        with suppress(BrokenPipeError, GuestEnded):
            for _ in range(200):
                guest.send(_rubbish(chance))
            guest.send(header(0, 0, 0xFF) + bytes(1 << 16), bytes(17 << 20))  # completes whatever was announced
        last: Reply | None = None
        with suppress(GuestEnded):
            while True:
                last = guest.next_frame()
        assert isinstance(last, Error)
        assert 0 == last.id
        assert 1 == guest.status()


def _rubbish(chance: random.Random) -> bytes:
    frame = bytearray(
        chance.choice([RUN, WRITE, READ, RESTORE, SHELL, SHELL_RUN, TOOL, IMPORT, encode_ping(7, b"12345678")])
    )
    frame[4:8] = struct.pack("<I", chance.randrange(1, 1 << 32))
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(1, 200))
    if chance.random() < 0.3:
        for _ in range(chance.randrange(1, 4)):
            frame[chance.randrange(12, len(frame))] = chance.randrange(256)
    return bytes(frame)


def test_the_end_of_the_channel_is_the_end_of_everything(build: str) -> None:
    """Within a second of the host's leaving, the guest and all commands are gone."""
    with Guest(build) as guest:
        guest.begin(["sh", "-c", "setsid sleep 100 & setsid sleep 100 & exec sleep 100"])
        guest.shell("setsid sleep 100 & true")
        while int(guest.run("pgrep", "-c", "sleep").stdout) < 4:
            time.sleep(0.02)
        pids = _descendants(guest.pid())
        assert len(pids) >= 4
        began = time.monotonic()
        assert 0 == guest.end()
        assert time.monotonic() - began < 1
        assert [] == [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def _descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in _descendants(child)]


def test_requests_before_the_end_are_answered(build: str) -> None:
    """What was sent before the host closed its side is done: a write without waiting is not lost."""
    with Guest(build) as guest:
        guest.send(encode_write(1, "/tmp", "x", b"data"), encode_ping(2, b"y"))
        guest.end()
        assert 0 == guest.status()


def test_a_host_that_only_stops_reading_ends_it_too(build: str) -> None:
    """A broken reply stream is a lost host."""
    with Guest(build) as guest:
        guest.close_replies()
        guest.send_without_reading(encode_ping(1))
        assert 0 == guest.status()


@pytest.mark.parametrize("build", BUILDS)
def test_it_refuses_to_be_any_process_but_the_first(build: str) -> None:
    """Its kill(-1) must never meet a whole machine. (This starts it where it has one other process to meet.)"""
    script = f"{binary(build)}; echo status $?"
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]
    ended = subprocess.run(command, capture_output=True, timeout=20, check=True, stdin=subprocess.DEVNULL)
    assert b"status 2\n" == ended.stdout
    assert b"must be process 1" in ended.stderr


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["--version"], 0, "guest 1.0, protocol 2\n"),
        (["--agent", "x"], 2, "--agent takes"),
        (["--agent", "1"], 2, "--agent takes"),
        (["--agent", "1:2:3"], 2, "--agent takes"),
        (["--agent", "1:4294967295"], 2, "--agent takes"),
        (["--agent"], 2, "--agent takes"),
        (["--max-processes", "0"], 2, "--max-processes takes"),
        (["--max-processes", "9x"], 2, "--max-processes takes"),
        (["--nonsense"], 2, "usage: guest"),
    ],
)
def test_command_line(args: list[str], status: int, words: str) -> None:
    """A wrong option is named; --version needs no sandbox."""
    assert os.getpid() != 1
    ended = subprocess.run([binary("release"), *args], capture_output=True, text=True, timeout=20, check=False)
    assert status == ended.returncode
    assert words in ended.stdout + ended.stderr


def test_missing_powers_are_named_at_the_start(build: str) -> None:
    """A launcher that gives too little learns it from the first line, not from each command."""
    guest = Guest(build, capabilities=["SETGID"])
    guest.start()
    try:
        assert 1 == guest.status()
        assert "needs CAP_KILL, CAP_SETGID and CAP_SETUID" in guest.log()
    finally:
        guest.kill()
