"""WRITE and READ: whole files, as the user they are for, and never outside the root."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from codecraft_pool.protocol import MAX_READ_BYTES, Data, Error, WriteFlag, wrote
from codecraft_pool.requests import encode_read, encode_write
from tests.pool.guest_harness import BUILDS, PYTHON, Guest, data, done, needs_root

pytestmark = needs_root

SOCKET = 'import socket as s; s.socket(s.AF_UNIX).bind("/tmp/s")'
LEASE = """
import fcntl, os, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open("/tmp/leased", "w")
os.chmod("/tmp/leased", 0o755)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
time.sleep(60)
"""
OPENAT2, CLOSE_RANGE = 437, 436  # the same on every machine
EVERYTHING = WriteFlag.TRUNCATE | WriteFlag.PARENTS
NOTHING = WriteFlag(0)


@pytest.fixture(name="guest", params=BUILDS)
def _guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(request.param) as guest:
        yield guest


def write(
    guest: Guest,
    path: str,
    content: bytes = b"",
    *,
    root: str = "/tmp",
    mode: int = 0o644,
    offset: int = 0,
    flags: WriteFlag = EVERYTHING,
    uid: int = 1000,
) -> int | Error:
    """Return how many bytes were written, or the refusal."""
    request_id = guest.next_id()
    frame = encode_write(request_id, root, path, content, mode=mode, offset=offset, flags=flags, uid=uid, gid=uid)
    reply = guest.ask(frame, request_id)
    return reply if isinstance(reply, Error) else wrote(done(reply))


def read(guest: Guest, path: str, *, root: str = "/tmp", offset: int = 0, length: int = MAX_READ_BYTES) -> Data | Error:
    """Return what is there, or the refusal."""
    request_id = guest.next_id()
    reply = guest.ask(encode_read(request_id, root, path, offset=offset, length=length), request_id)
    return reply if isinstance(reply, Error) else data(reply)


def content(reply: Data | Error) -> bytes:
    """Return the bytes of a DATA."""
    assert isinstance(reply, Data), reply
    return reply.data


def number(reply: object) -> int:
    """Return the errno of a refusal."""
    assert isinstance(reply, Error), reply
    return reply.errno


def test_what_is_written_can_be_read(guest: Guest) -> None:
    """Bytes, owner, mode, size, and parents that the user owns."""
    blob = bytes(range(256)) * 10
    assert len(blob) == write(guest, "a/b/c.bin", blob, mode=0o640)
    reply = read(guest, "a/b/c.bin")
    assert isinstance(reply, Data)
    assert (blob, len(blob), 0o640) == (reply.data, reply.file_bytes, reply.mode)
    listed = guest.run("stat", "-c", "%U %u %g %a", "/tmp/a", "/tmp/a/b", "/tmp/a/b/c.bin").stdout.split(b"\n")
    assert [b"1000 1000 755", b"1000 1000 755", b"1000 1000 640"] == [line.split(b" ", 1)[1] for line in listed[:3]]


def test_large_files_in_parts(guest: Guest) -> None:
    """A file larger than a frame goes in by offsets, and comes out the same way."""
    part = bytes(range(256)) * (1 << 14)  # 4 MiB
    for index in range(5):
        flags = EVERYTHING if index == 0 else NOTHING
        assert len(part) == write(guest, "big", part, offset=index * len(part), flags=flags)
    first = read(guest, "big", length=MAX_READ_BYTES)
    assert isinstance(first, Data)
    assert (5 * len(part), part * 2) == (first.file_bytes, first.data)
    assert part[-10:] == content(read(guest, "big", offset=5 * len(part) - 10))
    assert b"" == content(read(guest, "big", offset=1 << 40))
    assert b"" == content(read(guest, "big", length=0))


def test_files_without_a_size(guest: Guest) -> None:
    """What /proc makes up while it is read is read to its end."""
    reply = read(guest, "proc/version", root="/")
    assert isinstance(reply, Data)
    assert 0 == reply.file_bytes
    assert reply.data.startswith(b"Linux version")


def test_an_existing_file_keeps_its_mode_and_owner(guest: Guest) -> None:
    """As with open(2): the mode is for new files. Without truncation the rest stays."""
    guest.shell("umask 0; echo 123456789 >/tmp/f; chmod 666 /tmp/f", uid=1234, gid=1234)
    guest.shell("chmod 777 /tmp")
    assert 2 == write(guest, "f", b"ab", flags=NOTHING, mode=0o600)
    assert b"ab3456789\n" == content(read(guest, "f"))
    assert b"1234 666\n" == guest.run("stat", "-c", "%u %a", "/tmp/f").stdout


def test_writing_is_done_as_the_user(guest: Guest) -> None:
    """What the user could not write, WRITE for that user cannot; root can."""
    assert errno.EACCES == number(write(guest, "x", b"", root="/ws"))
    assert 1 == write(guest, "x", b"r", root="/ws", uid=0)
    assert errno.EACCES == number(write(guest, "x", b"a", root="/ws"))
    guest.shell("mkdir -m 700 /tmp/private; echo >/tmp/private/f", uid=1234, gid=1234)
    assert errno.EACCES == number(write(guest, "private/f", b"a"))
    assert 1 == write(guest, "private/f", b"a", uid=1234)


def test_the_powers_are_back_after_a_write(guest: Guest) -> None:
    """A refused write as somebody else does not leave the guest weaker, or open to a trace."""
    assert errno.EACCES == number(write(guest, "x", b"", root="/ws"))
    guest.shell("umask 777; echo hidden >/tmp/f")
    assert b"hidden\n" == content(read(guest, "f"))
    assert 0 == guest.run("true", uid=77, gid=77).code
    assert 1 == guest.shell("cat /proc/1/environ").code


def test_reading_is_done_as_root(guest: Guest) -> None:
    """A mode of 000, on the file or on the way to it, hides nothing."""
    guest.shell("mkdir -p /tmp/d; echo secret >/tmp/d/f; chmod 0 /tmp/d/f /tmp/d")
    reply = read(guest, "d/f")
    assert isinstance(reply, Data)
    assert (b"secret\n", 0) == (reply.data, reply.mode)


def test_links_that_stay_below_the_root_are_followed(guest: Guest) -> None:
    """Files and directories may be reached through them, and parents made behind them."""
    guest.shell("mkdir -p /tmp/r/real; cd /tmp/r; ln -s real dir; ln -s ../r/real/f real/again; ln -s real/f file")
    assert 1 == write(guest, "dir/f", b"1", root="/tmp/r")
    assert b"1" == content(read(guest, "file", root="/tmp/r"))
    assert 1 == write(guest, "dir/new/deep/g", b"2", root="/tmp/r")
    assert b"2" == guest.run("cat", "/tmp/r/real/new/deep/g").stdout


@pytest.mark.parametrize("target", ["/etc", "../..", "../../etc", "/proc/self/root", "/proc/1/root/etc", "/"])
def test_links_that_lead_out_are_refused(guest: Guest, target: str) -> None:
    """Neither the file nor a directory on the way may be outside, for reading, writing or making."""
    guest.shell(f"mkdir -p /tmp/r; cd /tmp/r; ln -s {target} out; ln -s {target}/passwd file")
    for path in ("out/passwd", "file", "out/new/passwd"):
        for uid in (0, 1000):
            assert number(write(guest, path, b"x", root="/tmp/r", uid=uid)) in (errno.EXDEV, errno.ELOOP)
        assert number(read(guest, path, root="/tmp/r")) in (errno.EXDEV, errno.ELOOP)


def test_a_root_behind_a_link_is_refused(guest: Guest) -> None:
    """An agent that puts a link where the root was gains nothing."""
    guest.shell("ln -s /etc /tmp/root; mkdir /tmp/d; ln -s /usr /tmp/d/usr")
    for root in ("/tmp/root", "/tmp/d/usr/bin"):
        assert errno.ELOOP == number(read(guest, "passwd", root=root))
        assert errno.ELOOP == number(write(guest, "passwd", root=root, uid=0))


@pytest.mark.parametrize(
    ("path", "numbers"),
    [
        ("", {errno.EINVAL}),
        ("/etc/passwd", {errno.EINVAL}),
        ("..", {errno.EXDEV}),
        ("../etc/passwd", {errno.EXDEV}),
        ("a/../../etc/passwd", {errno.EXDEV, errno.ENOENT}),
        ("a\0b", {errno.EINVAL}),
        (".", {errno.EISDIR}),
        ("x" * 300, {errno.ENAMETOOLONG}),
        ("x" * 300 + "/y", {errno.ENAMETOOLONG}),
        ("x/" * 3000, {errno.ENAMETOOLONG}),
        ("x/" * 100_000, {errno.ENAMETOOLONG}),
        ("dir", {errno.EISDIR}),
        ("dir/", {errno.EISDIR}),
        ("file/x", {errno.ENOTDIR}),
    ],
    ids=[f"path{i}" for i in range(14)],
)
def test_strange_paths(guest: Guest, path: str, numbers: set[int]) -> None:
    """Each is refused with an error of its own, and the channel goes on."""
    guest.shell("mkdir /tmp/r /tmp/r/dir; echo >/tmp/r/file")
    assert number(read(guest, path, root="/tmp/r")) in {*numbers, errno.ENOENT}
    assert number(write(guest, path, b"x", root="/tmp/r")) in numbers
    assert 0 == guest.run("true").code


def test_the_longest_path_there_may_be(guest: Guest) -> None:
    """Names of 255 bytes, fifteen deep, any bytes but slash and zero."""
    path = "/".join(["\n" + "x" * 253 + "y"] * 15)
    assert 1 == write(guest, path, b"z")
    assert b"z" == content(read(guest, path))


@pytest.mark.parametrize(
    "special",
    ["mkfifo /tmp/s", "mkdir /tmp/s", f"{PYTHON} -c '{SOCKET}'"],
    ids=["fifo", "dir", "socket"],
)
def test_only_regular_files(guest: Guest, special: str) -> None:
    """A FIFO, a directory or a socket in a file's place is refused at once; nothing hangs."""
    guest.shell(special)
    assert number(read(guest, "s")) in (errno.EINVAL, errno.EISDIR, errno.ENXIO)
    assert number(write(guest, "s", b"x")) in (errno.EINVAL, errno.EISDIR, errno.ENXIO)
    reader = guest.begin(["cat", "/tmp/s"])
    assert number(write(guest, "s", b"x")) in (errno.EINVAL, errno.EISDIR, errno.ENXIO)
    assert reader


