"""What a command may not do to the guest, and the guest with a single user in a user namespace."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from codecraft_pool.protocol import Data, Hello, TreeRestore, restored
from codecraft_pool.requests import encode_cancel, encode_read, encode_restore, encode_run, encode_write
from tests.pool.guest_harness import BUILDS, NOBODY, PYTHON, Guest, done, needs_root

ATTACKS = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, function):
    try:
        result = function()
    except OSError as error:
        result = -error.errno
    if result == -1:
        result = -ctypes.get_errno()
    print(name, "refused" if isinstance(result, int) and result < 0 else "DONE")
for name in ("mem", "fd", "environ", "maps", "cwd/.", "root/etc", "exe", "fd/10", "task/1/mem", "clear_refs"):
    attempt(name, lambda: os.open(f"/proc/1/{name}", os.O_RDONLY))
attempt("oom", lambda: os.open("/proc/1/oom_score_adj", os.O_WRONLY))
attempt("comm", lambda: os.open("/proc/1/comm", os.O_WRONLY))
attempt("attach", lambda: libc.ptrace(16, 1, 0, 0))
attempt("seize", lambda: libc.ptrace(0x4206, 1, 0, 0))
buffer = ctypes.create_string_buffer(16)
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
local, remote = Part(ctypes.addressof(buffer), 16), Part(0x400000, 16)
attempt("vm", lambda: libc.process_vm_readv(1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
attempt("getfd", lambda: libc.syscall(438, os.pidfd_open(1), 0, 0))
"""

# All but those that the sanitizer handles, which therefore reach it: ILL, TRAP, ABRT, BUS, FPE, SEGV.
SIGNALS = "for s in $(seq 1 64); do case $s in [45678]|11) ;; *) kill -$s 1 2>/dev/null;; esac; done; kill -9 -1"

CALLS = """
import ctypes, errno, fcntl, os, platform, resource
libc = ctypes.CDLL(None, use_errno=True)
names = ("keyctl add_key mount pivot_root bpf perf_event_open userfaultfd kexec_load init_module "
         "unshare clone prlimit64 prctl setpriority ioprio_set").split()
x86_64 = (250, 248, 165, 155, 321, 298, 323, 246, 175, 272, 56, 302, 157, 141, 251)
aarch64 = (219, 217, 40, 41, 280, 241, 282, 104, 105, 97, 220, 261, 167, 140, 30)
numbers = dict(zip(names, x86_64 if platform.machine() == "x86_64" else aarch64))
numbers.update(io_uring_setup=425, open_tree=428, fsopen=430, clone3=435, mount_setattr=442)
def call(name, *args):
    ctypes.set_errno(0)
    result = libc.syscall(numbers[name], *args)
    print(name, errno.errorcode.get(ctypes.get_errno(), "OK") if result < 0 else "OK")
for name in ("keyctl", "add_key", "mount", "pivot_root", "bpf", "perf_event_open", "userfaultfd", "kexec_load",
             "init_module", "io_uring_setup", "open_tree", "fsopen", "clone3", "mount_setattr"):
    call(name, 0, 0, 0, 0, 0)
call("unshare", 0x10000000)
call("clone", 0x10000000 | 17, 0, 0, 0, 0)
call("clone", 0x8000 | 17, 0, 0, 0, 0)
call("prlimit64", 1, 0, 0, 0)
call("prlimit64", 0, 0, 0, 0)
call("prctl", 36, 0, 0, 0, 0)
call("prctl", 36, 1, 0, 0, 0)
call("setpriority", 2, 0, 19)
call("setpriority", 0, 0, 1)
call("ioprio_set", 3, 0, 3 << 13)
for request in (0x5412, 0x541C):
    try:
        fcntl.ioctl(0, request, b"x")
    except OSError as error:
        print("ioctl", errno.errorcode[error.errno])
if os.fork() == 0:
    os._exit(libc.ptrace(0, 0, 0, 0))
print("traceme", os.wait()[1])
"""


