"""What is in trees of a sandbox, entry by entry, as its guest saw it; and how two such lists differ.

The stream of the DIGEST tool is specified in pool/README.md.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal

from codecraft_pool.errors import ProtocolError
from codecraft_pool.protocol import AGENT

DigestKind = Literal["file", "dir", "link", "fifo", "socket", "char", "block"]

_KINDS: Final[Mapping[bytes, DigestKind]] = {
    b"f": "file",
    b"d": "dir",
    b"l": "link",
    b"p": "fifo",
    b"s": "socket",
    b"c": "char",
    b"b": "block",
}
_ENTRY: Final = struct.Struct("<IIIQqII32s32s")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_NOTHING: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class DigestEntry:
    """One entry. Owners are numbers, `AGENT` for the sandbox's agent whatever its number there.

    `size` (bytes) and `links` are 0 for a directory. `several` numbers the files that have several names: entries with
    the same number are one file; 0 for all others. `content` is the SHA-256 of a file's bytes, "" where it was not
    asked for; `attributes` that of its extended attributes and flags, "" without any. `target` is a link's.
    """

    kind: DigestKind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    links: int
    several: int
    content: str
    attributes: str
    target: bytes


@dataclass(frozen=True, slots=True)
class Digest(Mapping[str, DigestEntry]):
    """The entries by absolute path, in the order of their bytes; `id` is the SHA-256 of all of it."""

    entries: Mapping[str, DigestEntry]
    id: str = field(compare=False)

    @classmethod
    def parse(cls, data: bytes) -> Digest:
        """Return the digest that a guest sent.

        Raises:
            ProtocolError: The bytes are no whole digest.
        """
        try:
            return cls(dict(_entries(data)), hashlib.sha256(data).hexdigest())
        except (struct.error, KeyError) as exc:
            raise ProtocolError(f"a digest of {len(data)} bytes is malformed: {exc}") from exc

    def __getitem__(self, path: str) -> DigestEntry:
        return self.entries[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<Digest {self.id[:12]}: {len(self.entries)} entries>"


def differences(first: Digest, second: Digest) -> list[str]:
    """Return what tells *second* from *first*, a readable line for each; empty if nothing does."""
    found: list[str] = []
    for path in sorted({*first, *second}):
        before, after = first.get(path), second.get(path)
        if before is None:
            found.append(f"{path!r} is new")
        elif after is None:
            found.append(f"{path!r} is missing")
        else:
            found += [
                f"{path!r}: {each.name} is {_shown(each.name, new)}, not {_shown(each.name, old)}"
                for each in fields(DigestEntry)
                if (old := getattr(before, each.name)) != (new := getattr(after, each.name))
            ]
    return found


def _shown(name: str, value: object) -> str:
    if name == "mode" and isinstance(value, int):
        return f"{value:#o}"
    return "agent" if name in ("uid", "gid") and value == AGENT else repr(value)


def _entries(data: bytes) -> Iterator[tuple[str, DigestEntry]]:
    at = count = 0
    while data[at : at + 1] != b"E":
        kind = _KINDS[data[at : at + 1]]
        mode, uid, gid, size, mtime_ns, links, several, content, attributes = _ENTRY.unpack_from(data, at + 1)
        path, at = _string(data, at + 1 + _ENTRY.size)
        target, at = _string(data, at)
        count += 1
        yield (
            path.decode("utf-8", "surrogateescape"),
            DigestEntry(kind, mode, uid, gid, size, mtime_ns, links, several, _hex(content), _hex(attributes), target),
        )
    if _U64.unpack_from(data, at + 1) != (count,) or len(data) != at + 1 + _U64.size:
        raise struct.error(f"it ends after {count} entries")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _U32.unpack_from(data, at)
    end = at + _U32.size + size
    if end > len(data):
        raise struct.error("it ends in a text")
    return data[at + _U32.size : end], end


def _hex(digest: bytes) -> str:
    return "" if digest == _NOTHING else digest.hex()
