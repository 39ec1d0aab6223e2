"""A sandbox for tests: real commands in a temporary directory, with no isolation at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codecraft_curriculum import WORKSPACE_PATH, Task

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    signal: int = 0
    timed_out: bool = False
    truncated: bool = False


@dataclass(slots=True)
class DirectorySandbox:
    """Runs commands below `root`, where ``workspace`` and ``home`` stand for /workspace and /home/agent."""

    root: Path
    commands: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    groups: list[int] = field(default_factory=list[int])

    @classmethod
    async def start(cls, task: Task, root: Path) -> DirectorySandbox:
        """Return a sandbox in which an episode of the task has started."""
        sandbox = cls(root)
        (root / "home").mkdir()
        await asyncio.to_thread(task.workspace.write_to, sandbox.workspace)
        for command in task.setup:
            assert 0 == await sandbox.act(command, shell=task.shell)
        return sandbox

    @property
    def workspace(self) -> Path:
        """Where /workspace is."""
        return self.root / "workspace"

    async def act(self, action: str, *, shell: str = "/bin/sh") -> int:
        """Run an action of the agent's and return its exit status; its background processes live on."""
        env = {"PATH": PATH, "HOME": str(self.root / "home"), "LANG": "C.UTF-8"}
        nothing = subprocess.DEVNULL
        process = await asyncio.to_thread(
            subprocess.Popen[bytes],
            (shell, "-c", action),
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            cwd=self.workspace,
            env=env,
            start_new_session=True,
        )
        self.groups.append(process.pid)
        return await asyncio.to_thread(process.wait, 10)

    def end_processes(self) -> None:
        """Kill what the agent left running, as an environment does before it grades."""
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.groups.clear()

    async def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = WORKSPACE_PATH,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        limit_s: float = 10.0,
        max_output_bytes: int = 1 << 20,
    ) -> Outcome:
        """Run a command of a grader's."""
        words = ("sh", "-c", command) if isinstance(command, str) else tuple(command)
        self.commands.append(words)
        directory = Path(cwd.replace(WORKSPACE_PATH, str(self.workspace), 1))
        return await self._execute(words, directory, dict(env or {}), stdin, limit_s, max_output_bytes)

    async def read_file(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """Return a regular file's content, following no link out of the workspace."""
        return await asyncio.to_thread(_read_beneath, self.workspace, path, max_bytes)

    async def _execute(
        self, words: Sequence[str], cwd: Path, env: dict[str, str], stdin: bytes, limit_s: float, max_output_bytes: int
    ) -> Outcome:
        pipe = subprocess.PIPE
        process = await asyncio.to_thread(
            subprocess.Popen[bytes],
            words,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        self.groups.append(process.pid)
        try:
            stdout, stderr = await asyncio.to_thread(process.communicate, stdin, limit_s)
        except subprocess.TimeoutExpired:
            self.end_processes()
            await asyncio.to_thread(process.communicate)
            return Outcome(exit_code=-1, signal=signal.SIGKILL, timed_out=True)
        return Outcome(
            stdout=stdout[:max_output_bytes],
            stderr=stderr[:max_output_bytes],
            exit_code=max(process.returncode, -1),
            signal=max(-process.returncode, 0),
            truncated=len(stdout) > max_output_bytes,
        )


def _read_beneath(root: Path, path: str, max_bytes: int) -> bytes:
    target = Path(os.path.realpath(root / path))
    if not target.is_relative_to(root.resolve()):
        raise OSError(errno.EXDEV, "leads out of the workspace")
    info = target.stat()
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if info.st_size > max_bytes:
        raise OSError(errno.EFBIG, "too large")
    return target.read_bytes()
