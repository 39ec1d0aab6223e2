"""What a replay may overlook: things that differ from run to run though nothing else does, each under a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"

# By the name of the option: pattern and what is put in its place. Narrow on purpose: what is masked is not compared.
MASKS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    # 2026-11-20T10:11:12.5Z, 2026-11-20 10:11, 10:11:12, and the dates of ls -l and of date(1).
    "times": (
        (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:Z|[+-]\d\d:?\d\d))?", "<time>"),
        (rf"\b{_MONTH} +\d{{1,2}} +(?:\d\d:\d\d(?::\d\d)?|\d{{4}})\b(?: [A-Z]{{3,4}} \d{{4}})?", "<time>"),
        (r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b", "<time>"),
    ),
    # What time(1) and test programs say they took: 0m0.003s, 0.12s, 15 ms, 1.5 seconds.
    "durations": (
        (r"\b\d+m\d+[.,]\d+s\b", "<duration>"),
        (r"\b\d+(?:[.,]\d+)? ?(?:ns|us|µs|ms|s|secs?|seconds?)\b", "<duration>"),
    ),
    # pid 123, PID=123, process 123, and what a shell says of a job: [1] 123.
    "pids": (
        (r"(?i)\b(pid|process)([ =:]+)\d+\b", r"\1\2<pid>"),
        (r"(?m)^(\[\d+\][ +-]+)\d+$", r"\1<pid>"),
    ),
    # The addresses of objects: 0x7f0012345678.
    "addresses": ((r"\b0x[0-9a-fA-F]{6,16}\b", "<address>"),),
    # What mktemp and Python's tempfile make: /tmp/tmp.Ab3dEf6hIj, /tmp/tmpab3_ef6h.
    "tempnames": ((r"(/tmp/)tmp(?:\.[A-Za-z0-9]{6,10}|[a-z0-9_]{8})\b", r"\1<tempname>"),),
}


class Masker:
    """Replaces what the named masks, and further patterns, match.

    Raises:
        ValueError: A name is not known, or a pattern is no regular expression; says which.
    """

    def __init__(self, names: Sequence[str] = (), patterns: Sequence[str] = ()) -> None:
        unknown = sorted(set(names) - MASKS.keys())
        if unknown:
            raise ValueError(f"there is no mask {unknown[0]!r}; there are {', '.join(MASKS)}")
        self._rules = [(re.compile(pattern), to) for name in MASKS if name in names for pattern, to in MASKS[name]]
        for pattern in patterns:
            try:
                self._rules.append((re.compile(pattern), "<masked>"))
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None

    def __call__(self, text: str) -> str:
        """Return *text* with all of it masked."""
        for pattern, to in self._rules:
            text = pattern.sub(to, text)
        return text


__all__ = ["MASKS", "Masker"]
