"""Bare git repositories as plain data: built from files, the same bytes on every machine, no git needed.

A nested ``.git`` directory can be neither committed nor packaged, and git's own output depends on its version and on
the compression library. So a task lists commits, and the objects are made here: loose objects in "stored" zlib streams,
no empty directories.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.workspace import WORKSPACE_MTIME_S, Workspace, WorkspaceFile, check_path

__all__ = ["Commit", "GitObject", "GitRepository"]

_STORED_BLOCK_BYTES = 65535  # the most that one stored block of a deflate stream holds (RFC 1951, 3.2.4)


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: its message, the files it adds or changes, and the paths it removes.

    `branch` is the one it is made on (the repository's, if empty); a new one starts at the tip of the repository's.
    `tag` names the commit, without an object of its own.
    """

    message: str
    files: Mapping[str, WorkspaceFile]
    remove: tuple[str, ...] = ()
    branch: str = ""
    tag: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", FrozenMapping(self.files))
        if not self.message.strip():
            raise ValueError("a commit needs a message")
        for name in (self.branch, self.tag):
            if name:
                _check_reference(name)
        for path, entry in self.files.items():
            check_path(path)
            if entry.kind == "directory":
                raise ValueError(f"git keeps no empty directories: put a file into {path!r}")
            if ".git" in path.split("/"):
                raise ValueError(f"git refuses a path with a component '.git': {path!r}")


@dataclass(frozen=True, slots=True)
class GitObject:
    """A git object: its kind (blob, tree, commit) and its content."""

    kind: str
    data: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """The object's SHA-1 name, 40 hexadecimal digits."""
        return hashlib.sha1(self._with_header(), usedforsecurity=False).hexdigest()

    def loose(self) -> bytes:
        """Return the bytes of the loose object file."""
        return _stored_zlib(self._with_header())

    def _with_header(self) -> bytes:
        return b"%s %d\0%s" % (self.kind.encode(), len(self.data), self.data)


@dataclass(frozen=True, slots=True)
class GitRepository:
    """A repository of commits by one author, one minute apart; `head` and `files` are those of its `branch`."""

    commits: tuple[Commit, ...]
    branch: str = "main"
    author: str = "Codecraft <codecraft@example.org>"
    objects: Mapping[str, GitObject] = field(init=False, repr=False)
    head: str = field(init=False)
    files: Mapping[str, WorkspaceFile] = field(init=False, repr=False)
    references: Mapping[str, str] = field(init=False, repr=False)
    parents: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.commits:
            raise ValueError("a repository needs at least one commit")
        _check_reference(self.branch)
        if not re.fullmatch(r"[^<>\n]+ <[^<>\n]+>", self.author):
            raise ValueError(f"author {self.author!r} is not allowed: write 'Name <mail@example.org>'")
        if self.commits[0].branch not in ("", self.branch):
            raise ValueError(
                f"the first commit is on {self.commits[0].branch!r}: begin with the branch {self.branch!r}"
            )
        objects: dict[str, GitObject] = {}
        files: dict[str, dict[str, WorkspaceFile]] = {self.branch: {}}
        tips: dict[str, str] = {self.branch: ""}
        parents: dict[str, str] = {}
        tags: dict[str, str] = {}
        for number, commit in enumerate(self.commits):
            branch = commit.branch or self.branch
            tree = files.setdefault(branch, dict(files[self.branch]))
            parent = tips.get(branch, tips[self.branch])
            _apply(commit, tree)
            Workspace(tree)  # refuses a file that is also a directory
            text = self._commit_text(commit, _add_tree(tree, objects), parent, number)
            name = tips[branch] = _add(GitObject("commit", text), objects)
            parents[name] = parent
            if commit.tag:
                tags[f"refs/tags/{commit.tag}"] = name
        references = {f"refs/heads/{branch}": tip for branch, tip in tips.items()} | tags
        object.__setattr__(self, "objects", FrozenMapping(objects))
        object.__setattr__(self, "head", tips[self.branch])
        object.__setattr__(self, "files", FrozenMapping(files[self.branch]))
        object.__setattr__(self, "references", FrozenMapping(references))
        object.__setattr__(self, "parents", FrozenMapping(parents))

    def resolve(self, revision: str) -> str:
        """Return the name of the commit that ``branch``, ``tag`` or ``branch~2`` (two commits before) stands for.

        Raises:
            ValueError: there is no such commit.
        """
        name, _, steps = revision.partition("~")
        heads = [self.references.get(f"refs/{kind}/{name}", "") for kind in ("heads", "tags")]
        commit = heads[0] or heads[1]
        for _ in range(int(steps) if steps.isdecimal() and len(steps) < 5 else 0):
            commit = self.parents.get(commit, "")
        if not commit or bool(steps) != ("~" in revision) or (steps and not steps.isdecimal()):
            known = ", ".join(reference.split("/", 2)[2] for reference in self.references)
            raise ValueError(f"no commit {revision!r}: write a branch or a tag, or 'main~2'; there are {known}")
        return commit

    def tree(self, revision: str) -> str:
        """Return the name of the tree of a commit (see `resolve`)."""
        return self.objects[self.resolve(revision)].data.partition(b"\n")[0].decode().removeprefix("tree ")

    def bare(self, path: str) -> dict[str, WorkspaceFile]:
        """Return the entries of a bare repository at `path` of a workspace."""
        config = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
        entries = {
            f"{path}/HEAD": WorkspaceFile(f"ref: refs/heads/{self.branch}\n".encode()),
            f"{path}/config": WorkspaceFile(config),
        }
        for reference, name in self.references.items():
            entries[f"{path}/{reference}"] = WorkspaceFile(f"{name}\n".encode())
        for name, item in self.objects.items():
            entries[f"{path}/objects/{name[:2]}/{name[2:]}"] = WorkspaceFile(item.loose(), mode=0o444)
        return entries

    def _commit_text(self, commit: Commit, tree: str, parent: str, number: int) -> bytes:
        who = f"{self.author} {WORKSPACE_MTIME_S - 60 * (len(self.commits) - number)} +0000"
        lines = [f"tree {tree}", *([f"parent {parent}"] if parent else []), f"author {who}", f"committer {who}"]
        return ("\n".join([*lines, "", commit.message.strip()]) + "\n").encode()


