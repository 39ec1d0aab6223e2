"""The requests of the guest protocol, as frames. Specification: pool/README.md."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NewType

from codecraft_pool.protocol import AGENT, MAX_READ_BYTES, Kind, Tool, TreeRestore, WriteFlag, encode_frame

_U32: Final = struct.Struct("<I")
_RUN: Final = struct.Struct("<IQIIIIQI")
_SHELL: Final = struct.Struct("<IIII")
_SHELL_RUN: Final = struct.Struct("<IIQII")


def _string(text: str | bytes) -> bytes:
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return _U32.pack(len(data)) + data


EncodedStrings = NewType("EncodedStrings", bytes)
"""A list of strings as RUN holds it; made once where the same list goes into every frame."""


def encode_strings(items: Sequence[str | bytes]) -> EncodedStrings:
    """Return a counted list of strings."""
    return EncodedStrings(_U32.pack(len(items)) + b"".join(map(_string, items)))


def encode_shell(shell: str, text: str) -> EncodedStrings:
    """Return the argv ``shell -c text``."""
    return EncodedStrings(_shell_head(shell) + _string(text))


@lru_cache(maxsize=16)
def _shell_head(shell: str) -> bytes:
    return _U32.pack(3) + _string(shell) + _string("-c")


def encode_run(
    request_id: int,
    argv: Sequence[str | bytes] | EncodedStrings,
    *,
    cwd: str = "/",
    env: Sequence[str | bytes] | EncodedStrings = (),
    stdin: bytes = b"",
    limit_ms: int = 10_000,
    max_output_bytes: int = 1 << 20,
    uid: int = AGENT,
    gid: int = AGENT,
    merge_stderr: bool = False,
    cpu_ms: int = 0,
    max_file_bytes: int = 0,
    max_processes: int = 0,
) -> bytes:
    """Return a RUN frame; `env` holds ``NAME=value`` items and is the whole environment; limits of 0 are none."""
    parts = (
        _RUN.pack(limit_ms, max_output_bytes, uid, gid, int(merge_stderr), cpu_ms, max_file_bytes, max_processes),
        _string(cwd),
        argv if isinstance(argv, bytes) else encode_strings(argv),
        env if isinstance(env, bytes) else encode_strings(env),
        _string(stdin),
    )
    return encode_frame(request_id, Kind.RUN, b"".join(parts))


def encode_cancel(request_id: int) -> bytes:
    """Return the CANCEL of a running RUN or SHELL_RUN."""
    return encode_frame(request_id, Kind.CANCEL, b"")


def encode_interrupt(request_id: int) -> bytes:
    """Return the INTERRUPT of a running RUN or SHELL_RUN."""
    return encode_frame(request_id, Kind.INTERRUPT, b"")


def encode_shell_open(
    request_id: int,
    number: int,
    argv: Sequence[str | bytes] | EncodedStrings = ("/bin/sh",),
    *,
    cwd: str = "/",
    env: Sequence[str | bytes] | EncodedStrings = (),
    uid: int = AGENT,
    gid: int = AGENT,
    merge_stderr: bool = False,
) -> bytes:
    """Return a SHELL frame; *argv* is the shell's own, without commands."""
    parts = (
        _SHELL.pack(number, uid, gid, int(merge_stderr)),
        _string(cwd),
        argv if isinstance(argv, bytes) else encode_strings(argv),
        env if isinstance(env, bytes) else encode_strings(env),
    )
    return encode_frame(request_id, Kind.SHELL, b"".join(parts))


def encode_shell_run(
    request_id: int,
    number: int,
    text: str | bytes,
    *,
    limit_ms: int = 10_000,
    max_output_bytes: int = 1 << 20,
    cpu_ms: int = 0,
) -> bytes:
    """Return a SHELL_RUN frame."""
    head = _SHELL_RUN.pack(number, limit_ms, max_output_bytes, cpu_ms, 0)
    return encode_frame(request_id, Kind.SHELL_RUN, head + _string(text))


def encode_shell_close(request_id: int, number: int) -> bytes:
    """Return a SHELL_CLOSE frame."""
    return encode_frame(request_id, Kind.SHELL_CLOSE, _U32.pack(number))


def encode_write(
    request_id: int,
    root: str,
    path: str,
    data: bytes,
    *,
    mode: int = 0o644,
    offset: int = 0,
    flags: WriteFlag = WriteFlag.TRUNCATE | WriteFlag.PARENTS,
    uid: int = AGENT,
    gid: int = AGENT,
) -> bytes:
    """Return a WRITE frame for at most one frame's worth of data."""
    head = struct.pack("<IQIII", mode, offset, int(flags), uid, gid)
    return encode_frame(request_id, Kind.WRITE, b"".join((_string(root), _string(path), head, _string(data))))


def encode_read(request_id: int, root: str, path: str, *, offset: int = 0, length: int = MAX_READ_BYTES) -> bytes:
    """Return a READ frame."""
    body = _string(root) + _string(path) + struct.pack("<QI", offset, length)
    return encode_frame(request_id, Kind.READ, body)


def encode_restore(
    request_id: int, trees: Sequence[TreeRestore] = (), *, full: bool = False, system: bool = False
) -> bytes:
    """Return a RESTORE frame; without trees it only ends every process. *full* compares everything by content.

    *system* drops the layer of a root, which trees do anyway.
    """
    parts = [struct.pack("<II", full | system << 1, len(trees))]
    for tree in trees:
        parts += (_string(tree.tree), _string(tree.snapshot), struct.pack("<III", tree.uid, tree.gid, tree.mode))
    return encode_frame(request_id, Kind.RESTORE, b"".join(parts))


def encode_tool(
    request_id: int,
    tool: Tool,
    paths: Sequence[str | bytes] = (),
    *,
    limit_ms: int = 10_000,
    max_output_bytes: int = 1 << 20,
    flags: int = 0,
) -> bytes:
    """Return a TOOL frame: work of the guest's own, answered as a RUN is."""
    head = struct.pack("<IIQI", int(tool), limit_ms, max_output_bytes, flags)
    return encode_frame(request_id, Kind.TOOL, head + encode_strings(paths))


def encode_import(
    request_id: int, tree: str, piece: bytes, *, first: bool, last: bool, uid: int = AGENT, gid: int = AGENT
) -> bytes:
    """Return an IMPORT frame with the next piece of an EXPORT's stream."""
    body = struct.pack("<I", first | last << 1) + _string(tree) + struct.pack("<II", uid, gid) + _string(piece)
    return encode_frame(request_id, Kind.IMPORT, body)


def encode_ping(request_id: int, data: bytes = b"") -> bytes:
    """Return a PING frame."""
    return encode_frame(request_id, Kind.PING, data)
