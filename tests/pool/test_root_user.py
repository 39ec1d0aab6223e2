"""Sandboxes whose commands run as root, in a layer over the whole root file system, on real containers: what works in
them, what a restore gives back, and what an attacker with that much power cannot do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from statistics import median
from typing import Any, Final

import pytest

from codecraft_pool import (
    DockerDaemon,
    DockerLauncher,
    LocalLauncher,
    Sandbox,
    SandboxPool,
    SandboxSpec,
    Snapshot,
    connect_daemon,
)
from codecraft_pool.errors import BackendUnavailable
from tests.conftest import ASYNCIO
from tests.pool.launchers import SPEC, WHOLE_ROOT, printed, processes, python, shell, until_alone

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

ROOT: Final = replace(SPEC, user="root", reset="overlay", tree_files=16_384)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Roots take long to be copied, and are the same on either loop."""
    return ASYNCIO


@pytest.fixture(scope="module", name="daemon")
async def connect(base_image: str) -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module", name="pool", params=["image", "volume"])
async def make_pool(request: pytest.FixtureRequest, daemon: DockerDaemon) -> AsyncGenerator[SandboxPool]:
    async with DockerLauncher(daemon, roots=request.param) as launcher, SandboxPool(launcher, max_sandboxes=3) as pool:
        await pool.prewarm(ROOT, 1)
        yield pool


