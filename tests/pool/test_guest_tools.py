"""TOOL: digests, inspections and measures, by a copy of the guest whose output is treated as a command's."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence

import pytest

from codecraft_pool.digest import Digest, differences
from codecraft_pool.protocol import AGENT, Exit, Stop, Tool, TreeRestore
from codecraft_pool.requests import encode_cancel, encode_restore, encode_tool
from tests.pool.guest_harness import BUILDS, Guest, Ran, done, needs_root

pytestmark = needs_root


@pytest.fixture(name="guest", params=BUILDS)
def _guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(request.param) as guest:
        request_id = guest.next_id()
        done(guest.ask(encode_restore(request_id, [TreeRestore("/ws")]), request_id))
        yield guest


def tool(guest: Guest, kind: Tool, paths: Sequence[str] = (), **options: int) -> Ran:
    """Run a tool to its end."""
    request_id = guest.next_id()
    guest.send(encode_tool(request_id, kind, paths, **options))
    return guest.finish(request_id, limit_s=60)


def digest(guest: Guest, *paths: str, contents: bool = True) -> Digest:
    """Return the digest of trees."""
    ran = tool(guest, Tool.DIGEST, paths, flags=int(contents), max_output_bytes=64 << 20, limit_ms=60_000)
    assert (0, b"") == (ran.code, ran.stderr)
    return Digest.parse(ran.stdout)


def test_contents_have_the_digest_of_everybody_else(guest: Guest) -> None:
    """SHA-256, for sizes around those of its blocks and of the reads."""
    sizes = [0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 121, 127, 128, 129, 65535, 65536, 65537, 200_000]
    guest.python(f"for n in {sizes}: open('/tmp/%d' % n, 'wb').write((bytes(range(251)) * 1000)[:n])")
    found = digest(guest, "/tmp")
    expected = {f"/tmp/{n}": hashlib.sha256((bytes(range(251)) * 1000)[:n]).hexdigest() for n in sizes}
    assert expected == {path: entry.content for path, entry in found.items() if path != "/tmp"}


ZOO = """
import os, socket
os.chdir("/tmp")
os.mkdir("dir"); os.chmod("dir", 0); open("file", "w").write("content"); os.chmod("file", 0o4750)
os.symlink("goal", "link"); os.mkfifo("pipe"); socket.socket(socket.AF_UNIX).bind("sock")
os.link("file", "file too"); open(b"odd\\n\\xff", "w")
for name in ("file", "link", "pipe"):
    os.utime(name, ns=(7, -5_000_000_001), follow_symlinks=False)
