"""A root file system of the guest's own making: a layer that each restore throws away, or a directory that nobody can
change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from codecraft_pool.digest import Digest
from codecraft_pool.protocol import Tool, TreeRestore, restored
from codecraft_pool.requests import encode_read, encode_restore, encode_tool
from tests.pool.guest_harness import BUILDS, CAPABILITIES, Guest, data, done, needs_root

pytestmark = needs_root

MOUNTING: Final = (*CAPABILITIES, "SYS_ADMIN", "SYS_CHROOT", "FSETID", "MKNOD", "SETFCAP")
STAGE: Final = ("--dir", "/.codecraft/root", "--ro-bind", "/", "/host")
TREES: Final = ("--tree", "/ws", "--tree", "/tmp")
LAYER: Final = ("--seccomp", "--root", "/host", "--layer", "64:4096", *TREES)
WHAT_IS_THERE: Final = """
import os, sys
for top in sys.argv[1:]:
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in ["."] + sorted(files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            size = "" if name == "." else info.st_size
            print(ascii(path), oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, size)
"""


@pytest.fixture(name="layered", params=BUILDS)
def start_layered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    """A guest whose commands write to a layer over the machine's root file system."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme").write_text("of the snapshot\n")
    mounts = [*STAGE, "--ro-bind", str(tmp_path), "/.codecraft/snapshots"]
    with Guest(request.param, args=LAYER, capabilities=MOUNTING, mounts=mounts) as guest:
        yield guest


def restore(guest: Guest, *trees: TreeRestore, system: bool = True) -> Any:
    """Restore; it must work."""
    request_id = guest.next_id()
    return restored(done(guest.ask(encode_restore(request_id, trees, system=system), request_id)))


def as_root(guest: Guest, script: str, **options: Any) -> tuple[int, str]:
    """Run a line of shell as root; return its exit status and all that it printed."""
    ran = guest.shell(script, uid=0, gid=0, merge_stderr=True, **options)
    return ran.code, ran.stdout.decode()


def listing(guest: Guest, *tops: str) -> str:
    """All below these directories, with owners, modes, times and sizes."""
    ran = guest.run("/usr/bin/python3", "-I", "-c", WHAT_IS_THERE, *tops, uid=0, gid=0, max_output_bytes=64 << 20)
    assert (0, b"") == (ran.code, ran.stderr)
    return ran.stdout.decode()


def test_all_of_a_layer_goes(layered: Guest) -> None:
    """A restore gives back every system directory as it was, times included, whatever root did to it."""
    tops = ("/etc", "/usr/share", "/var/lib/dpkg", "/opt", "/srv")
    before = listing(layered, *tops)
    script = """
    mkdir /usr/new && cd /usr/new && for i in $(seq 1000); do echo $i > $i; done
    rm -rf /usr/share/doc /etc/apt; mv /usr/share/zoneinfo /usr/share/z; echo x >> /etc/passwd; chmod 700 /etc
    chown 5:5 /opt; mkdir /etc/apt; ln -s /etc /root/link; rm -rf /var/lib/dpkg; touch /new; : > /etc/hosts; exit 0
    """
    assert (0, "") == as_root(layered, script)
    assert before != listing(layered, *tops)
    restore(layered)
    assert before == listing(layered, *tops)
    assert (2, "") == as_root(layered, "ls /new /usr/new 2>&- >&2")


def layer(guest: Guest) -> Digest:
    """What is in the layer."""
    request_id = guest.next_id()
    guest.send(encode_tool(request_id, Tool.DIGEST, flags=3))
    ran = guest.finish(request_id, limit_s=60)
    assert (0, b"") == (ran.code, ran.stderr)
    return Digest.parse(ran.stdout)


def test_what_a_layer_says(layered: Guest) -> None:
    """New and changed entries as they are now, removed ones, and directories that hide what the image has in them."""
    before = layer(layered)
    script = """
    echo new > /new; mkdir -p /opt/a; ln -s goal /opt/l; rm -r /etc/apt /usr/bin/env; mkdir /etc/apt; chmod 750 /srv
    mv /usr/share/zoneinfo /usr/share/z; echo x > /tmp/in-a-tree
    """
    assert (0, "") == as_root(layered, script)
    after = layer(layered)
    removed = [path for path, entry in after.items() if (entry.kind, entry.mode) == ("char", 0)]
    assert ["/usr/bin/env", "/usr/share/zoneinfo"] == removed
    assert {"/etc/apt"} <= {path for path, entry in after.items() if entry.several}
    new = after["/new"]
    assert ("file", 4, hashlib.sha256(b"new\n").hexdigest(), "") == (new.kind, new.size, new.content, new.attributes)
    assert ("dir", "link", b"goal", 0o750) == (
        *(after["/opt/a"].kind, after["/opt/l"].kind, after["/opt/l"].target, after["/srv"].mode),
    )
    assert not [path for path in after if path.startswith("/tmp/")]
    restore(layered)
    assert list(before) == list(layer(layered))


def test_moved_mounts(layered: Guest) -> None:
    """Directories moved from under their mounts, with links in their place, come back, and no mount is lost."""
    guests_mounts = "cut -d' ' -f5 /proc/self/mountinfo | sort"
    before = as_root(layered, guests_mounts)
    assert 1 == as_root(layered, "mv /tmp /elsewhere")[0]
    assert (0, "") == as_root(
        layered, "mv /var /v && ln -s / /var && mv /usr/share '/usr/a\nb' && ln -s /proc /usr/share"
    )
    restore(layered, TreeRestore("/ws", "/.codecraft/snapshots/a"))
    assert before == as_root(layered, guests_mounts)
    assert (0, "of the snapshot\n") == as_root(layered, "test ! -L /var && cat /ws/readme")


def test_moved_parent_of_a_mount(tmp_path: Path) -> None:
    """A tree below a directory that was renamed is back in its place after the restore, and can be emptied."""
    args = (*LAYER, "--tree", "/var/tmp")
    mounts = [*STAGE, "--perms", "1777", "--tmpfs", "/var/tmp"]
    with Guest(args=args, capabilities=MOUNTING, mounts=mounts) as guest:
        assert (0, "") == as_root(guest, "echo x > /var/tmp/left; mv /var '/v \\ r'; ln -s / /var; exit 0")
        report = restore(guest, TreeRestore("/var/tmp", "", 0, 0, 0o1777))
        assert 1 == report.removed
        assert (0, "/var/tmp\n") == as_root(guest, "cut -d' ' -f5 /proc/self/mountinfo | grep var; ls /var/tmp")


def test_processes_and_files_hold_nothing(layered: Guest) -> None:
    """Open and deleted files, working directories and descriptors in flight do not keep a layer alive."""
    program = """
import os, socket, time
files = [open(f"/usr/file{i}", "w") for i in range(100)]
for i in range(50): os.unlink(f"/usr/file{i}")
a, b = socket.socketpair()
for file in files: socket.send_fds(a, [b"x"], [file.fileno()])
socket.send_fds(a, [b"x"], [a.fileno(), b.fileno()])
os.mkdir("/usr/here"); os.chdir("/usr/here"); os.rmdir("/usr/here")
print("ready", flush=True)
time.sleep(1000)
"""
    request_id = layered.begin(["/usr/bin/python3", "-I", "-c", program], uid=0, gid=0, limit_ms=60_000)
    assert layered.wait_readable(20)
    assert 1 == restore(layered).killed
    layered.finish(request_id)
    assert (2, "") == as_root(layered, "ls /usr/file99 2>&-")


def test_trees_without_their_system(layered: Guest) -> None:
    """Ending all processes keeps the layer; asked to, it keeps the trees alone, as they are."""
    assert (0, "") == as_root(layered, "echo x > /usr/x; echo x > /ws/x; mv /usr/bin/true /usr/bin/false")
    restore(layered, system=False)
    assert (0, "/usr/x\n/ws/x\n") == as_root(layered, "ls /usr/x /ws/x")
    restore(layered, system=True)
    assert (0, "/ws/x\n") == as_root(layered, "ls /ws/x; true && ! false && ! test -e /usr/x")


def test_where_the_store_is_not(layered: Guest) -> None:
    """Commands see neither the guest nor the snapshots nor the old root, before and after a restore."""
    for _ in range(2):
        code, seen = as_root(
            layered, "ls -A /.codecraft; ls /guest 2>&-; cut -d' ' -f5 /proc/self/mountinfo | grep -c code"
        )
        assert (1, "0\n") == (code, seen)
        restore(layered, TreeRestore("/ws", "/.codecraft/snapshots/a"))


def test_what_root_cannot_do(layered: Guest) -> None:
    """Root in a layer has a handful of capabilities, and none that leads out or to the guest."""
    attempts = (
        "mount -t tmpfs none /mnt",
        "umount /proc",
        "umount -l /ws",
        "mount -o remount,rw /proc",
        "unshare --user true",
        "unshare --mount true",
        "chroot / true",
        "mknod /b b 254 0",
        "mknod /ws/c c 1 3",
        "nsenter --mount=/proc/1/ns/mnt true",
        "ls /proc/1/root/",
        "ls /proc/1/cwd/",
        "ls -l /proc/1/fd",
        "cat /proc/1/environ",
        "cat /proc/1/maps",
        "cat /proc/1/mem",
        "echo 1000 > /proc/1/oom_score_adj",
        "echo 0 > /proc/1/coredump_filter",
        "echo 1 > /proc/1/clear_refs",
        "echo 1 > /proc/sys/kernel/panic",
        "chmod 600 /proc/execdomains",
        "chmod 000 /dev/null",
        "chmod 000 /dev/stdin",
        "echo x > /dev/new",
        "renice 19 1",
        "prlimit --pid 1 --nofile=1:1",
        "hostname other",
        "dmesg",
        "python3 -c 'import os; os.fchmod(0, 0)'",
        "python3 -c 'import os; os.open(\"/proc/1/fd/0\", 0)'",
        "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'",
    )
    for attempt in attempts:
        assert 0 != as_root(layered, attempt)[0], attempt
    as_root(layered, "kill -9 1; kill -STOP 1; kill -9 -1")
    assert "00000000000000fb\n" == as_root(layered, "sed -n 's/CapEff:\\t//p' /proc/self/status")[1]
    assert "00000000000000fb\n" == as_root(layered, "sed -n 's/CapBnd:\\t//p' /proc/self/status")[1]
    assert (0, "1:1\n") == as_root(layered, "touch /usr/x; chown 1:1 /usr/x; stat -c %u:%g /usr/x")


def test_other_users_in_a_layer(layered: Guest) -> None:
    """Agents have no capability there either; root may become any user, and not come back."""
    assert b"0000000000000000\n" == layered.shell("sed -n 's/CapPrm:\\t//p' /proc/self/status").stdout
    assert layered.shell("touch /usr/x").code != 0
    dropping = "setpriv --reuid 1234 --clear-groups sh -c 'id -u; sed -n s/CapEff:.//p /proc/self/status; touch /usr/x'"
    code, printed = as_root(layered, dropping)
    assert (1, ["1234", "0000000000000000"]) == (code, printed.splitlines()[:2])


def test_size_of_a_layer(layered: Guest) -> None:
    """What a layer can hold is bounded, in bytes and in files, and a full one is thrown away like any other."""
    code, printed = as_root(layered, "head -c 100M /dev/zero > /usr/big; stat -c %s /usr/big")
    assert (0, True) == (code, "No space left" in printed)
    assert int(printed.split()[-1]) <= 64 << 20
    restore(layered)
    assert as_root(layered, "mkdir /usr/many; cd /usr/many; touch $(seq 5000)")[0] != 0
    restore(layered)
    assert (0, "") == as_root(layered, "touch /usr/x")


def test_files_through_the_guest(layered: Guest) -> None:
    """What the guest reads is what commands wrote to the layer."""
    assert (0, "") == as_root(layered, "echo written > /etc/new; chmod 0 /etc/new")
    request_id = layered.next_id()
    assert (
        b"written\n" == data(layered.ask(encode_read(request_id, "/etc", "new", offset=0, length=100), request_id)).data
    )


# --- a root that nobody can change ------------------------------------------------------------------------------------

BOUND: Final = ("--seccomp", "--root", "/", "--tree", "/usr", "--tree", "/tmp")


def test_read_only_root() -> None:
    """A directory as root is read-only for everybody, and the guest keeps no power to mount."""
    with Guest(args=BOUND, capabilities=MOUNTING, mounts=STAGE) as guest:
        code, printed = as_root(guest, "touch /x", cwd="/")
        assert (1, True) == (code, "Read-only" in printed)
        assert b"00000000000001eb\n" == guest.shell("sed -n 's/CapPrm:\t//p' /proc/1/status", cwd="/").stdout
        assert b"/ ro,nosuid,nodev,relatime\n" in guest.shell("cut -d' ' -f5,6 /proc/self/mountinfo", cwd="/").stdout
        assert 0 == guest.shell("echo x > /tmp/x", cwd="/").code
        restore(guest, TreeRestore("/tmp", "", 0, 0, 0o1777))
        assert b"" == guest.shell("ls /tmp", cwd="/").stdout


@pytest.mark.parametrize("build", BUILDS)
def test_better_root(build: str, tmp_path: Path) -> None:
    """A copy of the root that appears later is taken up by the next restore, and then for good."""
    mounts = [*STAGE, "--bind", str(tmp_path), "/.codecraft/roots"]
    args = (*BOUND, "--better-root", "/.codecraft/roots/later")
    capabilities = "sed -n 's/CapPrm:\t//p' /proc/1/status"
    with Guest(build, args=args, capabilities=MOUNTING, mounts=mounts) as guest:
        restore(guest)
        assert b"0000000000000000\n" != guest.shell(capabilities, cwd="/").stdout
        assert 2 == guest.shell("ls /mark", cwd="/").code
        with Guest(args=("--copy-root", "/.codecraft/roots/later"), capabilities=MOUNTING, mounts=mounts):
            assert ["later"] == [path.name for path in tmp_path.iterdir()]
        (tmp_path / "later" / "mark").write_text("copied\n")
        restore(guest, TreeRestore("/tmp", "", 0, 0, 0o1777))
        assert b"copied\n" == guest.shell("cat /mark", cwd="/").stdout
        mounted = guest.shell("cut -d' ' -f5,6 /proc/self/mountinfo", cwd="/").stdout.splitlines()
        assert [b"/ ro,nosuid,nodev,relatime"] == [line for line in mounted if line.startswith(b"/ ")]
        assert 1 == guest.shell("touch /x", cwd="/").code
        restore(guest)


@pytest.mark.parametrize("build", BUILDS)
def test_copied_root(build: str, tmp_path: Path) -> None:
    """A copy has what is in the root file system itself, and nothing of what is mounted on it."""
    mounts = [*STAGE, "--bind", str(tmp_path), "/.codecraft/roots", "--perms", "0751", "--dir", "/own/dir"]
    mounts += ["--symlink", "no/where", "/own/link", "--perms", "0755", "--dir", "/own"]
    with Guest(build, args=("--copy-root", "/.codecraft/roots/a"), capabilities=MOUNTING, mounts=mounts):
        copied = tmp_path / "a"
        assert {"usr", "proc", "host", "own", "guest"} <= {path.name for path in copied.iterdir()}
        assert [] == [*(copied / "usr").iterdir(), *(copied / "host").iterdir(), *(copied / "proc").iterdir()]
        assert 0o751 == (copied / "own" / "dir").stat().st_mode & 0o7777
        assert "no/where" == str((copied / "own" / "link").readlink())
        assert 0 == (copied / "guest").stat().st_size  # bound there, so what is below is an empty file


def test_copy_for_nobody(tmp_path: Path) -> None:
    """A copy ends when the host is gone, and what there was of it is removed."""
    mounts = [*STAGE, "--bind", str(tmp_path), "/.codecraft/roots"]
    guest = Guest(args=("--copy-root", "/.codecraft/roots/a"), capabilities=MOUNTING, mounts=mounts)
    guest.start()
    assert 1 == guest.end()
    assert "the host is gone" in guest.log()
    assert [] == list(tmp_path.iterdir())


def test_copy_that_is_refused(tmp_path: Path) -> None:
    """Where a copy cannot be made the guest says why and ends."""
    guest = Guest(args=("--copy-root", "/no/where"), capabilities=MOUNTING, mounts=STAGE)
    guest.start()
    assert 1 == guest.status()
    assert "cannot copy the root file system: cannot make /no/where.partial" in guest.log()
    guest.kill()


@pytest.mark.parametrize(
    ("args", "capabilities", "message"),
    [
        (LAYER, CAPABILITIES, "needs CAP_SYS_ADMIN"),
        (("--root", "/no/where"), MOUNTING, "No such file"),
        (("--root", "relative"), MOUNTING, "absolute path"),
        (("--layer", "1:1"), MOUNTING, "need a --root"),
        (("--root", "/", "--layer", "0:1"), MOUNTING, "MIB:FILES"),
        (("--root", "/", "--tree", "/host/nothing"), MOUNTING, "/host/nothing"),
    ],
)
def test_roots_that_cannot_be(args: tuple[str, ...], capabilities: tuple[str, ...], message: str) -> None:
    """What the guest cannot make a root of is said at the start."""
    guest = Guest(args=args, capabilities=capabilities, mounts=STAGE)
    guest.start()
    assert guest.status() in (1, 2)
    assert message in guest.log()
    guest.kill()
