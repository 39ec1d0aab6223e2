"""Lines of a log of sales, and what three reports say about them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_SHOPS = ("north", "south", "harbour", "station")

_OTHER_PARSER = '''
"""Sales, from lines such as ``cents|goods|shop``."""


class BadLine(ValueError):
    """A line that is no sale."""


def parse_line(line):
    """Return (shop, goods, cents); raise BadLine."""
    words = line.strip().split("|")
    if len(words) != 3 or not words[0].isdecimal():
        raise BadLine(line)
    return words[2], words[1], int(words[0])
'''


def reports(rng: random.Random, /) -> Sequence[Case]:
    """Return one run of each script, as they are now."""
    return [_case(script, rng, None) for script in ("totals.py", "best.py", "bad.py")]


def follows_totals(rng: random.Random, /) -> Sequence[Case]:
    """Return a run of totals.py beside another parser."""
    return [_case("totals.py", rng, _OTHER_PARSER)]


def follows_best(rng: random.Random, /) -> Sequence[Case]:
    """Return a run of best.py beside another parser."""
    return [_case("best.py", rng, _OTHER_PARSER)]


def follows_bad(rng: random.Random, /) -> Sequence[Case]:
    """Return a run of bad.py beside another parser."""
    return [_case("bad.py", rng, _OTHER_PARSER)]


def parsed_lines(rng: random.Random, /) -> Sequence[Case]:
    """Return lines, and what parse_line makes of each."""
    results: dict[str, str] = {}
    for _ in range(6):
        shop, goods, cents = rng.choice(_SHOPS), f"item{rng.randint(1, 9)}", rng.randint(0, 99_999)
        results[f"{shop};{goods};{cents // 100}.{cents % 100:02}"] = f"{shop} {goods} {cents}"
    number = rng.randint(1, 99)
    wrong = (f"a;b;{number}", f"a;b;{number}.5", f"a;b;c;{number}.50", f"a;-{number}.00", "", "a;b;-1.00", "a;b;1.x0")
    results.update(dict.fromkeys(wrong, "BadLine True"))
    lines = list(results)
    rng.shuffle(lines)
    given = "".join(f"{line}\n" for line in lines)
    return [Case(Match("\n".join(results[line] for line in lines)), stdin=given.encode())]


def _case(script: str, rng: random.Random, parser: str | None) -> Case:
    sales = [(rng.choice(_SHOPS), f"item{rng.randint(1, 9)}", rng.randint(1, 9_999)) for _ in range(15)]
    lines: list[str] = []
    totals: dict[str, int] = {}
    best: dict[str, int] = {}
    bad: list[int] = []
    for number, (shop, goods, cents) in enumerate(sales, 1):
        broken = number > 1 and rng.random() < 0.2
        if parser is None:
            lines.append(f"{shop};{goods}" if broken else f"{shop};{goods};{cents / 100:.2f}")
        else:
            lines.append(f"{cents}|{goods}" if broken else f"{cents}|{goods}|{shop}")
        if broken:
            bad.append(number)
            continue
        totals[shop] = totals.get(shop, 0) + cents
        best[goods] = best.get(goods, 0) + cents
    printed = {
        "totals.py": [f"{shop} {totals[shop]}" for shop in sorted(totals)],
        "best.py": [min(best, key=lambda goods: (-best[goods], goods))] if best else ["nothing"],
        "bad.py": [f"{len(bad)} bad lines: {' '.join(map(str, bad))}".strip()],
    }[script]
    arguments = (script,) if parser is None else (script, parser)
    return Case(Match("\n".join(printed)), arguments, "".join(f"{line}\n" for line in lines).encode())
