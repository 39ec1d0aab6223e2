"""A second RESTORE to the same snapshot leaves alone what is as it was, and nothing else, whatever an agent tries."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codecraft_pool.protocol import RestoreCounts, TreeRestore, restored
from codecraft_pool.requests import encode_restore, encode_write
from tests.pool.guest_harness import BUILDS, PYTHON, Guest, done, needs_root

pytestmark = needs_root

WORKSPACE = TreeRestore("/ws", "/snap")
# The kernel counts inotify instances by user: this one is not that of the machine's other sandboxes.
OWN_USER = ("--agent", "{0}:{0}".format(0x5000_0000 + os.getpid()))
OLD_NS = 1_600_000_000_123_456_789


@pytest.fixture(name="snapshot")
def _snapshot(tmp_path: Path) -> Path:
    """A tree of a few directories, with several names for a file, a sparse file and users' attributes."""
    top = tmp_path / "snapshot"
    for folder in ("a/inner", "b", "empty"):
        (top / folder).mkdir(parents=True)
    for index in range(12):
        (top / "a" / f"file{index}").write_text(f"content {index}\n")
        (top / "b" / f"file{index}").write_text(f"content {index}\n")
    (top / "a" / "inner" / "page").write_bytes(b"p" * 8192)
    (top / "link").symlink_to("a/file1")
    os.link(top / "a" / "inner" / "page", top / "b" / "page too")
    os.link(top / "a" / "inner" / "page", top / "page three")
    with (top / "sparse").open("wb") as sparse:
        sparse.truncate(4 << 20)
        sparse.seek(2 << 20)
        sparse.write(b"island")
    (top / "b" / "file3").chmod(0o640)
    (top / "empty").chmod(0o700)
    if _has_attributes(tmp_path):
        os.setxattr(top / "b" / "file4", "user.note", b"kept")
        os.setxattr(top / "b", "user.colour", b"blue")
    for path in [*sorted(top.rglob("*"), reverse=True), top]:
        os.utime(path, ns=(OLD_NS, OLD_NS), follow_symlinks=False)
    return top


def _has_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.test", b"")
    except OSError:
        return False
    return True


@pytest.fixture(name="guest", params=BUILDS)
def _guest(request: pytest.FixtureRequest, snapshot: Path) -> Iterator[Guest]:
    with Guest(request.param, snapshot=snapshot, args=OWN_USER) as guest:
        yield guest


def restore(guest: Guest, *, full: bool = False) -> RestoreCounts:
    """Restore the workspace, and return what was done."""
    request_id = guest.next_id()
    return restored(done(guest.ask(encode_restore(request_id, [WORKSPACE], full=full), request_id, limit_s=120)))


def settle(guest: Guest) -> RestoreCounts:
    """Restore until the times of all that was made tell it from any later change."""
    deadline = time.monotonic() + 10
    restore(guest)
    while True:
        counts = restore(guest)
        if counts.compared <= 3:  # a file with three names is always compared
            return counts
        assert time.monotonic() < deadline


def everything(top: Path) -> dict[str, tuple[object, ...]]:
    """All of a tree that a restore promises, as the host sees it; owners as differences to that of the root."""
    owner = top.lstat().st_uid
    found: dict[str, tuple[object, ...]] = {}
    names: dict[int, str] = {}
    for path in sorted([top, *top.rglob("*")]):
        status = path.lstat()
        name = ascii(os.fsencode(path.relative_to(top)))
        content: object = b""
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = (path.read_bytes(), names.setdefault(status.st_ino, name), status.st_nlink)
        attributes = {each: os.getxattr(path, each, follow_symlinks=False) for each in _attributes(path)}
        mode = status.st_mode if path != top else 0
        found[name] = (mode, status.st_uid - owner, status.st_gid - owner, status.st_mtime_ns, content, attributes)
    return found


def _attributes(path: Path) -> list[str]:
    return [each for each in os.listxattr(path, follow_symlinks=False) if not each.startswith("security.")]


