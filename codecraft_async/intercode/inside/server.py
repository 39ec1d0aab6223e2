"""Has interpreters run actions, and speaks to the guest as a persistent shell does.

It reads commands, which are JSON here, and says on a descriptor of its own when one is over. It never runs a line of
anybody's code: interpreters do, which it forks with the usual modules loaded, so that a fresh one costs a fork.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from codecraft_async.intercode.inside.actions import Interpreter
from codecraft_async.intercode.inside.wire import REPORTS, BrokenConnection, Commands, end, receive, send, write_all

_REPORT_MAX = 256 << 10
_KILL_S = 3.0  # for the original to notice that its copy is dead, on a machine that is busy


class Seat:
    """One interpreter after another."""

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self._pids: set[int] = set()

    def begin(self, others: Sequence[socket.socket]) -> None:
        """Fork an interpreter, which gets none of the connections to the *others*."""
        self.sock, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                for sock in (self.sock, *others):
                    sock.close()
                os.close(REPORTS)
                interpreter = Interpreter(theirs)
                interpreter.begin()
                interpreter.serve()
            finally:
                os._exit(1)
        theirs.close()
        self._pids = {pid}

    def discard(self) -> None:
        """End the interpreter, if there is one."""
        for pid in self._pids:
            end(pid, signal.SIGKILL)
        if self.sock is not None:
            self.sock.close()
        self.sock, self._pids = None, set()

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the report on an action, or None when there is no interpreter any more."""
        assert self.sock is not None
        try:
            send(self.sock, request)
            report = self._report(self.sock, request)
        except (OSError, BrokenConnection):
            report = None
        if report is None:
            self.discard()
        return report

    def _report(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any] | None:
        limit = time.monotonic() + request["limit_s"]
        worker = (receive(sock, limit) or {}).get("pid")
        if not isinstance(worker, int) or worker <= 1:
            return None
        self._pids.add(worker)
        report = receive(sock, limit)
        late = report is None
        for number, wait_s in ((signal.SIGINT, request["grace_s"]), (signal.SIGKILL, _KILL_S)) if late else ():
            end(worker, number)
            report = receive(sock, time.monotonic() + wait_s)
            if report is not None:
                break
        if report is None:
            return None
        if request["trial"] and "ended" not in report:  # that the copy is gone, too, is still to be heard
            end(worker, signal.SIGKILL)
            if receive(sock, time.monotonic() + _KILL_S) is None:
                return None
        self._pids = self._pids - {worker} if request["trial"] or "ended" in report else {worker}
        report["interrupted"] = late
        return report


class Server:
    """Takes the guest's commands to the seats that they are for, and gives it their reports."""

    def __init__(self) -> None:
        self._commands = Commands()
        self._seats: dict[int, Seat] = {}

    def serve(self) -> None:
        """Answer command after command, until there are no more."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for the interpreters
        while True:
            text, token = self._commands.next()
            request = json.loads(text.decode())
            mark = request.pop("mark")
            data = json.dumps(self._answer(request))
            if len(data) > _REPORT_MAX:
                data = json.dumps({"raised": "ValueError", "message": "the value is too large to be looked at"})
            write_all(1, f"{mark}{data}{mark}".encode())
            write_all(REPORTS, b" " + token + b" 0\n")

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        seat = self._seats.setdefault(request["seat"], Seat())
        if request["fresh"]:
            seat.discard()
        new = seat.sock is None
        if new:
            seat.begin([other.sock for other in self._seats.values() if other.sock is not None])
        if request["source"] is None:
            return {}
        report = seat.ask(request) or {"ended": None, "restored": False}
        report["new"] = new
        return report


def main(preload: Sequence[str]) -> None:
    """Load the modules that interpreters are to find loaded, as far as they are there, and serve."""
    for name in preload:
        with suppress(ImportError):
            __import__(name)
    gc.freeze()
    with suppress(EOFError):
        Server().serve()
