"""Operations on a table of numbers by name, and what they return; the driver keeps all names in one buffer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from codecraft_curriculum import Case, Match

_DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

static void show(const char *name, long value, void *context)
{
    printf("%s=%ld%s", name, value, (char *)context);
}

int main(void)
{
    static char line[1024], made[1100];
    struct table *table = table_new();
    long value;

    while (fgets(line, sizeof line, stdin)) {
        char *name = line + 2;

        line[strcspn(line, "\n")] = '\0';
        char *rest = strchr(name, ' ');
        if (rest)
            *rest++ = '\0';
        switch (line[0]) {
        case 'p':
            table_put(table, name, atol(rest));
            break;
        case 'g':
            if (table_get(table, name, &value))
                printf("%ld\n", value);
            else
                puts("none");
            break;
        case 'r':
            puts(table_remove(table, name) ? "removed" : "not there");
            break;
        case 's':
            printf("size %zu\n", table_size(table));
            break;
        case 'e':
            table_each(table, show, ",");
            puts("end");
            break;
        case 'f': /* fill the table */
            for (long number = 0; number < atol(rest); number++) {
                snprintf(made, sizeof made, "%s-%ld", name, number);
                table_put(table, made, number);
            }
            break;
        case 'h': /* remove every other name */
            value = 0;
            for (long number = 0; number < atol(rest); number += 2) {
                snprintf(made, sizeof made, "%s-%ld", name, number);
                value += table_remove(table, made);
            }
            printf("%ld removed\n", value);
            break;
        }
        memset(line, '?', sizeof line - 1);
    }
    table_free(table);
    puts("done");
    return 0;
}
"""


def basics(rng: random.Random, /) -> Sequence[Case]:
    """Return puts, gets and sizes with names of every length, the empty one and very similar ones."""
    return [_case(rng, 60, lambda: rng.choice("pppgggs"))]


def removals(rng: random.Random, /) -> Sequence[Case]:
    """Return removals among the other operations."""
    return [_case(rng, 120, lambda: rng.choice("ppgrrs"))]


def order(rng: random.Random, /) -> Sequence[Case]:
    """Return visits of all names, which come in the order in which they were put first."""
    return [_case(rng, 80, lambda: rng.choice("ppppre"))]


def many(rng: random.Random, /) -> Sequence[Case]:
    """Return a hundred thousand names, which a list would take far too long to search."""
    stem, number = f"n{rng.randint(1, 99)}", 100_000
    wanted = [rng.randrange(number) for _ in range(1_000)]
    lines = [f"f {stem} {number}", f"h {stem} {number}", *(f"g {stem}-{n}" for n in wanted), "s"]
    shown = [f"{number // 2} removed", *(str(n) if n % 2 else "none" for n in wanted), f"size {number // 2}"]
    return [_driven(lines, shown)]


def _case(rng: random.Random, number: int, choose: Callable[[], str]) -> Case:
    names = ["", "a", "aa", "b", "ab", "ba", "x" * 200, "x" * 199 + "y", *(f"k{n}" for n in range(12))]
    table: dict[str, int] = {}
    lines: list[str] = []
    shown: list[str] = []
    for _ in range(number):
        what, name = choose(), rng.choice(names)
        value = rng.randint(-999_999, 999_999)
        lines.append({"p": f"p {name} {value}", "s": "s", "e": "e"}.get(what, f"{what} {name}"))
        if what == "p":
            table[name] = value
        elif what == "g":
            shown.append(str(table[name]) if name in table else "none")
        elif what == "r":
            shown.append("removed" if table.pop(name, None) is not None else "not there")
        elif what == "s":
            shown.append(f"size {len(table)}")
        else:
            shown.append("".join(f"{name}={value}," for name, value in table.items()) + "end")
    return _driven(lines, shown)


def _driven(lines: list[str], shown: list[str]) -> Case:
    given = "".join(f"{line}\n" for line in lines)
    return Case(Match("\n".join([*shown, "done"])), stdin=given.encode(), files={"driver.c": _DRIVER})