@pytest.fixture(name="sandbox")
async def lease_sandbox(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    async with pool.lease(ROOT) as sandbox:
        yield sandbox


# --- what root is for -------------------------------------------------------------------------------------------------


async def test_installing_a_package(sandbox: Sandbox) -> None:
    """A Debian package is installed, with its group and its scripts, and is gone after the restore."""
    script = """
    set -e
    mkdir -p p/DEBIAN p/usr/bin p/etc/thing
    printf 'Package: thing\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' > p/DEBIAN/control
    printf '#!/bin/sh\\nset -e\\ngroupadd -r things || echo things:x:900: >> /etc/group\\nchown root:900 /usr/bin/thing
chmod 2755 /usr/bin/thing\\n' > p/DEBIAN/postinst
    printf '#!/bin/sh\\necho thing runs\\n' > p/usr/bin/thing; echo conf > p/etc/thing/conf
    chmod 755 p/DEBIAN/postinst p/usr/bin/thing
    dpkg-deb --build p thing.deb >/dev/null
    dpkg -i thing.deb >/dev/null
    thing; stat -c %a:%g /usr/bin/thing; dpkg -s thing | grep Status
    """
    assert "thing runs\n2755:900\nStatus: install ok installed\n" == (await printed(sandbox, script))[-60:]
    assert "not installed" in await printed(sandbox, "dpkg -r thing >/dev/null; dpkg -s thing")
    await sandbox.restore()
    assert "" == await shell(
        sandbox, "ls /usr/bin/thing /etc/thing 2>/dev/null; grep -x 'Package: thing' /var/lib/dpkg/status; true"
    )


async def test_installing_for_python(sandbox: Sandbox) -> None:
    """A module unpacked where Python looks for them is there for all users, until the restore."""
    script = """
    set -e
    where=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'); mkdir -p $where
    echo 'answer = 42' > newmodule.py; python3 -m zipfile -c newmodule-1-py3-none-any.whl newmodule.py
    python3 -m zipfile -e newmodule-1-py3-none-any.whl $where
    setpriv --reuid agent --clear-groups python3 -c 'import newmodule; print(newmodule.answer)'
    """
    assert "42\n" == await printed(sandbox, script)
    await sandbox.restore()
    assert "No module named" in await printed(sandbox, "python3 -c 'import newmodule'")


async def test_other_users(sandbox: Sandbox) -> None:
    """Root adds users, gives files away, and becomes somebody else by su."""
    script = """
    echo 'guest:*:4321:4321::/tmp:/bin/sh' >> /etc/passwd; echo 'guest:*:4321:' >> /etc/group
    touch mine; chown guest:guest mine; chmod 600 mine; su guest -c 'id -un; stat -c %U mine; touch /usr/x'
    """
    said = (await printed(sandbox, script)).splitlines()
    assert ["guest", "guest"] == said[:2]
    assert "Permission denied" in said[2]


async def test_all_of_the_system(sandbox: Sandbox) -> None:
    """Deleted, renamed, rewritten and replaced system files and directories come back, times and all."""
    before = await python(sandbox, WHOLE_ROOT, limit_s=60)
    await sandbox.run(
        """
        mkdir /usr/new; cd /usr/new; for i in $(seq 1000); do echo $i > $i; done
        mv /usr/share /usr/elsewhere; mv /var /v; ln -s / /var; echo 'root::0:0::/:/bin/true' > /etc/passwd
        echo 6.6.6.6 localhost > /etc/hosts; rm -rf /etc/dpkg /opt; ln -s /etc /opt; mkdir /usr/share
        python3 -c 'import os; os.setxattr("/usr/bin/git", "user.x", b"1")'; chmod 4777 /usr/bin/git
        rm -f /lib; rm -rf /usr/lib
        """,
        limit_s=60,
    )
    assert (await sandbox.run(["/bin/sh", "-c", "true"])).exit_code != 0  # nothing runs any more, not even that
    await sandbox.restore()
    assert before == await python(sandbox, WHOLE_ROOT, limit_s=60)


async def test_workspace_of_root(sandbox: Sandbox) -> None:
    """The workspace comes from the snapshot and belongs to root, and snapshots are nowhere to be seen."""
    await sandbox.restore(Snapshot.from_files({"readme": "hello\n"}))
    assert "hello\n0\n" == await shell(sandbox, "cat readme; stat -c %u readme")
    assert "" == await shell(sandbox, "ls -A /.codecraft; find / -xdev -name snapshots")
    await sandbox.write_file("by/host", b"x")
    assert b"x" == await sandbox.read_file("by/host")


async def test_time_of_a_reset(sandbox: Sandbox) -> None:
    """A thousand new files below /usr do not make the reset slow: it throws them away unseen."""
    took: list[float] = []
    for _ in range(10):
        await shell(sandbox, "mkdir /usr/new; cd /usr/new; for i in $(seq 1000); do echo $i > $i; done", limit_s=60)
        started = time.monotonic()
        await sandbox.restore()
        took.append(time.monotonic() - started)
    assert median(took) < 1.0  # a hundred times what it takes on a quiet machine: the machine may be busy


async def test_process_1_is_the_same_everywhere(sandbox: Sandbox) -> None:
    """A search of the whole tree meets nothing that it may not list, and lists of processes name no sandbox's numbers."""
    assert "" == await printed(sandbox, "find /proc /sys /dev / -xdev 2>&1 >/dev/null | grep -i denied")
    assert "guest\0" == await printed(sandbox, "cat /proc/1/cmdline")


# --- an attacker ------------------------------------------------------------------------------------------------------


async def test_nothing_survives(sandbox: Sandbox) -> None:
    """Whatever root leaves, in memory, in the kernel or on any mount, a restore ends."""
    state = """
    find /dev /proc/sys/kernel /sys /sys/kernel /proc /tmp /var/tmp -maxdepth 1 ! -path '/proc/[0-9]*' ! -name '*self' \
        -printf '%p %M %U %G %l\n' | sort
    cat /proc/sysvipc/*; cut -d' ' -f5,6 /proc/self/mountinfo; cat /proc/1/oom_score_adj /proc/1/limits
    cat /proc/1/coredump_filter; hostname; ulimit -a
    """
    before = await printed(sandbox, state)
    await sandbox.run(
        """
        (setsid sh -c 'trap "" 15 1 2; while :; do sleep 1; echo x >> /usr/log; done' &)
        ipcmk -M 4096; ipcmk -Q; ipcmk -S 3; echo x > /dev/shm/x; mkdir -p /tmp/a/b; chmod 000 /tmp /dev/mqueue /dev/shm
        chmod 000 /dev/pts/ptmx; chmod 700 /proc/keys /proc/timer_list /proc /sys /dev; chown 5 /dev/pts /dev/mqueue
        mkfifo /dev/mqueue/x; echo x > /dev/x; rm /dev/null; python3 -c '
import os
for pid in ("self", "1"):
    for name in ("oom_score_adj", "coredump_filter", "autogroup", "comm"):
        try: open(f"/proc/{pid}/{name}", "w").write("7")
        except OSError: pass
'
        """,
        limit_s=30,
    )
    await sandbox.restore()
    await until_alone(sandbox)
    assert before == await printed(sandbox, state)


async def test_the_guest_is_out_of_reach(sandbox: Sandbox) -> None:
    """Root cannot trace, read, stop, limit or kill the guest, nor change what it reads."""
    program = """
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
done = []
def attempt(name, action):
    try:
        if action() not in (-1,):
            done.append(name)
    except OSError:
        pass
attempt("ptrace attach", lambda: libc.ptrace(16, 1, 0, 0))
attempt("ptrace seize", lambda: libc.ptrace(0x4206, 1, 0, 0))
attempt("process_vm_readv", lambda: libc.process_vm_readv(1, None, 0, None, 0, 0))
attempt("pidfd_getfd", lambda: libc.syscall(438, os.pidfd_open(1), 10, 0))
attempt("kcmp", lambda: libc.syscall(312, 1, os.getpid(), 0, 0, 0))
attempt("prlimit", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (1, 1)))
attempt("setpriority", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
attempt("affinity", lambda: os.sched_setaffinity(1, {0}))
attempt("mem", lambda: open("/proc/1/mem", "r+b"))
for name in ("map_files", "fdinfo", "task/1/fdinfo"):
    attempt(name, lambda: os.listdir(f"/proc/1/{name}/") or -1)  # empty ones are shown in their places
for name in ("root", "cwd"):
    attempt(name, lambda: os.listdir(f"/proc/1/{name}/"))
for number in os.listdir("/proc/1/fd"):  # their numbers are no secret
    attempt(f"fd {number}", lambda: os.readlink(f"/proc/1/fd/{number}"))
    attempt(f"fd {number}", lambda: os.open(f"/proc/1/task/1/fd/{number}", os.O_PATH))
for name in ("exe", "environ", "maps", "syscall", "stack", "auxv", "io"):
    attempt(name, lambda: open(f"/proc/1/{name}", "rb").read())
for name in ("ns/mnt", "ns/user", "ns/pid"):
    attempt(name, lambda: os.stat(f"/proc/1/{name}"))
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE):
    os.kill(1, number)
print(done)
"""
    assert "[]\n" == await python(sandbox, program)
    await sandbox.ping()


async def test_no_way_out(sandbox: Sandbox) -> None:
    """Root has no device, no mount, no namespace and no handle by which it could leave its root."""
    program = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
done = []
def attempt(name, action):
    try:
        if action() != -1:
            done.append(name)
    except OSError:
        pass
attempt("chroot", lambda: os.chroot("/usr"))
attempt("mount", lambda: libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))
attempt("bind", lambda: libc.mount(b"/", b"/mnt", None, 4096, None))
attempt("remount", lambda: libc.mount(None, b"/proc", None, 32 | 4096, None))
attempt("umount", lambda: libc.umount2(b"/proc", 2))
attempt("pivot_root", lambda: libc.syscall(155, b"/", b"/mnt"))
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x04000000, 0x08000000, 0x02000000):
    attempt(f"unshare {flag:x}", lambda: libc.unshare(flag))
