"""Persistent shells: state that stays, ends that are told."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from codecraft_pool.protocol import Done, Stop
from codecraft_pool.requests import (
    encode_restore,
    encode_shell_close,
    encode_shell_open,
    encode_shell_run,
)
from tests.pool.guest_harness import BUILDS, PATH, PYTHON, Guest, missing, needs_root
from tests.pool.guest_shells import SHELLS, Session, ended, sleepers, told, until_sleepers, wait_for

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


# --- state ------------------------------------------------------------------------------------------------------------


def test_state_survives(shell: Session) -> None:
    """Directory, variables, functions, arguments, descriptors and the last status are there for the next command."""
    assert (0, b"", b"") == told(shell.run("cd /usr; x=5; export y=6; f() { echo got $1; }; set -- a 'b c'; umask 027"))
    assert (0, b"/usr 5 6 got z\nb c 2 0027\n", b"") == told(
        shell.run('echo "$PWD $x $(sh -c "echo \\$y") $(f z)"; echo "$2 $# $(umask)"')
    )
    assert (0, b"", b"") == told(shell.run("exec 3>/tmp/three; echo one >&3"))
    assert (0, b"one\ntwo\n", b"") == told(shell.run("echo two >&3; cat /tmp/three"))
    for status in (0, 1, 77, 255):
        assert status == told(shell.run(f"(exit {status})"))[0]
        assert f"{status}\n".encode() == told(shell.run("echo $?"))[1]


@pytest.mark.parametrize(
    "text",
    [
        "if", "echo 'open", 'echo "open', "echo )", "fi", "}", "((", "f() {", "case x in", "echo `",
        "cat <<E\nno end of it",
        "done", "'", "\\", "echo $(", "${", "&", ";;", "| cat",
    ],
)  # fmt: skip
def test_a_text_that_does_not_parse_is_its_own_misfortune(guest: Guest, text: str) -> None:
    """A syntax error is a status; what comes after it is not swallowed, in any shell."""
    for number, argv in enumerate((["dash"], ["bash"], ["busybox", "ash"]), 1):
        shell = Session(guest, argv, number)
        ran = shell.run(text)
        assert 0 == ran.exit.flags, (argv, ran)
        assert (0, b"after\n", b"") == told(shell.run("echo after")), argv


def test_texts_arrive_byte_for_byte(shell: Session) -> None:
    """Quotes, newlines, backslashes, here documents and bytes that are no text reach the shell as they are."""
    assert b'it\'s "so" \\n $x\n' == told(shell.run("""cat <<'E'\nit's "so" \\n $x\nE\n"""))[1]
    assert b"a'b\n" == told(shell.run('echo "a\'b"'))[1]
    assert b"1\n2\n" == told(shell.run("echo 1\n\n# a comment's end\necho 2 # 'and another\n"))[1]
    assert b"\xff\xfe\n" == told(shell.run(b"echo '\xff\xfe'"))[1]
    assert (0, b"", b"") == told(shell.run(""))
    assert (0, b"", b"") == told(shell.run("\n \n# nothing"))


def test_a_mebibyte_of_text(shell: Session) -> None:
    """It need not fit a pipe, with quotes in it that become four bytes each."""
    many = "x='" + "a" * (1 << 20) + "'; echo ${#x}"
    assert b"1048576\n" == told(shell.run(many, limit_ms=60_000))[1]
    quotes = 'x="' + "'" * (1 << 16) + '"; echo ${#x}'
    assert b"65536\n" == told(shell.run(quotes, limit_ms=60_000))[1]


def test_standard_input_is_empty(shell: Session) -> None:
    """No command reads the script that the shell is reading, and nobody hangs on input that will not come."""
    assert (0, b"", b"") == told(shell.run("cat"))
    assert b"1 []\n" == told(shell.run('read line; echo "$? [$line]"'))[1]
    assert b"/dev/null\n" == told(shell.run("readlink /proc/self/fd/0"))[1]
    assert (0, b"", b"") == told(shell.run("cat; exec </usr/bin/env"))
    assert (0, b"", b"") == told(shell.run("cat"))


def test_commands_have_no_descriptor_but_three(shell: Session) -> None:
    """Neither the script nor the place for reports is inherited, in the background neither."""
    listing = "import os; print(sorted(os.listdir('/proc/self/fd')))"
    assert b"['0', '1', '2', '3']\n" == told(shell.run(f'{PYTHON} -I -c "{listing}"'))[1]
    assert b"['0', '1', '2', '3']\n" == told(shell.run(f'{PYTHON} -I -c "{listing}" & wait'))[1]


