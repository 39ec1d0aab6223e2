"""What a hostile program in a real sandbox can not do: to the guest, to the machine, or to the next episode."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator

import pytest

from codecraft_pool import PathMissing, RequestRefused, Sandbox, SandboxPool, Snapshot
from codecraft_pool.cgroups import ControlGroups
from tests.pool.launchers import BACKENDS, IS_ROOT, SPEC, open_pool, outcome, processes, python, shell, until_alone

pytestmark = pytest.mark.anyio

ATTACK_GUEST = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, function):
    try:
        done = function() >= 0
    except OSError:
        done = False
    if done:
        print(name)
for name in ("mem", "environ", "maps", "exe", "cwd/.", "root/etc", "fd/0", "fd/1", "fd/2", "fd/10", "fd/11"):
    attempt(name, lambda: os.open(f"/proc/1/{name}", os.O_RDONLY))
attempt("write mem", lambda: os.open("/proc/1/mem", os.O_RDWR))
attempt("attach", lambda: libc.ptrace(16, 1, 0, 0))
attempt("seize", lambda: libc.ptrace(0x4206, 1, 0, 0))
attempt("getfd", lambda: libc.syscall(438, os.pidfd_open(1), 0, 0))
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        pass
for name in ("oom_score_adj", "oom_adj", "coredump_filter", "autogroup"):
    attempt(name, lambda: os.open(f"/proc/1/{name}", os.O_WRONLY))
    attempt("task " + name, lambda: os.open(f"/proc/1/task/1/{name}", os.O_WRONLY))
attempt("stack", lambda: len(open("/proc/1/stack").read()))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19) or 0)
attempt("affinity", lambda: os.sched_setaffinity(1, {0}) or 0)
"""
ATTACK_KERNEL = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, *args):
    if getattr(libc, name)(*args) >= 0:
        print(name, args)
attempt("setuid", 0) if os.getuid() else None
attempt("setgid", 0) if os.getuid() else None
attempt("chroot", b"/tmp")
attempt("mount", b"none", b"/tmp", b"tmpfs", 0, None)
attempt("mount", b"none", b"/", None, 32 | 4096, None)
attempt("umount2", b"/workspace", 0)
attempt("unshare", 0x10000000)
attempt("unshare", 0x00020000)
attempt("mknod", b"/tmp/disk", 0o60666, 0x800)
attempt("sethostname", b"mine", 4)
attempt("swapoff", b"/dev/vda")
attempt("reboot", 0x01234567)
attempt("nice", -5) if os.nice(0) == 0 else None
attempt("prctl", 24, 1, 0, 0, 0)
"""


@pytest.fixture(scope="module", name="pool", params=BACKENDS)
async def make_pool(request: pytest.FixtureRequest) -> AsyncGenerator[SandboxPool]:
    async with open_pool(request, warm=1) as pool:
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    async with pool.lease(SPEC) as sandbox:
        yield sandbox


def has_user_of_its_own(pool: SandboxPool) -> bool:
    """Whether commands run as another user than the guest."""
    return pool.launcher.name == "docker" or IS_ROOT


async def test_user(pool: SandboxPool, sandbox: Sandbox) -> None:
    """A command has no capability, can gain none, and is not root wherever the launcher has a choice."""
    status = await shell(sandbox, "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert {"0000000000000000"} == {value.strip() for name, value in fields.items() if name.startswith("Cap")}
    assert ("1", "2") == (fields["NoNewPrivs"].strip(), fields["Seccomp"].strip())
    if has_user_of_its_own(pool):
        assert "0" not in (await shell(sandbox, "id -u; id -g; id -G")).split()


async def test_guest_is_out_of_reach(sandbox: Sandbox) -> None:
    """The guest's memory, descriptors and environment are closed, and no signal or call harms it."""
    assert "" == await python(sandbox, ATTACK_GUEST)
    await sandbox.ping()


async def test_kernel_is_out_of_reach(sandbox: Sandbox) -> None:
    """Calls that would change the machine, or gain rights, are refused."""
    assert "" == await python(sandbox, ATTACK_KERNEL)