@pytest.fixture(name="build", params=BUILDS)
def _build(request: pytest.FixtureRequest) -> str:
    build: str = request.param
    return build


@cache
def _user_namespaces() -> str:
    """Return why a user namespace cannot be had by an unprivileged user here; empty if it can."""
    setpriv, bwrap = shutil.which("setpriv"), shutil.which("bwrap")
    if bwrap is None or (os.geteuid() == 0 and setpriv is None):
        return "bubblewrap or setpriv is missing"
    words = [str(setpriv), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    words += [bwrap, "--unshare-user", "--uid", "0", "--gid", "0", "--ro-bind", "/", "/", "true"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    return tried.stderr if tried.returncode else ""


@pytest.fixture(name="single")
def _single(build: str, tmp_path: Path) -> Iterator[Guest]:
    """A guest whose commands have its own user: a user namespace in which only one is mapped."""
    if reason := _user_namespaces():
        pytest.skip(reason)
    snapshot = _public_directory(tmp_path)
    with Guest(build, privileged=False, snapshot=snapshot, args=["--seccomp"]) as guest:
        yield guest


def _public_directory(tmp_path: Path) -> Path:
    """Return a snapshot that another user can reach below pytest's private directory."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and len(parent.parts) > 2:
            parent.chmod(0o755)
    (tmp_path / "snapshot" / "sub").mkdir(parents=True)
    (tmp_path / "snapshot" / "sub" / "file").write_text("content")
    (tmp_path / "snapshot").chmod(0o555)
    return tmp_path / "snapshot"


# What process 1 shows to the user 0 of its user namespace, capabilities or not: the numbers of its descriptors (they
# cannot be opened), its name (others cannot write it), and its order in the out-of-memory killer's list.
SHOWN_TO_ROOT = {"fd DONE", "oom DONE", "comm DONE"}


def attack(guest: Guest, *, uid: int) -> None:
    """Try everything by which one process reaches into another; nothing may work."""
    outcome = guest.run(PYTHON, "-I", "-c", ATTACKS, uid=uid, gid=uid)
    lines = outcome.stdout.decode().splitlines()
    shown = SHOWN_TO_ROOT if uid == 0 else set[str]()
    assert [] == [line for line in lines if not line.endswith(" refused") and line not in shown]
    assert 16 == len(lines), outcome.stderr


@needs_root
@pytest.mark.parametrize("uid", [1000, 0])
def test_the_guest_cannot_be_looked_into(build: str, uid: int) -> None:
    """Memory, descriptors and links of process 1 are closed, also to a command of root, at any time."""
    with Guest(build) as guest:
        attack(guest, uid=uid)
        request_id = guest.next_id()
        guest.ask(encode_write(request_id, "/tmp", "f", b"x", uid=1234, gid=1234), request_id)
        request_id = guest.next_id()
        guest.ask(encode_restore(request_id), request_id)
        attack(guest, uid=uid)


@needs_root
@pytest.mark.parametrize("uid", [1000, 0])
def test_the_guest_cannot_be_signalled(build: str, uid: int) -> None:
    """No signal from inside, not even SIGKILL or SIGSTOP, has an effect on process 1."""
    with Guest(build) as guest:
        guest.shell(SIGNALS, uid=uid, gid=uid)
        assert b"alive\n" == guest.run("echo", "alive").stdout


@needs_root
def test_a_command_stopped_before_it_began_is_woken(build: str) -> None:
    """Another process of the same user that stops every new one holds nobody up for long."""
    program = """
import os, signal
while True:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) > me:
            try:
                os.kill(int(name), signal.SIGSTOP); os.kill(int(name), signal.SIGCONT)
            except OSError:
                pass
"""
    with Guest(build) as guest:
        guest.begin([PYTHON, "-I", "-c", f"import os; me = os.getpid(){program}"])
        for _ in range(200):
            assert guest.run("true", limit_ms=5000).code in (0, -9)


@needs_root
def test_commands_that_are_stopped_before_they_begin_cost_little() -> None:
    """Processes that do nothing but stop every new one hold the guest up for a fraction of a second each."""
    program = """
import os, signal
print("ready", flush=True)
next_pid = os.getpid() + 1
while True:
    for pid in range(next_pid, next_pid + 4):
        try:
            while True:
                os.kill(pid, signal.SIGSTOP)
                next_pid = pid
        except OSError:
            pass
"""
    with Guest() as guest:  # not with the sanitizer, which shares no memory with the child
        guest.begin([PYTHON, "-I", "-c", program])
        guest.next_frame()
        for _ in range(5):
            began = time.monotonic()
            ran = guest.run("true", limit_ms=100)
            assert ran.code in (0, -9), ran
            assert time.monotonic() - began < 5


@needs_root
def test_the_filter_refuses_what_no_command_needs(build: str) -> None:
    """Keys, mounts, namespaces, bpf and the like are refused; tracing one's own children is not."""
    with Guest(build, args=["--seccomp"]) as guest:
        lines = guest.run(PYTHON, "-I", "-c", CALLS).stdout.decode().splitlines()
    refused = "keyctl add_key mount pivot_root bpf perf_event_open userfaultfd kexec_load init_module".split()
    refused += ["io_uring_setup", "open_tree", "fsopen"]
    expected = [f"{name} EPERM" for name in refused] + ["clone3 ENOSYS", "mount_setattr EPERM"]
    expected += ["unshare EPERM", "clone EPERM", "clone EPERM", "prlimit64 EPERM", "prlimit64 OK"]
    expected += ["prctl EPERM", "prctl OK", "setpriority EPERM", "setpriority OK", "ioprio_set EPERM"]
    assert [*expected, "ioctl EPERM", "ioctl EPERM", "traceme 0"] == lines


@needs_root
def test_commands_work_under_the_filter(build: str) -> None:
    """Threads, processes, pipes and sockets are as usual, and the guest itself is not hindered."""
    program = """
import concurrent.futures, multiprocessing, socket, subprocess, tempfile
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(abs, range(100))) == 4950
assert subprocess.check_output("echo a | tr a b", shell=True) == b"b\\n"
a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
ours, theirs = multiprocessing.Pipe(); process = multiprocessing.Process(target=theirs.send, args=(1,)); process.start()
assert ours.recv() == 1; process.join()
tempfile.TemporaryFile().write(b"x")
print("fine")
"""
    with Guest(build, args=["--seccomp"]) as guest:
        assert b"fine\n" == guest.python(program).stdout
        request_id = guest.next_id()
        assert 0 == restored(done(guest.ask(encode_restore(request_id, [TreeRestore("/ws")]), request_id))).killed


@needs_root
@pytest.mark.parametrize("mounted", [True, False])
def test_message_queues_need_a_mount_to_be_found_again(build: str, mounted: bool) -> None:
    """With the filter and without /dev/mqueue, queues that RESTORE could not remove cannot be made."""
    mounts = () if mounted else ("--tmpfs", "/dev/mqueue")
    program = "import ctypes, os; print(ctypes.CDLL(None).mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o600, None) >= 0)"
    with Guest(build, args=["--seccomp"], mounts=mounts) as guest:
        assert f"{mounted}\n".encode() == guest.python(program).stdout


def test_single_user_hello_and_identity(single: Guest) -> None:
    """The agent is the guest's own user, and has no capabilities."""
    assert Hello(2, 1000, 1000) == single.hello
    ran = single.shell("id -u; grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNew)' /proc/self/status")
    words = ran.stdout.decode().split()
    assert ["1000", "CapInh:", "0000000000000000", "CapPrm:", "0000000000000000"] == words[:5]
    assert ["CapEff:", "0000000000000000", "CapAmb:", "0000000000000000", "NoNewPrivs:", "1"] == words[5:]


def test_single_user_number_zero(build: str) -> None:
    """User 0 of its own namespace has no capabilities either, and shows only what it must."""
    if reason := _user_namespaces():
        pytest.skip(reason)
    with Guest(build, privileged=False, single_uid=0) as guest:
        assert Hello(2, 0, 0) == guest.hello
        assert b"4\n" == guest.shell("grep -cE '^Cap(Inh|Prm|Eff|Amb):.0+$' /proc/self/status").stdout
        attack(guest, uid=0)


def test_single_user_cannot_reach_the_guest(single: Guest) -> None:
    """Not its memory, not its descriptors, not with signals; the user is the same, the guest is not dumpable."""
    attack(single, uid=1000)
    single.shell(SIGNALS)
    assert b"alive\n" == single.run("echo", "alive").stdout
    attack(single, uid=1000)


def test_single_user_has_no_other(single: Guest) -> None:
    """Running or writing as somebody else is refused with a reason."""
    error = single.refused(encode_run(501, ["true"], uid=1, gid=1), 501)
    assert (errno.EPERM, True) == (error.errno, "one user" in error.message)
    assert errno.EPERM == single.refused(encode_write(502, "/ws", "f", b"", uid=1, gid=1), 502).errno


def test_single_user_files_and_restore(single: Guest) -> None:
    """Closed directories of its own hold up neither writing nor removing; the snapshot comes back."""
    single.shell("mkdir -p /ws/a/b/c; chmod 0 /ws/a/b/c; chmod 0 /ws/a/b; chmod 0 /ws/a")
    single.shell("mkdir -p /ws/x/y/z/w; touch /ws/x/y/z/w/f; chmod 500 /ws/x/y/z /ws/x/y /ws/x; chmod 0 /ws")
    for _ in range(2):
        request_id = single.next_id()
        frame = encode_restore(request_id, [TreeRestore("/ws", "/snap"), TreeRestore("/tmp", "", mode=0o1777)])
        counts = restored(done(single.ask(frame, request_id)))
        assert 2 == counts.made + counts.kept
    single.ask(encode_write(601, "/ws", "sub/new/f", b"abc"), 601)
    reply = single.ask(encode_read(602, "/ws", "sub/new/f"), 602)
    assert isinstance(reply, Data)
    assert b"abc" == reply.data
    assert b"content" == single.run("cat", "/ws/sub/file").stdout
    assert b"/ws\n/ws/sub\n/ws/sub/file\n/ws/sub/new\n/ws/sub/new/f\n" == single.shell("find /ws | sort").stdout


def test_single_user_limits(single: Guest) -> None:
    """CANCEL ends daemons, RESTORE ends all, and the end of the channel does."""
    request_id = single.begin(["sh", "-c", "setsid sleep 60 & echo started; exec sleep 60"])
    single.next_frame()
    single.send(encode_cancel(request_id))
    assert -9 == single.finish(request_id).code
    assert 1 == single.run("pgrep", "sleep").code
    single.shell("setsid sleep 60 & true")
    assert 1 == restored(done(single.ask(encode_restore(701), 701))).killed


def test_single_user_may_have_powers_that_commands_have_not(build: str) -> None:
    """With CAP_DAC_OVERRIDE in its namespace the guest reads what the agent closed; the agent cannot."""
    if reason := _user_namespaces():
        pytest.skip(reason)
    powers: Sequence[str] = ("DAC_OVERRIDE", "FOWNER", "CHOWN", "SETPCAP")
    with Guest(build, privileged=False, capabilities=powers) as guest:
        assert b"Permission" in guest.shell("echo x >/ws/f; chmod 0 /ws/f; cat /ws/f").stderr
        reply = guest.ask(encode_read(1001, "/ws", "f"), 1001)
        assert isinstance(reply, Data)
        assert b"x\n" == reply.data
        assert errno.EACCES == guest.refused(encode_write(1002, "/ws", "f", b"y"), 1002).errno
        assert b"x\n" == getattr(guest.ask(encode_read(1003, "/ws", "f"), 1003), "data", b"")
        assert b"0000000000000000\n" == guest.shell("sed -n 's/^CapBnd:.//p' /proc/self/status").stdout
