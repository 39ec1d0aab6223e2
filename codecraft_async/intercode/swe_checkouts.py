"""Repositories at a commit, as snapshots that sandboxes begin with: fetched on this machine, once, and cleaned there.

A snapshot has the files of one commit and a new ``.git``, into which git has fetched that commit and, if asked for,
what came before it. No later commit is in it, nor a reference, reflog or remote that could tell of one.

Git runs with fixed protocols and without prompts, hooks or templates. Repositories that are not local, and bundles, are
mirrored in a directory of the user's cache, which is kept below a size.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from codecraft_async._episode import EpisodeError
from codecraft_pool import Snapshot
from codecraft_pool._aio import finish
from codecraft_pool._program import run_to_end
from codecraft_pool.leftovers import owner_in
from codecraft_pool.owner import Owner
from codecraft_pool.recipes import SCRATCH_PREFIX
from codecraft_pool.snapshot import EPOCH_S, Entry

__all__ = ["Checkouts", "RepositoryUnavailable", "Sources", "source_of"]

Sources = str | Path | Mapping[str, str | Path]
"""Where repositories are: by their names, or one address for all in which ``{repo}`` stands for the name."""

_MAX_CACHE_BYTES: Final = 16 << 30
_MAX_SNAPSHOT_BYTES: Final = 1 << 30
_PARTIAL: Final = "partial-"
_FETCH_LIMIT_S: Final = 1800.0
_LOCAL_LIMIT_S: Final = 600.0
_LOCK_PAUSE_S: Final = 0.05
_LOG_LINES: Final = 3
_ADDRESS: Final = re.compile(r"\w+://|[\w.-]+@[\w.-]+:")
# A git whose parent was killed ends by itself where a server says no more, and none goes on in the background.
_BOUNDED: Final = tuple(
    word
    for setting in ("http.lowSpeedLimit=1", "http.lowSpeedTime=120", "gc.auto=0", "maintenance.auto=false")
    for word in ("-c", setting)
)
_FETCH: Final = (*_BOUNDED, "fetch", "-q", "--no-write-fetch-head")
_UPLOAD: Final = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"
_ELSEWHERE: Final = frozenset(
    f"GIT_{name}"
    for name in "DIR WORK_TREE INDEX_FILE COMMON_DIR OBJECT_DIRECTORY ALTERNATE_OBJECT_DIRECTORIES NAMESPACE".split()
)
# What could make git run a program, look elsewhere or ask somebody.
_FIXED: Final = {
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
}
_CONFIG: Final = b"""[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[user]
\tname = agent
\temail = agent@example.org
[gc]
\tauto = 0
"""
_KEPT_IN_GIT: Final = frozenset(("HEAD", "index", "objects", "packed-refs", "refs", "shallow"))


class RepositoryUnavailable(EpisodeError):
    """A repository, or a commit of it, that cannot be had; says which, where it was looked for and what git said."""


def source_of(sources: Sources, repo: str) -> str:
    """Return the address or path of *repo*.

    Raises:
        RepositoryUnavailable: It is not named.
    """
    if not isinstance(sources, Mapping):
        return str(sources).replace("{repo}", repo).replace("{slug}", repo.replace("/", "__"))
    if repo not in sources:
        known = ", ".join(sorted(sources)) or "none"
        raise RepositoryUnavailable(f"no source is given for the repository {repo!r}; there are: {known}")
    return str(sources[repo])


class Checkouts:
    """Makes snapshots of repositories, and remembers them up to a size; shared by environments of one event loop.

    Args:
        folder: Where mirrors are kept; by default ``codecraft/repositories`` in the user's cache.
        max_bytes: How much mirrors may take there; those that were not used for longest go first.
    """

    def __init__(self, folder: Path | str | None = None, *, max_bytes: int = _MAX_CACHE_BYTES) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        self._folder = Path(folder or Path(cache) / "codecraft" / "repositories").expanduser()
        self._max_bytes = max_bytes
        self._known: OrderedDict[tuple[str, str, int | None], Snapshot] = OrderedDict()
        self._locks: dict[tuple[str, str, int | None], asyncio.Lock] = {}

    async def snapshot(self, source: str, commit: str, *, history: int | None = 1) -> Snapshot:
        """Return the repository at *source* (a path, a bundle or a URL) at *commit*.

        Its git knows as many commits as *history* says, that one included; None: all up to it.

        Raises:
            RepositoryUnavailable: It cannot be had.
        """
        key = source, commit, history
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = self._known.get(key) or await self._make(source, commit, history)
        self._known[key] = found
        self._known.move_to_end(key)
        for old in _over(self._known):
            del self._known[old]
            self._locks.pop(old, None)
        return found

    async def _make(self, source: str, commit: str, history: int | None) -> Snapshot:
        is_bundle = await asyncio.to_thread(os.path.isfile, source)
        if is_bundle or _ADDRESS.match(source):
            async with self._mirror(source, commit) as mirror:
                return await self._check_out(str(mirror), source, commit, history)
        if not await asyncio.to_thread(os.path.isdir, source):
            raise RepositoryUnavailable(f"there is no repository at {source}")
        return await self._check_out(os.path.abspath(source), source, commit, history)  # noqa: ASYNC240  # asks nothing

    # --- mirrors ---

    @asynccontextmanager
    async def _mirror(self, source: str, commit: str) -> AsyncGenerator[Path]:
        """Hold a mirror of *source* that has *commit*; nobody removes it meanwhile."""
        await asyncio.to_thread(self._tidy)
        place = self._folder / f"{hashlib.sha256(source.encode()).hexdigest()[:24]}.git"
        has = ["-C", str(place), "cat-file", "-e", f"{commit}^{{commit}}"]
        async with _locked(place, fcntl.LOCK_SH):
            is_there = place.is_dir() and (await _git(has))[0] == 0
        if not is_there:
            async with _locked(place, fcntl.LOCK_EX):
                await self._fetch(source, place, commit)
        async with _locked(place, fcntl.LOCK_SH):
            if (await _git(has))[0] != 0:
                raise RepositoryUnavailable(f"the repository {source} has no commit {commit}")
            os.utime(place)
            yield place
        await asyncio.to_thread(self._evict, place)

    async def _fetch(self, source: str, place: Path, commit: str) -> None:
        """Make or renew a mirror, beside its place: git leaves locks where it is killed, which would stay for good."""
        async with _scratch(_partial(), self._folder) as partial:
            mirror = partial / "mirror"
            words = [*_BOUNDED, "clone", "-q", "--mirror", "--template=", "--", source, str(mirror)]
            if await asyncio.to_thread(place.is_dir):
                await finish(asyncio.to_thread(shutil.copytree, place, mirror, copy_function=os.link))
                words = ["-C", str(mirror), *_FETCH, "--prune", "origin"]
            status, said = await _git(words, _FETCH_LIMIT_S)
            if status != 0:
                raise RepositoryUnavailable(f"the repository {source} cannot be fetched: {said}")
            if (await _git(["-C", str(mirror), "cat-file", "-e", commit]))[
                0
            ] != 0:  # on no branch: some servers give it
                await _git(["-C", str(mirror), *_FETCH, "origin", commit], _FETCH_LIMIT_S)
            _swap(mirror, place, partial / "before")

    def _tidy(self) -> None:
        """Make the folder, and remove what killed processes left half-made."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(f"{_PARTIAL}*"):
            owner = owner_in(path.name, _PARTIAL)
            if owner is None or not owner.is_alive():
                shutil.rmtree(path, ignore_errors=True)

    def _evict(self, used: Path) -> None:
        """Remove the mirrors that are too much, but *used* and those that somebody reads."""
        ages: dict[Path, float] = {}
        for mirror in self._folder.glob("*.git"):
            with suppress(FileNotFoundError):  # another process has removed it
                ages[mirror] = mirror.stat().st_mtime
        total = 0
        for mirror in sorted(ages, key=lambda path: ages[path], reverse=True):
            with suppress(OSError), mirror.with_suffix(".lock").open("w") as lock:
                total += sum(path.lstat().st_size for path in mirror.rglob("*"))
                if total > self._max_bytes and mirror != used:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    with tempfile.TemporaryDirectory(prefix=_partial(), dir=self._folder) as folder:
                        mirror.rename(Path(folder) / "mirror")  # half of one is never at its place

    # --- checkouts ---

    async def _check_out(self, repository: str, source: str, commit: str, history: int | None) -> Snapshot:
        async with _scratch(f"{SCRATCH_PREFIX}{Owner.current()}-") as folder:  # which the reaper knows by its name
            return await self._check_out_in(str(folder / "tree"), repository, source, commit, history)

    async def _check_out_in(
        self, tree: str, repository: str, source: str, commit: str, history: int | None
    ) -> Snapshot:
        depth = [] if history is None else [f"--depth={history}"]
        fetch = ["-C", tree, "fetch", "-q", "--no-tags", "--no-write-fetch-head", f"--upload-pack={_UPLOAD}", *depth]
        steps = (
            ["init", "-q", "--template=", tree],
            [*fetch, "--", repository, commit],
            ["-C", tree, "symbolic-ref", "HEAD", "refs/heads/main"],
            ["-C", tree, "update-ref", "refs/heads/main", commit],
            ["-C", tree, "reset", "-q", "--hard"],
        )
        for words in steps:
            # Filters of the user's own configuration, such as LFS, would fill in what is no part of the commit.
            status, said = await _git(words, _LOCAL_LIMIT_S, is_plain="fetch" not in words)
            if status != 0:
                raise RepositoryUnavailable(f"{source} cannot be checked out at {commit}: {said}")
        return await asyncio.to_thread(_clean_snapshot, Path(tree))


def _swap(new: Path, place: Path, before: Path) -> None:
    """Move *new* to its *place*, and what may be there to *before*."""
    with suppress(FileNotFoundError):
        place.rename(before)
    new.rename(place)


def _partial() -> str:
    return f"{_PARTIAL}{Owner.current()}-"


def _over(known: Mapping[tuple[str, str, int | None], Snapshot]) -> list[tuple[str, str, int | None]]:
    """Return which are too many, oldest first; the newest never is."""
    total, over = 0, list[tuple[str, str, int | None]]()
    for number, (key, snapshot) in enumerate(reversed(list(known.items()))):
        total += sum(len(entry.data) for entry in snapshot.entries.values())
        if number and total > _MAX_SNAPSHOT_BYTES:
            over.append(key)
    return over[::-1]


def _clean_snapshot(tree: Path) -> Snapshot:
    """Return what git made, with times, modes and git's own files such that equal commits are equal snapshots."""
    entries: dict[str, Entry] = {}
    for path, entry in Snapshot.from_directory(tree).entries.items():
        if path.startswith(".git/") and path.split("/")[1] not in _KEPT_IN_GIT:
            continue
        mode = 0o777 if entry.kind == "link" else 0o755 if entry.kind == "dir" or entry.mode & 0o100 else 0o644
        entries[path] = replace(entry, mode=mode, mtime_s=EPOCH_S, attributes=())
    entries[".git/config"] = Entry("file", _CONFIG)
    return Snapshot(entries)


async def _git(words: list[str], limit_s: float = _LOCAL_LIMIT_S, *, is_plain: bool = False) -> tuple[int, str]:
    """Run git; return its exit status and the last lines of what it said."""
    environ = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | _FIXED
    if is_plain:
        environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": "0"}
    try:
        status, lines = await run_to_end(["git", *words], limit_s=limit_s, environ=environ)
    except TimeoutError:
        return -1, f"git took longer than {limit_s:g} s"
    except FileNotFoundError:
        raise RepositoryUnavailable(
            "git is not installed on this machine, which repositories are fetched with"
        ) from None
    return status, "; ".join(lines[-_LOG_LINES:])


@asynccontextmanager
async def _scratch(prefix: str, folder: Path | None = None) -> AsyncGenerator[Path]:
    """Make a directory that is gone afterwards; its name has to tell of a process that is killed that it can go."""
    directory = tempfile.mkdtemp(prefix=prefix, dir=folder)
    try:
        yield Path(directory)
    finally:
        await finish(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))


@asynccontextmanager
async def _locked(place: Path, kind: int) -> AsyncGenerator[None]:
    """Hold the lock of a mirror against all processes of this machine."""
    deadline = time.monotonic() + _FETCH_LIMIT_S
    with place.with_suffix(".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RepositoryUnavailable(f"another process has held {place} for {_FETCH_LIMIT_S:g} s") from None
                await asyncio.sleep(_LOCK_PAUSE_S)
        yield
