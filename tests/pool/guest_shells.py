"""Persistent shells of a real guest, for tests."""

from __future__ import annotations

import time
from typing import Any, Final

from codecraft_pool.protocol import Done, Error, ExitFlag, Stop
from codecraft_pool.requests import encode_shell_close, encode_shell_open, encode_shell_run
from tests.pool.guest_harness import LIMIT_S, PATH, Guest, Ran

SHELLS: Final = {"dash": ["dash"], "bash": ["bash"], "sh-bash": ["bash", "--posix"], "ash": ["busybox", "ash"]}
READ_BACK: Final = 'echo "$?|$x|$PWD|$(f a)"'


class Session:
    """One persistent shell of a guest."""

    def __init__(self, guest: Guest, argv: list[str], number: int = 1, **options: Any) -> None:
        self.guest = guest
        self.argv = argv
        self.number = number
        self.options: dict[str, Any] = {"env": [PATH], "cwd": "/tmp", **options}
        self.open()

    def open(self) -> None:
        """Open it, or open it again."""
        request_id = self.guest.next_id()
        frame = encode_shell_open(request_id, self.number, self.argv, **self.options)
        assert Done(request_id, b"") == self.guest.ask(frame, request_id)

    def begin(self, text: str | bytes, **options: Any) -> int:
        """Start a command; return its id."""
        request_id = self.guest.next_id()
        self.guest.send(encode_shell_run(request_id, self.number, text, **options))
        return request_id

    def run(self, text: str | bytes, **options: Any) -> Ran:
        """Run a command to its end."""
        return self.guest.finish(self.begin(text, **options))

    def refused(self, text: str | bytes, **options: Any) -> Error:
        """Run what must be an ERROR."""
        request_id = self.guest.next_id()
        return self.guest.refused(encode_shell_run(request_id, self.number, text, **options), request_id)

    def close(self) -> None:
        """End it."""
        request_id = self.guest.next_id()
        assert Done(request_id, b"") == self.guest.ask(encode_shell_close(request_id, self.number), request_id)


def told(ran: Ran) -> tuple[int, bytes, bytes]:
    """Return status, stdout and stderr of a command that ended by itself and left its shell alive."""
    assert (Stop.BY_ITSELF, 0, False) == (ran.exit.stop, ran.exit.flags, ran.exit.signalled), ran
    return ran.code, ran.stdout, ran.stderr


def ended(ran: Ran) -> tuple[int, Stop]:
    """Return how a shell ended together with its command."""
    assert ran.exit.flags & ExitFlag.SHELL_ENDED, ran
    return ran.code, ran.exit.stop


def sleepers(guest: Guest) -> int:
    """Return how many processes called sleep are alive: the dead may wait to be collected by a shell."""
    listed = guest.run("ps", "-e", "-o", "stat=,comm=").stdout.splitlines()
    return sum(line.split()[1] == b"sleep" and not line.startswith(b"Z") for line in listed)


def until_sleepers(guest: Guest, count: int) -> None:
    """Return when so many processes called sleep are alive."""
    deadline = time.monotonic() + LIMIT_S
    while (alive := sleepers(guest)) != count:
        assert time.monotonic() < deadline, alive


def wait_for(guest: Guest, path: str) -> None:
    """Return once a command has made *path*."""
    assert 0 == guest.shell(f"until [ -e {path} ]; do sleep 0.01; done").code