async def test_snapshots_are_hidden(pool: SandboxPool, sandbox: Sandbox) -> None:
    """What the workspaces of other episodes are restored from is not to be read, and never to be written."""
    snapshot = Snapshot.from_files({"secret": "of another task"})
    await sandbox.restore(snapshot)
    result = await sandbox.run(f"cat /.codecraft/snapshots/{snapshot.id}/secret; ls /.codecraft/snapshots")
    if has_user_of_its_own(pool):
        assert (b"", 2) == (result.stdout, result.exit_code)
    result = await sandbox.run(f"cd /.codecraft/snapshots; rm -rf *; echo x > {snapshot.id}/secret; touch x", cwd="/")
    assert 0 != result.exit_code
    await sandbox.restore(snapshot)
    assert b"of another task" == await sandbox.read_file("secret")


async def test_no_network_but_loopback(sandbox: Sandbox) -> None:
    """The one interface is a loopback of its own, which works; sockets of the machine are out of reach."""
    mark = b"\0codecraft-test-abstract"
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket() as server:
        abstract.bind(mark)
        abstract.listen()
        server.bind(("127.0.0.1", 0))
        server.listen()
        program = f"""
import os, socket
print(sorted(os.listdir("/sys/class/net")) if os.path.exists("/sys/class/net") else
      [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]])
def reach(family, address):
    try:
        socket.socket(family).connect(address)
        return "reached"
    except OSError as error:
        return type(error).__name__
inside = socket.socket()
inside.bind(("127.0.0.1", 0))
inside.listen()
print(reach(socket.AF_INET, inside.getsockname()))
print(reach(socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})))
print(reach(socket.AF_UNIX, {mark!r}))
print(reach(socket.AF_INET, ("192.0.2.1", 80)))
print(socket.gethostbyname("localhost"), socket.gethostname())
"""
        expected = ["['lo']", "reached", "ConnectionRefusedError", "ConnectionRefusedError", "OSError"]
        assert [*expected, "127.0.0.1 sandbox"] == (await python(sandbox, program)).splitlines()


async def test_root_file_system_is_read_only(sandbox: Sandbox) -> None:
    """Nothing outside of the writable trees can be made, changed or removed."""
    text = """
for path in / /usr /usr/bin /etc /var /root /opt /home /.codecraft /dev /proc/sys/kernel; do
  touch $path/new 2>/dev/null && echo made in $path
done
for path in /etc/passwd /etc/hosts /usr/bin/env /.codecraft/guest /proc/sys/kernel/shmmax /proc/sys/kernel/pid_max; do
  sh -c 'true >> $0' $path 2>/dev/null && echo opened $path
  rm -f $path 2>/dev/null && echo removed $path
done
mv /tmp /other 2>/dev/null && echo moved /tmp
exit 0
"""
    assert "" == await shell(sandbox, text, cwd="/")


async def test_fork_bomb(pool: SandboxPool, sandbox: Sandbox) -> None:
    """It stays within the limit of processes; meanwhile the guest answers, and afterwards all is clean."""
    bomb = asyncio.create_task(sandbox.run("b() { b | b & }; b; b; sleep 1001", limit_s=1.0, max_output_bytes=10_000))
    await asyncio.sleep(0.5)
    await sandbox.ping()
    async with pool.lease(SPEC) as other:
        assert "still here\n" == await shell(other, "echo still here")
    result = await bomb
    assert result.timed_out or result.truncated or result.exit_code != 0
    report = await sandbox.restore()
    assert report.killed <= SPEC.max_processes
    assert ([], "1\n") == (await processes(sandbox), await shell(sandbox, "echo 1"))


async def test_processes_that_want_to_stay(sandbox: Sandbox) -> None:
    """Ignored signals, stopped processes and ones that fork for ever all end with a restore."""
    program = """
import os, signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
if os.fork() == 0:
    os.setsid()
    end = time.monotonic() + 30
    while time.monotonic() < end:  # flees from pid to pid
        if os.fork() > 0:
            os._exit(0)
"""
    await python(sandbox, program)
    await shell(sandbox, "sh -c 'kill -STOP $$' >/dev/null 2>&1 & (trap '' TERM HUP; sleep 1001 &) ")
    await sandbox.restore()
    assert [] == await processes(sandbox)


