"""Grading a clone without letting the clone run anything.

git executes what a repository's configuration tells it to (``core.fsmonitor``, hooks, filters), so it is never run with
the agent's ``.git`` as its repository: references are read as files, and objects through an empty repository that
borrows the clone's object directory. What comes back is compared with objects the host made itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from codecraft_curriculum.git_objects import BORROW_OBJECTS, resolve_head
from codecraft_curriculum.git_repository import GitRepository
from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.graders import CommandSpec, read_or_grade
from codecraft_curriculum.sandbox import GradingSandbox

__all__ = ["GitCloneGrader"]

_CAT_OBJECTS = f'{BORROW_OBJECTS}git --git-dir="$scratch" cat-file --batch'
_LINKS = 'test -d "$1/.git/objects" && test ! -e "$1/.git/objects/info/alternates" && find "$1" -type l'
# What a link or an alternates file stands for is not in the clone, whose history then goes with the remote.


@dataclass(frozen=True, slots=True)
class GitCloneGrader:
    """Passes if `directory` of the workspace is a clone of the repository at `remote`, all files checked out.

    Looks at: a directory with a ``.git`` and objects of its own, without links but those of the commit, the origin, the
    commit at HEAD, the content of every file, and every object of the history.
    """

    directory: str
    remote: str
    repository: GitRepository

    @property
    def runs_agent_code(self) -> bool:
        """No hook and no configuration of the clone is used."""
        return False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Check one thing after the other, until one is wrong."""
        for check in (self._check_place, self._check_head, self._check_origin, self._check_files, self._check_objects):
            problem = await check(sandbox)
            if problem is not None:
                return Grade.failure(f"{self.directory}: {problem}")
        return Grade.success(f"{self.directory} is a clone of {self.remote}")

    async def _check_place(self, sandbox: GradingSandbox) -> str | None:
        outcome = await CommandSpec(command=_LINKS).run(sandbox, arguments=(self.directory,))
        if isinstance(outcome, Grade):
            return outcome.reason
        if outcome.exit_code != 0:
            return "is no directory with a .git directory and objects of its own"
        entries = self.repository.files.items()
        expected = {f"{self.directory}/{path}".encode() for path, entry in entries if entry.kind == "symlink"}
        others = set(outcome.stdout.splitlines()) - expected
        return f"holds a link that the commit has not: {excerpt(min(others))}" if others else None

    async def _check_head(self, sandbox: GradingSandbox) -> str | None:
        commit = await resolve_head(sandbox, f"{self.directory}/.git")
        if isinstance(commit, Grade):
            return commit.reason
        expected = self.repository.head
        return None if commit == expected else f"HEAD is at {commit[:12] or 'nothing'}, expected {expected[:12]}"

    async def _check_origin(self, sandbox: GradingSandbox) -> str | None:
        config = await self._read_text(sandbox, ".git/config")
        if isinstance(config, Grade):
            return config.reason
        section = ""
        for line in config.splitlines():
            if line.startswith("["):
                section = line.strip()
                continue
            name, _, value = line.partition("=")
            if section == '[remote "origin"]' and name.strip() == "url":
                last = value.strip().strip('"').rstrip("/").rpartition("/")[2]
                return None if last == self.remote.rpartition("/")[2] else f"its origin is not {self.remote}"
        return "it has no origin"

    async def _check_files(self, sandbox: GradingSandbox) -> str | None:
        for path, entry in self.repository.files.items():
            if entry.kind == "symlink":
                continue  # its target is part of the objects
            data = await read_or_grade(sandbox, f"{self.directory}/{path}")
            if isinstance(data, Grade):
                return data.reason
            if data != entry.data:
                return f"{path} differs from the commit"
        return None

    async def _check_objects(self, sandbox: GradingSandbox) -> str | None:
        objects = self.repository.objects
        expected = b"".join(
            b"%s %s %d\n%s\n" % (name.encode(), item.kind.encode(), len(item.data), item.data)
            for name, item in objects.items()
        )
        command = CommandSpec(command=_CAT_OBJECTS, max_output_bytes=len(expected) + (64 << 10))
        names = "".join(f"{name}\n" for name in objects).encode()
        outcome = await command.run(sandbox, arguments=(f"{self.directory}/.git",), stdin=names)
        if isinstance(outcome, Grade):
            return outcome.reason
        if outcome.exit_code == 127:
            raise RuntimeError("grading a clone needs git in the image of the task: it has none")
        return None if outcome.stdout == expected else "the history is not complete"

    async def _read_text(self, sandbox: GradingSandbox, path: str) -> str | Grade:
        data = await read_or_grade(sandbox, f"{self.directory}/{path}", max_bytes=64 << 10)
        return data if isinstance(data, Grade) else data.decode(errors="replace").strip()
