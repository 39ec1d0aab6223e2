"""Persistent shells: limits, interrupts, and programs inside that would like to confuse the guest."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator

import pytest

from codecraft_pool.protocol import ExitFlag, Stop
from codecraft_pool.requests import (
    encode_cancel,
    encode_interrupt,
    encode_ping,
)
from tests.pool.guest_harness import BUILDS, PYTHON, Guest, Ran, missing, needs_root, pong
from tests.pool.guest_shells import READ_BACK, SHELLS, Session, ended, sleepers, told, until_sleepers, wait_for

pytestmark = needs_root


@pytest.fixture(name="guest", params=BUILDS)
def _guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(request.param) as guest:
        yield guest


@pytest.fixture(name="shell", params=SHELLS)
def _shell(guest: Guest, request: pytest.FixtureRequest) -> Session:
    argv = SHELLS[request.param]
    if shutil.which(argv[0]) is None:
        missing(f"{argv[0]} is not installed")
    return Session(guest, argv)


# --- limits and interrupts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "stop"),
    [
        ("sleep 60; echo not this", {"limit_ms": 300}, Stop.WALL_LIMIT),
        ("while :; do :; done; echo not this", {"limit_ms": 300}, Stop.WALL_LIMIT),
        ("setsid sleep 60 & sleep 60 | cat; echo not this", {"limit_ms": 300}, Stop.WALL_LIMIT),
        ("kill -STOP $$; echo not this", {"limit_ms": 300}, Stop.WALL_LIMIT),
        ("yes; echo not this", {"max_output_bytes": 10_000}, Stop.OUTPUT_CAP),
        ("while :; do echo yes; done; echo not this", {"max_output_bytes": 10_000}, Stop.OUTPUT_CAP),
        ("while :; do :; done; echo not this", {"cpu_ms": 200}, Stop.CPU_LIMIT),
        (f"{PYTHON} -c 'while True: pass' & wait; echo not this", {"cpu_ms": 200}, Stop.CPU_LIMIT),
    ],
)
def test_a_limit_ends_the_command_and_spares_the_shell(
    shell: Session, text: str, options: dict[str, int], stop: Stop
) -> None:
    """Everything below the shell dies, the rest of the text is given up, and the state is still there."""
    told(shell.run("x=kept; cd /usr; f() { echo f$1; }"))
    ran = shell.run(text, **options)
    assert (130, stop, 0) == (ran.code, ran.exit.stop, ran.exit.flags)
    assert b"not this" not in ran.stdout
    if stop is Stop.OUTPUT_CAP:
        assert 10_000 == len(ran.stdout)
        assert ran.exit.dropped_bytes > 0
    assert 0 == sleepers(shell.guest)
    assert (0, b"130|kept|/usr|fa\n") == told(shell.run(READ_BACK))[:2]  # bash tells of a background job's death


@pytest.mark.parametrize("text", ["trap '' INT; while :; do :; done", "trap 'sleep 9' INT; sleep 60", "exec sleep 60"])
def test_a_shell_that_does_not_give_up_dies(shell: Session, text: str) -> None:
    """After a short grace the shell itself goes; that is told."""
    ran = shell.run(text, limit_ms=300)
    assert (-signal.SIGKILL, Stop.WALL_LIMIT) == (ran.code, ran.exit.stop) or ran.code == -signal.SIGINT
    assert ran.exit.flags == ExitFlag.SHELL_ENDED
    assert 0 == sleepers(shell.guest)
    shell.open()
    assert (0, b"new\n", b"") == told(shell.run("echo new"))


def test_cancel_is_a_limit_too(shell: Session) -> None:
    """The state survives a CANCEL, and a CANCEL that crosses the EXIT is ignored."""
    told(shell.run("x=kept; cd /usr; f() { echo f$1; }"))
    busy = shell.begin("touch /tmp/begun; sleep 60; echo not this")
    wait_for(shell.guest, "/tmp/begun")
    shell.guest.send(encode_cancel(busy))
    ran = shell.guest.finish(busy)
    assert (130, Stop.CANCELLED, b"") == (ran.code, ran.exit.stop, ran.stdout)
    shell.guest.send(encode_cancel(busy), encode_interrupt(busy))
    assert (0, b"130|kept|/usr|fa\n", b"") == told(shell.run(READ_BACK))


@pytest.mark.parametrize(
    "text",
    [
        "sleep 60; echo not this",
        "while :; do :; done; echo not this",
        "until false; do sleep 0.01; done\necho not this",
        "g() { while :; do :; done; }; g; echo not this",
        "(sleep 60; echo not this); echo not this",
        "sleep 60 | cat; echo not this",
        "y=$(sleep 60); echo not this",
        "sleep 60 && echo not this || echo not this",
        "eval 'sleep 60'; echo not this",
    ],
)
def test_an_interrupt_ends_the_command_and_nothing_else(shell: Session, text: str) -> None:
    """As Ctrl-C does: the rest of the text is given up, also in loops of builtins, and the state is still there."""
    told(shell.run("x=kept; cd /usr; f() { echo f$1; }; sleep 60 &"))
    until_sleepers(shell.guest, 1)  # from then on it is out of an interrupt's reach
    busy = shell.begin(f"touch /tmp/begun; {text}")
    wait_for(shell.guest, "/tmp/begun")
    if "sleep 60" in text:
        until_sleepers(shell.guest, 2)
    ran = interrupted(shell, busy)
    assert (130, b"") == (ran.code, ran.stdout)
    assert (Stop.BY_ITSELF, 0) == (ran.exit.stop, ran.exit.flags)
    until_sleepers(shell.guest, 1)
    assert (0, b"130|kept|/usr|fa\n", b"") == told(shell.run(READ_BACK))


def interrupted(shell: Session, busy: int) -> Ran:
    """Interrupt until the command ends: a signal may come before the program that it is meant for."""
    for _ in range(50):
        shell.guest.send(encode_interrupt(busy))
        try:
            return shell.guest.finish(busy, limit_s=0.3)
        except TimeoutError:
            continue
    raise TimeoutError("the command does not heed interrupts")


def test_a_trap_of_the_command_is_its_own(shell: Session) -> None:
    """A handler of the command runs, and then it goes on; with the default one the shell ends, and that is told."""
    busy = shell.begin("trap 'touch /tmp/trapped' INT; touch /tmp/begun; sleep 0.5; sleep 0.1; echo after")
    wait_for(shell.guest, "/tmp/begun")
    shell.guest.send(encode_interrupt(busy))
    assert (0, b"after\n") == told(shell.guest.finish(busy))[:2]
    assert 0 == shell.guest.run("test", "-e", "/tmp/trapped").code
    busy = shell.begin("trap - INT; touch /tmp/again; sleep 60")
    wait_for(shell.guest, "/tmp/again")
    assert (-signal.SIGINT, Stop.BY_ITSELF) == ended(interrupted(shell, busy))


def test_an_interrupt_waits_until_the_text_is_read(shell: Session) -> None:
    """A text of which the shell has read a part is not cut, which would make commands of its rest."""
    text = "x='" + "touch /tmp/wrong\n" * 40_000 + "'; while :; do sleep 0.01; done"
    busy = shell.begin(text)
    ran = interrupted(shell, busy)
    assert 130 == ran.code
    assert (0, b"fine\n", b"") == told(shell.run("echo fine"))
    assert 0 != shell.guest.run("test", "-e", "/tmp/wrong").code


def test_interrupt_of_a_run(guest: Guest) -> None:
    """A command of its own gets the signal too, with its whole group, and may handle it."""
    body = 'import time\ntry:\n open("/tmp/begun", "w"); time.sleep(60)\nexcept KeyboardInterrupt:\n exit(5)'
    program = f"exec {PYTHON} -c '{body}'"
    busy = guest.begin(["sh", "-c", program])
    wait_for(guest, "/tmp/begun")
    guest.send(encode_interrupt(busy), encode_interrupt(4711))
    assert 5 == guest.finish(busy).code


# --- attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "command() { echo FORGED; }", "printf() { echo FORGED; }", "eval() { echo FORGED; }; true",
        "alias command=echo printf=echo eval=echo __codecraft_report=echo return=echo; true",
        "IFS=0123456789abcdef", "set -f; set -u; true", "exec 9>&-", "exec 8>/dev/null 9>/dev/null 7</dev/null",
        "__codecraft_status=FORGED", "readonly __x=1", "trap 'true' EXIT TERM HUP", "shopt -s expand_aliases; true",
        "set -o noclobber; true", "PATH=/nowhere", "LC_ALL=tr_TR.UTF-8", "unset IFS", "wait; jobs",
        "set -m; true", "ulimit -f 0; true",
    ],
)  # fmt: skip
def test_redefinitions_do_not_reach_the_guest(shell: Session, text: str) -> None:
    """Whatever a command does to names, options, variables and descriptors, the next one's status is reported."""
    if shell.run(text).exit.flags:  # in POSIX mode, bash ends when a special builtin is redefined
        shell.open()
    for status in (0, 3):
        ran = shell.run(f"(exit {status})")
        assert (status, 0, Stop.BY_ITSELF) == (ran.code, ran.exit.flags, ran.exit.stop)


