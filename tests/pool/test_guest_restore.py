"""RESTORE: the processes, objects and files of an episode are gone, and the snapshot is back."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from codecraft_pool.protocol import AGENT, Error, RestoreCounts, Stop, TreeRestore, restored
from codecraft_pool.requests import encode_restore
from tests.pool.guest_harness import BUILDS, PYTHON, Guest, done, needs_root

pytestmark = needs_root

WORKSPACE = TreeRestore("/ws", "/snap")

DEEP = """
import os
os.chdir("/ws")
for i in range(3000):
    os.mkdir("d"); os.chdir("d")
    if i % 100 == 0:
        open("file", "w").close()
        os.mkdir("side"); open("side/file", "w").close(); os.chmod("side", 0)
"""

WILD = """
import os
os.chdir("/ws")
os.mkdir("closed"); os.mkdir("closed/inner"); open("closed/inner/f", "w").close()
os.chmod("closed/inner", 0); os.chmod("closed", 0)
open(b"new\\nline\\xff\\x01 *?[", "w").close()
os.mkdir(b"-rf\\n"); open(b"-rf\\n/" + b"x" * 255, "w").close()
os.symlink("/", "root"); os.symlink("/snap/sub", "snapshot"); os.symlink("loop", "loop"); os.symlink("..", "up")
os.mkfifo("fifo"); os.mkdir(".removed-0"); os.mkdir(".removed-0/x"); open(".removed-1", "w").close()
os.mkdir("a"); os.mkdir("a/b"); os.mkdir("a/b/c"); open("a/b/c/f", "w").close(); os.mkdir("a/b2"); os.mkdir("a/b2/c2")
import socket; socket.socket(socket.AF_UNIX).bind("socket")
os.makedirs("wide")
for i in range(3000): open(f"wide/{i}", "w").close()
for i in range(300): os.makedirs(f"many/{i}/x/y")
os.link("wide/0", "hard"); os.chmod("/ws", 0o2000)
"""


@pytest.fixture(name="snapshot")
def _snapshot(tmp_path: Path) -> Path:
    """A tree with everything that a snapshot may hold."""
    top = tmp_path / "snapshot"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "sub" / "deeper").mkdir()
    (top / "plain").write_bytes(b"plain\n")
    (top / "sub" / "nothing").touch()
    (top / "sub" / "script").write_text("#!/bin/sh\necho run\n")
    (top / "sub" / "deeper" / "exactly").write_bytes(bytes(65536))
    (top / "sub" / "deeper" / "large").write_bytes(os.urandom(3 << 20))
    Path(os.fsdecode(os.fsencode(top) + b"/odd\n\xff name")).write_text("odd")
    (top / "link").symlink_to("sub/script")
    (top / "dangling").symlink_to("/nowhere/" + "x" * 3000)
    modes = {"plain": 0o600, "sub/script": 0o755, "sub/nothing": 0o000, "sub/empty": 0o1777, "sub/deeper": 0o500}
    for name, mode in modes.items():
        (top / name).chmod(mode)
    for index, path in enumerate([*sorted(top.rglob("*"), reverse=True), top]):
        os.utime(path, ns=(1, 1_600_000_000_123_456_789 + index), follow_symlinks=False)
    return top


@pytest.fixture(name="guest", params=BUILDS)
def _guest(request: pytest.FixtureRequest, snapshot: Path) -> Iterator[Guest]:
    with Guest(request.param, snapshot=snapshot) as guest:
        yield guest


def restore(guest: Guest, *trees: TreeRestore) -> RestoreCounts:
    """Restore, and return what was done."""
    request_id = guest.next_id()
    return restored(done(guest.ask(encode_restore(request_id, trees), request_id, limit_s=60)))


def expected(snapshot: Path, owner: int, root_mode: int) -> dict[str, tuple[int, int, int, int]]:
    """Return mode, owner, group and time of each path of a restored tree."""
    result = {}
    for path in [snapshot, *snapshot.rglob("*")]:
        status = path.lstat()
        mode = status.st_mode if path != snapshot else stat.S_IFDIR | root_mode
        result[ascii(os.fsencode(path.relative_to(snapshot)))] = (mode, owner, owner, status.st_mtime_ns)
    return result


def look(snapshot: Path, tree: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return the same of a tree as the host sees it."""
    result = {}
    for path in [tree, *tree.rglob("*")]:
        status = path.lstat()
        name = ascii(os.fsencode(path.relative_to(tree)))
        result[name] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
    return result


def inside(guest: Guest, tree: str) -> Path:
    """Return the path on the host by which a tree of the sandbox can be seen."""
    return Path(f"/proc/{guest.pid()}/root{tree}")


def test_a_restored_tree_equals_its_snapshot(guest: Guest, snapshot: Path) -> None:
    """Names, kinds, contents, permission bits, owners and times, of the tree's own directory too."""
    counts = restore(guest, WORKSPACE)
    tree = inside(guest, "/ws")
    assert expected(snapshot, 1000, 0o755) == look(snapshot, tree)
    for path in snapshot.rglob("*"):
        twin = tree / path.relative_to(snapshot)
        if path.is_symlink():
            assert os.readlink(path) == os.readlink(twin)
        elif path.is_file():
            assert path.read_bytes() == twin.read_bytes()
    paths = list(snapshot.rglob("*"))
    size = sum(path.lstat().st_size for path in paths if path.is_file() and not path.is_symlink())
    assert (0, 0, len(paths), size) == (counts.killed, counts.removed, counts.made, counts.copied_bytes)


