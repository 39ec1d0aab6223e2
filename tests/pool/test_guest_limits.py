"""Limits: a command that goes too far dies with all it started, and what it printed before is kept."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codecraft_pool.protocol import ExitFlag, Output, Stop
from codecraft_pool.requests import encode_cancel, encode_ping
from tests.pool.guest_harness import BUILDS, PYTHON, Guest, Ran, needs_root, pong

pytestmark = needs_root

# Leaves its parent, its group and its session, as daemons do.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        open("/tmp/daemon", "w").close()
        time.sleep(60)
    os._exit(0)
print("kept", flush=True)
time.sleep(60)
"""


@pytest.fixture(name="guest", params=BUILDS)
def _guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(request.param) as guest:
        yield guest


def alive(guest: Guest) -> list[str]:
    """Return the command lines of what runs in the sandbox, but for the guest and the question."""
    listed = guest.run("ps", "-e", "-o", "pid=,stat=,args=").stdout.decode().splitlines()
    words = [line.split(None, 2) for line in listed]
    return [args for pid, state, args in words if pid != "1" and state[0] != "Z" and not args.startswith("ps -e")]


def killed(ran: Ran) -> tuple[bool, int, Stop]:
    """Return how a command ended, and why."""
    return ran.exit.signalled, ran.exit.code, ran.exit.stop


def test_wall_limit_ends_every_descendant(guest: Guest) -> None:
    """A daemon that left session and group dies too; the output of before is kept."""
    began = time.monotonic()
    ran = guest.run(PYTHON, "-I", "-c", DAEMON, limit_ms=700)
    assert (True, signal.SIGKILL, Stop.WALL_LIMIT) == killed(ran)
    assert b"kept\n" == ran.stdout
    assert 0.7 <= time.monotonic() - began < 5
    assert 0 == guest.run("test", "-e", "/tmp/daemon").code
    assert [] == alive(guest)


def test_cancel_ends_every_descendant_and_nobody_else(guest: Guest) -> None:
    """CANCEL is a limit reached by the host's decision; other commands do not notice."""
    other = guest.begin(["sh", "-c", "sleep 1; echo unharmed"])
    request_id = guest.begin([PYTHON, "-I", "-c", DAEMON])
    guest.shell("while [ ! -e /tmp/daemon ]; do sleep 0.02; done")
    guest.send(encode_cancel(request_id))
    ran = guest.finish(request_id)
    assert (True, signal.SIGKILL, Stop.CANCELLED) == killed(ran)
    assert b"kept\n" == ran.stdout
    assert b"unharmed\n" == guest.finish(other).stdout
    assert [] == alive(guest)


def test_cancel_of_nothing_is_ignored(guest: Guest) -> None:
    """It may cross the EXIT on its way."""
    request_id = guest.begin(["true"])
    guest.finish(request_id)
    guest.send(encode_cancel(request_id), encode_cancel(4711), encode_ping(4712, b"x"))
    assert b"x" == pong(guest.next_frame()).data


@pytest.mark.parametrize(("cap", "stop"), [(1000, Stop.BY_ITSELF), (999, Stop.OUTPUT_CAP), (0, Stop.OUTPUT_CAP)])
def test_output_cap_is_exact(guest: Guest, cap: int, stop: Stop) -> None:
    """As many bytes as allowed are no excess, one more is; exactly the allowed ones arrive."""
    ran = guest.run("head", "-c", "1000", "/dev/zero", max_output_bytes=cap)
    assert (stop, cap) == (ran.exit.stop, len(ran.stdout))


def test_output_cap_counts_both_streams(guest: Guest) -> None:
    """stdout and stderr share the cap; an endless writer and its children die of it."""
    ran = guest.shell("echo begin; yes out & yes err >&2; wait", max_output_bytes=100_000)
    assert (True, signal.SIGKILL, Stop.OUTPUT_CAP) == killed(ran)
    assert 100_000 == len(ran.stdout) + len(ran.stderr)
    assert ran.stdout.startswith(b"begin\n")
    assert [] == alive(guest)


def test_stopped_and_deaf_commands_die_too(guest: Guest) -> None:
    """Neither SIGSTOP nor ignored signals save a command from its limit."""
    ran = guest.shell("trap '' TERM INT HUP; (trap '' TERM; sleep 60) & kill -STOP $$", limit_ms=300)
    assert (True, signal.SIGKILL, Stop.WALL_LIMIT) == killed(ran)
    assert [] == alive(guest)


def test_a_child_that_wakes_its_stopped_parent(guest: Guest) -> None:
    """The guest stops a command in order to kill below it; a child that wakes it again gains nothing."""
    program = """
import os, signal, time
parent = os.getpid()
for _ in range(3):
    if os.fork() == 0:
        while True:
            os.kill(parent, signal.SIGCONT)
            if os.fork() == 0:
                os.setsid()
                time.sleep(0.001)
                os._exit(0)
            os.waitpid(-1, 0)
time.sleep(60)
"""
    ran = guest.run(PYTHON, "-I", "-c", program, limit_ms=400)
    assert (True, signal.SIGKILL, Stop.WALL_LIMIT) == killed(ran)
    assert [] == alive(guest)


