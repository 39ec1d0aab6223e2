"""What is known of databases as they were loaded: results of statements that only read, and a few facts.

The same statement on the same data has the same result; where nothing was changed, it need not run again. All
sandboxes of an image have the same data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from codecraft_async.intercode.sql_engine import SqlResult

__all__ = ["Answers", "Key", "Loaded"]

Key = tuple[str, str, str | None, str]
"""Image, user, database, statement."""

_CELL_BYTES: Final = 100  # about what a value takes, with its share of the row


@dataclass(slots=True)
class Loaded:
    """Facts about an image's databases; None where nobody has asked yet."""

    has_programs: bool = False
    has_views: bool = False
    sizes: dict[tuple[str, str], tuple[Any, ...]] | None = None
    is_known: bool = False


class Answers:
    """Results by what they depend on, about *max_bytes* of them, for the engines of one event loop.

    Large ones are not kept, nor are those that were cut or late.
    """

    def __init__(self, *, max_bytes: int = 64 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._known: dict[Key, tuple[SqlResult, int]] = {}
        self._loaded: dict[str, Loaded] = {}
        self.found = 0
        """How many statements had their result from here."""

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Let go of all results."""
        self._known.clear()
        self._bytes = 0

    def loaded(self, image: str) -> Loaded:
        """Return what is known of an image's databases, to be added to."""
        return self._loaded.setdefault(image, Loaded())

    def get(self, key: Key, *, max_rows: int) -> SqlResult | None:
        """Return a result, if it is known, and has no more rows than are looked at."""
        entry = self._known.get(key)
        if entry is None or len(entry[0].rows or ()) > max_rows:
            return None
        self.found += 1
        return entry[0]

    def put(self, key: Key, result: SqlResult, size: int) -> None:
        """Keep a result whose rows came as *size* bytes; the oldest ones go where there are too many."""
        size += _CELL_BYTES * (1 + len(result.rows or ()) * len(result.columns)) + len(key[3])
        if key in self._known or size > self._max_bytes // 64:
            return
        self._known[key] = replace(result, wall_s=0.0), size
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= self._known.pop(next(iter(self._known)))[1]
