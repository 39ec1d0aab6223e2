"""Comparing bytes that came out of a sandbox with what the host knows.

Everything here treats those bytes as hostile: they may be huge, not UTF-8, or made to slow a regular expression down.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from codecraft_curriculum.grade import excerpt

__all__ = ["MATCH_KINDS", "Match", "MatchKind"]

MatchKind = Literal["stripped", "exact", "regex", "numbers", "sha256"]
MATCH_KINDS: tuple[str, ...] = get_args(MatchKind)

_REGEX_MAX_BYTES = 16 << 10  # a search cannot be interrupted, so what it searches is kept short
_WORD_MAX_CHARS = 64
_COMPARED_BYTES = 64 << 10  # how far a message looks for the first difference


@dataclass(frozen=True, slots=True)
class Match:
    """A rule for bytes.

    ``stripped`` ignores white space around the text, ``exact`` nothing. ``regex`` searches UTF-8 text of at most
    16 KiB (anchor it yourself). ``numbers`` compares word by word: numbers within `tolerance` (relative, and absolute
    near zero), other words exactly. ``sha256`` compares the digest of the bytes.
    """

    expected: str
    kind: MatchKind = "stripped"
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.kind not in MATCH_KINDS:
            raise ValueError(f"match {self.kind!r} is not known: use one of {', '.join(MATCH_KINDS)}")
        if not 0.0 <= self.tolerance < 1.0:
            raise ValueError(f"tolerance {self.tolerance} is not allowed: give a number from 0 to below 1")
        if self.kind == "sha256" and not re.fullmatch(r"[0-9a-f]{64}", self.expected):
            raise ValueError(f"sha256 {excerpt(self.expected)} is not allowed: give 64 lower-case hexadecimal digits")
        if self.kind == "regex":
            try:
                re.compile(self.expected)
            except re.error as error:
                raise ValueError(f"regex {excerpt(self.expected)} does not compile: {error}") from None

    def mismatch(self, data: bytes) -> str | None:
        """Return None if `data` fits, else one line that says what was expected and what is there."""
        if self.kind == "exact":
            return None if data == self.expected.encode() else self._differs(data)
        if self.kind == "stripped":
            return None if data.strip() == self.expected.encode().strip() else self._differs(data)
        if self.kind == "sha256":
            digest = hashlib.sha256(data).hexdigest()
            same = digest == self.expected
            return None if same else f"expected SHA-256 {self.expected[:12]}..., got {digest[:12]}..."
        if self.kind == "regex" and len(data) > _REGEX_MAX_BYTES:
            return f"expected at most {_REGEX_MAX_BYTES} bytes, got {len(data)}"
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return f"expected UTF-8 text, got {excerpt(data)}"
        if self.kind == "regex":
            found = re.search(self.expected, text) is not None
            return None if found else f"expected a match of {excerpt(self.expected)}, got {excerpt(data)}"
        return self._compare_words(text, data)

    def _compare_words(self, text: str, data: bytes) -> str | None:
        expected, actual = self.expected.split(), text.split()
        if len(expected) != len(actual):
            return f"expected {len(expected)} words like {excerpt(self.expected)}, got {len(actual)}: {excerpt(data)}"
        for number, (ours, theirs) in enumerate(zip(expected, actual, strict=True), 1):
            if not self._same_word(ours, theirs):
                return f"expected word {number} to be {excerpt(ours)}, got {excerpt(theirs)}"
        return None

    def _same_word(self, ours: str, theirs: str) -> bool:
        if ours == theirs:
            return True
        wanted, got = _number(ours), _number(theirs)
        if wanted is None or got is None:
            return False
        return math.isclose(wanted, got, rel_tol=self.tolerance, abs_tol=self.tolerance)

    def _differs(self, data: bytes) -> str:
        """Return both texts, from shortly before their first difference."""
        ours = self.expected.encode()
        ours, theirs = (ours, data) if self.kind == "exact" else (ours.strip(), data.strip())
        pairs = enumerate(zip(ours[:_COMPARED_BYTES], theirs, strict=False))
        same = next((place for place, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
        start = 0 if same < 60 else same - 20
        place = f" from byte {start} on" if start else ""
        return f"expected{place} {excerpt(ours[start:])}, got {excerpt(theirs[start:])}"


def _number(word: str) -> float | None:
    if len(word) > _WORD_MAX_CHARS:
        return None
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
