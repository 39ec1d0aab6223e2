"""Lines for a pattern: what it matches, and lines on which a bad one goes back and forth for ever."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_RIGHT = re.compile(r"(?:[a-z][a-z0-9]*(?:(?:, |,| )[a-z][a-z0-9]*)*(?:, |,| )?)?;")


def same(rng: random.Random, /) -> Sequence[Case]:
    """Return short lines: some that match, each with one change, and a few that every pattern should be asked."""
    lines = [
        "",
        ";",
        ",;",
        " ;",
        "a;",
        "a,;",
        "a, ;",
        "a ;",
        "a  ;",
        "a,,b;",
        "a ,b;",
        "1;",
        "a1b2;",
        "a,1;",
        "A;",
        "a;;",
        "a",
    ]
    for _ in range(120):
        words = [_word(rng, 3) for _ in range(rng.randint(0, 4))]
        line = rng.choice([", ", ",", " "]).join(words) + rng.choice(["", "", ", ", ",", " "] if words else [""]) + ";"
        place = rng.randrange(len(line) + 1)
        lines += [line, line[:place] + rng.choice("a0, ;-A") + line[place:], line[:place] + line[place + 1 :]]
    return [_case([line for line in lines if len(line) <= 14])]


def short(rng: random.Random, /) -> Sequence[Case]:
    """Return lines of about 200 characters that nearly match."""
    return [_case([*_near(rng, 200), f"{_long(rng, 200)};"])]


def long(rng: random.Random, /) -> Sequence[Case]:
    """Return lines of up to 40,000 characters, each by itself."""
    return [_case([line]) for line in (*_near(rng, 39_000), f"{_long(rng, 39_000)};")]


def _near(rng: random.Random, length: int) -> list[str]:
    """Return lines that stop matching at their very end."""
    letters = "".join(rng.choices("abcdefgh", k=length))
    digits = "".join(f"{rng.choice('abc')}{rng.randint(1, 9)}" for _ in range(length // 2))
    return [f"{letters}!", f"{digits},,", f"{_long(rng, length)} ,;"]


def _long(rng: random.Random, length: int) -> str:
    words = [_word(rng, 8) for _ in range(length // 8)]
    return rng.choice([", ", ",", " "]).join(words)[:length].rstrip(", ")


def _word(rng: random.Random, most: int) -> str:
    return rng.choice("abcxyz") + "".join(rng.choices("abcxyz0189", k=rng.randint(0, most)))


def _case(lines: list[str]) -> Case:
    said = " ".join(str(int(_RIGHT.fullmatch(line) is not None)) for line in lines)
    return Case(Match(said), stdin="".join(f"{line}\n" for line in lines).encode())
