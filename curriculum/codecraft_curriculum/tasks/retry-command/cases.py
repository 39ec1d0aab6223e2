"""Commands that fail a few times, and what is to be seen of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match, WorkspaceFile

_FLAKY = """#!/bin/sh
count=$(($(cat count 2> /dev/null || echo 0) + 1))
echo "$count" > count
echo "WORD $count"
[ "$count" -lt GOOD ] || exit 0
exit STATUS
"""


def tries(rng: random.Random, /) -> Sequence[Case]:
    """Return commands that succeed at some try, or never."""
    return [_tries(rng, good=3, most=0), _tries(rng, good=2, most=rng.randint(4, 6)), _tries(rng, good=9, most=5)]


def arguments(rng: random.Random, /) -> Sequence[Case]:
    """Return a command with arguments that want quoting."""
    words = [
        f"$HOME; echo {_word(rng)}",
        "",
        f"two  {_word(rng)}",
        "*",
        "-n",
        f'it\'s "{_word(rng)}"',
        "\\",
        "--",
        "a\tb",
    ]
    rng.shuffle(words)
    shown = "".join(f"<{word}>" for word in ["-d", *words])
    program = WorkspaceFile(b'#!/bin/sh\nfor word; do printf "<%s>" "$word"; done\n', 0o755)
    given = (*rng.choice([(), ("-n", "2"), ("-d0",)]), "./show", "-d", *words)
    return [Case(Match(shown), given, files={"show": program})]


def statuses(rng: random.Random, /) -> Sequence[Case]:
    """Return commands that end in different ways, some with a status of their own."""
    status, signal = rng.randint(2, 99), rng.choice([9, 10, 12, 15])
    ends = [
        (("sh", "-c", f"exit {status}"), status),
        (("sh", "-c", f"kill -{signal} $$"), 128 + signal),
        ((f"./{_word(rng)}",), 127),
        (("./plain",), 126),
    ]
    cases: list[Case] = []
    for words, due in ends:
        number = rng.randint(1, 3)
        said = "".join(f"try {each} of {number}: status {due}\n" for each in range(1, number + 1))
        cases.append(Case(Match(said), ("-n", str(number), *words), files={"plain": "x"}, exit_status=due))
    return cases


def usage(rng: random.Random, /) -> Sequence[Case]:
    """Return command lines that make no sense, and one that does."""
    word = _word(rng)
    wrong: list[tuple[str, ...]] = [
        (),
        ("-n", "2"),
        ("-n", "0", "echo", word),
        ("-n", "x", "echo", word),
        ("-z", "echo", word),
    ]
    cases = [Case(Match("told"), given, files={"x": "x"}, exit_status=64) for given in wrong]
    return [Case(Match(word), ("-d", "0.01", "echo", word), files={"x": "x"}), *cases]


def _tries(rng: random.Random, *, good: int, most: int) -> Case:
    word, status, tries = _word(rng), rng.randint(1, 99), most or 3
    text = _FLAKY.replace("WORD", word).replace("GOOD", str(good)).replace("STATUS", str(status))
    said = ""
    for number in range(1, min(good, tries) + 1):
        said += f"{word} {number}\n" + (f"try {number} of {tries}: status {status}\n" if number < good else "")
    options = ("-n", str(most), "-d", "0.05") if most else ()
    program = WorkspaceFile(text.encode(), 0o755)
    return Case(
        Match(said), (*options, "./flaky"), files={"flaky": program}, exit_status=0 if good <= tries else status
    )


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7))