for number in (428, 429, 430, 432, 442, 304, 321, 298, 250, 425, 308, 179, 163, 167, 169, 175):
    attempt(f"call {number}", lambda: libc.syscall(number, 0, 0, 0, 0, 0))
for path in ("/dev/sda", "/dev/vda"):
    attempt(path, lambda: os.open(path, os.O_RDONLY))
for mode in (0o060600, 0o020600):
    for folder in ("/", "/workspace", "/dev/shm"):
        attempt(f"mknod {mode:o} {folder}", lambda: os.mknod(f"{folder}/node", mode, os.makedev(254, 0)))
attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("hostname", lambda: socket.sethostname("x"))
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/uid_map", "/sys/kernel/uevent_helper",
             "/sys/fs/cgroup/pids/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/x"):
    attempt(path, lambda: open(path, "w").write("1"))
for path in ("/proc/execdomains", "/proc/keys", "/proc/self/fd/0", "/dev/null", "/sys/kernel", "/proc/sys/kernel"):
    attempt(f"chmod {path}", lambda: os.chmod(path, os.stat(path).st_mode & 0o7777))
os.setxattr  # a capability on a file is of no use: nothing gains by executing
print(done)
"""
    assert "[]\n" == await python(sandbox, program)


async def test_escape_by_directory(sandbox: Sandbox) -> None:
    """Climbing from any directory, also one that was moved meanwhile, ends at the sandbox's own root."""
    program = """
import os
os.makedirs("/usr/a/b/c", exist_ok=True)
os.chdir("/usr/a/b/c")
os.rename("/usr/a/b", "/b")
for _ in range(50): os.chdir("..")
print(os.path.samefile(".", "/"), os.path.exists(".codecraft/guest"), os.path.exists("/.codecraft/root"))
for name in os.listdir("/proc/self/fd"):
    try: print(os.path.isdir(f"/proc/self/fd/{name}/.."))
    except OSError: pass
"""
    assert {"True False False", "False"} == set((await python(sandbox, program)).splitlines())