def test_a_lease_does_not_hold_up_the_guest(guest: Guest) -> None:
    """An agent's lease on its own file would block whoever opens or executes it for 45 seconds."""
    guest.begin([PYTHON, "-I", "-c", LEASE])
    guest.next_frame()
    assert errno.EAGAIN == number(read(guest, "leased"))
    for name in ("/tmp/leased", "leased"):
        ran = guest.run(name, env=["PATH=/tmp"])
        assert (126, True) == (ran.code, b"busy" in ran.stderr)


def test_devices_of_the_root_directory(guest: Guest) -> None:
    """Whatever the root is, only regular files are files."""
    assert errno.EINVAL == number(read(guest, "dev/zero", root="/"))
    assert errno.EINVAL == number(write(guest, "dev/null", b"x", root="/"))


def test_a_full_disk_is_said(guest: Guest) -> None:
    """How far it came, and why no further."""
    with Guest(guest.build, mounts=["--size", "65536", "--perms", "1777", "--tmpfs", "/small"]) as small:
        reply = write(small, "f", bytes(1 << 20), root="/small")
        assert errno.ENOSPC == number(reply)
        assert "of 1048576 bytes" in str(reply)
        assert 0 == write(small, "f", b"", root="/small")


@pytest.mark.parametrize(
    ("frame", "numbers"),
    [
        (encode_write(7777, "tmp", "f", b""), {errno.EINVAL}),
        (encode_write(7777, "", "f", b""), {errno.EINVAL}),
        (encode_write(7777, "/nowhere", "f", b""), {errno.ENOENT}),
        (encode_write(7777, "/etc/passwd", "f", b""), {errno.ENOTDIR, errno.ENOENT}),
        (encode_write(7777, "/tmp", "f", b"", mode=0o10000), {errno.EINVAL}),
        (encode_write(7777, "/tmp", "f", b"", offset=(1 << 64) - 1), {errno.EFBIG}),
        (encode_write(7777, "/tmp", "f", b"", offset=(1 << 63) - 1), {errno.EFBIG}),
        (encode_write(7777, "/tmp", "no/f", b"", flags=NOTHING), {errno.ENOENT}),
        (encode_write(7777, "/tmp", "f", b"", flags=WriteFlag(4)), {errno.EINVAL}),
        (encode_read(7777, "/tmp", "f", length=MAX_READ_BYTES + 1), {errno.EINVAL}),
        (encode_read(7777, "/tmp", "f", offset=(1 << 64) - 1), {errno.EINVAL}),
        (encode_read(7777, "tmp", "f"), {errno.EINVAL}),
    ],
    ids=[f"value{i}" for i in range(12)],
)
def test_bad_values_are_refused(guest: Guest, frame: bytes, numbers: set[int]) -> None:
    """Each is an ERROR of its own request."""
    assert guest.refused(frame, 7777).errno in numbers
    assert 0 == guest.run("true").code


@pytest.mark.parametrize("build", BUILDS)
def test_kernels_without_openat2(build: str) -> None:
    """There, or behind a filter that does not know it, every link is refused and the rest works."""
    with Guest(build, missing_calls=[OPENAT2, CLOSE_RANGE]) as guest:
        assert 3 == write(guest, "a//b/./c", b"abc")
        assert b"abc" == content(read(guest, "a/b/c"))
        assert b"abc" == content(read(guest, "b/c", root="/tmp/a"))
        guest.shell("ln -s /etc /tmp/out; ln -s a /tmp/in; ln -s a/b/c /tmp/file")
        for path in ("out/passwd", "in/b/c", "file", "../etc/passwd", "in/new/x"):
            for reply in (read(guest, path), write(guest, path, b"x", uid=0)):
                assert number(reply) in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV)
        assert number(read(guest, "passwd", root="/tmp/out")) in (errno.ELOOP, errno.ENOTDIR)
        assert number(write(guest, "x" * 256 + "/y")) == errno.ENAMETOOLONG
