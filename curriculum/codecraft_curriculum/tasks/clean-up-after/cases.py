"""Commands that end in different ways."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match


def statuses(rng: random.Random, /) -> Sequence[Case]:
    """Return commands that succeed, fail, are killed, and leave what is hard to remove."""
    status, word = rng.randint(2, 120), f"{_word(rng)}  {_word(rng)}"
    locked = 'mkdir "$SCRATCH/a"; touch "$SCRATCH/a/b"; chmod 500 "$SCRATCH/a"; cat; exit 0'
    return [
        _case(("sh", "-c", f'touch "$SCRATCH/x"; exit {status}'), "", status),
        _case(("sh", "-c", 'echo "$1"; kill -KILL $$', "sh", word), f"{word}\n", 137),
        _case(("sh", "-c", locked), f"{word}\n", 0, stdin=word + "\n"),
    ]


def directory(rng: random.Random, /) -> Sequence[Case]:
    """Return a command that tells of its scratch directory; two of it run at once."""
    word = _word(rng)
    text = 'echo "$SCRATCH"; stat -c "%a %F" "$SCRATCH"; ls -A "$SCRATCH"; sleep 0.3; echo "$1"'
    return [Case(Match(f"True 2 700 directory {word}  []"), ("sh", "-c", text, "sh", word), files={"x": "x"})]


def signals(rng: random.Random, /) -> Sequence[Case]:
    """Return the three signals, in some order."""
    chosen = rng.sample([(15, 143), (2, 130), (1, 129)], 3)
    words = [_word(rng) for _ in chosen]
    return [
        Case(Match(f"{word} {status} 1 []"), (str(number), word), files={"x": "x"})
        for (number, status), word in zip(chosen, words, strict=True)
    ]


def _case(words: tuple[str, ...], said: str, status: int, stdin: str = "") -> Case:
    return Case(Match(f"{said}{status} []\n", "exact"), words, stdin.encode(), files={"x": "x"})


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7))
