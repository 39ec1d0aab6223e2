"""Directories to tidy, and how they must look afterwards."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match, WorkspaceFile

_STEMS = ("report", "Invoice", "photo", "setup", "data", "notes", "thesis", "song")
_ENDINGS = ("pdf", "PDF", "txt", "Jpg", "tar.gz", "csv", "MP3", "bak")
_ODD = (
    "a b",
    "  two",
    "-rf",
    "--help",
    "it's",
    'say "no"',
    "*",
    "$HOME",
    "back\\slash",
    "é",
    "[x]",
    "~",
    "-n",
    "a.b c",
)


def plain(rng: random.Random, /) -> Sequence[Case]:
    """Return two directories with ordinary names, a link, hidden files and directories."""
    return [_plain(rng) for _ in range(2)]


def odd(rng: random.Random, /) -> Sequence[Case]:
    """Return two directories with names that want quoting."""
    return [_odd(rng) for _ in range(2)]


def conflicts(rng: random.Random, /) -> Sequence[Case]:
    """Return two directories in which some targets are there already."""
    return [_conflicts(rng) for _ in range(2)]


def missing(rng: random.Random, /) -> Sequence[Case]:
    """Return a directory that is not there, and a file in its place."""
    name = _word(rng)
    files = {name: _word(rng)}
    return [
        _plain(rng),
        Case(Match(""), (f"{name}-x",), files=files, expected_files=files, exit_status=2),
        Case(Match(""), (name,), files=files, expected_files=files, exit_status=2),
    ]


def _plain(rng: random.Random) -> Case:
    folder = _word(rng)
    names = [f"{stem}{rng.randint(1, 99)}.{ending}" for stem, ending in zip(_STEMS, _ENDINGS, strict=True)]
    names += [f"README{rng.randint(1, 9)}", f"ends{rng.randint(1, 9)}."]
    given: dict[str, WorkspaceFile | str] = {f"{folder}/{name}": _word(rng) for name in rng.sample(names, len(names))}
    after: dict[str, WorkspaceFile | str] = {}
    for path, content in given.items():
        name = path.removeprefix(f"{folder}/")
        after[f"{folder}/{_folder(name)}/{name}"] = content
    stays: dict[str, WorkspaceFile | str] = {
        f"{folder}/.hidden.{_word(rng)}": _word(rng),
        f"{folder}/deep/{_word(rng)}.txt": _word(rng),
        f"{folder}/latest.pdf": WorkspaceFile.symlink("deep"),
    }
    return Case(Match(""), (folder,), files={**given, **stays}, expected_files={**after, **stays})


def _odd(rng: random.Random) -> Case:
    folder = f"{_word(rng)} {_word(rng)}"
    names = [f"{stem}{rng.choice(['', f'.{_word(rng)}', f'.{_word(rng).upper()}'])}" for stem in _ODD]
    given = {f"{folder}/{name}": _word(rng) for name in names}
    after = {f"{folder}/{_folder(name)}/{name}": given[f"{folder}/{name}"] for name in names}
    return Case(Match(""), (folder,), files=given, expected_files=after)


def _conflicts(rng: random.Random) -> Case:
    folder = _word(rng)
    names = sorted(f"{rng.choice('ABCabc')}{_word(rng)}.Txt" for _ in range(5))
    taken = sorted(rng.sample(names, 2))
    given = {f"{folder}/{name}": _word(rng) for name in names}
    there = {f"{folder}/txt/{name}": f"older {_word(rng)}" for name in taken}
    moved = {f"{folder}/txt/{name}": given[f"{folder}/{name}"] for name in names if name not in taken}
    left = {f"{folder}/{name}": given[f"{folder}/{name}"] for name in taken}
    said = "".join(f"conflict: {name}\n" for name in taken)
    return Case(
        Match(said, "exact"),
        (folder,),
        files={**given, **there},
        expected_files={**there, **moved, **left},
        exit_status=1,
    )


def _folder(name: str) -> str:
    _, dot, ending = name.rpartition(".")
    return ending.lower() if dot and ending else "other"


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7))