def inside(guest: Guest) -> Path:
    """The path on the host by which the workspace can be seen."""
    return Path(f"/proc/{guest.pid()}/root/ws")


def test_what_is_as_it_was_is_left_alone(guest: Guest, snapshot: Path) -> None:
    """Not even compared, once the times are older than the restore; and it is the same as the snapshot."""
    made = restore(guest).made
    counts = settle(guest)
    assert (0, 0, 0, made) == (counts.removed, counts.made, counts.copied_bytes, counts.kept)
    full = restore(guest, full=True)
    assert (0, 0, made) == (full.removed, full.made, full.kept)
    assert full.compared > 20
    assert everything(snapshot) == everything(inside(guest))
    assert inside(guest).joinpath("sparse").lstat().st_blocks * 512 < 1 << 20


def test_reading_leaves_no_trace(guest: Guest, snapshot: Path) -> None:
    """Times of access are put back too: one episode could tell the next one something by them."""
    settle(guest)
    guest.shell("cat /ws/a/file2 /ws/link >/dev/null; ls /ws/empty; touch -a -d @5 /ws/b/file2")
    restore(guest)
    for name in ("a/file2", "empty", "b/file2", "link"):
        assert OLD_NS == inside(guest).joinpath(name).lstat().st_atime_ns


MAPPED = """
import mmap, os, sys
path = sys.argv[1]
before = os.stat(path)
fd = os.open(path, os.O_RDWR)
page = mmap.mmap(fd, 0)
print(page[0], file=open(os.devnull, "w"))
page[0:3] = b"EVI"
after = os.stat(path)
print(before.st_mtime_ns == after.st_mtime_ns and before.st_ctime_ns == after.st_ctime_ns)
"""


@pytest.mark.parametrize("path", ["/ws/a/file5", "/ws/b/file5", "/ws/page three", "/ws/a/inner/page"])
def test_a_change_through_a_mapping(guest: Guest, snapshot: Path, path: str) -> None:
    """It leaves no trace in the times; that the file was open for writing is what gives it away."""
    settle(guest)
    assert b"True\n" == guest.run(PYTHON, "-I", "-c", MAPPED, path).stdout, "this kernel stamps such changes"
    assert restore(guest).made >= 1
    assert everything(snapshot) == everything(inside(guest))


ON_ITS_WAY = """
import array, mmap, os, socket
fd = os.open("/ws/a/file5", os.O_RDWR)
page = mmap.mmap(fd, 0)
page[0]
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
for end in (left, right):
    files = array.array("i", [fd, left.fileno(), right.fileno()])
    end.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
page[0:3] = b"EVI"
"""


def test_a_file_on_its_way_through_sockets(guest: Guest, snapshot: Path) -> None:
    """Sockets that hold each other keep a file open when everybody is dead, so its close is not told of in time."""
    settle(guest)
    guest.python(ON_ITS_WAY)
    restore(guest)
    assert everything(snapshot) == everything(inside(guest))


def test_a_change_right_after_a_restore(guest: Guest, snapshot: Path) -> None:
    """Within the clock's granularity times tell nothing, so contents are compared."""
    script = "import os, sys\nfor name in sys.argv[1:]: os.truncate(name, 0); os.utime(name, ns=(%d, %d))"
    for _ in range(20):
        restore(guest)
        guest.run(PYTHON, "-I", "-c", script % (OLD_NS, OLD_NS), "/ws/a/file1", "/ws/b/file2")
        assert restore(guest).made >= 2
        assert everything(snapshot) == everything(inside(guest))


