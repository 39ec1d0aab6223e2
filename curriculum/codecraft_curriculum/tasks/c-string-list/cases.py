"""Operations on a list of strings, run by a driver that counts blocks of memory and what is written past their ends."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "strlist.h"

enum { GUARD = 32, MARK = 0xA5 };

struct block {
    struct block *next;
    size_t size;
    unsigned char data[];
};

static struct block *blocks;
static int overruns, unknown;

void *__real_malloc(size_t size);
void __real_free(void *data);

static struct block **find(void *data)
{
    struct block **place = &blocks;

    while (*place && (*place)->data != data)
        place = &(*place)->next;
    return place;
}

static void inspect(struct block *block)
{
    for (size_t i = 0; i < GUARD; i++)
        if (block->data[block->size + i] != MARK) {
            overruns++;
            return;
        }
}

void *__wrap_malloc(size_t size)
{
    struct block *block = __real_malloc(sizeof *block + size + GUARD);

    block->next = blocks;
    block->size = size;
    memset(block->data, 0x5A, size);
    memset(block->data + size, MARK, GUARD);
    blocks = block;
    return block->data;
}

void __wrap_free(void *data)
{
    struct block **place = find(data), *block = *place;

    if (!data)
        return;
    if (!block) {
        unknown++;
        return;
    }
    inspect(block);
    *place = block->next;
    memset(block->data, 0x5A, block->size);
    __real_free(block);
}

void *__wrap_calloc(size_t number, size_t size)
{
    return memset(__wrap_malloc(number * size), 0, number * size);
}

void *__wrap_realloc(void *data, size_t size)
{
    struct block *old = data ? *find(data) : NULL;
    void *new = __wrap_malloc(size);

    if (old) {
        memcpy(new, data, old->size < size ? old->size : size);
        __wrap_free(data);
    }
    return new;
}

char *__wrap_strdup(const char *text)
{
    return strcpy(__wrap_malloc(strlen(text) + 1), text);
}

int main(int count, char **words)
{
    static char line[4096];
    struct strlist list;

    setvbuf(stdin, __real_malloc(1 << 16), _IOFBF, 1 << 16);
    setvbuf(stdout, __real_malloc(1 << 16), _IOFBF, 1 << 16);
    strlist_init(&list);
    while (fgets(line, sizeof line, stdin)) {
        char *text = strchr(line, ' ') + 1;

        line[strcspn(line, "\n")] = '\0';
        if (line[0] == 'a') {
            strlist_add(&list, text);
        } else if (line[0] == 'r') {
            strlist_remove(&list, (size_t)atol(text));
        } else if (line[0] == 'j') {
            char *joined = strlist_join(&list, text);
            printf("%zu<%s>\n", list.used, joined);
            free(joined);
        }
    }
    strlist_free(&list);
    for (struct block *block = blocks; block; block = block->next)
        inspect(block);
    if (count > 1 && strstr(words[1], "overruns"))
        printf("overruns %d unknown %d\n", overruns, unknown);
    if (count > 1 && strstr(words[1], "left")) {
        int left = 0;
        for (struct block *block = blocks; block; block = block->next)
            left++;
        printf("left %d\n", left);
    }
    return 0;
}
"""


def results(rng: random.Random, /) -> Sequence[Case]:
    """Return operations of every kind, and what the list holds after each."""
    return [_case(rng, "", 40)]


def overruns(rng: random.Random, /) -> Sequence[Case]:
    """Return operations after which nothing was written past the end of a block, or given back that was none."""
    return [_case(rng, "overruns", 60)]


def left(rng: random.Random, /) -> Sequence[Case]:
    """Return operations after which every block was given back."""
    return [_case(rng, "left", 60)]


def _case(rng: random.Random, what: str, number: int) -> Case:
    items: list[str] = []
    lines: list[str] = []
    shown: list[str] = []
    for step in range(number):
        if rng.random() < 0.25 and items:
            place = rng.choice([0, len(items) - 1, rng.randrange(len(items))])
            lines.append(f"remove {place}")
            del items[place]
        else:
            items.append("".join(rng.choices("abcxyz", k=rng.choice([0, 1, 7, 8, 15, 16, 24, 40]))))
            lines.append(f"add {items[-1]}")
        if rng.random() < 0.3 or step == number - 1:
            separator = rng.choice([",", ", ", "", " and "])
            lines.append(f"join {separator}")
            shown.append(f"{len(items)}<{separator.join(items)}>")
    ends = {"": [], "overruns": ["overruns 0 unknown 0"], "left": ["left 0"]}[what]
    given = "".join(f"{line}\n" for line in lines)
    return Case(Match("\n".join([*shown, *ends])), (what,), given.encode(), files={"driver.c": _DRIVER})
