"""How the parts talk: the guest with the server, and the server with its interpreters."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from contextlib import suppress
from typing import Any

REPORTS = 9
"""The descriptor on which the guest hears that a command is over."""
MESSAGE_MAX = 16 << 20

HEAD = b"\\command \\eval '"
QUOTE = b"'\\''"
TAIL = b"' </dev/null 9>&-\n"
SIZE = struct.Struct("<I")


class BrokenConnection(Exception):
    """There is nobody at the other end, or an action has written to the connection of its interpreter."""


class Commands:
    """Takes the commands out of what the guest writes to a shell (as ``pool/guest/shell_text.c`` makes it)."""

    def __init__(self) -> None:
        self.buffer = b""

    def next(self) -> tuple[bytes, bytes]:
        """Wait for a command; return its text, and the token of the report on it."""
        at = self._until(HEAD) + len(HEAD)
        self.buffer = self.buffer[at:]
        at = 0
        while True:
            at = self._until(b"'", at)
            while len(self.buffer) < at + len(QUOTE):
                self._more()
            if self.buffer[at : at + len(QUOTE)] != QUOTE:
                break
            at += len(QUOTE)
        text = self.buffer[:at].replace(QUOTE, b"'")
        start = self._until(b"\n", at + len(TAIL) - 1) + 1
        end = self._until(b"\n", start)
        token = self.buffer[start:end].split()[-1]
        self.buffer = self.buffer[end + 1 :]
        return text, token

    def _until(self, mark: bytes, start: int = 0) -> int:
        while True:
            at = self.buffer.find(mark, start)
            if at >= 0:
                return at
            self._more()

    def _more(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            raise EOFError("the guest has closed the connection")
        self.buffer += data


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*, however small the pipe is."""
    while data:
        data = data[os.write(fd, data) :]


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send a message of at most `MESSAGE_MAX` bytes."""
    data = json.dumps(message).encode()
    sock.sendall(SIZE.pack(len(data)) + data)


def receive(sock: socket.socket, until: float | None = None) -> dict[str, Any] | None:
    """Return the next message; None once the monotonic time *until* has come.

    Raises:
        BrokenConnection: It has ended, or what came is no message.
    """
    data, size = b"", SIZE.size
    while len(data) < size:
        if until is not None and not select.select([sock], [], [], max(0.0, until - time.monotonic()))[0]:
            return None
        part = b""
        with suppress(OSError):
            part = sock.recv(size - len(data))
        if not part:
            raise BrokenConnection("it has ended")
        data += part
        if len(data) == SIZE.size == size:
            size += SIZE.unpack(data)[0]
            if size > MESSAGE_MAX:
                raise BrokenConnection(f"a message of {size} bytes")
    try:
        message: object = json.loads(data[SIZE.size :].decode())
    except (ValueError, RecursionError) as error:
        raise BrokenConnection(f"a message that cannot be read: {error}") from None
    if not isinstance(message, dict):
        raise BrokenConnection("a message that is none")
    return message


def end(pid: int, number: int) -> None:
    """Send a signal to a process, which may be gone."""
    with suppress(OSError):
        os.kill(pid, number)