def test_a_process_without_its_first_thread_dies_too(guest: Guest) -> None:
    """It shows as a zombie in /proc, and yet its other threads run."""
    program = """
import ctypes, os, threading, time
if os.fork() == 0:
    threading.Thread(target=time.sleep, args=(60,)).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
time.sleep(60)
"""
    ran = guest.run(PYTHON, "-I", "-c", program, limit_ms=700)
    assert (True, signal.SIGKILL, Stop.WALL_LIMIT) == killed(ran)
    assert b"" == guest.shell("ps -eL -o pid=,args= | grep '[t]hreading'").stdout


@pytest.mark.parametrize(
    ("options", "end", "how"),
    [
        ("0", "os._exit(7)", (False, 7, Stop.WALL_LIMIT)),
        ("0", "time.sleep(60)", (True, signal.SIGKILL, Stop.WALL_LIMIT)),
        ("0x40", "time.sleep(60)", (True, signal.SIGKILL, Stop.WALL_LIMIT)),  # stops it on its way out
    ],
)
def test_a_tracer_cannot_keep_a_commands_end(guest: Guest, options: str, end: str, how: tuple[bool, int, Stop]) -> None:
    """A dead command that another process traces is that one's to collect; at the limit the tracer dies."""
    program = f"""
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # lets anybody trace it, where the kernel asks
command = os.getpid()
ours, theirs = os.pipe()
if os.fork() == 0:
    os.setsid()
    os.write(theirs, b"%d" % libc.ptrace(0x4206, command, 0, {options}))
    time.sleep(60)
print(os.read(ours, 9).decode(), flush=True)
{end}
"""
    ran = guest.run(PYTHON, "-I", "-c", program, limit_ms=700)
    assert (b"0\n", how) == (ran.stdout, killed(ran))
    assert [] == alive(guest)


@pytest.mark.parametrize("build", BUILDS)
def test_fork_bomb_ends_at_its_limit(build: str) -> None:
    """With a limit of processes the bomb is contained, dies at its wall limit, and the guest still answers."""
    with Guest(build, args=["--max-processes", "200"]) as guest:
        bomb = "while True:\n try:\n  import os; os.fork()\n except OSError: pass"
        request_id = guest.begin([PYTHON, "-I", "-c", bomb], limit_ms=1500)
        ping = guest.next_id()
        assert b"during" == pong(guest.ask(encode_ping(ping, b"during"), ping)).data
        ran = guest.finish(request_id, limit_s=60)
        assert (True, signal.SIGKILL, Stop.WALL_LIMIT) == killed(ran)
        assert [] == alive(guest)


@pytest.mark.parametrize("build", BUILDS)
def test_a_command_starts_while_another_holds_all_processes(build: str) -> None:
    """The limit keeps a bomb from growing; it does not keep the guest from looking inside."""
    with Guest(build, args=["--max-processes", "40"]) as guest:
        request_id = guest.begin(["sh", "-c", "for i in $(seq 60); do sleep 60 & done; wait"])
        time.sleep(0.3)
        assert b"here\n" == guest.run("echo", "here").stdout
        guest.send(encode_cancel(request_id))
        ran = guest.finish(request_id)
        assert ran.exit.stop in (Stop.CANCELLED, Stop.BY_ITSELF)  # some shells give up when fork fails


def test_limits_of_many_at_once(guest: Guest) -> None:
    """Sixty deadlines that pass together are all kept."""
    started = [guest.begin(["sh", "-c", "echo $$; sleep 60 & sleep 60"], limit_ms=500) for _ in range(60)]
    ended = [guest.finish(request_id) for request_id in started]
    assert {(True, signal.SIGKILL, Stop.WALL_LIMIT)} == set(map(killed, ended))
    assert all(ran.stdout for ran in ended)
    assert [] == alive(guest)


def test_limits_without_proc() -> None:
    """Where /proc shows nothing, the whole sandbox is ended rather than a part that may not be all."""
    with Guest(mounts=["--tmpfs", "/proc"]) as guest:  # not with the sanitizer, which needs it
        other = guest.begin(["sleep", "60"])
        ran = guest.shell("echo kept; setsid sleep 60 & sleep 60", limit_ms=300)
        assert (True, signal.SIGKILL, Stop.WALL_LIMIT) == killed(ran)
        assert b"kept\n" == ran.stdout
        assert (True, signal.SIGKILL, Stop.BY_ITSELF) == killed(guest.finish(other))


# --- CPU time, files, processes, memory -------------------------------------------------------------------------------

BURN = "while True: pass"


