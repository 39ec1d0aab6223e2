"""MariaDB's client protocol without sockets: bytes in, results out.

Sources: https://mariadb.com/kb/en/clientserver-protocol/. Values of the text protocol become what
mysql-connector-python makes of them. It runs here and in the relay (`inside.sql_relay`), where there is a bare Python,
and it bounds what is kept of a result while the rest still arrives.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any, Final

__all__ = ["Command", "Handshake", "ProtocolBroken", "Reader", "encode_command", "greet"]

MAX_PACKET_BYTES: Final = (1 << 24) - 1
_MAX_COLUMNS: Final = 4096  # MariaDB's own limit
_UTF8MB4: Final = 45  # utf8mb4_general_ci
_BINARY: Final = 63
_BLOB_FLAG: Final = 0x10
_BINARY_FLAG: Final = 0x80
# long password, found rows not, long flag, connect with database not, 4.1 protocol, transactions, native passwords,
# plugins, no EOF packets. Not among them: LOCAL files, several statements, compression.
_CAPABILITIES: Final = 0x1 | 0x4 | 0x200 | 0x2000 | 0x8000 | 0x80000 | 0x0100_0000
_PLUGIN: Final = b"mysql_native_password"
_OK, _EOF, _ERR, _NULL = 0x00, 0xFE, 0xFF, 0xFB


class ProtocolBroken(Exception):
    """What the server sent is none of its protocol."""


class Command(IntEnum):
    """What a client asks for."""

    QUIT = 0x01
    USE = 0x02
    QUERY = 0x03
    PING = 0x0E
    CHANGE_USER = 0x11
    RESET = 0x1F


def encode_command(command: Command, text: bytes = b"") -> bytes:
    """Return the packet that asks for it."""
    return (len(text) + 1).to_bytes(3, "little") + b"\0" + bytes((command,)) + text


class Handshake:
    """The beginning of a connection: fed packets, it gives those to be sent, until the server has let the user in.

    `thread` is the number by which another connection can end this one's statements.
    """

    def __init__(self, user: str, password: str) -> None:
        self._user = user.encode()
        self._password = password.encode()
        self._greeted = False
        self.thread = 0
        self.done = False

    def take(self, packet: bytes, sequence: int) -> bytes:
        """Return what is to be sent in answer to a packet; empty if nothing is.

        Raises:
            ProtocolBroken: The server refuses the user, or wants another kind of password.
        """
        if packet[:1] == b"\xff":
            raise ProtocolBroken(f"the server refused a connection: {packet[9:].decode('utf-8', 'replace')}")
        try:
            if not self._greeted:
                self._greeted = True
                answer = self._login(packet)
            elif packet[0] == _EOF:  # it wants the answer to another challenge
                plugin, _, challenge = packet[1:].partition(b"\0")
                if plugin != _PLUGIN:
                    raise ProtocolBroken(f"the server wants a password of the kind {plugin[:50]!r}")
                answer = _scramble(self._password, challenge.rstrip(b"\0"))
            else:
                self.done = packet[0] == _OK
                return b""
        except (IndexError, ValueError, struct.error) as exc:
            raise ProtocolBroken("the server's greeting is cut off") from exc
        return len(answer).to_bytes(3, "little") + bytes(((sequence + 1) & 0xFF,)) + answer

    def _login(self, packet: bytes) -> bytes:
        if packet[0] != 10:
            raise ProtocolBroken(f"the server speaks protocol {packet[0]}, not 10")
        at = packet.index(b"\0", 1) + 1
        (self.thread,) = struct.unpack_from("<I", packet, at)
        # After the first part of the challenge: filler, capabilities, character set, status, capabilities, length, and
        # ten reserved bytes.
        challenge = packet[at + 4 : at + 12] + packet[at + 31 : at + 43]
        answer = _scramble(self._password, challenge)
        head = struct.pack("<IIB23x", _CAPABILITIES, MAX_PACKET_BYTES, _UTF8MB4)
        return head + self._user + b"\0" + bytes((len(answer),)) + answer + _PLUGIN + b"\0"


def _scramble(password: bytes, challenge: bytes) -> bytes:
    """Return what proves that the password is known (mysql_native_password)."""
    first = hashlib.sha1(password).digest()
    mask = hashlib.sha1(challenge + hashlib.sha1(first).digest()).digest()
    return bytes(a ^ b for a, b in zip(first, mask, strict=True))


class Reader:
    """Takes the packets of one answer.

    Rows over *max_rows*, or after *max_bytes* of them, are counted and not kept. With *on_row*, which is given the
    bytes of each row as they came, none is kept. *on_full* is called at the first row that is left out.
    """

    __slots__ = (
        "_columns_left",
        "_converters",
        "_max_bytes",
        "_max_rows",
        "_on_full",
        "_on_row",
        "affected",
        "columns",
        "done",
        "error",
        "error_code",
        "row_bytes",
        "rows",
        "rows_left_out",
    )

    def __init__(
        self,
        *,
        max_rows: int = 1_000_000,
        max_bytes: int = 64 << 20,
        on_row: Callable[[bytes], None] | None = None,
        on_full: Callable[[], None] | None = None,
    ) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._on_row = on_row
        self._on_full = on_full
        self._columns_left = -1
        self._converters: list[Callable[[bytes], Any]] = []
        self.rows: list[tuple[Any, ...]] | None = None
        self.columns: list[str] = []
        self.rows_left_out = 0
        self.row_bytes = 0
        self.error = ""
        self.error_code = 0
        self.affected = 0
        self.done = False

    def take(self, data: bytes, at: int) -> int:
        """Take the whole packets of *data* from *at* on, up to the answer's end; return where the rest begins.

        Raises:
            ProtocolBroken: Such a packet there cannot be.
        """
        size = len(data)
        try:
            while at + 4 <= size and not self.done:
                start = at + 4
                end = start + (data[at] | data[at + 1] << 8 | data[at + 2] << 16)
                if end > size:
                    break
                if self._columns_left == 0:
                    self._row(data, start, end)
                else:
                    self._head(data, start, end)
                at = end
        except (IndexError, ValueError, ArithmeticError, struct.error) as exc:
            raise ProtocolBroken(f"the server sent what cannot be read: {exc!r}") from exc
        return at

    def _head(self, data: bytes, start: int, end: int) -> None:
        """Take what comes before the rows: an end without rows, their number of columns, or one of the columns."""
        if self._columns_left > 0:
            self._column(data, start)
            self._columns_left -= 1
            return
        kind = data[start]
        if kind == _ERR:
            self._fail(data[start:end])
        elif kind == _OK:
            self.affected, _ = _number(data, start + 1)
            self.done = True
        elif kind == _NULL:
            raise ProtocolBroken("the server asks for a file of the client's, which it was not offered")
        else:
            self._columns_left, _ = _number(data, start)
            if not 0 < self._columns_left <= _MAX_COLUMNS:
                raise ProtocolBroken(f"the server announces {self._columns_left} columns")
            self.rows = []

    def _column(self, data: bytes, at: int) -> None:
        for _ in range(4):  # catalogue, database, table, and the table's own name
            size, at = _number(data, at)
            at += size
        size, at = _number(data, at)
        self.columns.append(data[at : at + size].decode("utf-8", "replace"))
        size, at = _number(data, at + size)
        # After the column's own name: a length, character set, width, type, flags.
        charset, kind, flags = _COLUMN.unpack_from(data, at + size + 1)
        if kind in _CONVERTERS:
            self._converters.append(_CONVERTERS[kind])
        elif charset == _BINARY or (flags & _BLOB_FLAG and flags & _BINARY_FLAG):
            self._converters.append(_bytes)
        else:
            self._converters.append(_text)

    def _row(self, data: bytes, start: int, end: int) -> None:
        kind = data[start]
        if kind == _EOF and end - start < MAX_PACKET_BYTES:
            self.done = True
            return
        if kind == _ERR:
            self._fail(data[start:end])
            return
        rows = self.rows
        assert rows is not None
        self.row_bytes += end - start
        if self._on_row is not None:
            self._on_row(data[start:end])
        elif len(rows) >= self._max_rows or self.row_bytes > self._max_bytes:
            if not self.rows_left_out and self._on_full is not None:
                self._on_full()
            self.rows_left_out += 1
        else:
            values: list[Any] = []
            at = start
            for converter in self._converters:
                size = data[at]
                at += 1
                if size < _NULL:
                    values.append(converter(data[at : at + size]))
                    at += size
                elif size == _NULL:
                    values.append(None)
                else:
                    size, at = _number(data, at - 1)
                    values.append(converter(data[at : at + size]))
                    at += size
            if at != end:
                raise ProtocolBroken("the server sent a row that is not as long as it says")
            rows.append(tuple(values))

    def _fail(self, packet: bytes) -> None:
        """Take an error: its number, then "#" and an SQL state of five characters, then the text."""
        (self.error_code,) = struct.unpack_from("<H", packet, 1)
        self.error = packet[9:].decode("utf-8", "replace") or f"error {self.error_code}"
        self.done = True


_COLUMN: Final = struct.Struct("<H4xBH")


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a length-encoded number, and where it ends."""
    first = data[at]
    if first < _NULL:
        return first, at + 1
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first]
    return int.from_bytes(data[at + 1 : at + 1 + width], "little"), at + 1 + width


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _bytes(value: bytes) -> bytes:
    return value


