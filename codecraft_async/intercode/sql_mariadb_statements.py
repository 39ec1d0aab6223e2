"""What a statement can do to a server, as far as its first words tell, and whether its result is always the same.

Nothing hangs on a statement's being harmless that is not on a list here: whatever is unknown is taken for the worst.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache
from typing import Final

from codecraft_async.intercode.sql_text import database_of

__all__ = ["Effect", "effect_of", "is_repeatable"]


class Effect(IntEnum):
    """What a statement can have done; a larger one includes the smaller."""

    READ = 0
    """Nothing that outlives its session."""
    ROWS = 1
    """Changed rows within a transaction, which a rollback undoes."""
    LOGGED = 2
    """Changed what a rollback leaves; what it did is in the server's log of changes."""
    UNKNOWN = 3
    """Anything."""


# Functions in them change nothing but by programs of users: see `Loaded.has_programs`.
_READING: Final = frozenset("select show describe desc explain with values use help do".split())
_CHANGING: Final = frozenset("insert update delete replace rollback savepoint release start begin".split())
_LOGGED: Final = frozenset("create drop alter truncate rename commit set load grant revoke".split())
# With these words they do what is in no log, or run other statements.
_WORSE: Final = {
    "with": frozenset("insert update delete into".split()),
    "begin": frozenset(["not"]),
    "set": frozenset("password statement".split()),
    "alter": frozenset("analyze optimize repair check partition partitions".split()),
}

_FIRST: Final = re.compile(
    r"[\s(]*(?:(?:--\s[^\n]*\n|\#[^\n]*\n|/\*(?![!M]).*?\*/)[\s(]*)*([a-z]+)", re.IGNORECASE | re.DOTALL
)
_WORDS: Final = re.compile(r"[a-z_]+")


@lru_cache(maxsize=8192)
def effect_of(statement: str) -> Effect:
    """Return what *statement* can do, whatever comes of it."""
    found = _FIRST.match(statement)
    first = found[1].lower() if found else ""
    if first in _WORSE and not _WORSE[first].isdisjoint(_WORDS.findall(statement.lower())):
        return Effect.UNKNOWN
    if first == "use" and database_of(statement) is None:
        return Effect.LOGGED  # then nobody knows which database the session is in
    if first in _READING:
        return Effect.READ
    if first in _CHANGING:
        return Effect.ROWS
    return Effect.LOGGED if first in _LOGGED else Effect.UNKNOWN


# Functions, and words that a bracket can follow, whose results depend on their arguments and the data alone.
_SAME: Final = frozenset(
    """
    abs acos all and any as asc ascii asin atan atan2 avg between bin bit_length by case cast ceil ceiling char
    char_length character_length char count coalesce concat concat_ws convert cos cot count crc32 cume_dist date
    date_add date_format date_sub datediff day dayname dayofmonth dayofweek dayofyear decimal degrees dense_rank
    desc distinct div else elt except exists exp extract field find_in_set first_value floor format from greatest group
    group_concat having hex hour if ifnull in insert instr intersect interval is isnull join lag last_day last_value
    lcase lead least left length like limit ln locate log log10 log2 lower lpad ltrim makedate max mid min minute mod
    month monthname not nth_value ntile nullif on or over partition percent_rank position pow power quarter radians
    rank regexp repeat replace reverse right rlike round row row_number rpad rtrim second select sign sin some soundex
    space sqrt std stddev stddev_pop stddev_samp strcmp substr substring substring_index sum tan then time
    time_to_sec timestampdiff to_days trim truncate ucase union unsigned upper using values var_pop var_samp variance
    varchar week weekday weekofyear when where with xor year yearweek
    """.split()
)
# What reads clocks, sessions, or what is never the same, without a bracket; and what does more than read.
_NOT_SAME: Final = re.compile(
    r"""@ | \b(?:current_\w+|local\w*|utc_\w+|sysdate|now|user|into|for\s+update|lock|sql_calc_found_rows
    |information_schema|performance_schema|mysql|procedure|nextval|next|previous|explain|seq_\w+)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_CALLED: Final = re.compile(r"([\w$]+)`?\s*\(")
_SHOWN: Final = re.compile(
    r"\s*(?:desc|describe|show\s+(?:tables|databases|schemas|(?:full\s+)?(?:columns|fields|tables)|create\s+table|index|keys))\b"
    r"[^();]*;?\s*",
    re.IGNORECASE,
)
_MISLEADING: Final = ("--", "#", "/*", "\\")
"""What texts are read by that only a whole parser understands."""
_QUOTED: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(`(?:[^`]|``)*`)", re.DOTALL)


@lru_cache(maxsize=8192)
def is_repeatable(statement: str) -> bool:
    """Return whether *statement* has the same result each time that it runs on the same data, in any session.

    That of rows without an order is: the server may choose one, and has chosen it.
    """
    if any(mark in statement for mark in _MISLEADING):
        return False
    if database_of(statement) is not None:
        return True
    if _SHOWN.fullmatch(statement):
        return _NOT_SAME.search(statement) is None
    bare = _QUOTED.sub(lambda found: found[1] or "''", statement)
    if bare.lstrip("( \t\r\n")[:6].lower() != "select" or _NOT_SAME.search(bare):
        return False
    return all(name.lower() in _SAME for name in _CALLED.findall(bare))
