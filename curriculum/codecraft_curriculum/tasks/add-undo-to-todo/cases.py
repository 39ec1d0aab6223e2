"""Sessions with a list of things to do: one command per line, each run in a process of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_THINGS = ("bread", "stamps", "paint", "call-ann", "water-plants", "read", "swim")


class _Todo:
    """What the program should do."""

    def __init__(self) -> None:
        self.items: list[tuple[str, bool]] = []
        self.earlier: list[list[tuple[str, bool]]] = []
        self.lines: list[str] = []
        self.shown: list[str] = []

    def add(self, thing: str) -> None:
        self._change()
        self.items.append((thing, False))
        self.lines.append(f"add {thing}")

    def done(self, number: int) -> None:
        self._change()
        self.items[number - 1] = (self.items[number - 1][0], True)
        self.lines.append(f"done {number}")

    def undo(self) -> None:
        self.lines.append("undo")
        if self.earlier:
            self.items = self.earlier.pop()
        else:
            self.shown.append("nothing to undo")

    def list(self) -> None:
        self.lines.append("list")
        self.shown += [f"{n} [{'x' if is_done else ' '}] {thing}" for n, (thing, is_done) in enumerate(self.items, 1)]

    def case(self, file: str = "") -> Case:
        given = "".join(f"{line}\n" for line in self.lines)
        return Case(Match("\n".join(self.shown)), (file,), given.encode())

    def _change(self) -> None:
        self.earlier.append(list(self.items))


def plain(rng: random.Random, /) -> Sequence[Case]:
    """Return a session without undo."""
    todo = _Todo()
    for thing in rng.sample(_THINGS, 3):
        todo.add(thing)
    todo.done(rng.randint(1, 3))
    todo.list()
    return [todo.case()]


def last(rng: random.Random, /) -> Sequence[Case]:
    """Return a session that takes one change back after each list, never two in a row."""
    todo = _Todo()
    first, second, third = rng.sample(_THINGS, 3)
    todo.add(first)
    todo.add(second)
    todo.undo()
    todo.list()
    todo.add(third)
    todo.done(rng.randint(1, 2))
    todo.undo()
    todo.list()
    return [todo.case()]


def all_changes(rng: random.Random, /) -> Sequence[Case]:
    """Return a session that takes back more than there is."""
    todo = _Todo()
    number = rng.randint(2, 3)
    for thing in rng.sample(_THINGS, number):
        todo.add(thing)
    todo.done(rng.randint(1, number))
    for _ in range(rng.randint(2, number)):
        todo.undo()
    todo.list()
    todo.add("late")
    for _ in range(number + 1):
        todo.undo()
    todo.list()
    return [todo.case()]


def old_files(rng: random.Random, /) -> Sequence[Case]:
    """Return a session that begins with a file of today's form, whose changes nobody remembers."""
    todo = _Todo()
    things = rng.sample(_THINGS, 2)
    todo.items = [(things[0], True), (things[1], False)]
    todo.undo()
    todo.add("new")
    todo.undo()
    todo.list()
    file = f'[{{"text": "{things[0]}", "done": true}}, {{"text": "{things[1]}", "done": false}}]'
    return [todo.case(file)]