def test_streams(guest: Guest) -> None:
    """stdout and stderr are told apart, or merged in order; a shell may change its own."""
    apart, merged = Session(guest, ["dash"], 1), Session(guest, ["dash"], 2, merge_stderr=True)
    text = "for i in 1 2; do echo out$i; echo err$i >&2; done"
    assert (0, b"out1\nout2\n", b"err1\nerr2\n") == told(apart.run(text))
    assert (0, b"out1\nerr1\nout2\nerr2\n", b"") == told(merged.run(text))
    assert (0, b"", b"") == told(apart.run("exec >&- 2>&-"))
    assert (0, b"", b"") == told(apart.run("echo lost; true"))
    assert (3, Stop.BY_ITSELF) == ended(apart.run("exit 3"))


def test_much_output(shell: Session) -> None:
    """All of what a command printed comes before its EXIT, however much it is."""
    ran = shell.run("head -c 30000000 /dev/zero; echo end >&2", max_output_bytes=1 << 26, limit_ms=60_000)
    assert (0, 30_000_000, b"end\n") == (ran.code, len(ran.stdout), ran.stderr)


def test_environment_user_and_directory(guest: Guest) -> None:
    """A shell is opened as a command is: its environment, cwd and user are those of the request."""
    shell = Session(guest, ["/bin/sh"], env=[PATH, "A=1"], cwd="/usr/bin", uid=1234, gid=4321)
    ran = shell.run("echo $A $PWD $(id -u) $(id -g) $0; grep -c '^Cap...:.0000000000000000$' /proc/self/status")
    assert (0, b"1 /usr/bin 1234 4321 /bin/sh\n5\n", b"") == told(ran)


@pytest.mark.parametrize("build", BUILDS)
def test_a_shell_where_there_is_one_user(build: str) -> None:
    """A guest without root's powers has persistent shells, too."""
    with Guest(build, privileged=False) as guest:
        shell = Session(guest, ["/bin/sh"])
        assert (0, b"", b"") == told(shell.run("x=1; sleep 60 &"))
        assert Stop.WALL_LIMIT is shell.run("sleep 60", limit_ms=300).exit.stop
        assert (0, b"1\n", b"") == told(shell.run("echo $x"))
        shell.close()
        assert 0 == sleepers(guest)


def test_shells_and_commands_run_beside_each_other(guest: Guest) -> None:
    """Sixteen shells and sixty-four commands at once do not mix their results."""
    shells = [Session(guest, ["dash"], number) for number in range(1, 17)]
    started = [guest.begin(["sh", "-c", f"sleep 0.3; echo run {i}"], limit_ms=60_000) for i in range(64)]
    asked = [shell.begin(f"x={shell.number}; sleep 0.2; echo shell $x") for shell in shells]
    assert [f"shell {i}\n".encode() for i in range(1, 17)] == [guest.finish(number).stdout for number in asked]
    assert [f"run {i}\n".encode() for i in range(64)] == [guest.finish(number).stdout for number in started]
    assert [f"{i}\n".encode() for i in range(1, 17)] == [shell.run("echo $x").stdout for shell in shells]


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("echo out; exit 3", 3),
        ("echo out; exit", 0),
        ("echo out; set -e; false; echo not this", 1),
        ("echo out; exec true", 0),
        ("echo out; exec sh -c 'exit 9'", 9),
        ("echo out; kill $$; sleep 5", -signal.SIGTERM),
        ("echo out; kill -9 $$; sleep 5", -signal.SIGKILL),
        ("echo out; kill -SEGV $$; sleep 5", -signal.SIGSEGV),
    ],
)
def test_a_command_may_end_its_shell(shell: Session, text: str, code: int) -> None:
    """EXIT says how, and that the shell is gone; the next command is refused until it is opened again."""
    ran = shell.run(text)
    assert ((code, Stop.BY_ITSELF), b"out\n") == (ended(ran), ran.stdout)
    error = shell.refused("true")
    assert (errno.ESRCH, True) == (error.errno, "shell 1" in error.message)
    shell.open()
    assert (0, b"[]\n", b"") == told(shell.run("echo [$x]"))


def test_a_shell_that_ends_between_commands(guest: Guest) -> None:
    """A background process may kill its shell when nothing runs; nobody is told until somebody asks."""
    shell = Session(guest, ["dash"])
    kill = "kill -9 $$; while kill -0 $$ 2>/dev/null; do sleep 0.01; done; touch /tmp/done"
    assert (0, b"", b"") == told(shell.run(f"(sleep 0.1; {kill}) &"))
    wait_for(guest, "/tmp/done")
    assert errno.ESRCH == shell.refused("true").errno


