"""Lines of a log, and their parts."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_Parts = tuple[str, str, str | None, str, str]


def simple(rng: random.Random, /) -> Sequence[Case]:
    """Return lines without quotes in quotes."""
    return [_case(rng, [_line(rng) for _ in range(12)])]


def escapes(rng: random.Random, /) -> Sequence[Case]:
    """Return lines with quotes and backslashes in texts."""
    return [_case(rng, [_line(rng, escaped=True) for _ in range(12)])]


def refused(rng: random.Random, /) -> Sequence[Case]:
    """Return lines that are nearly right, among some that are."""
    text, _ = _line(rng, escaped=True)
    good = f'12:00:00 INFO [web] "{_word(rng)}" a={_word(rng)}'
    wrong = [
        text.replace(" ", "  ", 1),
        f"{good} ",
        f" {good}",
        good.replace("12:", "24:"),
        good.replace(":00:", ":60:"),
        good.replace("12:", "1:"),
        good.replace(" INFO", ".1234567 INFO"),
        good.replace(" INFO", ". INFO"),
        good.replace("INFO", "FATAL"),
        good.replace("[web]", "[Web]"),
        good.replace("[web]", "[9web]"),
        good.replace("[web]", "[]"),
        good.replace("[web] ", "[web]"),
        f"{good} key",
        f"{good} Key=1",
        f"{good} key=",
        f'{good} key="open',
        f'{good} key="a"b',
        f'{good} key=a"b',
        f'{good} key="a\\n"',
        '12:00:00 INFO "a "b" c"',
        '12:00:00 INFO "a\\"',
        '12:00:00 INFO "a\\t"',
        "12:00:00 INFO",
        f'{good}b="c"',
    ]
    return [_case(rng, [(line, None) for line in wrong] + [_line(rng), _line(rng)])]


def _line(rng: random.Random, *, escaped: bool = False) -> tuple[str, _Parts | None]:
    time = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
    time += rng.choice(["", f".{rng.randint(0, 9)}", f".{rng.randint(0, 999999):06}"])
    level, component = rng.choice(_LEVELS), rng.choice([None, f"{_word(rng)}-{rng.randint(0, 9)}", "db"])
    message = _text(rng, escaped=escaped)
    pairs = [f"{rng.choice(['id', 'user_name', '_'])}={_value(rng, escaped=escaped)}" for _ in range(rng.randint(0, 3))]
    where = "" if component is None else f" [{component}]"
    line = " ".join([f'{time} {level}{where} "{message}"', *pairs])
    return line, (time, level, component, message, " ".join(pairs))


def _value(rng: random.Random, *, escaped: bool) -> str:
    plain = rng.choice([_word(rng), str(rng.randint(0, 999)), "[x]=y", "a\\b", "é"]) if escaped else _word(rng)
    return f'"{_text(rng, escaped=True)}"' if escaped and rng.random() < 0.6 else plain


def _text(rng: random.Random, *, escaped: bool) -> str:
    pieces = [_word(rng), f"{rng.randint(0, 99)} %", "= [x]", ""]
    if escaped:
        pieces += ['\\"', "\\\\", '\\\\\\"', 'k=\\"v\\"', "ü"]
    text = " ".join(rng.choices(pieces, k=4))
    return f'{text} \\" {_word(rng)}' if escaped else text


def _case(rng: random.Random, lines: list[tuple[str, _Parts | None]]) -> Case:
    rng.shuffle(lines)
    given = "".join(f"{line}\n" for line, _ in lines)
    said = "".join(f"{json.dumps(parts)}\n" for _, parts in lines)
    return Case(Match(said, "exact"), stdin=given.encode())


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6))
