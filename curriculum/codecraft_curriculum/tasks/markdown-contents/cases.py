"""Markdown files with headings, and their tables of contents."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_Line = tuple[str, int, str]  # the line, its level (0: no heading), its text
_WORDS = ("Install", "usage", "API", "notes", "quick start", "FAQ", "build", "Tests", "Config", "why", "errors", "logs")


def headings(rng: random.Random, /) -> Sequence[Case]:
    """Return a file with headings of all levels, and lines that only look like them."""
    lines: list[_Line] = []
    for number in range(12):
        level, text = rng.randint(1, 6), f"{rng.choice(_WORDS)} {number}{rng.randint(10, 99)}"
        space, end = rng.choice([" ", "  ", "\t"]), rng.choice(["", " ##", "  #  ", "   ", "\t"])
        lines.append((f"{' ' * rng.randint(0, 3)}{'#' * level}{space}{text}{end}", level, text))
    no = ("#", "## ", "### ###", "#tag", "####### seven", "    # indented", "text # here", "\\# escaped", "")
    lines += [(line, 0, "") for line in no]
    rng.shuffle(lines)
    return [_case(lines)]


def anchors(rng: random.Random, /) -> Sequence[Case]:
    """Return a file whose headings hold characters that no anchor has."""
    texts = [
        f"What's new in {rng.randint(1, 9)}.{rng.randint(0, 9)}?",
        f"`code_{_word(rng)}` & more",
        f"Über {_word(rng)}: größer",
        f"a [link] {_word(rng)}",
        f"two  spaces - and_{_word(rng)}",
        f"日本語 {rng.randint(1, 99)}",
        f"emoji 🎉 {_word(rng)}",
        f"C# {_word(rng)}#",
    ]
    levels = rng.choices([1, 2, 3], k=len(texts))
    lines = [(f"{'#' * level} {text}", level, text) for level, text in zip(levels, texts, strict=True)]
    rng.shuffle(lines)
    return [_case(lines)]


def repeated(rng: random.Random, /) -> Sequence[Case]:
    """Return a file whose headings repeat."""
    texts = [f"{rng.choice(_WORDS)} {rng.randint(10, 99)}" for _ in range(3)]
    chosen = [*texts, *texts, *rng.choices(texts, k=4)]
    rng.shuffle(chosen)
    lines: list[_Line] = []
    for text in chosen:
        level, shown = rng.randint(1, 3), rng.choice([text, text.upper(), f"{text}!"])
        lines.append((f"{'#' * level} {shown}", level, shown))
    return [_case(lines)]


def fences(rng: random.Random, /) -> Sequence[Case]:
    """Return files with headings in and around fenced code, one of which is never closed."""
    return [_fenced(rng, closed=True), _fenced(rng, closed=False)]


def _fenced(rng: random.Random, *, closed: bool) -> Case:
    char, other = rng.choice([("`", "~"), ("~", "`")])
    width = rng.randint(3, 5)
    inside = [
        f"# in code {_word(rng)}",
        char * (width - 1),
        other * (width + 1),
        f"{char * width} x",
        f"    {char * width}",
        f"## also in code {_word(rng)}",
    ]
    lines: list[_Line] = [_heading(rng), (f"{' ' * rng.randint(0, 3)}{char * width}{rng.choice(['sh', ''])}", 0, "")]
    lines += [(line, 0, "") for line in inside]
    end = [(f"{' ' * rng.randint(0, 3)}{char * (width + rng.randint(0, 2))}  ", 0, "")]
    if closed:
        lines += [*end, _heading(rng), (f"{char * 2} no fence", 0, ""), _heading(rng)]
    else:
        lines += [(f"# never closed {_word(rng)}", 0, "")]
    return _case(lines)


def _heading(rng: random.Random) -> _Line:
    level, text = rng.randint(1, 3), f"{rng.choice(_WORDS)} {_word(rng)}"
    return f"{'#' * level} {text}", level, text


def _case(lines: Sequence[_Line]) -> Case:
    seen: dict[str, int] = {}
    said: list[str] = []
    for _, level, text in lines:
        if not level:
            continue
        anchor = "".join(char for char in text.lower() if char.isalnum() or char in "_- ").replace(" ", "-")
        number = seen.get(anchor, 0)
        seen[anchor] = number + 1
        unique = f"{anchor}-{number}" if number else anchor
        shown = text.replace("[", "\\[").replace("]", "\\]")
        said.append(f"{'  ' * (level - 1)}- [{shown}](#{unique})\n")
    text = "\n".join(line for line, _, _ in lines) + "\n"
    return Case(Match("".join(said), "exact"), ("in put.md",), files={"in put.md": text})


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6))