"""


def test_what_a_digest_says(guest: Guest) -> None:
    """Kinds, modes, owners, sizes, times, names of one file and goals, in the order of names; nothing is followed."""
    guest.python(ZOO)
    found = digest(guest, "/tmp")
    assert sorted(found, key=os.fsencode) == list(found)
    file, link = found["/tmp/file"], found["/tmp/link"]
    assert ("file", 0o4750, AGENT, AGENT, 7, -5_000_000_001, 2) == (
        (file.kind, file.mode, file.uid, file.gid, file.size, file.mtime_ns, file.links)
    )
    assert hashlib.sha256(b"content").hexdigest() == file.content
    assert file == found["/tmp/file too"]
    assert file.several > 0
    assert ("link", b"goal", "") == (link.kind, link.target, link.content)
    assert ["dir", "fifo", "socket"] == [found[f"/tmp/{name}"].kind for name in ("dir", "pipe", "sock")]
    assert (0, 0, 0o1777) == (found["/tmp"].uid, found["/tmp"].gid, found["/tmp"].mode)
    assert "/tmp/odd\n\udcff" in found
    assert "" == digest(guest, "/tmp", contents=False)["/tmp/file"].content


def test_paths_alone(guest: Guest) -> None:
    """Asked for alone, a path is one entry, whatever it is; what is not there, or only through a link, is none."""
    guest.python(ZOO)
    whole = digest(guest, "/tmp")
    paths = [f"/tmp/{name}" for name in ("file", "link", "pipe", "sock", "nothing", "file/x", "link/x")]
    ran = tool(guest, Tool.DIGEST, ["/", "/tmp", *paths], flags=5, max_output_bytes=1 << 20, limit_ms=60_000)
    assert (0, b"") == (ran.code, ran.stderr)
    found = Digest.parse(ran.stdout)
    assert ["/", "/tmp", *paths[:4]] == list(found)
    assert [whole[path] for path in paths[1:4]] == [found[path] for path in paths[1:4]]
    assert whole["/tmp/file"].content == found["/tmp/file"].content
    assert 1 == len(Digest.parse(tool(guest, Tool.DIGEST, ["/tmp"], flags=4, limit_ms=60_000).stdout))
    refused = tool(guest, Tool.DIGEST, ["tmp"], flags=4, limit_ms=60_000)
    assert (1, True) == (refused.code, refused.stderr.endswith(b"is not an absolute path"))


def test_no_layer(guest: Guest) -> None:
    """Where there is none, that is said; and it takes no path."""
    assert b"there is no layer" in tool(guest, Tool.DIGEST, [], flags=3, limit_ms=60_000).stderr
    assert b"takes no path" in tool(guest, Tool.DIGEST, ["/tmp"], flags=3, limit_ms=60_000).stderr


def test_differences_are_said(guest: Guest) -> None:
    """One line for each property, by its name."""
    guest.shell("cd /tmp; echo a >kept; echo b >gone; echo c >other; chmod 600 other")
    before = digest(guest, "/tmp")
    guest.shell("cd /tmp; rm gone; echo n >new; chmod 640 other")
    lines = differences(before, digest(guest, "/tmp"))
    assert "'/tmp/gone' is missing" in lines
    assert "'/tmp/new' is new" in lines
    assert "'/tmp/other': mode is 0o640, not 0o600" in lines
    assert [] == differences(before, before)


def test_depth_and_width_do_not_matter(guest: Guest) -> None:
    """Three thousand directories in each other, and twenty thousand files in one."""
    guest.python("import os; os.chdir('/tmp')\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')", limit_ms=60_000)
    assert 3001 == len(digest(guest, "/tmp"))
    guest.python("for n in range(20000): open('/ws/%d' % n, 'w')", limit_ms=60_000)
    assert 20_001 == len(digest(guest, "/ws"))


def test_what_no_digest_can_be_made_of(guest: Guest) -> None:
    """A tree that is not there, or behind a link, is said; the sandbox goes on."""
    guest.shell("ln -s /etc /tmp/link")
    for path in ("/nowhere", "/tmp/link", "tmp"):
        ran = tool(guest, Tool.DIGEST, [path])
        assert (1, True) == (ran.code, path.encode() in ran.stderr)
    request_id = guest.next_id()
    unknown = encode_tool(request_id, Tool.DIGEST, ["/tmp"]).replace(b"\1\0\0\0", b"\x09\0\0\0", 1)
    assert errno.EINVAL == guest.refused(unknown, request_id).errno
    request_id = guest.next_id()
    assert errno.EINVAL == guest.refused(encode_tool(request_id, Tool.EXPORT, ["/tmp", "/ws"]), request_id).errno
    request_id = guest.next_id()
    assert errno.EINVAL == guest.refused(encode_tool(request_id, Tool.DIGEST, ["/t\0"]), request_id).errno
    assert b"fine\n" == guest.shell("echo fine").stdout


def test_a_tool_ends_like_a_command(guest: Guest) -> None:
    """At its wall limit and its output cap, on CANCEL and on RESTORE."""
    guest.python("f=open('/ws/big','wb'); f.truncate(1 << 40)")
    ran = tool(guest, Tool.DIGEST, ["/ws"], flags=1, limit_ms=100)
    assert (Stop.WALL_LIMIT, -9) == (ran.exit.stop, ran.code)
    assert Stop.OUTPUT_CAP is tool(guest, Tool.EXPORT, ["/usr/share"], max_output_bytes=1000).exit.stop
    request_id = guest.next_id()
    guest.send(encode_tool(request_id, Tool.DIGEST, ["/ws"], flags=1, limit_ms=60_000), encode_cancel(request_id))
    assert Stop.CANCELLED is guest.finish(request_id).exit.stop
    request_id, restore_id = guest.next_id(), guest.next_id()
    guest.send(encode_tool(request_id, Tool.DIGEST, ["/ws"], flags=1, limit_ms=60_000), encode_restore(restore_id))
    frames = guest.frames_of(request_id)
    assert isinstance(frames[-1], Exit)
    assert Stop.RESTORED is frames[-1].stop


RESTLESS = """
import os, threading, time
os.makedirs("/tmp/a/b/c", exist_ok=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    for step in (("/tmp/a/b", "/tmp/b"), ("/tmp/b/c", "/tmp/c"), ("/tmp/c", "/tmp/b/c"), ("/tmp/b", "/tmp/a/b")):
        try: os.rename(*step)
        except OSError: pass
    try: os.unlink("/tmp/f"); os.symlink("/etc/shadow", "/tmp/f")
    except OSError: pass
    try: os.unlink("/tmp/f")
    except OSError: pass
    open("/tmp/f", "w").write("x")
"""


def test_a_tree_that_is_never_still(guest: Guest) -> None:
    """Directories that move under the walk and files that turn into links lead nowhere else."""
    running = guest.begin(["/usr/bin/python3", "-I", "-c", RESTLESS], limit_ms=60_000)
    for _ in range(30):
        ran = tool(guest, Tool.DIGEST, ["/tmp"], flags=1)
        if ran.code == 0:
            assert all(path.startswith("/tmp") for path in Digest.parse(ran.stdout))
        else:
            assert b"/tmp" in ran.stderr
    guest.send(encode_cancel(running))
    guest.finish(running)


def test_an_inspection_shows_what_is_left(guest: Guest) -> None:
    """Processes, sockets, IPC objects and the guest's descriptors; and nothing else changes."""
    before = sorted(tool(guest, Tool.INSPECT).stdout.decode().splitlines())
    assert before == sorted(tool(guest, Tool.INSPECT).stdout.decode().splitlines())
    kinds = {line.split()[0] for line in before}
    assert {"descriptor", "device", "guest", "host", "interface", "limit", "mount", "objects", "sockets"} <= kinds
    assert not any(line.startswith("process ") for line in before)
    guest.shell(
        "setsid python3 -I -c \"import socket,time; s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(); "
        "u=socket.socket(socket.AF_UNIX); u.bind('/tmp/u'); print('up', flush=True); time.sleep(60)\" >/tmp/said & "
        "until grep -q up /tmp/said; do sleep 0.01; done; ipcmk -M 4096 >/dev/null"
    )
    after = sorted(tool(guest, Tool.INSPECT).stdout.decode().splitlines())
    new = set(after) - set(before)
    assert {"sockets tcp 1", "sockets unix 1", "objects shm 1"} <= new
    assert [line for line in new if line.startswith("process python")]
    request_id = guest.next_id()
    guest.ask(encode_restore(request_id), request_id)
    assert before == sorted(tool(guest, Tool.INSPECT).stdout.decode().splitlines())


def test_what_a_sandbox_uses(guest: Guest) -> None:
    """Processes without the guest, memory, and bytes and files of the trees."""
    guest.shell("head -c 1000000 /dev/zero >/tmp/x; setsid sleep 60 >/dev/null 2>&1 &")
    said = dict(line.split(" ", 1) for line in tool(guest, Tool.STAT, ["/tmp"]).stdout.decode().splitlines())
    assert "1" == said["processes"]
    assert 0 < int(said["guest_bytes"]) <= int(said["memory_bytes"]) or guest.build == "sanitized"
    used, limit, files, _ = map(int, said["tree"].split())
    assert 1_000_000 <= used < 1_100_000 < limit
    assert 1 <= files <= 3


ATTACK = """
import os, sys
found = []
for pid in os.listdir("/proc"):
    if not pid.isdigit() or int(pid) == os.getpid():
        continue
    for what in ("mem", "fd/1", "environ", "maps", "root/etc"):
        try:
            os.close(os.open(f"/proc/{pid}/{what}", os.O_RDONLY)); found.append((pid, what))
        except OSError:
            pass
    for number in (9, 19):
        try:
            os.kill(int(pid), number); found.append((pid, number))
        except OSError:
            pass
print(found)
"""


def test_an_agent_cannot_reach_the_worker(guest: Guest) -> None:
    """It is a copy of the guest: neither its memory nor its output can be had, and no signal stops it."""
    guest.python("f=open('/ws/big','wb'); f.truncate(1 << 40)")
    request_id = guest.next_id()
    guest.send(encode_tool(request_id, Tool.DIGEST, ["/ws"], flags=1, limit_ms=20_000))
    assert b"[]\n" == guest.python(ATTACK).stdout
    guest.send(encode_cancel(request_id))
    assert Stop.CANCELLED is guest.finish(request_id).exit.stop
