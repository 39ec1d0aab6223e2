"""Files of sales, and what each shop sold."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_SHOPS = ("North", "South", "Harbour", "Station")
_COLUMNS = ("date", "shop", "article", "pieces", "price")


def plain(rng: random.Random, /) -> Sequence[Case]:
    """Return a file without anything that needs quotes."""
    return [_case(rng, _SHOPS, ("tea", "soap", "rope"), _COLUMNS)]


def quoted(rng: random.Random, /) -> Sequence[Case]:
    """Return a file whose cells hold commas, quotes and line breaks."""
    shops = ("North, East", 'The "Old" Harbour', "Station\nHall", "South")
    return [_case(rng, shops, ('tea, 2" box', "soap\nand water", "a,b,c,1,2.00"), _COLUMNS)]


def columns(rng: random.Random, /) -> Sequence[Case]:
    """Return a file with the columns in another order, more of them, and no sales at all in another one."""
    names = [*_COLUMNS, "seller", "note"]
    rng.shuffle(names)
    return [_case(rng, _SHOPS, ("tea",), names), _case(rng, _SHOPS, ("tea",), names, rows=0)]


def _case(
    rng: random.Random, shops: Sequence[str], articles: Sequence[str], names: Sequence[str], rows: int = 12
) -> Case:
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    sums: dict[str, tuple[int, int]] = {}
    for number in range(rows):
        shop = shops[number % len(shops)] if number < len(shops) else rng.choice(shops)
        pieces, cents = rng.randint(1, 9), rng.randint(1, 99_999)
        row = {"date": f"2024-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}", "shop": shop, "pieces": pieces}
        row |= {"article": rng.choice(articles), "price": f"{cents // 100}.{cents % 100:02}", "seller": "7", "note": ""}
        writer.writerow({name: row[name] for name in names})
        before = sums.get(shop, (0, 0))
        sums[shop] = (before[0] + pieces, before[1] + pieces * cents)
    shown = io.StringIO()
    report = csv.writer(shown, lineterminator="\n")
    report.writerow(["shop", "pieces", "revenue"])
    for shop, (pieces, cents) in sorted(sums.items(), key=lambda item: (-item[1][1], item[0])):
        report.writerow([shop, pieces, f"{cents // 100}.{cents % 100:02}"])
    return Case(Match(shown.getvalue()), arguments=("sales.csv",), files={"sales.csv": text.getvalue()})
