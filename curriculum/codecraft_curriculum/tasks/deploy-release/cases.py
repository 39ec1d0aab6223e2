"""Sites and archives, and what must be there after a deployment."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Mapping, Sequence

from codecraft_curriculum import Case, Match, WorkspaceFile

_Files = dict[str, WorkspaceFile | bytes | str]


def first(rng: random.Random, /) -> Sequence[Case]:
    """Return a site without releases."""
    content = _content(rng)
    return [_deployed(rng, {"site/robots.txt": _word(rng)}, content, 1, {})]


def following(rng: random.Random, /) -> Sequence[Case]:
    """Return a site with two releases, whose highest number has two digits, so that it does not sort last as text."""
    numbers = [8 + rng.randint(0, 1), 10 + rng.randint(0, 3)]
    return [_deployed(rng, {}, _content(rng), numbers[1] + 1, _releases(rng, numbers), names=("backup", "007"))]


def many(rng: random.Random, /) -> Sequence[Case]:
    """Return a site with more releases than are kept, from which some numbers are missing."""
    start = rng.randint(6, 9)
    numbers = [start, start + 1, start + 3, start + 4, 99]
    return [_deployed(rng, {"site/.env": _word(rng)}, _content(rng), 100, _releases(rng, numbers))]


def damaged(rng: random.Random, /) -> Sequence[Case]:
    """Return archives that are cut off, are none, or are not there; a site that is whole stands for comparison."""
    whole = _archive(_content(rng, size=4000))
    site: _Files = {**_releases(rng, [1, 2]), "site/current": WorkspaceFile.symlink("releases/2")}
    cases: list[Case] = []
    for data in (whole[: len(whole) // 2], b"not an archive " + _word(rng).encode(), None):
        files: _Files = site if data is None else {**site, "new.tar.gz": data}
        cases.append(Case(Match("", "exact"), ("new.tar.gz", "site"), files=files, expected_files=files, exit_status=1))
    return [_deployed(rng, {}, _content(rng), 3, _releases(rng, [1, 2])), *cases]


def watched(rng: random.Random, /) -> Sequence[Case]:
    """Return a site that is deployed to five times while somebody looks at its link."""
    start = rng.randint(3, 90)
    files: _Files = {
        **_releases(rng, [start]),
        "new.tar.gz": _archive(_content(rng)),
        "site/current": WorkspaceFile.symlink(f"releases/{start}"),
    }
    return [Case(Match(f"none releases/{start + 5}"), ("new.tar.gz", "site"), files=files)]


def _deployed(
    rng: random.Random, extra: _Files, content: Mapping[str, bytes], number: int, old: _Files, names: Sequence[str] = ()
) -> Case:
    """Return a case in which the release `number` is made."""
    others: _Files = {**extra, **{f"site/releases/{name}/keep": _word(rng) for name in names}}
    archive = {"new.tar.gz": _archive(content)}
    current: _Files = {}
    if old:
        highest = max(int(path.split("/")[2]) for path in old)
        current = {"site/current": WorkspaceFile.symlink(f"releases/{highest}")}
    kept = sorted({int(path.split("/")[2]) for path in old})[-2:]
    left = {path: entry for path, entry in old.items() if int(path.split("/")[2]) in kept}
    new: _Files = {f"site/releases/{number}/{path}": data for path, data in content.items()}
    return Case(
        Match(f"deployed {number}"),
        ("new.tar.gz", "site"),
        files={**others, **archive, **old, **current},
        expected_files={
            **others,
            **archive,
            **left,
            **new,
            "site/current": WorkspaceFile.symlink(f"releases/{number}"),
        },
    )


def _releases(rng: random.Random, numbers: Sequence[int]) -> _Files:
    return {f"site/releases/{number}/index.html": f"{number} {_word(rng)}" for number in numbers}


def _content(rng: random.Random, size: int = 40) -> dict[str, bytes]:
    return {"index.html": rng.randbytes(size), f"assets/{_word(rng)} x.js": _word(rng).encode(), ".well-known": b"x"}


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7))
