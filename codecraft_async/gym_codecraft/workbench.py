"""The sandbox in which a student works on a task: commands, files, the grade, and a copy for the host."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from posixpath import normpath
from typing import Final

from codecraft_async._episode import EpisodeError
from codecraft_async._outcome import GraderFailed
from codecraft_async.actions import MAX_ACTION_CHARS
from codecraft_async.gym_codecraft.interface import InvalidAction
from codecraft_async.gym_codecraft.tasks import StudentTask
from codecraft_async.gym_codecraft.teaching import Teacher, Turn
from codecraft_async.runtime import Runtime, sandbox_spec, snapshot_of
from codecraft_curriculum import Grade, Task
from codecraft_pool import WORKSPACE, CommandResult, Digest, Lease, RequestRefused, Sandbox, SandboxLost
from codecraft_pool.spec import writable_trees

__all__ = ["Workbench"]

_ATTEMPTS: Final = 3
_ACQUIRE_LIMIT_S: Final = 900.0  # an image may have to be pulled first
_SETUP_LIMIT_S: Final = 60.0
_SAVED_FILE_BYTES: Final = 64 << 20
_SAVED_BYTES: Final = 1 << 30  # sparse files take no room in a sandbox and all of their size on the host
_PATH_MAX: Final = 4096  # of Linux, its final NUL included; a program makes longer ones by going into directories
_SHOWN_NAME_CHARS: Final = 80
_TREES: Final = tuple(tree.tree for tree in writable_trees())


class Workbench:
    """Has one sandbox while a task is under way."""

    def __init__(
        self, runtime: Runtime, teacher: Teacher, *, command_limit_s: float | None, grade_limit_s: float
    ) -> None:
        self._runtime = runtime
        self.teacher = teacher
        self._command_limit_s = command_limit_s
        self._grade_limit_s = grade_limit_s
        self._lease: Lease | None = None
        self._student_task: StudentTask | None = None

    @property
    def is_open(self) -> bool:
        """Whether a task is under way."""
        return self._lease is not None

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox of the task that is under way."""
        assert self._lease is not None
        return self._lease.sandbox

    async def open(self, student_task: StudentTask) -> float:
        """Begin a task in a sandbox with its files; return how long the restore to them took, in seconds.

        Raises:
            PoolError: No sandbox can be had; says why and what to do.
            EpisodeError: The task's own set-up failed, or its working directory is none.
        """
        self.clear()
        for _ in range(_ATTEMPTS - 1):
            with suppress(SandboxLost, RequestRefused):  # the pool replaces it
                return await self._open_once(student_task)
        return await self._open_once(student_task)

    async def _open_once(self, student_task: StudentTask) -> float:
        task = student_task.task
        snapshot = snapshot_of(task.workspace)
        pool = await self._runtime.pool()
        lease = await pool.acquire(sandbox_spec(task), snapshot=snapshot, limit_s=_ACQUIRE_LIMIT_S)
        try:
            await _set_up(student_task, lease.sandbox)
        except BaseException:
            lease.release()
            raise
        self._lease, self._student_task = lease, student_task
        return 0.0 if lease.restored is None else lease.restored.wall_s

    def command_limit_s(self, task: Task) -> float:
        """Return how long a command may run."""
        return self._command_limit_s or task.limits.command_limit_s

    async def run(self, command: str) -> CommandResult:
        """Run a command as the student, stderr in stdout.

        Raises:
            InvalidAction: It cannot be run because of what it is or what the student has made of the workspace.
            SandboxLost: The sandbox died.
        """
        assert self._student_task is not None
        task = self._student_task.task
        if "\0" in command:
            raise InvalidAction("a command cannot hold a NUL character")
        if len(command) > MAX_ACTION_CHARS:
            raise InvalidAction(f"a command cannot be longer than {MAX_ACTION_CHARS} characters")
        try:
            return await self.sandbox.run(
                command,
                cwd=self._student_task.working_dir,
                shell=task.shell,
                limit_s=self.command_limit_s(task),
                max_output_bytes=task.limits.max_output_bytes,
                merge_stderr=True,
            )
        except RequestRefused as exc:
            raise InvalidAction(f"the command cannot be run: {_reason(exc)}") from None

    async def write(self, path: str, content: str) -> None:
        """Write a whole text file as the student; a relative path is relative to where commands run.

        Raises:
            InvalidAction: It cannot be written there; says why.
            SandboxLost: The sandbox died.
        """
        assert self._student_task is not None
        if not path or "\0" in path:
            raise InvalidAction("the field 'path' must be a path without NUL characters")
        whole = normpath(f"{self._student_task.working_dir}/{path}" if path[0] != "/" else path)
        tree = next((each for each in _TREES if whole.startswith(f"{each}/")), None)
        if tree is None:
            raise InvalidAction(f"{path} is not in the workspace: only files below {', '.join(_TREES)} can be written")
        try:
            await self.sandbox.write_file(whole[len(tree) + 1 :], content.encode(), root=tree)
        except RequestRefused as exc:
            raise InvalidAction(f"{path} cannot be written: {_reason(exc)}") from None

    async def grade(self, transcript: Sequence[Turn]) -> Grade:
        """End every process, then have the teacher grade what is left.

        Raises:
            SandboxLost, RequestRefused: The sandbox failed.
            GraderFailed: The teacher failed, took too long, or gave no `Grade`.
        """
        assert self._student_task is not None
        await self.sandbox.end_processes(keep_system=False)
        limit = asyncio.timeout(self._grade_limit_s)
        try:
            async with limit:
                grade: object = await self.teacher.agrade(self.sandbox, self._student_task.task, transcript)
        except SandboxLost:
            raise
        except Exception as exc:  # a teacher is code of users: whatever it raises is a fault, never a reward
            if limit.expired():
                said = f"the teacher took longer than {self._grade_limit_s:g} s, its limit (grade_limit_s)"
                raise GraderFailed(TimeoutError(said), self.sandbox.id) from exc
            raise GraderFailed(exc, self.sandbox.id) from exc
        if not isinstance(grade, Grade):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code is not all typed
            error = TypeError(f"a teacher must return a Grade, this one returned {grade!r}")
            raise GraderFailed(error, self.sandbox.id)
        return grade

    async def save(self, directory: Path) -> list[str]:
        """Copy the workspace to *directory*, which must not exist; return what was left out, with the reason.

        Regular files and directories are copied, with nobody's permission bits but the owner's. Left out are links and
        devices, for what a student made is not to reach anything else on the host; files of more than 64 MiB, and all
        that would make it more than 1 GiB; what programs that still run take away meanwhile; and paths that the
        host has no room for.

        Raises:
            FileExistsError: *directory* exists.
            RequestRefused, SandboxLost: The workspace cannot be read.
        """
        entries = await self.sandbox.digest([WORKSPACE], contents=False)
        await asyncio.to_thread(directory.mkdir, parents=True)
        try:
            return await self._copy(entries, directory)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            raise

    async def _copy(self, entries: Digest, directory: Path) -> list[str]:
        left_out: list[str] = []
        room = _SAVED_BYTES
        for path in sorted(set(entries) - {WORKSPACE}):
            entry, name = entries[path], path.removeprefix(f"{WORKSPACE}/")
            if {"", ".", ".."} & set(name.split("/")):  # a guest never says so
                raise RequestRefused(self.sandbox.id, f"save {path!r}", errno.EINVAL, "that is no path of a workspace")
            if len(os.fsencode(directory / name)) >= _PATH_MAX:
                left_out.append(f"{name[:_SHOWN_NAME_CHARS]}...: the path is too long")
            elif entry.kind == "dir":
                await asyncio.to_thread((directory / name).mkdir, exist_ok=True)
            elif entry.kind != "file":
                left_out.append(f"{name}: a {entry.kind}")
            elif entry.size > min(room, _SAVED_FILE_BYTES):
                left_out.append(f"{name}: too large")
            else:
                try:
                    data = await self.sandbox.read_file(name, max_bytes=min(room, _SAVED_FILE_BYTES))
                except RequestRefused as exc:
                    left_out.append(f"{name}: {_reason(exc)}")
                    continue
                room -= len(data)
                await asyncio.to_thread(_write, directory / name, data, 0o700 if entry.mode & 0o100 else 0o600)
        return left_out

    def clear(self) -> None:
        """Give the sandbox back; whatever runs in it is ended at once."""
        lease, self._lease, self._student_task = self._lease, None, None
        if lease is not None:
            lease.release()

    def abandon(self) -> None:
        """Let go of the sandbox where nothing can be awaited any more."""
        self._lease = self._student_task = None


async def _set_up(student_task: StudentTask, sandbox: Sandbox) -> None:
    task, where = student_task.task, student_task.working_dir
    commands = list(task.setup)
    if where != WORKSPACE:
        commands.insert(0, f"mkdir -p -- {shlex.quote(where)}")
    for command in commands:
        result = await sandbox.run(command, shell=task.shell, limit_s=_SETUP_LIMIT_S, merge_stderr=True)
        if result.exit_code != 0:
            said = result.stdout.decode("utf-8", "replace")[-500:].strip()
            raise EpisodeError(f"task {task.id!r}: its set-up {command!r} ended with {result.exit_code}: {said}")


def _write(path: Path, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
        file.write(data)


def _reason(exc: RequestRefused) -> str:
    """Return the reason without the sandbox's name, so that the same episode gives the same texts everywhere."""
    return os.strerror(exc.errno or errno.EIO)