def _decimal(value: bytes) -> Decimal:
    return Decimal(value.decode("ascii"))


def _bits(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _date(value: bytes) -> date | None:
    """Return a date; None for those that there cannot be, such as 0000-00-00."""
    try:
        return date.fromisoformat(value.decode("ascii"))
    except ValueError:
        return None


def _datetime(value: bytes) -> datetime | None:
    try:
        whole, _, fraction = value.decode("ascii").partition(".")
        return datetime.fromisoformat(whole).replace(microsecond=int(fraction.ljust(6, "0")))
    except ValueError:
        return None


def _time(value: bytes) -> timedelta | None:
    """Return a duration, of up to 838 hours on either side of 0."""
    try:
        whole, _, fraction = value.decode("ascii").lstrip("-").partition(".")
        hours, minutes, seconds = map(int, whole.split(":"))
        found = timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=int(fraction.ljust(6, "0")))
    except ValueError:
        return None
    return -found if value[:1] == b"-" else found


_CONVERTERS: Final[dict[int, Callable[[bytes], Any]]] = {
    **dict.fromkeys((0, 246), _decimal),
    **dict.fromkeys((1, 2, 3, 8, 9, 13), int),
    **dict.fromkeys((4, 5), float),
    **dict.fromkeys((7, 12), _datetime),
    **dict.fromkeys((10, 14), _date),
    11: _time,
    16: _bits,
}


def greet(data: bytes) -> tuple[bytes, int, int] | None:
    """Return the first packet of *data*, its number, and where the next one begins; None if it is not all there.

    Raises:
        ProtocolBroken: No greeting is that long.
    """
    if len(data) < 4:
        return None
    end = 4 + int.from_bytes(data[:3], "little")
    if end > 4096:
        raise ProtocolBroken("the server's greeting is too long")
    return None if len(data) < end else (data[4:end], data[3], end)