async def test_deep_tree_and_closed_directories(sandbox: Sandbox) -> None:
    """A tree deeper than any path may be long, and directories with mode 000, are removed."""
    program = """
import os
for _ in range(4000):
    os.mkdir("d" * 40)
    os.chdir("d" * 40)
open("bottom", "w").close()
os.chdir("/workspace")
os.makedirs("closed/a/b")
for name in ("closed/a/b", "closed/a", "closed"):
    os.chmod(name, 0)
"""
    await python(sandbox, program)
    await sandbox.restore()
    assert "" == await shell(sandbox, "ls -A")


async def test_many_files(sandbox: Sandbox) -> None:
    """Thousands of files with hostile names are removed."""
    program = """
import os
for i in range(5000):
    open(b"-rf \\n\\xff*" + str(i).encode(), "w").close()
"""
    await python(sandbox, program)
    report = await sandbox.restore()
    assert (5000, "") == (report.removed, await shell(sandbox, "ls -A"))


async def test_links_in_place_of_directories(sandbox: Sandbox) -> None:
    """A workspace whose directories have become links out leads neither reads, writes nor restores astray."""
    snapshot = Snapshot.from_files({"sub/file": "mine", "sub/dir/x": "x"})
    await sandbox.restore(snapshot)
    await shell(sandbox, "rm -rf sub; mkdir /tmp/dir; echo out > /tmp/file; ln -s /tmp sub")
    with pytest.raises(RequestRefused):
        await sandbox.read_file("sub/file")
    with pytest.raises(RequestRefused):
        await sandbox.write_file("sub/new", b"x")
    assert "dir\nfile\n" == await shell(sandbox, "ls /tmp")
    await sandbox.restore(snapshot)
    assert b"mine" == await sandbox.read_file("sub/file")
    with pytest.raises(PathMissing):
        await sandbox.read_file("file", root="/tmp")


async def test_renames_during_reads_and_writes(sandbox: Sandbox) -> None:
    """A directory that keeps being swapped with a link to /etc never leads out."""
    program = """
import ctypes, os, time
libc = ctypes.CDLL(None)
os.makedirs("real"); open("real/passwd", "w").write("inside"); os.symlink("/etc", "link")
end = time.monotonic() + 1.0
while time.monotonic() < end:
    assert libc.renameat2(-100, b"real", -100, b"link", 2) == 0
"""
    swapping = asyncio.create_task(python(sandbox, program))
    seen: set[bytes] = set()
    while not swapping.done():
        try:
            seen.add(await sandbox.read_file("real/passwd"))
            await sandbox.write_file("real/passwd", b"inside")
        except OSError:
            continue
    await swapping
    assert {b"inside", b""} >= seen  # empty: between the truncation of a write and its data


async def test_output_without_end_from_many(sandbox: Sandbox) -> None:
    """Many talkative commands at once are each cut at their cap."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sandbox.run("yes", max_output_bytes=50_000)) for _ in range(12)]
    assert {(-1, 9, False, True)} == {outcome(task.result()) for task in tasks}
    assert {50_000} == {len(task.result().stdout) for task in tasks}
    await until_alone(sandbox)


async def test_memory(pool: SandboxPool) -> None:
    """Where memory is limited, the greedy process is killed and the sandbox goes on, full trees or not."""
    if pool.launcher.name == "local" and not ControlGroups.find().limits_memory:
        pytest.skip("no control groups can be made here")
    async with pool.lease(SPEC) as sandbox:
        result = await sandbox.run(["/usr/bin/python3", "-c", f"bytearray({SPEC.memory_bytes} * 2)"], limit_s=20)
        assert 0 != result.exit_code
        await sandbox.ping()
        fill = "for t in /workspace /home/agent /tmp /var/tmp /dev/shm; do cat /dev/zero > $t/fill; done 2>/dev/null"
        await sandbox.run(fill, limit_s=30)
        result = await sandbox.run(["/usr/bin/python3", "-c", f"bytearray({SPEC.memory_bytes} * 2)"], limit_s=20)
        assert 0 != result.exit_code
        await sandbox.restore()
        await sandbox.ping()