CHANGES = {
    "rewritten, time put back": "s=os.stat('a/file1'); open('a/file1','w').write('CONTENT 1\\n'); "
    "os.utime('a/file1', ns=(s.st_atime_ns, s.st_mtime_ns))",
    "another name": "os.link('a/file1', 'extra')",
    "two recorded names of one file": "os.unlink('b/file1'); os.link('a/file1', 'b/file1')",
    "a name less": "os.unlink('page three')",
    "names that changed places": "os.rename('a/file1','x'); os.rename('a/file2','a/file1'); os.rename('x','a/file2')",
    "a directory for a file": "os.unlink('a/file1'); os.makedirs('a/file1/deep/er')",
    "a file for a directory": "shutil.rmtree('a/inner'); open('a/inner','w').write('x')",
    "a link for a directory": "os.rename('a','moved'); os.symlink('moved','a')",
    "a link for a file": "os.unlink('a/file1'); os.symlink('/etc/passwd','a/file1')",
    "another goal": "os.unlink('link'); os.symlink('a/file2','link')",
    "away and back": "os.rename('a/file1','/ws/b/away'); os.rename('b/away','a/file1')",
    "mapped while away": "os.rename('a/file5','empty/z'); m=mmap.mmap(os.open('empty/z',2),0); m[0]; m[0]=1; "
    "os.rename('empty/z','a/file5')",
    "mapped in a directory that moves twice": "os.rename('a','c'); m=mmap.mmap(os.open('c/file5',2),0); m[0]; m[0]=1; "
    "os.rename('c','d'); os.rename('d','a')",
    "mapped by an extra name": "os.mkdir('new'); os.link('a/file5','new/f'); m=mmap.mmap(os.open('new/f',2),0); m[0]; "
    "m[0]=1; os.unlink('new/f'); os.rmdir('new')",
    "directories that changed places": "os.rename('a','x'); os.rename('b','a'); os.rename('x','b')",
    "modes": "os.chmod('a/file1',0); os.chmod('a',0); os.chmod('empty',0o777)",
    "special files": "os.mkfifo('fifo'); os.unlink('a/file1'); os.mkfifo('a/file1'); "
    "socket.socket(socket.AF_UNIX).bind('sock')",
    "odd names": "open(b'new\\nline\\xff','w'); os.mkdir(b'-rf'); open(b'-rf/' + b'x'*255,'w')",
    "holes filled": "f=open('sparse','r+b'); f.write(bytes(1<<20))",
    "sparse": "os.unlink('sparse'); os.truncate(os.open('sparse', os.O_CREAT|os.O_RDWR), 4<<20)",
    "times of a directory": "os.utime('a', ns=(5,5)); os.utime('.', ns=(7,7))",
    "everything gone": "shutil.rmtree('.', ignore_errors=True)",
    "attributes": "attribute('a','user.n'); attribute('a/file1','user.n'); attribute('.','user.n'); "
    "attribute('b/file4', 'user.note')",
    "attributes without end": "[attribute('a', 'user.%d' % i + 'x'*200) for i in range(2000)]",
    "a deep tree": "[(os.mkdir('d'), os.chdir('d')) for _ in range(2000)]",
    "a deep tree that was recorded in part": "[(os.mkdir('a/inner/d'*0 + 'd'), os.chdir('d')) for _ in range(5)]; "
    "os.rename('/ws/a','/ws/d/a')",
}
PREAMBLE = """
import mmap, os, shutil, socket
def attribute(path, name):
    try:
        os.setxattr(path, name, b"x" * 10)
    except OSError:
        pass
os.chdir("/ws")
"""


ROOM = {
    "read through a mapping": "m=mmap.mmap(os.open('sparse', 0), 0, prot=mmap.PROT_READ); "
    "print(sum(m[i] for i in range(0, len(m), 4096)))",
    "reserved": "import ctypes; f=os.open('sparse', 2); "
    "print(ctypes.CDLL(None).fallocate(f, 1, ctypes.c_long(0), ctypes.c_long(8 << 20)))",
}