@pytest.mark.parametrize("text", ["set -n", "__codecraft_report() { :; }", "readonly __codecraft_status=1"])
def test_a_shell_that_cannot_report_ends_at_the_limit(shell: Session, text: str) -> None:
    """Whoever breaks the report has broken a shell of its own: its commands end at their limits."""
    first = shell.run(text, limit_ms=500)
    assert first.exit.flags or shell.run("sleep 0.1", limit_ms=500).exit.flags
    shell.open()
    assert (0, b"new\n", b"") == told(shell.run("echo new"))
    assert b"fine\n" == shell.guest.run("echo", "fine").stdout


def test_the_output_of_background_processes(shell: Session) -> None:
    """Between commands it is thrown away and nobody blocks on it; a storm of it holds up neither shell nor guest."""
    told(shell.run("(while [ ! -e /tmp/go ]; do sleep 0.01; done; head -c 1000000 /dev/zero; touch /tmp/written) &"))
    shell.guest.run("touch", "/tmp/go")
    wait_for(shell.guest, "/tmp/written")
    assert (0, b"clean\n", b"") == told(shell.run("echo clean"))
    told(shell.run("yes storm & yes storm >&2 &"))
    for i in range(20):
        ran = shell.run(f"(exit {i})", max_output_bytes=1 << 30)
        assert (i, 0) == (ran.code, ran.exit.flags)
    ping = shell.guest.next_id()
    assert b"here" == pong(shell.guest.ask(encode_ping(ping, b"here"), ping)).data