def _check_reference(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name or name.endswith((".", ".lock")):
        raise ValueError(f"branch {name!r} is not allowed: use letters, digits, '-', '_' and single dots")


def _apply(commit: Commit, files: dict[str, WorkspaceFile]) -> None:
    for path in commit.remove:
        if path not in files:
            raise ValueError(f"commit {commit.message!r} removes {path!r}, which is not there")
        del files[path]
    files.update(commit.files)


def _add(item: GitObject, objects: dict[str, GitObject]) -> str:
    name = item.id
    objects[name] = item
    return name


def _add_tree(files: Mapping[str, WorkspaceFile], objects: dict[str, GitObject]) -> str:
    """Add the tree of `files` and all below it to `objects`; return its name."""
    entries: list[tuple[bytes, bytes, str]] = []  # (sort key, mode and name, object)
    below: dict[str, dict[str, WorkspaceFile]] = {}
    for path, entry in files.items():
        name, _, rest = path.partition("/")
        if rest:
            below.setdefault(name, {})[rest] = entry
            continue
        mode = "120000" if entry.kind == "symlink" else "100755" if entry.mode & 0o100 else "100644"
        content = entry.target.encode() if entry.kind == "symlink" else entry.data
        entries.append((name.encode(), f"{mode} {name}".encode(), _add(GitObject("blob", content), objects)))
    for name, inner in below.items():  # git sorts a directory as if its name ended in a slash
        entries.append((f"{name}/".encode(), f"40000 {name}".encode(), _add_tree(inner, objects)))
    text = b"".join(label + b"\0" + bytes.fromhex(item) for _, label, item in sorted(entries))
    return _add(GitObject("tree", text), objects)


def _stored_zlib(data: bytes) -> bytes:
    """Return a zlib stream that holds `data` uncompressed: no library's choices show in it (RFC 1950)."""
    chunks: Sequence[bytes] = [
        data[start : start + _STORED_BLOCK_BYTES] for start in range(0, len(data), _STORED_BLOCK_BYTES)
    ] or [b""]
    stream = bytearray(b"\x78\x01")
    for number, chunk in enumerate(chunks):
        stream.append(1 if number == len(chunks) - 1 else 0)
        stream += len(chunk).to_bytes(2, "little") + (len(chunk) ^ 0xFFFF).to_bytes(2, "little") + chunk
    return bytes(stream + zlib.adler32(data).to_bytes(4, "big"))
