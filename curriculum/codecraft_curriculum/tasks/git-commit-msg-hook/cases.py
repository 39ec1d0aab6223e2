"""Messages of commits, and whether a hook may let them pass."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_WORDS = "add move drop read print sort count merge split check files lines pages users names".split()
_COMMENT = "\n# Please enter the commit message for your changes. Lines starting\n# with '#' are ignored.\n"


def subjects(rng: random.Random, /) -> Sequence[Case]:
    """Return messages of one line: one that is right, and one for each rule that it can break."""
    right = _subject(rng)
    return [
        _case(right, passes=True),
        _case(right[0].lower() + right[1:], passes=False),
        _case(f"{right}.", passes=False),
        _case(_long(rng, 51), passes=False),
        _case(_long(rng, 50), passes=True),
        _case("", passes=False),
    ]


def bodies(rng: random.Random, /) -> Sequence[Case]:
    """Return messages with a body: it needs an empty line before it, and lines of at most 72 characters."""
    subject, body = _subject(rng), " ".join(rng.sample(_WORDS, 6))
    return [
        _case(f"{subject}\n\n{body}.\n{body}", passes=True),
        _case(f"{subject}\n{body}", passes=False),
        _case(f"{subject}\n\n{'x' * 73}", passes=False),
        _case(f"{subject}\n\n{body}\n\n{'x' * 72}", passes=True),
        _case(f"{subject}\n\nsee https://example.org/{'x' * 80}", passes=True),
    ]


def comments(rng: random.Random, /) -> Sequence[Case]:
    """Return messages with lines that begin with # and do not count."""
    subject = _subject(rng)
    return [
        _case(f"# {'c' * 90}\n{subject}\n# no empty line is needed here", passes=True),
        _case(f"# Only comments\n#{_long(rng, 20)}", passes=False),
        _case(f"# A comment\n{subject.lower()}", passes=False),
    ]


def _case(message: str, *, passes: bool) -> Case:
    return Case(Match("accepted" if passes else "refused"), stdin=f"{message}{_COMMENT}".encode())


def _subject(rng: random.Random) -> str:
    return " ".join(rng.sample(_WORDS, 4)).capitalize()


def _long(rng: random.Random, length: int) -> str:
    return f"{_subject(rng)} {'and so on ' * 5}"[: length - 1] + "x"
