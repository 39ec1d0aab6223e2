"""EXPORT and IMPORT: a tree goes from one sandbox to another as it is; a hostile stream gets nowhere else."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from codecraft_pool.digest import Digest, differences
from codecraft_pool.protocol import AGENT, Done, Error, Reply, Tool, TreeRestore, restored, wrote
from codecraft_pool.requests import encode_import, encode_restore, encode_tool
from tests.pool.guest_harness import BUILDS, Guest, done, needs_root

pytestmark = needs_root

ZOO = """
import os
os.chdir("/ws")
os.makedirs("a/b/c"); open("a/file", "w").write("content"); os.chmod("a/file", 0o640)
os.link("a/file", "a/b/too"); os.link("a/file", "three"); os.symlink("/etc/passwd", "link"); os.mkfifo("pipe")
with open("sparse", "wb") as f: f.truncate(8 << 20); f.seek(4 << 20); f.write(b"island"); f.seek(7 << 20); f.write(b"x")
open("big", "wb").write(os.urandom(300_000)); open(b"odd\\n\\xff", "w"); os.mkdir("empty"); open("nothing", "w")
try:
    os.setxattr("a/file", "user.note", b"x" * 100); os.setxattr("a", "user.n", b"")
except OSError: pass
os.makedirs("deep"); here = os.getcwd(); os.chdir("deep")
for _ in range(1500): os.mkdir("d" * 20); os.chdir("d" * 20)
open("bottom", "w").write("deep"); os.link("/ws/three", "named deep")
os.chdir(here)
os.chmod("a/b/c", 0o1703); os.chmod("empty", 0); os.chmod("nothing", 0)
for name in ("a/b", "a", "link", "pipe", "three", "big"):
    os.utime(name, ns=(3, 1_500_000_000_987_654_321), follow_symlinks=False)
