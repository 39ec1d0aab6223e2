"""Keeps SQLite databases as they were loaded, and has forks of itself run statements: a restore costs a fork.

It speaks to the guest as a persistent shell does, and never runs a statement of an agent's itself.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sqlite3
import time
from contextlib import suppress
from typing import Any

from codecraft_async.intercode.inside.sqlite_session import Session
from codecraft_async.intercode.inside.wire import REPORTS, BrokenConnection, Commands, end, receive, send, write_all

_GRACE_S = 1.0
_STATE_LIMIT_S = 60.0
_ENDED = "the database process was ended: all databases are as they were loaded"


class Fork:
    """A process with a session of its own on all the databases."""

    def __init__(self, databases: dict[str, sqlite3.Connection], request: dict[str, Any]) -> None:
        self._sock, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._sock.close()
                os.close(REPORTS)
                _serve(databases, theirs, request)
            finally:
                os._exit(1)
        theirs.close()

    def ask(self, request: dict[str, Any], limit_s: float) -> dict[str, Any] | None:
        """Return the answer; None if it died, or did not answer in time and was killed."""
        answer = None
        with suppress(OSError, BrokenConnection):
            send(self._sock, request)
            answer = receive(self._sock, time.monotonic() + limit_s + _GRACE_S)
        if answer is None:
            self.end()
        return answer

    def end(self) -> None:
        """End the process."""
        end(self._pid, signal.SIGKILL)
        self._sock.close()


class Server:
    """Takes the guest's commands to the fork that they are for."""

    def __init__(self) -> None:
        self._commands = Commands()
        self._databases: dict[str, sqlite3.Connection] = {}
        self._session: Fork | None = None
        self._options: dict[str, Any] = {}

    def serve(self) -> None:
        """Answer command after command, until there are no more."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for the forks
        while True:
            text, token = self._commands.next()
            request = json.loads(text.decode())
            mark = request.pop("mark")
            write_all(1, f"{mark}{json.dumps(self._answer(request))}{mark}".encode())
            write_all(REPORTS, b" " + token + b" 0\n")

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        what = request.pop("what")
        if what == "load":
            return self._load(request["files"])
        if what == "begin":
            self._begin(request)
            return {}
        if what == "gold":
            fork = Fork(self._databases, self._options)
            answer = fork.ask({"what": "execute", **request}, request["limit_s"])
            fork.end()
            return answer or self._ended(request, _ENDED)
        if self._session is None:
            self._begin(self._options)
        assert self._session is not None
        limit_s = request["limit_s"] if what == "execute" else _STATE_LIMIT_S
        answer = self._session.ask({"what": what, **request, "limit_s": limit_s}, limit_s)
        if answer is None:
            self._session = None
            return self._ended(request, _ENDED)
        return answer

    def _ended(self, request: dict[str, Any], why: str) -> dict[str, Any]:
        limit_s = request.get("limit_s", _STATE_LIMIT_S)
        return {"error": why, "timed_out": True, "wall_s": limit_s, "changed": True, "ended": True}

    def _begin(self, options: dict[str, Any]) -> None:
        if self._session is not None:
            self._session.end()
        self._options = options
        self._session = Fork(self._databases, options)

    def _load(self, files: dict[str, str]) -> dict[str, Any]:
        self._databases = {}
        for name, path in files.items():
            memory = sqlite3.connect(":memory:", isolation_level=None)
            memory.text_factory = _text
            try:
                if path.endswith(".sql"):
                    with open(path, encoding="utf-8") as file:
                        memory.executescript(file.read())
                else:
                    source = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
                    source.backup(memory)
                    source.close()
            except (sqlite3.Error, UnicodeDecodeError, OSError) as exc:
                return {"error": f"{name}: {exc}"}
            os.unlink(path)
            self._databases[name] = memory
        gc.freeze()
        return {}


def _serve(databases: dict[str, sqlite3.Connection], sock: socket.socket, options: dict[str, Any]) -> None:
    """Be the fork: answer requests until there are no more."""
    session = Session(databases)
    signal.signal(signal.SIGINT, lambda *_: session.interrupt())
    session.shut(read_only=options["read_only"], memory_bytes=options["memory_bytes"])
    while True:
        request = receive(sock)
        assert request is not None
        if request.pop("what") == "execute":
            send(sock, session.execute(**request))
        else:
            send(sock, session.state(request["limit_s"]))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def main(_: object = None) -> None:
    """Serve."""
    with suppress(EOFError):
        Server().serve()
