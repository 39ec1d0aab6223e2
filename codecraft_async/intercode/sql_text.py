"""What can be told of an SQL statement from its text: whether it changes data, and how its result is ordered and cut.

It is read word by word, with quotes, comments and brackets understood, and nothing else: what looks unusual is said to
be unknown, and nothing depends on its being known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["Ordering", "changes_data", "database_of", "ordering"]

_PARTS: Final = r"""
    (?P<blank> \s+ | {comment} )
  | (?P<quoted> {quoted} | `(?:[^`]|``)*(?:`|$) )
  | (?P<word> \w+ )
  | (?P<mark> . )
"""
_MYSQL: Final = re.compile(
    _PARTS.format(
        # What stands in /*! */ is run.
        comment=r"--(?:\s[^\n]*|$) | \#[^\n]* | /\*(?!M?!).*?(?:\*/|$)",
        quoted=r"""'(?:[^'\\]|''|\\.)*(?:'|$) | "(?:[^"\\]|""|\\.)*(?:"|$)""",
    ),
    re.VERBOSE | re.DOTALL,
)
_SQLITE: Final = re.compile(
    _PARTS.format(
        comment=r"--[^\n]* | /\*.*?(?:\*/|$)",
        quoted=r"""'(?:[^']|'')*(?:'|$) | "(?:[^"]|"")*(?:"|$) | \[[^\]]*(?:\]|$)""",
    ),
    re.VERBOSE | re.DOTALL,
)
_READING: Final = frozenset("SELECT SHOW DESCRIBE DESC EXPLAIN VALUES TABLE USE WITH PRAGMA HELP".split())
_ONLY_READING: Final = _READING - {"WITH", "EXPLAIN"}
_FIRST: Final = re.compile(r"\s*([a-zA-Z]+)\b")
_WRITING: Final = frozenset("INSERT UPDATE DELETE".split())
_USE: Final = re.compile(r"\s*use\s+(?:`((?:[^`]|``)+)`|([\w$]+))\s*;?\s*", re.IGNORECASE)
_END: Final = frozenset("FOR INTO LOCK PROCEDURE FETCH ROWS RETURNING".split())


class _Part(NamedTuple):
    text: str
    """A word in capitals, or a mark; quoted text is "'"."""
    start: int
    depth: int


@dataclass(frozen=True, slots=True)
class Ordering:
    """A query taken apart at its top level: what it is about, the keys that it is ordered by, and which rows it wants.

    `keys` is the text behind ORDER BY, "" if there is none. Of the ordered rows, those from `first` on are the result,
    `count` at most (None: all).
    """

    body: str
    keys: str = ""
    first: int = 0
    count: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the result is only some of the rows."""
        return bool(self.first) or self.count is not None

    def whole(self, columns: int, *, descending: bool = False) -> str:
        """Return the query without its LIMIT, in which rows with equal keys are ordered by their *columns*."""
        ties = [f"{number} DESC" if descending else str(number) for number in range(1, columns + 1)]
        # Lines of their own: keys may end with a comment.
        return f"{self.body}\nORDER BY {self.keys}\n, {', '.join(ties)}" if self.keys else self.body


def ordering(query: str, *, sqlite: bool = False) -> Ordering | None:
    """Return the parts of *query*; None where it has something behind its ORDER BY or LIMIT that is not understood."""
    query = query.strip().rstrip(";").rstrip()
    top = [part for part in _parts(query, sqlite=sqlite) if part.depth == 0]
    words = [part.text for part in top]
    ends = [number for number, word in enumerate(words) if word == "LIMIT"]
    order = [number for number in range(len(words) - 1) if words[number : number + 2] == ["ORDER", "BY"]]
    at = order[-1] if order else len(words)
    end = ends[-1] if ends and ends[-1] > (at if order else -1) else len(words)
    if any(word in _END for word in words[1:]) or len(order) > 1 or len(ends) > 1:
        return None
    cut = _cut(words[end + 1 :]) if end < len(words) else (0, None)
    if cut is None:
        return None
    starts = [part.start for part in top] + [len(query)]
    if not order:
        return Ordering(query[: starts[end]].rstrip(), "", *cut)
    return Ordering(query[: starts[at]].rstrip(), query[starts[at + 2] : starts[end]].strip(), *cut)


def changes_data(statement: str, *, sqlite: bool = False) -> bool:
    """Return whether *statement* is one that changes data or definitions, as far as its words tell."""
    first = _FIRST.match(statement)
    if first is not None and first[1].upper() in _ONLY_READING:  # nearly all are, and each step asks
        return False
    words = [part.text for part in _parts(statement, sqlite=sqlite) if part.text not in ("(", ")", ";")]
    if not words or words[0] not in _READING:
        return bool(words)
    top = [part.text for part in _parts(statement, sqlite=sqlite) if part.depth == 0]
    return words[0] in ("WITH", "EXPLAIN") and any(word in _WRITING for word in top)


def database_of(statement: str) -> str | None:
    """Return the database that *statement* says to use; None if it says nothing else or more."""
    found = _USE.fullmatch(statement)
    return None if found is None else found[1].replace("``", "`") if found[1] else found[2]


def _cut(words: list[str]) -> tuple[int, int | None] | None:
    """Return the first row and the number of rows that a LIMIT clause says."""
    numbers = [int(word) for word in words if word.isdecimal()]
    shape = ["n" if word.isdecimal() else word for word in words]
    if shape == ["n"]:
        return 0, numbers[0]
    if shape == ["n", "OFFSET", "n"]:
        return numbers[1], numbers[0]
    if shape == ["n", ",", "n"]:
        return numbers[0], numbers[1]
    return None


def _parts(statement: str, *, sqlite: bool) -> Iterator[_Part]:
    depth = 0
    for found in (_SQLITE if sqlite else _MYSQL).finditer(statement):
        kind, text = found.lastgroup, found[0]
        if kind == "blank":
            continue
        depth -= text == ")"
        yield _Part("'" if kind == "quoted" else text.upper(), found.start(), depth)
        depth += text == "("