"""
HEAD = struct.pack("<II4sI", 1, 8, b"CCTR", 1)
END = struct.pack("<II", 11, 0)


def record(kind: int, payload: bytes) -> bytes:
    """One record of a stream."""
    return struct.pack("<II", kind, len(payload)) + payload


def looks(mode: int = 0o755, uid: int = AGENT, gid: int = AGENT, seconds: int = 5, nanoseconds: int = 6) -> bytes:
    """Mode, owner and time, as in records."""
    return struct.pack("<IIIqI", mode, uid, gid, seconds, nanoseconds)


TOP = record(3, looks())


@pytest.fixture(name="guest", params=BUILDS)
def _guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(request.param) as guest:
        empty(guest)
        yield guest


def empty(guest: Guest) -> None:
    """Give the workspace to the agent."""
    request_id = guest.next_id()
    restored(done(guest.ask(encode_restore(request_id, [TreeRestore("/ws")]), request_id)))


def tool(guest: Guest, kind: Tool, path: str, flags: int = 0) -> bytes:
    """What a tool says of a tree."""
    request_id = guest.next_id()
    guest.send(encode_tool(request_id, kind, [path], flags=flags, max_output_bytes=256 << 20, limit_ms=60_000))
    ran = guest.finish(request_id, limit_s=60)
    assert (0, b"") == (ran.code, ran.stderr)
    return ran.stdout


def digest(guest: Guest) -> Digest:
    """What is in the workspace."""
    return Digest.parse(tool(guest, Tool.DIGEST, "/ws", 1))


def put(guest: Guest, stream: bytes, *, piece: int = 1 << 20, tree: str = "/ws") -> Reply:
    """Import a stream in pieces; return the last reply, or the first that is no DONE."""
    reply: Reply | None = None
    for at in range(0, max(1, len(stream)), piece):
        request_id = guest.next_id()
        part = stream[at : at + piece]
        frame = encode_import(request_id, tree, part, first=at == 0, last=at + piece >= len(stream))
        reply = guest.ask(frame, request_id)
        if not isinstance(reply, Done):
            return reply
        assert len(part) == wrote(reply)
    assert reply is not None
    return reply


def test_a_tree_goes_to_another_sandbox(guest: Guest) -> None:
    """All of it, whatever the pieces; the agent's things are the other agent's there."""
    guest.python(ZOO, limit_ms=60_000)
    here = digest(guest)
    stream = tool(guest, Tool.EXPORT, "/ws")
    assert stream == tool(guest, Tool.EXPORT, "/ws")
    assert len(stream) < 1 << 20
    with Guest(guest.build, args=["--agent", "4321:1234"]) as other:
        for piece in (1 << 20, 4099):
            done(put(other, stream, piece=piece))
            there = digest(other)
            assert [] == differences(here, there)
            assert here.id == there.id
        assert stream == tool(other, Tool.EXPORT, "/ws")
        sparse = Path(f"/proc/{other.pid()}/root/ws/sparse").stat()
        assert (4321, 1234) == (sparse.st_uid, sparse.st_gid)
        assert sparse.st_blocks * 512 < 1 << 20


def test_processes_end_and_what_was_there_goes(guest: Guest) -> None:
    """An IMPORT begins as a RESTORE does."""
    guest.shell("mkdir -p /ws/x/y; echo x >/ws/x/y/z; setsid sleep 60 >/dev/null 2>&1 &")
    done(put(guest, HEAD + TOP + END))
    assert ["/ws"] == list(digest(guest))
    assert b"2\n" == guest.python("import os; print(sum(n.isdigit() for n in os.listdir('/proc')))").stdout


def test_a_restore_after_an_import(tmp_path: Path) -> None:
    """The record of what a restore made does not take an import for it."""
    snapshot = tmp_path / "snapshot"
    (snapshot / "a").mkdir(parents=True)
    (snapshot / "a" / "file").write_text("snapshot's")
    with Guest(snapshot=snapshot) as guest:
        frame = encode_restore(guest.next_id(), [TreeRestore("/ws", "/snap")])
        done(guest.ask(frame, 1))
        fresh = digest(guest)
        stream = tool(guest, Tool.EXPORT, "/ws").replace(b"snapshot's", b"imported's")
        for _ in range(2):
            done(put(guest, stream))
            assert [] != differences(fresh, digest(guest))
            request_id = guest.next_id()
            done(guest.ask(encode_restore(request_id, [TreeRestore("/ws", "/snap")]), request_id))
            assert [] == differences(fresh, digest(guest))


def test_powers_do_not_travel(guest: Guest) -> None:
    """No set-user-id, no set-group-id; attributes that are not users' are refused."""
    file = record(4, struct.pack("<QI", 0, 0) + b"f") + record(6, looks(0o6755, 0, 0))
    done(put(guest, HEAD + file + record(2, b"d") + record(3, looks(0o7777)) + TOP + END))
    found = digest(guest)
    assert (0o755, 0) == (found["/ws/f"].mode, found["/ws/f"].uid)
    assert 0o1777 == found["/ws/d"].mode
    name = b"security.capability"
    attribute = record(7, struct.pack("<I", len(name)) + name + b"\1\0\0\2")
    assert isinstance(put(guest, HEAD + attribute + TOP + END), Error)


