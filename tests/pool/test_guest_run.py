"""RUN: how commands are started, what they are given, what they print and how their end is told."""

from __future__ import annotations

import errno
import os
import platform
import signal
import time
from collections.abc import Iterator
from ctypes import CDLL, c_ulong
from pathlib import Path

import pytest

from codecraft_pool.protocol import Error, Output, Stop
from codecraft_pool.requests import encode_cancel, encode_run
from tests.pool.guest_harness import BUILDS, PYTHON, Guest, needs_root

pytestmark = needs_root

SYS_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}.get(platform.machine(), 13)  # libc's own call refuses signal 32


@pytest.fixture(name="guest", params=BUILDS)
def _guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(request.param) as guest:
        yield guest


def test_every_exit_status(guest: Guest) -> None:
    """All of 0 to 255 arrive as they were."""
    for first in range(0, 256, 32):
        started = [guest.begin(["sh", "-c", f"exit {status}"]) for status in range(first, first + 32)]
        assert list(range(first, first + 32)) == [guest.finish(request_id).code for request_id in started]


def test_requests_that_arrive_together(guest: Guest) -> None:
    """Each command gets its own request, however large, and is refused for its own cwd, though the next is there."""
    large = "x" * 100_000
    started: list[tuple[int, str]] = []
    frames: list[bytes] = []
    for number in range(24):
        request_id = guest.next_id()
        if number % 4 == 3:
            cwd = f"/nowhere/{number}"
            frames.append(encode_run(request_id, ["true"], cwd=cwd))
            started.append((request_id, cwd))
        else:
            said = f"{number} {len(large) * (number % 4)}"
            variables = [f"V{part}={large}" for part in range(number % 4)]
            script = f"echo {number} $(env | tr -dc x | wc -c)"
            frames.append(encode_run(request_id, ["sh", "-c", script], env=["PATH=/usr/bin:/bin", *variables]))
            started.append((request_id, said))
    guest.send(b"".join(frames))
    for request_id, expected in started:
        *output, end = guest.frames_of(request_id)
        if isinstance(end, Error):
            assert (errno.ENOENT, True) == (end.errno, f" {expected}:" in end.message)
        else:
            printed = b"".join(frame.data for frame in output if isinstance(frame, Output))
            assert f"{expected}\n".encode() == printed


def test_a_command_refused_and_cancelled_at_once(guest: Guest) -> None:
    """It has one answer, whichever came first, and the guest goes on."""
    for _ in range(20):
        request_id = guest.next_id()
        guest.send(encode_run(request_id, ["true"], cwd="/nowhere") + encode_cancel(request_id))
        assert isinstance(guest.frames_of(request_id)[-1], Error)
    assert 0 == guest.run("true").code


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 11, 13, 14, 15, 64])
def test_death_by_a_signal_is_told(guest: Guest, number: int) -> None:
    """A signal is not an exit status, and it is nobody's limit."""
    ran = guest.shell(f"kill -{number} $$")
    assert (True, number, Stop.BY_ITSELF) == (ran.exit.signalled, ran.exit.code, ran.exit.stop)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["no-such-program"], 127, b"guest: no-such-program: not found\n"),
        (["/no/such/program"], 127, b"guest: /no/such/program: not found\n"),
        (["/etc/passwd/x"], 127, b"guest: /etc/passwd/x: not found\n"),
        ([""], 127, b"guest: : not found\n"),
        (["/usr"], 126, b"guest: /usr: permission denied\n"),
        (["/tmp/plain"], 126, b"guest: /tmp/plain: permission denied\n"),
        (["/tmp/rubbish"], 126, b"guest: /tmp/rubbish: not an executable format\n"),
        (["plain"], 126, b"guest: plain: permission denied\n"),
        (["x" * 300], 127, b"guest: " + b"x" * 200 + b": not found\n"),
        (["/" + "y" * 300], 126, b"guest: /" + b"y" * 199 + b": name too long\n"),
    ],
)
def test_what_cannot_be_executed_is_a_result(guest: Guest, argv: list[str], code: int, message: bytes) -> None:
    """127 for what is not there, 126 for what is no program, with a line that says so."""
    guest.shell("echo hello >/tmp/plain; echo hello >/tmp/rubbish; chmod +x /tmp/rubbish")
    ran = guest.run(*argv, env=["PATH=/nowhere:/tmp:/usr/bin"])
    assert (code, b"", message) == (ran.code, ran.stdout, ran.stderr)


