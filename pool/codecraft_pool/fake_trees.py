"""What a fake guest says of its files: tools and imports for `codecraft_pool.fake`, in a format of its own."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from codecraft_pool.protocol import AGENT, Tool
from codecraft_pool.spec import WORKSPACE

_ENTRY: Final = struct.Struct("<IIIQqII32s32s")
_U32: Final = struct.Struct("<I")


def answer_tool(tool: Tool, paths: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """Return what a TOOL prints; the workspace has *files*, all else is empty."""
    if tool is Tool.EXPORT:
        here = files if paths == [WORKSPACE] else {}
        return b"".join(_text(path.encode()) + _text(data) for path, data in sorted(here.items()))
    if tool is Tool.DIGEST:
        entries = [_entry(path, files) for path in paths]
        count = sum(1 + (len(files) if path == WORKSPACE else 0) for path in paths)
        return b"".join(entries) + b"E" + struct.pack("<Q", count)
    if tool is Tool.STAT:
        use = sum(map(len, files.values()))
        trees = "".join(f"tree {use if path == WORKSPACE else 0} 0 0 0\n" for path in paths)
        return f"processes 0\nguest_bytes 0\nmemory_bytes 0\nmemory_limit_bytes -1\n{trees}".encode()
    return b"guest fake\n"


def imported(stream: bytes) -> dict[str, bytes]:
    """Return the files of an exported workspace."""
    texts: list[bytes] = []
    at = 0
    while at < len(stream):
        (size,) = _U32.unpack_from(stream, at)
        texts.append(stream[at + 4 : at + 4 + size])
        at += 4 + size
    return {path.decode(): data for path, data in zip(texts[::2], texts[1::2], strict=True)}


def _entry(tree: str, files: Mapping[str, bytes]) -> bytes:
    head = b"d" + _ENTRY.pack(0o755, AGENT, AGENT, 0, 0, 0, 0, bytes(32), bytes(32))
    parts = [head + _text(tree.encode()) + _text(b"")]
    for path, data in sorted(files.items()) if tree == WORKSPACE else ():
        digest = hashlib.sha256(data).digest()
        head = b"f" + _ENTRY.pack(0o644, AGENT, AGENT, len(data), 0, 1, 0, digest, bytes(32))
        parts.append(head + _text(f"{tree}/{path}".encode()) + _text(b""))
    return b"".join(parts)


def _text(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data