@pytest.mark.parametrize("program", ["/nowhere/sh", "no-such-shell", "/etc/passwd"])
def test_a_shell_that_is_none_is_refused(guest: Guest, program: str) -> None:
    """What cannot be executed is an ERROR of the SHELL itself."""
    request_id = guest.next_id()
    error = guest.refused(encode_shell_open(request_id, 1, [program], env=[PATH], cwd="/"), request_id)
    assert error.errno in (errno.ENOENT, errno.EACCES)
    assert program in error.message
    assert (0, b"works\n", b"") == told(Session(guest, ["dash"]).run("echo works"))


def test_refusals(guest: Guest) -> None:
    """Wrong numbers, values and states are errors with a reason, and harm nobody."""
    shell = Session(guest, ["dash"])
    for number, code in ((0, errno.EINVAL), (17, errno.EINVAL), (1, errno.EBUSY)):
        request_id = guest.next_id()
        assert code == guest.refused(encode_shell_open(request_id, number, ["sh"], env=[PATH]), request_id).errno
    request_id = guest.next_id()
    assert errno.ENOENT == guest.refused(encode_shell_open(request_id, 2, ["sh"], cwd="/no"), request_id).errno
    assert errno.EINVAL == guest.refused(encode_shell_open(request_id, 2, ["s\0h"]), request_id).errno
    assert errno.ESRCH == guest.refused(encode_shell_run(request_id, 2, "true"), request_id).errno
    assert errno.ESRCH == guest.refused(encode_shell_run(request_id, 99, "true"), request_id).errno
    assert errno.EINVAL == shell.refused("a\0b").errno
    assert errno.EINVAL == shell.refused("true", limit_ms=0).errno
    assert errno.E2BIG == shell.refused("x" * ((4 << 20) + 1)).errno
    busy = shell.begin("sleep 0.3; echo done")
    assert errno.EBUSY == shell.refused("true").errno
    assert b"done\n" == guest.finish(busy).stdout
    request_id = guest.next_id()
    assert Done(request_id, b"") == guest.ask(encode_shell_close(request_id, 5), request_id)


def test_closing_ends_everything_of_the_shell(guest: Guest) -> None:
    """Its background jobs die with it, another shell's do not; a command that runs is cancelled."""
    shell, other = Session(guest, ["dash"], 1), Session(guest, ["dash"], 2)
    told(other.run("sleep 60 &"))
    told(shell.run("setsid sleep 60 & (sleep 60 &)"))
    busy = shell.begin("sleep 60")
    shell.close()
    ran = guest.finish(busy)
    assert (-signal.SIGKILL, Stop.CANCELLED) == ended(ran)
    until_sleepers(guest, 1)
    shell.open()
    assert (0, b"new\n", b"") == told(shell.run("echo new"))


def test_restore_ends_shells(guest: Guest) -> None:
    """All that runs dies, shells as well; a command that was under way is told so."""
    shell, idle = Session(guest, ["dash"], 1), Session(guest, ["dash"], 2)
    busy = shell.begin("echo begun; sleep 60")
    until_sleepers(guest, 1)
    request_id = guest.next_id()
    guest.send(encode_restore(request_id))
    ran = guest.finish(busy)
    assert ((-signal.SIGKILL, Stop.RESTORED), b"begun\n") == (ended(ran), ran.stdout)
    assert isinstance(guest.frames_of(request_id)[-1], Done)
    assert [errno.ESRCH] * 2 == [shell.refused("true").errno, idle.refused("true").errno]
    shell.open()
    assert (0, b"new\n", b"") == told(shell.run("echo new"))


def test_many_commands_and_shells_leave_nothing_behind(guest: Guest) -> None:
    """The guest has as many descriptors and children as at the beginning."""
    descriptors = Path(f"/proc/{guest.pid()}/fd")
    guest.run("true")
    before = sorted(os.listdir(descriptors))
    for number in range(1, 6):
        shell = Session(guest, ["dash"], number)
        for i in range(100):
            assert f"{i}\n".encode() == shell.run(f"echo {i}").stdout
        if number % 2:
            assert (7, Stop.BY_ITSELF) == ended(shell.run("exit 7"))
        else:
            shell.close()
    assert before == sorted(os.listdir(descriptors))
    assert "" == Path(f"/proc/{guest.pid()}/task/{guest.pid()}/children").read_text()
