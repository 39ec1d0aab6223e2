"""A program of several files, what it prints, and what has to be built again after a change."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

# Which headers each source includes, directly or through another header.
_NEEDS = {"main.o": ("price.h", "unit.h", "shape.h"), "price.o": ("price.h", "unit.h"), "shape.o": ("shape.h",)}


def builds(rng: random.Random, /) -> Sequence[Case]:
    """Return the program with new numbers in it: built by make, it prints what follows from them."""
    unit, edge, rate = (rng.randint(2, 99) for _ in range(3))
    return [Case(Match(_printed(unit, edge, rate)), arguments=("true",), files=_sources(unit, edge, rate))]


def changes(rng: random.Random, /) -> Sequence[Case]:
    """Return changes of one file each after a build: what is built again, and what the program prints then."""
    changed = ["unit.h", "price.h", "shape.h", "price.c"]
    rng.shuffle(changed)
    return [_change(rng, name) for name in changed[:2]]


def cleans(rng: random.Random, /) -> Sequence[Case]:
    """Return the program: after make and make clean there are the sources and no more."""
    sources = _sources(1, rng.randint(2, 99), 3)
    return [Case(Match("\n".join(sorted(sources))), arguments=(f"{rng.randint(1, 99)}",), files=sources)]


def _change(rng: random.Random, name: str) -> Case:
    before = [rng.randint(2, 99) for _ in range(3)]
    after = list(before)
    place = {"unit.h": 0, "shape.h": 1, "price.h": 2, "price.c": 2}[name]
    after[place] += rng.randint(1, 99)
    sources, then = _sources(*before), _sources(*after)
    objects = [item for item, headers in _NEEDS.items() if name in headers or name == item.replace(".o", ".c")]
    if name == "price.c":
        then = {**sources, "price.c": sources["price.c"] + f"int extra_{after[2]};\n"}
        after = before
    expected = [_printed(*before), " ".join(objects), _printed(*after)]
    return Case(Match("\n".join(expected)), arguments=(name, then[name]), files=sources)


def _printed(unit: int, edge: int, rate: int) -> str:
    return f"area {edge * edge} price {edge * edge * unit * rate}"


def _sources(unit: int, edge: int, rate: int) -> dict[str, str]:
    return {
        "main.c": '#include <stdio.h>\n#include "price.h"\n#include "shape.h"\n\nint main(void)\n{\n'
        '    printf("area %d price %d\\n", area(EDGE), price(area(EDGE)));\n    return 0;\n}\n',
        "price.c": '#include "price.h"\n\nint price(int amount)\n{\n    return amount * UNIT * RATE;\n}\n',
        "price.h": f'#ifndef PRICE_H\n#define PRICE_H\n#include "unit.h"\n'
        f"#define RATE {rate}\nint price(int amount);\n#endif\n",
        "shape.c": '#include "shape.h"\n\nint area(int edge)\n{\n    return edge * edge;\n}\n',
        "shape.h": f"#ifndef SHAPE_H\n#define SHAPE_H\n#define EDGE {edge}\nint area(int edge);\n#endif\n",
        "unit.h": f"#ifndef UNIT_H\n#define UNIT_H\n#define UNIT {unit}\n#endif\n",
    }
