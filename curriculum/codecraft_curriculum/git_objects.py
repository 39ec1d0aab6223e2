"""Reading a git repository that an agent made, without git's ever running in it.

git executes what a repository's configuration tells it to (``core.fsmonitor``, hooks, filters). So references are read
as files, and objects through an empty repository that borrows the object directory. git takes the content of packed
objects, its commit graph and its replacements on trust: here the first is hashed anew on the host, the second is
switched off, and the third is no part of an empty repository. Then a commit is what its name says, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from codecraft_curriculum.git_repository import GitObject
from codecraft_curriculum.grade import Grade
from codecraft_curriculum.graders import CommandSpec, read_or_grade
from codecraft_curriculum.sandbox import GradingSandbox

__all__ = ["BORROW_OBJECTS", "CommitText", "GitHistory", "read_history", "read_reference", "resolve_head"]

BORROW_OBJECTS = """
set -e
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
git init -q --bare --template= "$scratch"
GIT_OBJECT_DIRECTORY="$PWD/$1/objects"
export GIT_OBJECT_DIRECTORY
"""
"""The start of a script: an empty repository at ``$scratch`` that borrows the objects of the git directory ``$1``."""

_HISTORY = f"""{BORROW_OBJECTS}
git --git-dir="$scratch" -c core.commitGraph=false rev-list --objects --no-object-names "$2" -- > "$scratch/names"
git --git-dir="$scratch" cat-file --batch < "$scratch/names"
"""
_HISTORY_MAX_BYTES = 8 << 20
_MAX_TREE_ENTRIES = 10_000  # a few nested trees can name one file a million times
_REFERENCE_MAX_BYTES = 64 << 10
_NAME = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class CommitText:
    """What a commit says."""

    tree: str
    parents: tuple[str, ...]
    author: str
    message: str

    @property
    def subject(self) -> str:
        """The first line of the message."""
        return self.message.partition("\n")[0]


@dataclass(frozen=True, slots=True)
class GitHistory:
    """All objects that a commit reaches, each with the content that its name stands for."""

    tip: str
    objects: Mapping[str, GitObject]

    def commit(self, name: str) -> CommitText:
        """Return a commit.

        Raises:
            ValueError: it is not in the history, or no commit.
        """
        head, _, message = self._data(name, "commit").decode(errors="replace").partition("\n\n")
        fields: dict[str, list[str]] = {}
        for line in head.splitlines():
            key, _, value = line.partition(" ")
            fields.setdefault(key, []).append(value)
        author = fields.get("author", [""])[0].rpartition(">")[0] + ">"
        return CommitText(fields.get("tree", [""])[0], tuple(fields.get("parent", ())), author, message.strip())

    def first_parents(self) -> list[str]:
        """Return the names of the tip, its first parent, and so on."""
        names: list[str] = []
        name = self.tip
        while name:
            names.append(name)
            name = next(iter(self.commit(name).parents), "")
        return names

    def files(self, commit: str) -> dict[str, tuple[str, str]]:
        """Return the mode and the object of each path of a commit.

        Raises:
            ValueError: a tree is missing or malformed, or holds too much.
        """
        found: dict[str, tuple[str, str]] = {}
        pending = [("", self.commit(commit).tree)]
        while pending:
            prefix, tree = pending.pop()
            for mode, name, item in _tree_entries(self._data(tree, "tree")):
                if mode == "40000":
                    pending.append((f"{prefix}{name}/", item))
                else:
                    found[f"{prefix}{name}"] = (mode, item)
            if len(found) + len(pending) > _MAX_TREE_ENTRIES:
                raise ValueError(f"a commit holds over {_MAX_TREE_ENTRIES} files")
        return found

    def content(self, blob: str) -> bytes:
        """Return the content of a file."""
        return self._data(blob, "blob")

    def _data(self, name: str, kind: str) -> bytes:
        item = self.objects.get(name)
        if item is None or item.kind != kind:
            raise ValueError(f"{kind} {name[:12]} is not in the history")
        return item.data


async def read_reference(sandbox: GradingSandbox, git_dir: str, reference: str) -> str | Grade:
    """Return the commit that a full reference (like ``refs/heads/main``) names, "" if it names none."""
    loose = await _read_text(sandbox, f"{git_dir}/{reference}")
    if not isinstance(loose, Grade):
        return loose if _NAME.fullmatch(loose) else ""
    packed = await _read_text(sandbox, f"{git_dir}/packed-refs")
    if isinstance(packed, Grade):
        return loose
    found = re.search(rf"^([0-9a-f]{{40}}) {re.escape(reference)}$", packed, re.MULTILINE)
    return found[1] if found else ""


async def resolve_head(sandbox: GradingSandbox, git_dir: str) -> str | Grade:
    """Return the commit at HEAD, "" if there is none."""
    head = await _read_text(sandbox, f"{git_dir}/HEAD")
    if isinstance(head, Grade):
        return head
    branch = re.fullmatch(r"ref: (refs/heads/[A-Za-z0-9][A-Za-z0-9._-]*)", head)
    if branch is None:
        return head if _NAME.fullmatch(head) else ""
    return await read_reference(sandbox, git_dir, branch[1])


async def read_history(sandbox: GradingSandbox, git_dir: str, tip: str) -> GitHistory | Grade:
    """Return all that the commit `tip` reaches, or a failing grade if something of it is missing or forged."""
    command = CommandSpec(command=_HISTORY, max_output_bytes=_HISTORY_MAX_BYTES)
    outcome = await command.run(sandbox, arguments=(git_dir, tip))
    if isinstance(outcome, Grade):
        return outcome
    if outcome.exit_code == 127:
        raise RuntimeError("grading a repository needs git in the image of the task: it has none")
    if outcome.exit_code != 0:
        return Grade.failure(f"{git_dir}: the history of {tip[:12]} is not complete")
    try:
        objects = {item.id: item for item in _batch(outcome.stdout)}
        while tip in objects and objects[tip].kind == "tag":
            tip = objects[tip].data.partition(b"\n")[0].decode().removeprefix("object ")
        return GitHistory(tip, objects)
    except ValueError as error:
        return Grade.failure(f"{git_dir}: {error}")


async def _read_text(sandbox: GradingSandbox, path: str) -> str | Grade:
    data = await read_or_grade(sandbox, path, max_bytes=_REFERENCE_MAX_BYTES)
    return data if isinstance(data, Grade) else data.decode(errors="replace").strip()


def _batch(data: bytes) -> Iterable[GitObject]:
    """Yield the objects that ``git cat-file --batch`` printed; raise ValueError where one is not what its name says."""
    position = 0
    while position < len(data):
        end = data.index(b"\n", position)
        name, kind, size = data[position:end].decode().split(" ")
        start, position = end + 1, end + 1 + int(size) + 1
        item = GitObject(kind, data[start : position - 1])
        if item.id != name:
            raise ValueError(f"object {name[:12]} holds something else than its name says")
        yield item


def _tree_entries(data: bytes) -> Iterable[tuple[str, str, str]]:
    """Yield mode, name and object of each entry of a tree."""
    position = 0
    while position < len(data):
        end = data.index(b"\0", position)
        mode, _, name = data[position:end].decode(errors="replace").partition(" ")
        position = end + 21
        yield mode, name, data[end + 1 : position].hex()