@pytest.mark.parametrize("take", ROOM.values(), ids=ROOM)
def test_room_that_was_taken_is_given_back(guest: Guest, snapshot: Path, take: str) -> None:
    """An agent can fill holes, or reserve room, and no time tells; the next episode would lack it."""
    settle(guest)
    sparse = inside(guest) / "sparse"
    before = sparse.stat().st_blocks
    guest.python(PREAMBLE + take)
    assert sparse.stat().st_blocks > before + 1000
    restore(guest)
    assert before == sparse.stat().st_blocks
    assert everything(snapshot) == everything(inside(guest))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_is_changed_is_put_back(guest: Guest, snapshot: Path, change: str) -> None:
    """Files, links, directories and what hangs on them; twice, for the record must hold after a repair too."""
    made = settle(guest).kept
    for _ in range(2):
        guest.python(PREAMBLE + change, limit_ms=60_000)
        counts = restore(guest)
        assert everything(snapshot) == everything(inside(guest))
        assert made == counts.kept + counts.made
    settled = settle(guest)
    assert (0, 0) == (settled.removed, settled.made)


def test_attributes_without_end_on_the_tree_itself(guest: Guest, snapshot: Path) -> None:
    """The kernel lists no more than 64 KiB of names, so they cannot be removed: the sandbox must be replaced."""
    restore(guest)
    flood = "[attribute('.', 'user.%d' % i + 'x'*200) for i in range(400)]\ntry: os.listxattr('.'); print('listed')"
    if guest.python(PREAMBLE + flood + "\nexcept OSError: pass").stdout:
        pytest.skip("this tmpfs holds no users' attributes")
    request_id = guest.next_id()
    assert errno.E2BIG == guest.refused(encode_restore(request_id, [WORKSPACE]), request_id).errno


def test_more_events_than_the_kernel_keeps(guest: Guest, snapshot: Path) -> None:
    """Then contents are compared: what got lost in the flood is found."""
    settle(guest)
    guest.python(
        PREAMBLE + "m=mmap.mmap(os.open('b/file7',2),0); m[0]\n"
        "for i in range(20000): os.close(os.open('a/file%d' % (i % 2), os.O_WRONLY))\nm[0:1]=b'X'",
        limit_ms=60_000,
    )
    counts = restore(guest)
    assert counts.compared >= 20
    assert everything(snapshot) == everything(inside(guest))


def test_what_the_host_writes_is_put_back_too(guest: Guest, snapshot: Path) -> None:
    """A WRITE of the host's is a change like any other."""
    settle(guest)
    request_id = guest.next_id()
    done(guest.ask(encode_write(request_id, "/ws", "a/file3", b"content X\n"), request_id))
    assert 1 == restore(guest).made
    assert everything(snapshot) == everything(inside(guest))


def test_another_snapshot_in_between(guest: Guest, snapshot: Path) -> None:
    """A record is of one snapshot; an empty tree has none."""
    settle(guest)
    request_id = guest.next_id()
    counts = restored(done(guest.ask(encode_restore(request_id, [TreeRestore("/ws")]), request_id)))
    assert counts.removed > 30
    assert (0, 0) == ((again := restore(guest)).kept, again.removed)
    request_id = guest.next_id()
    part = [TreeRestore("/ws", "/snap/b")]
    assert 0 == restored(done(guest.ask(encode_restore(request_id, part), request_id))).kept
    restore(guest)
    assert everything(snapshot) == everything(inside(guest))


INOTIFY = {"x86_64": {"init": [294, 253], "add_watch": [254]}, "aarch64": {"init": [26], "add_watch": [27]}}


@pytest.mark.parametrize("call", ["init", "add_watch"])
def test_without_word_of_writers_contents_are_compared(snapshot: Path, call: str) -> None:
    """A kernel without inotify, or a user with no instance or watch left, makes restores slower, not wrong."""
    with Guest(snapshot=snapshot, missing_calls=INOTIFY[os.uname().machine][call]) as guest:
        restore(guest)
        assert restore(guest).compared > 20
        guest.run(PYTHON, "-I", "-c", MAPPED, "/ws/a/file5")
        assert 1 == restore(guest).made
        assert everything(snapshot) == everything(inside(guest))