async def test_gaining_by_programs(sandbox: Sandbox) -> None:
    """Neither set-user-id programs nor file capabilities give anybody anything."""
    script = """
    cp /usr/bin/id /usr/bin/head /usr/local/bin/; chmod 4755 /usr/local/bin/id
    setpriv --reuid 1234 --clear-groups /usr/local/bin/id -u
    cat > cap.py <<'END'
import os
data = bytes.fromhex("0100000202040000000000000000000000000000")
try: os.setxattr("/usr/local/bin/head", "security.capability", data); print("set")
except OSError: print("refused")
END
    python3 cap.py; head -c 0 /dev/null; sed -n 's/CapEff:.//p' /proc/self/status
    """
    assert "1234\nrefused\n00000000000000fb\n" == await printed(sandbox, script)


async def test_fork_bomb_of_root(sandbox: Sandbox) -> None:
    """A fork bomb of root is bounded, and the restore ends it."""
    await sandbox.run(["sh", "-c", "b() { b | b & }; b; sleep 1"], limit_s=5)
    assert (await sandbox.restore()).killed <= ROOT.max_processes
    assert [] == await processes(sandbox)
    assert "fine\n" == await shell(sandbox, "echo fine")


async def test_full_layer(sandbox: Sandbox) -> None:
    """A layer that is full to the last byte and file is thrown away like any other."""
    await sandbox.run("head -c 1G /dev/zero > /usr/big; mkdir /etc/m; cd /etc/m; seq 20000 | xargs touch", limit_s=60)
    assert "fine\n" != await printed(sandbox, "head -c 64K /dev/zero > /usr/more && echo fine")
    await sandbox.restore()
    assert "fine\n" == await shell(sandbox, "head -c 64K /dev/zero > /usr/more && echo fine")


# --- what it is chosen by ---------------------------------------------------------------------------------------------


async def test_layer_for_agents(pool: SandboxPool) -> None:
    """Agents can have a layer too; they write what its owners' modes let them."""
    async with pool.lease(replace(SPEC, reset="overlay")) as sandbox:
        assert "agent\nagent\n" == await shell(sandbox, "id -un; stat -c %U .")
        assert "Permission denied" in await printed(sandbox, "touch /usr/x")
        assert "0000000000000000\n" == await shell(sandbox, "sed -n 's/CapPrm:.//p' /proc/self/status")


async def test_replaced_root(pool: SandboxPool) -> None:
    """Root in a sandbox that is to be replaced has a read-only root file system and no capability."""
    spec = replace(SPEC, user="root", reset="replace")
    async with pool.lease(spec) as sandbox:
        name = sandbox.id
        assert "0\n0000000000000000\n" == await shell(sandbox, "id -u; sed -n 's/CapPrm:.//p' /proc/self/status")
        assert (await sandbox.run("touch /usr/x")).exit_code != 0
    async with pool.lease(spec) as sandbox:
        assert name != sandbox.id


async def test_leases_of_a_layer(pool: SandboxPool) -> None:
    """A sandbox of root is used again, and the next borrower finds none of the files of the last."""
    async with pool.lease(ROOT) as sandbox:
        name = sandbox.id
        await shell(sandbox, "echo x > /usr/secret; echo x > /tmp/secret")
    async with asyncio.timeout(20):
        while pool.stats().idle == 0:  # noqa: ASYNC110  # the pool tells nobody
            await asyncio.sleep(0.01)
    async with pool.lease(ROOT) as sandbox:
        assert name == sandbox.id
        assert "" == await shell(sandbox, "find / -xdev -name secret; ls /tmp")


def test_resets_that_cannot_be() -> None:
    """Root and "restore" do not go together, and there is no fourth way."""
    assert ("overlay", "restore") == (SandboxSpec(user="root").reset, SandboxSpec().reset)
    assert SandboxSpec(user="root") == SandboxSpec(user="root", reset="overlay")
    with pytest.raises(ValueError, match="'overlay'"):
        SandboxSpec(user="root", reset="restore")
    with pytest.raises(ValueError, match="it must be"):
        SandboxSpec(reset="other")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_local_launcher_has_no_layers() -> None:
    """The local launcher says that it gives neither root nor layers."""
    async with LocalLauncher() as launcher:
        for spec in (SandboxSpec(user="root"), SandboxSpec(reset="overlay")):
            with pytest.raises(BackendUnavailable, match="docker"):
                await launcher.prepare(spec)
