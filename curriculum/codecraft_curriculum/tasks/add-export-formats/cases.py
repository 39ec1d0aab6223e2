"""Tables, and what they look like in several formats."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

from codecraft_curriculum import Case, Match

_WORDS = ("tea", "a|b", "x, y", 'say "hi"', "", "50 %", "back\\slash", "*bold*", "caf\u00e9", "|")
_Rows = list[dict[str, str]]


def plain(rng: random.Random, /) -> Sequence[Case]:
    """Return a table in the format that is there already."""
    return [_case(rng, "plain", lambda rows: "".join(f"{'; '.join(row.values())}\n" for row in rows))]


def jsonl(rng: random.Random, /) -> Sequence[Case]:
    """Return a table as one JSON object per line."""
    return [_case(rng, "jsonl", lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))]


def markdown(rng: random.Random, /) -> Sequence[Case]:
    """Return two tables as Markdown, one of them without rows."""
    return [_case(rng, "markdown", _markdown), _case(rng, "markdown", _markdown, rows=0)]


def formats(rng: random.Random, /) -> Sequence[Case]:
    """Return the list of all formats, and what happens with an unknown one."""
    unknown = f"format{rng.randint(10, 99)}"
    return [
        Case(Match("jsonl\nmarkdown\nplain\nstatus 0"), arguments=("--list",)),
        Case(Match(f"unknown format: {unknown}\nstatus 2"), arguments=(unknown,), stdin=b"a\tb\n"),
    ]


def _markdown(rows: _Rows) -> str:
    names = list(rows[0]) if rows else ["name", "note", "n"]
    lines = [names, ["---"] * len(names), *(list(row.values()) for row in rows)]
    return "".join("| " + " | ".join(word.replace("|", "\\|") for word in line) + " |\n" for line in lines)


def _case(rng: random.Random, name: str, show: Callable[[_Rows], str], rows: int = 5) -> Case:
    names = ["name", "note", "n"]
    table = [
        {"name": f"n{rng.randint(1, 99)}", "note": word, "n": str(rng.randint(1, 99))} for word in _some(rng, rows)
    ]
    given = "".join("\t".join(line) + "\n" for line in [names, *(list(row.values()) for row in table)])
    return Case(Match(show(table), "exact"), arguments=(name,), stdin=given.encode())


def _some(rng: random.Random, number: int) -> list[str]:
    return ["a|b", *rng.sample(_WORDS, number - 1)] if number else []