WRITE_EVERYWHERE = """
import os, sys
line = b" 0000000000000000 0\\n" * 20
for pid in ["self", sys.argv[1], str(os.getppid())]:
    for fd in set(os.listdir(f"/proc/{pid}/fd")) - set(sys.argv[3:]):
        try:
            end = os.open(f"/proc/{pid}/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            continue
        for _ in range(int(sys.argv[2])):
            try:
                os.write(end, line)
            except BlockingIOError:
                os.sched_yield()
            except OSError:
                break
"""


def test_rubbish_on_every_descriptor_of_the_shell(guest: Guest) -> None:
    """Reports that no command asked for are no reports; other shells and commands do not notice."""
    guest.run("tee", "/tmp/everywhere.py", stdin=WRITE_EVERYWHERE.encode())
    shell, other = Session(guest, ["dash"], 1), Session(guest, ["dash"], 2)
    told(other.run("x=untouched"))
    ran = shell.run(f"{PYTHON} -I /tmp/everywhere.py $$ 3; (exit 4)", limit_ms=5000)
    assert (4, 0) == (ran.code, ran.exit.flags)
    shell.run("true", limit_ms=1000)  # its script was written to as well: whatever comes of that
    assert (0, b"untouched\n", b"") == told(other.run("echo $x"))
    assert b"fine\n" == guest.run("echo", "fine").stdout


def test_a_flood_of_forged_reports(guest: Guest) -> None:
    """bash lets a command write where its shell reports: too much of that ends the shell, before any limit."""
    shell, other = Session(guest, ["bash"], 1), Session(guest, ["dash"], 2)
    told(other.run("x=untouched"))
    forge = "while :; do for fd in 10 11 12 13; do echo ' 0000000000000000 0' >&$fd; done; done 2>/dev/null"
    ran = shell.run(forge, limit_ms=60_000)
    assert (-signal.SIGKILL, Stop.BY_ITSELF) == ended(ran)
    assert (0, b"untouched\n", b"") == told(other.run("echo $x"))


def test_one_shell_cannot_reach_what_another_user_runs(guest: Guest) -> None:
    """A grader's command, of another user, is out of reach for whatever a shell left behind."""
    shell = Session(guest, ["dash"])
    told(shell.run("(while :; do for f in /proc/[0-9]*/fd/[0-9]*; do echo FORGED >$f; done; done) 2>/dev/null &"))
    for _ in range(5):
        ran = guest.shell("sleep 0.05; echo honest; exit 3", uid=0, gid=0)
        assert (3, b"honest\n", b"") == (ran.code, ran.stdout, ran.stderr)


def test_output_and_status_of_an_ending_process_tree(shell: Session) -> None:
    """What was printed before the end of a shell is there, and orphans do not hold up the EXIT."""
    ran = shell.run("(sleep 60; echo late) & echo early; exit 6")
    assert ((6, Stop.BY_ITSELF), b"early\n") == (ended(ran), ran.stdout)
    until_sleepers(shell.guest, 1)


def test_the_account_of_a_shells_command(guest: Guest) -> None:
    """Wall and CPU time are those of the one command, its children included."""
    shell = Session(guest, ["dash"])
    burn = f"{PYTHON} -I -c 'import time\nwhile time.process_time() < 0.3: pass'"
    ran = shell.run(burn)
    assert 250_000 <= ran.exit.user_us + ran.exit.system_us < 2_000_000
    assert ran.exit.wall_ns >= 300_000_000
    assert shell.run("true").exit.user_us < 100_000
    last = shell.run("exit 1")
    assert last.exit.user_us + last.exit.system_us < 100_000