def test_restoring_twice_gives_the_same(guest: Guest, snapshot: Path) -> None:
    """Whatever was done in between; and the counts say what was there."""
    first = restore(guest, WORKSPACE)
    guest.shell("cd /ws && rm plain && echo changed >sub/nothing; echo new >new; chmod 777 sub; touch -d @1 link")
    second = restore(guest, WORKSPACE)
    assert (2, 2, 6 + 19) == (second.removed, second.made, second.copied_bytes)  # the link's goal was touched
    assert first.made - second.made == second.kept
    assert expected(snapshot, 1000, 0o755) == look(snapshot, inside(guest, "/ws"))


@pytest.mark.parametrize("program", [DEEP, WILD], ids=["deep", "wild"])
def test_whatever_an_agent_leaves_is_removed(guest: Guest, program: str, snapshot: Path) -> None:
    """However deep, closed or oddly named; and nothing outside the tree is touched."""
    restore(guest, TreeRestore("/ws", mode=0o777))
    guest.python(program, limit_ms=60_000)
    counts = restore(guest, WORKSPACE)
    assert counts.removed > 300 or program is DEEP
    assert expected(snapshot, 1000, 0o755) == look(snapshot, inside(guest, "/ws"))
    assert 0 == guest.shell("test -e /usr/bin/env && test -e /snap/sub/deeper").code
    descriptors = len(os.listdir(f"/proc/{guest.pid()}/fd"))
    assert descriptors < 12


def test_several_trees_each_with_its_owner_and_mode(guest: Guest, snapshot: Path) -> None:
    """A tree without a snapshot is left empty; uid and gid are those asked for, or the agent's."""
    guest.shell("echo x >/tmp/x; mkdir -p /tmp/y/z")
    restore(guest, TreeRestore("/ws", "/snap", 1234, 4321, 0o700), TreeRestore("/tmp", "", 0, 0, 0o1777))
    tree = inside(guest, "/ws")
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in [tree, *tree.rglob("*")]}
    assert {(1234, 4321)} == owners
    assert 0o700 == stat.S_IMODE(tree.stat().st_mode)
    temporary = inside(guest, "/tmp")
    assert [] == list(temporary.iterdir())
    assert (0o1777, 0) == (stat.S_IMODE(temporary.stat().st_mode), temporary.stat().st_uid)


def test_setuid_bits_of_a_snapshot_are_not_restored(guest: Guest, snapshot: Path) -> None:
    """A snapshot cannot smuggle another user's power in."""
    (snapshot / "sub" / "script").chmod(0o6755)
    (snapshot / "sub" / "empty").chmod(0o3777)
    restore(guest, WORKSPACE)
    tree = inside(guest, "/ws")
    assert 0o755 == stat.S_IMODE((tree / "sub" / "script").stat().st_mode)
    assert 0o1777 == stat.S_IMODE((tree / "sub" / "empty").stat().st_mode)


def test_attributes_of_the_trees_own_directory_are_removed(guest: Guest) -> None:
    """It stays, so an agent could leave a note on it, or rights that new files inherit."""
    restore(guest, WORKSPACE)
    assert b"set\n" == guest.python("import os; os.setxattr('/ws', 'user.note', b'for later'); print('set')").stdout
    restore(guest, WORKSPACE)
    assert b"[]\n" == guest.python("import os; print(os.listxattr('/ws'))").stdout


def test_every_process_is_gone(guest: Guest) -> None:
    """Running commands get their EXIT with reason 4, before the DONE; daemons die unmentioned."""
    guest.shell("setsid sleep 60 & setsid sh -c 'trap \"\" TERM; sleep 60' & true")
    running = [guest.begin(["sh", "-c", "echo printed; exec sleep 60"]) for _ in range(3)]
    for _ in running:
        guest.next_frame()
    counts = restore(guest)
    for request_id in running:
        ran = guest.finish(request_id)
        assert (True, 9, Stop.RESTORED) == (ran.exit.signalled, ran.exit.code, ran.exit.stop)
    assert 5 <= counts.killed <= 6  # one of the daemons may not have come to its own child yet
    listed = guest.run("ps", "-e", "-o", "args=").stdout.decode().splitlines()
    assert [["/guest"], ["ps", "-e", "-o", "args="]] == [line.split() for line in listed]


def test_a_fork_bomb_does_not_survive(guest: Guest) -> None:
    """Processes that are made while others are killed are killed too."""
    with Guest(guest.build, args=["--max-processes", "150"]) as bombed:
        bombed.shell(f"{PYTHON} -I -c '{BOMB}' >/dev/null 2>&1 & sleep 0.5")
        assert restore(bombed).killed > 100
        assert b"2\n" == bombed.python("import os; print(sum(n.isdigit() for n in os.listdir('/proc')))").stdout


BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
IPC = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def check(value):
    assert value >= 0, os.strerror(ctypes.get_errno())
for key in range(1, 4):
    check(libc.shmget(key, 4096, 0o1000 | 0o600))
    check(libc.semget(key, 2, 0o1000 | 0o600))
    check(libc.msgget(key, 0o1000 | 0o600))
    check(libc.mq_open(b"/queue%d" % key, os.O_CREAT | os.O_RDWR, 0o600, None))
"""
COUNT_IPC = """
import os
counts = [len(open(f"/proc/sysvipc/{kind}").readlines()) - 1 for kind in ("shm", "sem", "msg")]
print(*counts, len(os.listdir("/dev/mqueue")))
"""


def test_ipc_objects_are_removed(guest: Guest) -> None:
    """Shared memory, semaphores and queues outlive processes, whoever of the sandbox made them."""
    for uid in (1000, 1234, 0):
        guest.run(PYTHON, "-I", "-c", IPC.replace("range(1, 4)", f"range({uid + 1}, {uid + 4})"), uid=uid, gid=uid)
    assert b"9 9 9 9\n" == guest.python(COUNT_IPC).stdout
    restore(guest)
    assert b"0 0 0 0\n" == guest.python(COUNT_IPC).stdout
    assert 1 == guest.shell("cat /proc/1/environ 2>/dev/null").code


def refusal(guest: Guest, *trees: TreeRestore) -> Error:
    """Return the ERROR of a RESTORE that cannot be done."""
    request_id = guest.next_id()
    return guest.refused(encode_restore(request_id, trees), request_id)


@pytest.mark.parametrize(
    ("tree", "number"),
    [
        (TreeRestore("/nowhere"), errno.ENOENT),
        (TreeRestore("ws"), errno.EINVAL),
        (TreeRestore(""), errno.EINVAL),
        (TreeRestore("/etc/passwd"), errno.ENOENT),
        (TreeRestore("/ws", "/nowhere"), errno.ENOENT),
        (TreeRestore("/ws", "/snap/plain"), errno.ENOTDIR),
        (TreeRestore("/ws", mode=0o10000), errno.EINVAL),
        (TreeRestore("/w\0s"), errno.EINVAL),
        (TreeRestore("/usr"), errno.EROFS),
    ],
)
def test_what_cannot_be_restored_is_an_error(guest: Guest, tree: TreeRestore, number: int) -> None:
    """It says which tree or snapshot, and the channel goes on."""
    assert number == refusal(guest, tree).errno
    assert 0 == guest.run("true").code


def test_a_tree_behind_a_link_is_refused(guest: Guest) -> None:
    """An agent that puts a link where a tree was cannot have another directory emptied."""
    guest.shell("mkdir /tmp/victim; echo x >/tmp/victim/x; ln -s victim /tmp/tree; ln -s . /tmp/here")
    for path in ("/tmp/tree", "/tmp/here/victim"):
        assert errno.ELOOP == refusal(guest, TreeRestore(path)).errno
    assert 0 == guest.run("test", "-e", "/tmp/victim/x").code


def test_special_files_in_a_snapshot_are_refused(guest: Guest, snapshot: Path) -> None:
    """A FIFO is named; it is not copied as something else, nor waited for."""
    os.mkfifo(snapshot / "sub" / "pipe")
    error = refusal(guest, WORKSPACE)
    assert errno.EINVAL == error.errno
    assert "pipe" in error.message


def test_a_snapshot_that_is_too_deep_is_refused(guest: Guest, snapshot: Path) -> None:
    """The depth of a snapshot has a limit, below that of descriptors; the deepest allowed works."""
    deep = snapshot
    for _ in range(200):
        deep /= "d"
        deep.mkdir()
    restore(guest, WORKSPACE)
    assert restore(guest, WORKSPACE).kept > 200
    restore(guest, TreeRestore("/ws"))
    (deep / "d").mkdir()
    assert errno.ELOOP == refusal(guest, WORKSPACE).errno
    restore(guest, TreeRestore("/ws"))


def test_a_full_tree_is_an_error_and_can_be_emptied_again(snapshot: Path) -> None:
    """Too little room for the snapshot is said."""
    mounts = ["--size", str(1 << 20), "--perms", "0755", "--tmpfs", "/small"]
    with Guest(snapshot=snapshot, mounts=mounts) as guest:
        assert errno.ENOSPC == refusal(guest, TreeRestore("/small", "/snap")).errno
        assert restore(guest, TreeRestore("/small", "", AGENT, AGENT, 0o700)).removed > 0


def test_another_mount_inside_a_tree_is_not_emptied(snapshot: Path) -> None:
    """What is mounted below a tree is somebody else's: an error, before anything in it is lost."""
    with Guest(snapshot=snapshot, mounts=["--perms", "1777", "--tmpfs", "/ws/other"]) as guest:
        guest.shell("echo x >/ws/other/x")
        assert refusal(guest, TreeRestore("/ws")).errno == errno.EBUSY
        assert b"x\n" == guest.run("cat", "/ws/other/x", uid=0, gid=0).stdout