FILE = record(4, struct.pack("<QI", 10, 0) + b"f")
HOSTILE = {
    "no stream": b"rubbish " * 4,
    "nothing": b"",
    "another version": struct.pack("<II4sI", 1, 8, b"CCTR", 2),
    "twice begun": HEAD + HEAD,
    "not begun": TOP + END,
    "cut": HEAD + record(2, b"d"),
    "cut in a record": HEAD + FILE[:-1],
    "no end of the top": HEAD + END,
    "more after the end": HEAD + TOP + END + END,
    "more after the top": HEAD + TOP + record(2, b"d"),
    "out of the top": HEAD + record(3, looks()) + record(3, looks()),
    "unknown record": HEAD + record(99, b""),
    "too long a record": HEAD + struct.pack("<II", 5, 1 << 31),
    "up": HEAD + record(2, b".."),
    "here": HEAD + record(2, b"."),
    "slash": HEAD + record(2, b"a/b"),
    "absolute": HEAD + record(2, b"/etc"),
    "NUL": HEAD + record(2, b"a\0b"),
    "empty name": HEAD + record(2, b""),
    "long name": HEAD + record(2, b"x" * 256),
    "through a link": HEAD + record(8, looks() + struct.pack("<I", 1) + b"l" + b"/tmp") + record(2, b"l"),
    "onto a link": HEAD + record(8, looks() + struct.pack("<I", 1) + b"f" + b"/tmp/x") + FILE,
    "twice": HEAD + record(2, b"d") + record(3, looks()) + record(2, b"d"),
    "file twice": HEAD + FILE + record(6, looks()) + FILE,
    "file in a file": HEAD + FILE + record(4, struct.pack("<QI", 10, 0) + b"g"),
    "directory in a file": HEAD + FILE + record(2, b"d"),
    "data past the end": HEAD + FILE + record(5, struct.pack("<Q", 5) + b"123456"),
    "data far away": HEAD + FILE + record(5, struct.pack("<Q", 2**64 - 1) + b"1"),
    "data without a file": HEAD + record(5, struct.pack("<Q", 0) + b"1"),
    "end without a file": HEAD + record(6, looks()),
    "no mode": HEAD + record(3, looks(0o10000)),
    "no time": HEAD + record(3, looks(nanoseconds=10**9)),
    "short looks": HEAD + record(3, looks()[:-1]),
    "spare bytes": HEAD + record(3, looks() + b"x"),
    "size over all": HEAD + record(4, struct.pack("<QI", 2**63, 0) + b"f"),
    "link to nowhere": HEAD + record(8, looks() + struct.pack("<I", 1) + b"l"),
    "link with NUL": HEAD + record(8, looks() + struct.pack("<I", 1) + b"la\0b"),
    "link without a name": HEAD + record(8, looks() + struct.pack("<I", 2**32 - 1) + b"l"),
    "other name of nothing": HEAD + record(10, struct.pack("<I", 1) + b"n"),
    "other name unknown": HEAD + record(4, struct.pack("<QI", 0, 1) + b"f") + record(6, looks())
    + record(10, struct.pack("<I", 2) + b"n"),
    "number twice": HEAD + (record(4, struct.pack("<QI", 0, 1) + b"f") + record(6, looks())) * 2,
    "attribute without a name": HEAD + record(7, struct.pack("<I", 2**32 - 1)),
    "attribute empty": HEAD + record(7, struct.pack("<I", 5) + b"user."),
}  # fmt: skip


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_stream_is_refused(guest: Guest, stream: bytes) -> None:
    """It says so, nothing outside of the tree is touched, and the sandbox can be restored."""
    guest.shell("echo x >/tmp/x; mkdir /tmp/f", uid=0, gid=0)
    before = digest_of_tmp(guest)
    reply = put(guest, stream)
    assert isinstance(reply, Error), reply
    assert before == digest_of_tmp(guest)
    empty(guest)
    assert ["/ws"] == list(digest(guest))
    done(put(guest, HEAD + TOP + END))


def digest_of_tmp(guest: Guest) -> str:
    """What is in /tmp."""
    return Digest.parse(tool(guest, Tool.DIGEST, "/tmp", 1)).id


def test_pieces_in_the_wrong_order(guest: Guest) -> None:
    """A piece without a beginning, of another tree, or after an error is refused; a new beginning starts anew."""
    for tree, first in (("/ws", False), ("/nowhere", True), ("/tmp", False)):
        request_id = guest.next_id()
        reply = guest.ask(encode_import(request_id, tree, HEAD, first=first, last=False), request_id)
        assert isinstance(reply, Error), tree
    for _ in range(2):
        request_id = guest.next_id()
        done(guest.ask(encode_import(request_id, "/ws", HEAD + FILE, first=True, last=False), request_id))
    running = guest.begin(["sleep", "60"])
    request_id = guest.next_id()
    error = guest.refused(encode_import(request_id, "/ws", b"", first=False, last=False), request_id)
    assert errno.EBUSY == error.errno
    empty(guest)
    guest.finish(running)


def test_any_damage_is_survived(guest: Guest) -> None:
    """Bits that turned: the guest refuses the stream or makes a tree of it, and goes on."""
    guest.python(ZOO.replace("1500", "3").replace("8 << 20", "8 << 10").replace("4 << 20", "4 << 10")
                 .replace("7 << 20", "7 << 10").replace("300_000", "300"))  # fmt: skip
    stream = tool(guest, Tool.EXPORT, "/ws")
    chance = random.Random(7)
    for _ in range(60):
        damaged = bytearray(stream)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        assert isinstance(put(guest, bytes(damaged)), Done | Error)
    done(put(guest, stream))
    assert stream == tool(guest, Tool.EXPORT, "/ws")
    assert len(os.listdir(f"/proc/{guest.pid()}/fd")) < 14
