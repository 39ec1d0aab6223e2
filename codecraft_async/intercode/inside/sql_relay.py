"""Carries questions to a MariaDB server and its answers back, where nothing outside can reach its socket.

Speaks to the guest as a persistent shell does. A command is "" (say the number of the session) or the number of
answers, how many bytes of rows are wanted, and packets in base64.
"""

from __future__ import annotations

import base64
import socket
from contextlib import suppress

from codecraft_async.intercode.inside.wire import REPORTS, Commands, write_all
from codecraft_async.intercode.sql_mariadb_wire import Handshake, Reader, greet

_PIECE = 1 << 18


def _connect(path: str, user: str, password: str) -> tuple[socket.socket, int]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    handshake, data = Handshake(user, password), b""
    while not handshake.done:
        found = greet(data)
        if found is None:
            piece = sock.recv(_PIECE)
            if not piece:
                raise EOFError("the server has closed the connection")
            data += piece
            continue
        packet, number, size = found
        data = data[size:]
        sock.sendall(handshake.take(packet, number))
    return sock, handshake.thread


def _answers(sock: socket.socket, count: int, max_bytes: int) -> tuple[list[bytes], int]:
    """Return the packets of so many answers, without rows that are too many; and how many these were."""
    kept: list[bytes] = []
    left_out = 0
    data = bytearray()
    for _ in range(count):
        reader = Reader(on_row=lambda row: None)
        while not reader.done:
            need = 4 + int.from_bytes(data[:3], "little")
            while len(data) < max(4, need):
                piece = sock.recv(_PIECE)
                if not piece:
                    raise EOFError("the server has closed the connection")
                data += piece
                need = 4 + int.from_bytes(data[:3], "little")
            packet = bytes(data[:need])
            del data[:need]
            seen = reader.row_bytes
            reader.take(packet, 0)
            if reader.row_bytes > max_bytes and reader.row_bytes > seen:
                left_out += 1
            else:
                kept.append(packet)
    return kept, left_out


def main(arguments: list[str]) -> None:
    """Carry until either side closes; the arguments are the socket, the user, the password."""
    with suppress(EOFError, OSError):
        sock, thread = _connect(*arguments)
        commands = Commands()
        while True:
            text, token = commands.next()
            if text:
                count, max_bytes, packets = text.split()
                sock.sendall(base64.b64decode(packets))
                kept, left_out = _answers(sock, int(count), int(max_bytes))
                write_all(1, b"".join([*kept, left_out.to_bytes(8, "little")]))
            else:
                write_all(1, str(thread).encode())
            write_all(REPORTS, b" " + token + b" 0\n")