def test_many_files(snapshot: Path) -> None:
    """Many files in one directory are a matter of time only; few changes among them are found."""
    wide = snapshot / "wide"
    wide.mkdir()
    for index in range(20_000):
        (wide / str(index)).touch()
    with Guest(snapshot=snapshot) as guest:
        made = restore(guest).made
        guest.shell("cd /ws/wide && echo x >5 && rm 7 && mv 9 nine && touch new")
        counts = restore(guest)
        assert counts.made >= 3
        assert made == counts.kept + counts.made
        assert 20_000 == len(os.listdir(inside(guest) / "wide"))
        assert b"" == (inside(guest) / "wide" / "5").read_bytes()


MUTATE = """
import mmap, os, random, sys
chance = random.Random(int(sys.argv[1]))
os.chdir("/ws")
def pick(kind):
    found = [os.path.join(d, n) for d, ds, fs in os.walk(".") for n in (ds if kind == "d" else fs)]
    return chance.choice(sorted(found)) if found else "."
def mapped():
    path = pick("f")
    if not os.path.islink(path) and os.path.isfile(path) and os.path.getsize(path):
        page = mmap.mmap(os.open(path, os.O_RDWR), 0); page[0]; page[-1:] = b"!"
moves = [
    lambda: os.unlink(pick("f")), lambda: os.rename(pick("f"), pick("d") + "/moved"),
    lambda: os.rename(pick("d"), pick("d") + "/moved"), lambda: os.link(pick("f"), pick("d") + "/linked"),
    lambda: open(pick("f"), "r+").write("zap"), lambda: os.chmod(pick("f"), chance.randrange(0o1000)),
    lambda: os.chmod(pick("d"), chance.choice([0, 0o700, 0o2755, 0o1777])), mapped, mapped,
    lambda: os.utime(pick("f"), ns=(1600000000123456789,) * 2), lambda: os.symlink("..", pick("d") + "/up"),
    lambda: os.mkdir(pick("d") + "/new"), lambda: os.replace(pick("f"), pick("f")),
    lambda: os.truncate(pick("f"), chance.randrange(10000)), lambda: os.mkfifo(pick("d") + "/fifo"),
]
for _ in range(chance.randrange(1, 30)):
    try:
        chance.choice(moves)()
    except OSError:
        pass
"""


def test_any_sequence_of_changes_is_put_back(snapshot: Path) -> None:
    """Random programs, one after the other in one sandbox: each restore gives what a new sandbox has."""
    chance = random.Random(20_251)
    with Guest(snapshot=snapshot) as guest:
        restore(guest)
        fresh = everything(inside(guest))
        assert everything(snapshot) == fresh
        for seed in [chance.randrange(1 << 30) for _ in range(60)]:
            guest.run(PYTHON, "-I", "-c", MUTATE, str(seed))
            restore(guest)
            assert fresh == everything(inside(guest)), f"seed {seed}"


def test_who_is_alone_gets_the_same(snapshot: Path) -> None:
    """Where guest and agent are one user, and where it has no power over modes."""
    with tempfile.TemporaryDirectory(prefix="codecraft-guest-") as folder:
        plain = Path(folder) / "plain"
        shutil.copytree(snapshot, plain, symlinks=True)
        for path in (Path(folder), plain / "b" / "file3", plain / "empty"):
            path.chmod(0o755)
        os.utime(plain, ns=(OLD_NS, OLD_NS))
        with Guest(privileged=False, snapshot=plain) as guest:
            restore(guest)
            for change in ("os.chmod('a',0)", "open('a/file1','w')", "os.unlink('a/file2'); os.chmod('a/file3', 0)"):
                guest.python(PREAMBLE + change)
                restore(guest)
                assert everything(plain) == everything(inside(guest))