def test_lookup_follows_the_requests_path(guest: Guest) -> None:
    """The first directory that has an executable wins; a file without permission is passed over."""
    script = "mkdir /tmp/a /tmp/b; echo x >/tmp/a/tool; printf '#!/bin/sh\\necho b' >/tmp/b/tool; chmod +x /tmp/b/tool"
    guest.shell(script)
    assert b"b\n" == guest.run("tool", env=["PATH=/tmp/a:/tmp/b"]).stdout
    assert b"b\n" == guest.run("tool", env=["X=1", "PATH="], cwd="/tmp/b").stdout
    assert b"b\n" == guest.run("./tool", env=[], cwd="/tmp/b").stdout
    assert 0 == guest.run("true", env=[]).code


def test_arguments_and_environment_arrive_byte_for_byte(guest: Guest) -> None:
    """No byte but zero is special, and nothing is added to the environment."""
    strange = [bytes(range(1, 256)), b"", b" ", b"\xff\n"]
    assert b"".join(word + b"\0" for word in strange) == guest.run("printf", "%s\\0", *strange).stdout
    env = [b"A=1", b"B=\xff\n", b"EMPTY="]
    assert b"".join(item + b"\0" for item in env) == guest.run("/usr/bin/env", "-0", env=env).stdout
    many = ["/bin/sh", "-c", "echo $#", "sh", *["x"] * 4092]
    assert b"4092\n" == guest.run(*many, env=[f"V{i}=1" for i in range(4096)]).stdout


def test_working_directory(guest: Guest) -> None:
    """The cwd is entered as the command's user; one that cannot be is an ERROR, for nothing ran."""
    assert b"/usr/bin\n" == guest.run("pwd", cwd="/usr/bin").stdout
    closed = guest.next_id()
    guest.shell("mkdir -m 0 /tmp/closed; echo >/tmp/file")
    for cwd, number in (("/nowhere", errno.ENOENT), ("/tmp/file", errno.ENOTDIR), ("/tmp/closed", errno.EACCES)):
        error = guest.refused(encode_run(closed, ["true"], cwd=cwd), closed)
        assert number == error.errno
        assert cwd in error.message


