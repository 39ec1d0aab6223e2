"""What golds come to: run once in a sandbox of their own, and remembered for all who are compared with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from codecraft_async.intercode.changes import Changes, Origin

__all__ = ["GoldOutcome", "Golds"]

_MAX_REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True)
class GoldOutcome:
    """What a gold printed (None: it is no command) and changed, and when it began (seconds since 1970)."""

    output: str | None
    changes: Changes = field(repr=False)
    failed: bool = False
    began_s: float = 0.0
    own: frozenset[str] = frozenset()
    """Files that every sandbox has of its own; they differ from the beginning."""


class Golds:
    """Outcomes by the gold's text and what else they depend on, for the environments of one image."""

    def __init__(self) -> None:
        self.origin = Origin()
        self._outcomes: dict[object, GoldOutcome] = {}

    def get(self, key: object) -> GoldOutcome | None:
        """Return what is remembered."""
        return self._outcomes.get(key)

    def put(self, key: object, outcome: GoldOutcome) -> None:
        """Remember an outcome; the oldest is forgotten where there are too many."""
        if len(self._outcomes) >= _MAX_REMEMBERED:
            del self._outcomes[next(iter(self._outcomes))]
        self._outcomes[key] = outcome

    def __len__(self) -> int:
        return len(self._outcomes)
