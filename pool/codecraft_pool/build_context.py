"""What a daemon is sent to build an image from a directory: its files but for those that .dockerignore leaves out.

The patterns mean what Docker's documentation says: relative to the directory; ``*`` and ``?`` within one name, ``**``
any number of directories; whatever is below a match is out too; ``!`` takes back in; the last line that matches counts.
What is rarer (character classes, escapes) is refused rather than guessed.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from codecraft_pool.errors import ImageUnavailable
from codecraft_pool.snapshot import EPOCH_S, Entry

MAX_CONTEXT_BYTES = 256 << 20  # it is held in memory, so that what is sent is what was digested
IGNORE_FILE = ".dockerignore"


@dataclass(frozen=True, slots=True)
class _Rule:
    regex: re.Pattern[str]
    takes_in: bool


def read_context(folder: Path, *, dockerfile: str = "Dockerfile") -> dict[str, Entry]:
    """Return what is in *folder*, by path, but for what its .dockerignore leaves out. Reads every file: blocking.

    The Dockerfile and .dockerignore are always in it; the daemon hides them from COPY where .dockerignore names them.

    Raises:
        ImageUnavailable: It has no such Dockerfile, is too large, or its .dockerignore is not understood.
        OSError: Some of it cannot be read.
    """
    if not (folder / dockerfile).is_file() or ".." in Path(dockerfile).parts or Path(dockerfile).is_absolute():
        raise ImageUnavailable(f"{folder} has no file {dockerfile}; a build context is a directory with a Dockerfile")
    rules = parse_ignore((folder / IGNORE_FILE).read_text()) if (folder / IGNORE_FILE).is_file() else []
    always = {posixpath.normpath(dockerfile), IGNORE_FILE}
    files: dict[str, Entry] = {}
    size = 0
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if name not in always and is_ignored(name, rules):
            continue
        size += path.lstat().st_size
        if size > MAX_CONTEXT_BYTES:
            raise ImageUnavailable(
                f"the build context {folder} has more than {MAX_CONTEXT_BYTES >> 20} MiB: name what the build does not "
                f"need in {folder / IGNORE_FILE}, or build it with `docker build`"
            )
        files[name] = _entry(path)
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, onerror=_raise):
        for name in sorted(folders + names):
            yield Path(place, name)


def _raise(error: OSError) -> None:
    raise error


def _entry(path: Path) -> Entry:
    """Without its time, which differs from checkout to checkout of the same files."""
    info = path.lstat()
    mode = stat.S_IMODE(info.st_mode) & 0o777
    if stat.S_ISLNK(info.st_mode):
        return Entry("link", os.fsencode(path.readlink()), 0o777, EPOCH_S)
    if stat.S_ISDIR(info.st_mode):
        return Entry("dir", b"", mode, EPOCH_S)
    if stat.S_ISREG(info.st_mode):
        return Entry("file", path.read_bytes(), mode, EPOCH_S)
    raise ImageUnavailable(f"{path} is neither file nor directory nor symbolic link; a build context cannot hold it")


def parse_ignore(text: str) -> list[_Rule]:
    """Return the rules of a .dockerignore, in order.

    Raises:
        ImageUnavailable: A line is not understood; it is named.
    """
    rules: list[_Rule] = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#") or not (pattern := line.strip()):
            continue
        takes_in = pattern.startswith("!")
        pattern = posixpath.normpath(pattern.removeprefix("!").strip() or "!").lstrip("/")
        if pattern in ("!", "") or set(pattern) & set("[]\\"):
            raise ImageUnavailable(
                f"the line {line[:100]!r} of {IGNORE_FILE} is not understood: plain names, *, ?, ** and ! are; "
                "build the image with `docker build` and use it by its name"
            )
        if pattern != ".":
            rules.append(_Rule(re.compile(_regex(pattern), re.DOTALL), takes_in))
    return rules


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(special.get(part, re.escape(part)) for part in parts)


def is_ignored(path: str, rules: Sequence[_Rule]) -> bool:
    """Say whether a path, relative to the context, is left out: it or a directory above it matches."""
    names = path.split("/")
    places = ["/".join(names[: end + 1]) for end in range(len(names))]
    out = False
    for rule in rules:
        if rule.takes_in == out and any(rule.regex.fullmatch(place) for place in places):
            out = not out
    return out


__all__ = ["MAX_CONTEXT_BYTES", "is_ignored", "parse_ignore", "read_context"]
