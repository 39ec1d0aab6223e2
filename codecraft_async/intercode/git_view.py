"""File changes as `git status --short` shows them at the root of the file system, without a git: InterCode's view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from codecraft_async.intercode.changes import Changes
from codecraft_pool import DigestEntry

__all__ = ["GitView", "is_watched"]

IGNORED: Final = frozenset(
    ("bin", "boot", "dev", "etc", "home", "lib", "media", "opt", "proc", "root", "run", "sbin", "srv", "sys", "usr")
) | {"var", ".dockerenv"}
"""Names that are ignored wherever they are; where a tree of the sandbox is, so is that (``/workspace``)."""
_OURS: Final = frozenset(("/workspace", "/.codecraft"))
_WATCHED_KINDS: Final = ("file", "link")
_EXECUTABLE: Final = 0o100


def is_watched(path: str) -> bool:
    """Whether git would show a change at this absolute path."""
    parts = path.split("/")[1:]
    return not (IGNORED & set(parts)) and f"/{parts[0]}" not in _OURS


class GitView:
    """What is there now, seen from a commit of all that was there at first."""

    def __init__(self, first: Mapping[str, DigestEntry], changes: Changes) -> None:
        self._tracked = {path: entry for path, entry in first.items() if _is_shown(path, entry)}
        self._now: dict[str, DigestEntry] = dict(first)
        self._first_folders = {path for path, entry in first.items() if entry.kind == "dir"}
        self._touched = [path for path in changes if is_watched(path)]
        for path, entry in changes.items():
            if not is_watched(path):
                continue
            before = self._now.get(path)
            if entry is None or entry.several or (before is not None and before.kind != entry.kind):
                self._forget(path)
            if entry is not None:
                self._now[path] = entry
        for path, entry in changes.items():  # after what was in its place has gone
            if entry is not None and is_watched(path):
                self._now[path] = entry

    def _forget(self, path: str) -> None:
        before = self._now.pop(path, None)
        if before is None or before.kind != "dir":
            return  # nothing was below: no search of all that there is, for each of the files that were removed
        for other in [each for each in self._now if each.startswith(f"{path}/")]:
            del self._now[other]

    def status(self) -> str:
        """Return the lines that git would print."""
        present = {path: entry for path, entry in self._now.items() if _is_shown(path, entry)}
        lines = [
            f" {code} {_quoted(path)}"
            for path in sorted(self._tracked)
            if (code := _code(self._tracked[path], present.get(path)))
        ]
        folders = {parent for path in self._tracked for parent in _parents(path)}
        untracked: set[str] = set()
        for path in present:
            if path not in self._tracked:
                new = next((parent for parent in _parents(path) if parent not in folders), None)
                untracked.add(path if new is None else f"{new}/")
        for path in self._now:  # a repository in a new directory shows the directory
            if path.endswith("/.git") and path.count("/") > 1 and is_watched(path):
                new = next((parent for parent in _parents(path) if parent not in folders), None)
                untracked.update(() if new is None else (f"{new}/",))
        return "".join(f"{line}\n" for line in [*lines, *(f"?? {_quoted(path)}" for path in sorted(untracked))])

    def rewritten(self) -> set[str]:
        """Return what `git reset --hard; git clean -fd` would write anew, and the directories where it would do so."""
        found = {path for path in self._touched if path in self._tracked}
        found |= {path for path in self._tracked if path not in self._now}
        shown = {path for path in self._touched if path in self._now and _is_shown(path, self._now[path])}
        folders = {parents[-1] for path in found | shown if (parents := _parents(path))}
        return found | {folder for folder in folders if folder in self._first_folders}

    def pairs(self) -> set[tuple[str, str]]:
        """Return (path, status) as InterCode reads it: the words of the lines, two by two.

        A name with a blank makes nonsense of what follows it; where InterCode then crashes, the odd word is left out.
        """
        words = self.status().split()
        return {(words[at + 1], words[at]) for at in range(0, len(words) - 1, 2)}

    def content(self, path: str) -> object:
        """Return what `md5sum` (a path with a dot) or `md5deep -r` would tell from another's, for a path of a pair."""
        whole = f"/{path.rstrip('/')}"
        entry = self._now.get(whole)
        if entry is None:
            return None
        if entry.kind != "dir":
            return _sum(entry)
        if "." in path:  # md5sum refuses a directory, in the same words on both sides
            return None
        below = {name: each for name, each in self._now.items() if name.startswith(f"{whole}/")}
        return {name: _sum(each) for name, each in below.items() if each.kind in _WATCHED_KINDS}


def _is_shown(path: str, entry: DigestEntry) -> bool:
    return entry.kind in _WATCHED_KINDS and is_watched(path) and "/.git/" not in f"{path}/"


def _parents(path: str) -> list[str]:
    """Return the directories above *path*, outermost first, without the root."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(2, len(parts))]


def _code(before: DigestEntry, now: DigestEntry | None) -> str:
    if now is None:
        return "D"
    if now.kind != before.kind:
        return "T"
    is_same = (before.content, before.target) == (now.content, now.target)
    if now.kind == "file" and (before.mode ^ now.mode) & _EXECUTABLE:
        is_same = False
    return "" if is_same else "M"


def _sum(entry: DigestEntry) -> object:
    return entry.target if entry.kind == "link" else entry.content


def _quoted(path: str) -> str:
    name = path[1:]
    if all(" " < char <= "~" and char not in '"\\' for char in name):
        return name
    escaped = "".join(
        f"\\{chr(byte)}" if chr(byte) in '"\\' else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
        for byte in name.encode("utf-8", "surrogateescape")
    )
    return f'"{escaped}"'
