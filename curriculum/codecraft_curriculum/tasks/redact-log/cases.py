"""Lines of a log, with and without what is to be redacted."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_Piece = tuple[str, str]  # what a line holds, and what must be left of it


def mail(rng: random.Random, /) -> Sequence[Case]:
    """Return lines with mail addresses."""
    right = [f"{_word(rng)}{rng.choice(['.', '+', '_', '%', '-', ''])}{_word(rng)}@{_host(rng)}" for _ in range(10)]
    wrong = [
        f"{_word(rng)}@{_word(rng)} ",
        f"@{_word(rng)}",
        f"{_word(rng)} @ {_host(rng)}",
        f"{_word(rng)}@.{_word(rng)}",
    ]
    return [_case(rng, [(text, "<mail>") for text in right] + [(text, text) for text in wrong])]


def cards(rng: random.Random, /) -> Sequence[Case]:
    """Return lines with card numbers, and with numbers that have other lengths or separators."""
    pieces: list[_Piece] = []
    for separator in ("", " ", "-") * 3:
        groups = [f"{rng.randint(0, 9999):04}" for _ in range(4)]
        pieces.append((separator.join(groups), f"****{groups[3]}"))
    digits = "".join(rng.choices("0123456789", k=17))
    others = [
        digits,
        digits[:15],
        f"{digits[:4]} {digits[4:8]}-{digits[8:12]} {digits[12:16]}",
        f"{digits[:4]}  {digits[4:8]}",
    ]
    return [_case(rng, pieces + [(text, text) for text in others], around=("id=", "x", "[", ""))]


def addresses(rng: random.Random, /) -> Sequence[Case]:
    """Return lines with addresses, and with numbers that are none."""
    right = [".".join(str(rng.choice([0, rng.randint(1, 255), 255])) for _ in range(4)) for _ in range(10)]
    good = ".".join(str(rng.randint(1, 255)) for _ in range(3))
    wrong = [f"{good}.{rng.randint(256, 999)}", f"{good}.0{rng.randint(0, 9)}", f"{good}.1.{rng.randint(0, 9)}", good]
    wrong += [f"{good}.", f"{rng.randint(256, 299)}.{good}", f".{good}.1", f"{good}.1000", f"00.{good}"]
    pieces = [(text, "<ip>") for text in right] + [(text, text) for text in wrong]
    return [_case(rng, pieces, around=("from=", "[", "v", "(", "/"))]


def side_by_side(rng: random.Random, /) -> Sequence[Case]:
    """Return lines in which things stand with one character between them."""
    addresses = [".".join(str(rng.randint(0, 255)) for _ in range(4)) for _ in range(4)]
    numbers = ["".join(rng.choices("0123456789", k=16)) for _ in range(3)]
    mails = [f"{_word(rng)}@{_host(rng)}" for _ in range(3)]
    lines = [(",".join(addresses), "<ip>,<ip>,<ip>,<ip>"), (" ".join(mails), "<mail> <mail> <mail>")]
    lines += [(",".join(numbers), ",".join(f"****{number[12:]}" for number in numbers))]
    lines += [(f"<{mails[0]}> {numbers[0]}:{addresses[0]}", f"<<mail>> ****{numbers[0][12:]}:<ip>")]
    rng.shuffle(lines)
    given = "".join(f"{text}\n" for text, _ in lines)
    return [Case(Match("".join(f"{left}\n" for _, left in lines), "exact"), stdin=given.encode())]


def _case(rng: random.Random, pieces: list[_Piece], around: Sequence[str] = ("", "<", "(", "to=")) -> Case:
    rng.shuffle(pieces)
    given, left = "", ""
    for number, (text, shown) in enumerate(pieces):
        before, after = f"{_word(rng)} {rng.choice(around)}", f"{rng.choice([' ', ', ', ';'])}{_word(rng)}"
        end = "\n" if number % 3 == 2 else " "
        given += f"{before}{text}{after}{end}"
        left += f"{before}{shown}{after}{end}"
    return Case(Match(f"{left}\n", "exact"), stdin=f"{given}\n".encode())


def _host(rng: random.Random) -> str:
    return ".".join(_word(rng) for _ in range(rng.randint(2, 3)))


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=5))
