"""Runs actions in one namespace, that of the module ``__main__``, in a process of its own.

Before it runs an action the process forks: the copy runs it, and takes the place of the original when it has come to
the end. When it is killed, the original goes on as it was before the action. That is left out where the copy would
lack something: where there are threads or child processes.
"""

from __future__ import annotations

import _thread
import ast
import io
import linecache
import os
import signal
import socket
import sys
import time
import traceback
import types
from contextlib import suppress
from typing import Any

from codecraft_async.intercode.inside.values import decode, encode
from codecraft_async.intercode.inside.wire import receive, send, write_all

_MESSAGE_CHARS = 4096
_TRACEBACK_CHARS = 16384
_FRAMES = 20
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


class Interrupted(KeyboardInterrupt):
    """The action has reached its time limit."""

    __module__ = "builtins"  # for tracebacks


class Budget:
    """How much an action may still print, on both streams together."""

    def __init__(self) -> None:
        self.left = 0
        self.silent = False

    def take(self, data: bytes) -> bytes:
        """Return what of *data* may be printed."""
        taken = data[: max(0, self.left)]
        self.left -= len(data)
        return taken


class Output(io.RawIOBase):
    """A standard stream that raises when an action prints too much."""

    def __init__(self, fd: int, budget: Budget) -> None:
        self._fd = fd
        self._budget = budget

    def writable(self) -> bool:
        """Say that it is there for writing."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, which child processes write to."""
        return self._fd

    def write(self, data: Any) -> int:
        """Write what may be written.

        Raises:
            OSError: That was not all.
        """
        text = bytes(data)
        taken = self._budget.take(text)
        write_all(self._fd, taken)
        if len(taken) < len(text) and not self._budget.silent:
            raise OSError("the action printed more than it may, and the rest is lost")
        return len(text)

    def as_text(self) -> io.TextIOWrapper:
        """Return the stream for text."""
        return io.TextIOWrapper(io.BufferedWriter(self), "utf-8", "backslashreplace")


class Interpreter:
    """Runs the actions that come over *sock*."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._module = types.ModuleType("__main__")
        self._budget = Budget()
        self._streams: tuple[io.TextIOWrapper, ...] = ()
        self._actions = 0
        self._interruptible = False

    def begin(self) -> None:
        """Make of this process what a program expects of its own."""
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._module.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = self._module
        sys.path.insert(0, "")
        sys.argv = [""]
        sys.stdin = open(0)
        self._streams = (Output(1, self._budget).as_text(), Output(2, self._budget).as_text())

    def serve(self) -> None:
        """Run action after action.

        Raises:
            BrokenConnection: There are no more.
        """
        while (request := receive(self._sock)) is not None:
            original = os.getpid()
            forked = request["trial"] or _can_fork()
            copy = os.fork() if forked else 0
            if copy:
                self._stand_by(copy)
            else:
                self._act(request, original if forked else 0)

    def _stand_by(self, copy: int) -> None:
        """Wait for the end of the copy that runs an action: if it has come to the end, it ends this process before."""
        _, status = os.waitpid(copy, 0)
        self._actions += 1
        send(self._sock, {"ended": status, "restored": True})

    def _act(self, request: dict[str, Any], original: int) -> None:
        own = os.getpid()
        send(self._sock, {"pid": own})
        report = self._perform(request)
        if os.getpid() != own:
            os._exit(0)  # the action has forked, but there is one interpreter only
        if original and not request["trial"] and os.getppid() == original:
            os.kill(original, signal.SIGKILL)
        send(self._sock, report)
        if request["trial"]:
            os._exit(0)

    def _perform(self, request: dict[str, Any]) -> dict[str, Any]:
        self._budget.left, self._budget.silent = request["max_output_bytes"], False
        sys.stdout, sys.stderr = self._streams
        report: dict[str, Any] = {}
        begun = time.process_time()
        try:
            try:
                self._interruptible = True
                report["value"] = self._execute(request)
            finally:
                self._interruptible = False
        except BaseException as error:
            report.update(_described(error))
        self._budget.silent = True
        for stream in (sys.stdout, sys.stderr, *self._streams):
            with suppress(BaseException):  # they may be anything by now
                stream.flush()
        report["cpu_s"] = time.process_time() - begun
        report["overflow"] = self._budget.left < 0
        return report

    def _execute(self, request: dict[str, Any]) -> object:
        self._actions += 1
        name = "<action>" if request["trial"] else f"<action {self._actions}>"
        source = request["source"]
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        namespace = self._module.__dict__
        namespace.update({key: decode(value) for key, value in request["values"].items()})
        tree = ast.parse(source, name)
        if request["only_definitions"]:
            tree.body = [node for node in tree.body if isinstance(node, _DEFINITIONS)]
        shown = _take_shown(tree) if request["show"] else None
        exec(compile(tree, name, "exec", dont_inherit=True), namespace)
        if request["expression"]:
            return encode(eval(compile(request["expression"], name, "eval", dont_inherit=True), namespace))
        if shown is not None:
            value = eval(compile(shown, name, "eval", dont_inherit=True), namespace)
            if value is not None or not tree.body:
                print(value)  # noqa: T201  # that is what it is for
        return None

    def _on_interrupt(self, number: int, frame: object) -> None:
        if self._interruptible:
            self._interruptible = False  # once: what follows may take care of it in peace
            raise Interrupted("the action has reached its time limit")


def _can_fork() -> bool:
    """Return whether a copy of this process would have all that it has."""
    if _thread._count() > 0:  # pyright: ignore[reportPrivateUsage]  # `threading` knows only its own
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _take_shown(tree: ast.Module) -> ast.Expression | None:
    """Take out of *tree* the expression at its end whose value is to be shown, if there is one."""
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        return None
    for node in ast.walk(last):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            return None
    tree.body.pop()
    return ast.Expression(last.value)


def _described(error: BaseException) -> dict[str, str]:
    """Return the fields of a report on an exception; the traceback begins where the action does."""
    message, text = "", type(error).__name__
    with suppress(Exception):
        message = str(error)
    frames = error.__traceback__
    while frames is not None and not frames.tb_frame.f_code.co_filename.startswith("<action"):
        frames = frames.tb_next
    with suppress(Exception):
        whole = traceback.TracebackException(type(error), error, frames, limit=-_FRAMES)
        whole.stack[:] = [frame for frame in whole.stack if not frame.filename.startswith("<inside/")]
        text = "".join(whole.format())
    return {
        "raised": type(error).__name__,
        "message": message[:_MESSAGE_CHARS],
        "traceback": text[-_TRACEBACK_CHARS:],
    }