@pytest.mark.parametrize(
    "program",
    [
        BURN,
        f"import os\nos.fork()\nos.fork()\n{BURN}",
        f"import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  {BURN}\n os._exit(0)\n"
        "time.sleep(60)",
        f"import threading\ndef burn():\n {BURN}\nfor _ in range(3): threading.Thread(target=burn).start()",
        # Children that nobody waits for: their time is in no sum of the kernel's.
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n"
        " if os.fork() == 0:\n  while time.process_time() < 0.3: pass\n  os._exit(0)\n time.sleep(0.3)",
    ],
    ids=["one", "four", "daemon", "threads", "unwaited"],
)
def test_cpu_limit_counts_all_descendants(guest: Guest, program: str) -> None:
    """However the time is spread over processes, its sum ends the command, long before its wall limit."""
    sleeping = guest.begin(["sleep", "60"], cpu_ms=100, limit_ms=60_000)
    ran = guest.run(PYTHON, "-I", "-c", f"print('kept', flush=True)\n{program}", cpu_ms=700, limit_ms=60_000)
    assert (True, signal.SIGKILL, Stop.CPU_LIMIT) == killed(ran)
    assert ran.stdout.startswith(b"kept\n")
    assert ["sleep 60"] == alive(guest)
    guest.send(encode_cancel(sleeping))
    assert Stop.CANCELLED is guest.finish(sleeping).exit.stop


def test_cpu_limit_is_not_a_wall_limit(guest: Guest) -> None:
    """Who sleeps uses nothing; who stays below the limit ends as it would without one."""
    ran = guest.shell("sleep 0.5; echo fine; exit 3", cpu_ms=5000)
    assert (3, b"fine\n", Stop.BY_ITSELF) == (ran.code, ran.stdout, ran.exit.stop)


def test_cpu_limit_that_is_passed_between_two_looks(guest: Guest) -> None:
    """A command that ends by itself, over its limit, is told to have reached it; its status is kept."""
    ran = guest.shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 5", cpu_ms=1)
    assert Stop.CPU_LIMIT is ran.exit.stop
    assert ran.code in (5, -signal.SIGKILL)


def test_cpu_limit_without_proc() -> None:
    """Where the guest cannot look, the kernel's limit for each process remains."""
    with Guest(mounts=["--tmpfs", "/proc"]) as guest:
        ran = guest.shell("while :; do :; done", cpu_ms=200, limit_ms=60_000)
        assert (True, signal.SIGKILL, Stop.CPU_LIMIT) == killed(ran)


def test_files_have_a_largest_size(guest: Guest) -> None:
    """The signal says so; what was written is there, and the next command may write more."""
    ran = guest.shell("exec head -c 100000 /dev/zero >/tmp/file", max_file_bytes=4096)
    assert (-signal.SIGXFSZ, Stop.BY_ITSELF) == (ran.code, ran.exit.stop)
    assert b"4096\n" == guest.shell("stat -c %s /tmp/file").stdout
    assert 0 == guest.shell("head -c 100000 /dev/zero >/tmp/file").code
    assert 100_000 == len(guest.shell("cat /tmp/file", max_file_bytes=1).stdout)  # a pipe is no file


@pytest.mark.parametrize("build", BUILDS)
def test_a_command_can_have_fewer_processes(build: str) -> None:
    """The limit is lowered for one command; it is never raised over the sandbox's."""
    with Guest(build, args=["--max-processes", "50"]) as guest:
        assert b"7\n" == guest.run("bash", "-c", "ulimit -u", max_processes=7).stdout
        assert b"50\n" == guest.run("bash", "-c", "ulimit -u", max_processes=70).stdout
        assert b"50\n" == guest.run("bash", "-c", "ulimit -u").stdout


def test_dropped_output_is_counted(guest: Guest) -> None:
    """Nothing is dropped below the cap; over it, all that the guest saw and threw away."""
    assert 0 == guest.run("head", "-c", "1000", "/dev/zero", max_output_bytes=1000).exit.dropped_bytes
    ran = guest.run("head", "-c", "1500", "/dev/zero", max_output_bytes=1000)
    assert (1000, 500, Stop.OUTPUT_CAP) == (len(ran.stdout), ran.exit.dropped_bytes, ran.exit.stop)
    ran = guest.shell("head -c 700 /dev/zero; head -c 800 /dev/zero >&2", max_output_bytes=1000)
    assert 500 == ran.exit.dropped_bytes


@pytest.mark.parametrize("path", ["memory/memory.oom_control", "memory.events"])
def test_the_kernels_memory_killer_is_told(path: str, tmp_path: Path) -> None:
    """A kill that the sandbox's control group counts while a command runs is told in its EXIT, and in no other."""
    events = tmp_path / path
    events.parent.mkdir(exist_ok=True)
    events.write_text("low 0\noom 5\noom_kill 2\noom_group_kill 7\n")
    tmp_path.chmod(0o755)
    with Guest(mounts=["--ro-bind", str(tmp_path), "/sys/fs/cgroup"]) as guest:
        assert 0 == guest.shell("sleep 0.05").exit.flags
        struck = guest.begin(["sh", "-c", "echo begun; sleep 0.3"])
        assert Output(struck, 1, b"begun\n") == guest.next_frame()
        events.write_text("low 0\noom 6\noom_kill 3\noom_group_kill 7\n")
        assert ExitFlag.OUT_OF_MEMORY == guest.finish(struck).exit.flags
        assert 0 == guest.shell("sleep 0.05").exit.flags