def test_a_command_has_no_power(guest: Guest) -> None:
    """The agent's user alone, no capabilities, none to be gained, clean signals, a session of its own."""
    status = guest.run("cat", "/proc/self/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert ("1000\t1000\t1000\t1000", "1000\t1000\t1000\t1000") == (fields["Uid"], fields["Gid"])
    assert "" == fields["Groups"].strip()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn", "SigPnd", "ShdPnd"):
        assert (name, 0) == (name, int(fields[name], 16))
    assert "1" == fields["NoNewPrivs"]
    assert b"0022\n" == guest.shell("umask").stdout
    assert b"0\n" == guest.shell("ulimit -c").stdout
    assert b"True" == guest.python("import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())").stdout.strip()
    subreaper = "import ctypes as c; x = c.c_int(); c.CDLL(None).prctl(37, c.byref(x), 0, 0, 0); print(x.value)"
    assert b"1\n" == guest.python(subreaper).stdout


def test_signals_that_our_own_starter_ignores_are_not_ignored_in_commands() -> None:
    """Neither those of programs nor those that libc keeps to itself, of which a job runner may leave one ignored."""
    numbers, ignore = (signal.SIGUSR1, 32), (c_ulong * 4)(signal.SIG_IGN)
    action = CDLL(None).syscall
    for number in numbers:
        assert 0 == action(SYS_RT_SIGACTION, number, ignore, None, 8)
    try:
        with Guest("release") as guest:
            status = guest.run("grep", "SigIgn", "/proc/self/status").stdout
    finally:
        for number in numbers:
            action(SYS_RT_SIGACTION, number, (c_ulong * 4)(), None, 8)
    assert b"SigIgn:\t0000000000000000\n" == status


def test_a_command_of_root_has_no_capabilities_either(guest: Guest) -> None:
    """uid 0 is a number: without capabilities it cannot do what root does."""
    ran = guest.shell("id -u; grep -c '^Cap...:.0000000000000000$' /proc/self/status; chown 1 /tmp", uid=0, gid=0)
    assert b"0\n5\n" == ran.stdout
    assert b"not permitted" in ran.stderr


def test_user_of_the_request(guest: Guest) -> None:
    """Each RUN says whose it is."""
    ran = guest.shell("id -u; id -g", uid=1234, gid=4321)
    assert b"1234\n4321\n" == ran.stdout


def test_no_descriptor_but_three(guest: Guest) -> None:
    """Neither the channel nor another command's pipes are inherited, while others run and start."""
    others = [guest.begin(["sleep", "60"]) for _ in range(8)]
    for _ in range(10):
        listed = guest.python("import os; print(sorted(os.listdir('/proc/self/fd')))").stdout
        assert b"['0', '1', '2', '3']\n" == listed  # 3 is the listing itself
    assert 8 == len(others)


def test_standard_input(guest: Guest) -> None:
    """Any bytes, of any size; empty is /dev/null; a command that never reads it ends all the same."""
    blob = bytes(range(256)) * 5000
    assert blob == guest.run("cat", stdin=blob, max_output_bytes=1 << 24).stdout
    assert b"abc" == guest.run("cat", stdin=b"abc").stdout
    assert b"/dev/null\n" == guest.run("readlink", "/proc/self/fd/0").stdout
    assert 0 == guest.run("true", stdin=blob).code
    assert b"ab" == guest.run("head", "-c", "2", stdin=b"ab" + blob).stdout
    assert 0 == guest.shell("exec 0<&-; sleep 0.05", stdin=blob).code


def test_standard_input_that_nobody_reads_is_bounded(guest: Guest) -> None:
    """The memory for waiting input has a limit for all commands together, and comes back."""
    blob = bytes(15 << 20)
    started = [guest.begin(["sleep", "60"], stdin=blob, limit_ms=60_000) for _ in range(5)]
    error = guest.frames_of(started[-1])[-1]
    assert isinstance(error, Error)
    assert errno.EAGAIN == error.errno


def test_stdout_and_stderr_are_told_apart(guest: Guest) -> None:
    """Each stream has its own bytes; with the flag both go into one, in order."""
    script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done"
    ran = guest.shell(script)
    assert (b"out1\nout2\nout3\n", b"err1\nerr2\nerr3\n") == (ran.stdout, ran.stderr)
    merged = guest.shell(script, merge_stderr=True)
    assert (b"out1\nerr1\nout2\nerr2\nout3\nerr3\n", b"") == (merged.stdout, merged.stderr)


def test_standard_streams_can_be_opened_by_name(guest: Guest) -> None:
    """Scripts write to /dev/stderr and read /dev/stdin; the pipes are the command's own to open."""
    reply = guest.shell("echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin", stdin=b"in")
    assert (b"out\nin", b"err\n") == (reply.stdout, reply.stderr)


def test_output_streams_while_the_command_runs(guest: Guest) -> None:
    """The host sees a line when it is printed, not at the end."""
    request_id = guest.begin(["sh", "-c", "echo ready; exec sleep 60"])
    frame = guest.next_frame(limit_s=5)
    assert Output(request_id, 1, b"ready\n") == frame


def test_output_in_drops_comes_gathered(guest: Guest) -> None:
    """A command that writes byte by byte, each a packet of its own, makes no flood of frames."""
    program = """
import fcntl, os, time
fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)
end = time.monotonic() + 0.5
while time.monotonic() < end:
    os.write(1, b"x")
"""
    request_id = guest.begin([PYTHON, "-I", "-c", program])
    assert 10 < len(guest.frames_of(request_id)) < 700


def test_closed_and_silent_streams(guest: Guest) -> None:
    """Neither a command that closes its streams nor one that prints nothing confuses the end."""
    ran = guest.shell("exec >&- 2>&-; sleep 0.05; exit 7")
    assert (7, b"", b"") == (ran.code, ran.stdout, ran.stderr)
    assert (0, b"", b"") == ((ran := guest.run("true")).code, ran.stdout, ran.stderr)


def test_much_output_and_a_slow_host(guest: Guest) -> None:
    """100 MB arrive whole; while the host does not read, the guest does not grow."""
    size = 100 << 20
    request_id = guest.begin(["head", "-c", str(size), "/dev/zero"], max_output_bytes=1 << 30, limit_ms=120_000)
    time.sleep(0.3)  # the host sleeps: the guest must stop reading, not store
    peak = 0
    if guest.build == "release":
        pid = guest.begin(["grep", "VmRSS", "/proc/1/status"])
        peak = int(guest.finish(pid).stdout.split()[1])
    ran = guest.finish(request_id, limit_s=120)
    assert (size, True, 0) == (len(ran.stdout), not any(ran.stdout), ran.code)
    assert peak < 4096  # KiB; the queue itself is 256


def test_a_background_child_does_not_hold_up_the_reply(guest: Guest) -> None:
    """EXIT comes with the command's own end; what stays behind lives on and may still print."""
    wait = "while [ ! -e /tmp/go ]; do sleep 0.02; done"
    assert b"now\n" == guest.shell(f"({wait}; echo late; touch /tmp/alive; sleep 60) & echo now").stdout
    guest.run("touch", "/tmp/go")
    assert 0 == guest.shell("while [ ! -e /tmp/alive ]; do sleep 0.02; done").code


def test_background_children_that_print_without_end(guest: Guest) -> None:
    """Their output is thrown away, without SIGPIPE and without starving others, however many there are."""
    for i in range(70):
        assert 0 == guest.shell("yes >&1 & echo started").code, i
    assert b"quick\n" == guest.run("echo", "quick").stdout
    # 64 pipes are kept, two for each; the writers to the oldest, which were closed, die of that one by one.
    settled = "until n=$(pgrep -c yes); [ $n -ge 32 ] && [ $n -le 35 ]; do sleep 0.05; done"
    assert 0 == guest.shell(settled).code


def test_sixty_four_at_once(guest: Guest) -> None:
    """The 65th is refused with EAGAIN and harms nobody."""
    started = [guest.begin(["sh", "-c", f"sleep 0.5; echo {i}"], limit_ms=60_000) for i in range(64)]
    last = guest.begin(["true"])
    error = guest.frames_of(last)[-1]
    assert isinstance(error, Error)
    assert errno.EAGAIN == error.errno
    assert [f"{i}\n".encode() for i in range(64)] == [guest.finish(request_id).stdout for request_id in started]
    assert 0 == guest.run("true").code


def test_the_account(guest: Guest) -> None:
    """Wall time, CPU time and peak memory are the command's own."""
    ran = guest.run("sleep", "0.2")
    assert 200_000_000 <= ran.exit.wall_ns < 2_000_000_000
    assert ran.exit.user_us + ran.exit.system_us < 150_000
    burn = guest.python("import time\nwhile time.process_time() < 0.3: pass\nx = bytearray(64 << 20)")
    assert burn.exit.user_us + burn.exit.system_us >= 290_000
    assert 64 << 10 <= burn.exit.peak_kib < 256 << 10


def test_the_out_of_memory_killer_is_led_to_commands(guest: Guest) -> None:
    """A command that lives for a moment has a higher score than the guest, which keeps its own."""
    own = int(guest.run("cat", "/proc/1/oom_score_adj").stdout)
    later = int(guest.shell("sleep 0.1; cat /proc/self/oom_score_adj").stdout)
    assert min(1000, own + 500) == later
    assert own == int(guest.run("cat", "/proc/1/oom_score_adj").stdout)


def test_a_large_request_does_not_show_in_the_next_commands_memory(guest: Guest) -> None:
    """The guest's own peak is not charged to commands."""
    if guest.build == "sanitized":
        pytest.skip("the sanitizer keeps memory for itself")
    for _ in range(3):
        guest.run("true", stdin=bytes(15 << 20))
    assert guest.run("true").exit.peak_kib < 4096


def test_bad_values_are_refused(guest: Guest) -> None:
    """A well-formed RUN that cannot be done is an ERROR of its own; the channel goes on."""
    for request_id, frame, word in (
        (1001, encode_run(1001, ["a\0b"]), "zero byte"),
        (1002, encode_run(1002, ["true"], env=["A=\0"]), "zero byte"),
        (1003, encode_run(1003, ["true"], cwd="/\0"), "zero byte"),
        (1004, encode_run(1004, ["true"], limit_ms=0), "wall limit"),
    ):
        error = guest.refused(frame, request_id)
        assert errno.EINVAL == error.errno
        assert word in error.message
    assert 0 == guest.run("true").code


def test_many_commands_leave_nothing_behind(guest: Guest) -> None:
    """A thousand runs later the guest has the descriptors and children that it began with."""
    descriptors = Path(f"/proc/{guest.pid()}/fd")
    guest.run("true")
    before = sorted(os.listdir(descriptors))
    for _ in range(40):
        started = [guest.begin(["sh", "-c", "cat; echo y >&2"], stdin=b"x") for _ in range(25)]
        assert [(0, b"x", b"y\n")] * 25 == [(ran.code, ran.stdout, ran.stderr) for ran in map(guest.finish, started)]
    assert before == sorted(os.listdir(descriptors))
    assert "" == Path(f"/proc/{guest.pid()}/task/{guest.pid()}/children").read_text()
