"""General skills: what was removed from a git repository is still in it."""

from __future__ import annotations

import random
import zlib
from typing import Final

from codecraft_curriculum.ctf.challenge import Assets, Challenge, cheats, draw_flag
from codecraft_curriculum.git_repository import Commit, GitRepository
from codecraft_curriculum.workspace import WorkspaceFile

__all__ = ["CHALLENGE"]

_REPOSITORY: Final = "notes.git"
_TOPICS: Final = ("bread", "compost", "ladders", "kettles", "rain", "pencils", "maps", "string")


def _make(rng: random.Random) -> Assets:
    flag = draw_flag(rng)
    half = len(flag) // 2
    commits = [
        Commit(
            f"Notes on {topic}",
            {f"{topic}.md": WorkspaceFile(f"# {topic}\n\n{rng.randint(2, 99)} of them.\n".encode())},
        )
        for topic in rng.sample(_TOPICS, k=5)
    ]
    commits[2:2] = [Commit("Key for the shed", {"key.txt": WorkspaceFile(f"first half: {flag[:half]}\n".encode())})]
    commits[4:4] = [Commit("Tidy up", {}, remove=("key.txt",))]
    commits.append(Commit(f"Another hiding place\n\nsecond half: {flag[half:]}", {}, branch="shed"))
    return Assets(flag, _without_branch(GitRepository(tuple(commits)), "shed"))


def _without_branch(repository: GitRepository, branch: str) -> dict[str, WorkspaceFile]:
    """Return the repository after `git branch -D`; its objects are compressed, so that no text can be read in them."""
    entries = repository.bare(_REPOSITORY)
    del entries[f"{_REPOSITORY}/refs/heads/{branch}"]
    for path, entry in entries.items():
        if "/objects/" in path:
            entries[path] = WorkspaceFile(zlib.compress(zlib.decompress(entry.data)), entry.mode)
    return entries


CHALLENGE: Final = Challenge(
    id="lost-branch",
    title="The lost branch",
    category="General Skills",
    difficulty="easy",
    query=(
        "notes.git is a bare git repository. Somebody wrote the two halves of a flag into it and thought better of it: "
        "a file was deleted, and so was a branch. Join the halves and submit the flag, flag{...}."
    ),
    hints=(
        "`git log -p` shows what was in files that are no longer there.",
        "A commit that no branch leads to stays for a while: `git fsck` knows of it.",
    ),
    make=_make,
    expert=(
        "cd notes.git && first=$(git log -p --format= -- key.txt | sed -n 's/^-first half: //p')",
        'commit=$(git fsck --unreachable --no-reflogs 2>/dev/null | sed -n "s/^unreachable commit //p")',
        'echo "$first$(git log -1 --format=%b "$commit" | sed -n "s/^second half: //p")"',
    ),
    failures={
        **cheats(),
        "first-half-alone": ("cd notes.git; git log -p --format= -- key.txt | sed -n 's/^-first half: //p'",),
        "branches-alone": (
            "cd notes.git; git log --all -p | grep -o 'half: .*' | sort -u | cut -d ' ' -f 2 | tr -d '\\n'",
        ),
    },
)
