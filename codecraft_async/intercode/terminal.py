"""How shell actions run in a sandbox: in one bash that remembers, or each by itself as InterCode runs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import numpy as np

from codecraft_async._observation import decode
from codecraft_async.intercode.compat import MALFORMED, TIMED_OUT, change_of_directory, simplify
from codecraft_pool import CommandResult, RequestRefused, Sandbox, Shell

__all__ = [
    "BASH",
    "CUT",
    "MAX_OUTPUT_BYTES",
    "ROOT",
    "Bash",
    "SeparateCommands",
    "no_directory",
    "run_words",
    "shown",
    "tell",
]

BASH: Final = "/bin/bash"
ROOT: Final = {"HOME": "/root", "USER": "root", "LOGNAME": "root", "PWD": "/"}
"""The environment of root's commands."""
CUT: Final = "\n[killed: it ran longer than "
"""What an output ends with that was cut off by a time limit."""
MAX_OUTPUT_BYTES: Final = 8 << 20

User = Literal["agent", "root"]


class Bash:
    """One bash in which actions follow one another: directory, variables, functions and jobs last.

    It ends with its sandbox's restore.
    """

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    @classmethod
    async def open(cls, sandbox: Sandbox, *, cwd: str, user: User) -> Bash:
        """Start one in the directory *cwd*.

        Raises:
            RequestRefused: There is no bash, or no such directory.
            SandboxLost: The sandbox died.
        """
        env = {**(ROOT if user == "root" else {}), "PWD": cwd}
        shell = sandbox.shell(cwd=cwd, env=env, shell=BASH, merge_stderr=True, user=user)
        return cls(await shell.__aenter__())

    async def run(self, action: str, info: dict[str, Any], *, limit_s: float) -> str:
        """Run an action, tell *info* what came of it, and return what it printed, stderr in stdout.

        Raises:
            SandboxLost: The sandbox died.
        """
        if "\0" in action:
            return "a command cannot hold a NUL character"
        try:
            result = await self._shell.run(action, limit_s=limit_s, max_output_bytes=MAX_OUTPUT_BYTES)
        except RequestRefused as exc:  # such as: the agent has deleted its bash
            return f"the command cannot be run: {exc.strerror}"
        tell(info, result)
        return shown(result, limit_s)


class SeparateCommands:
    """Actions that run each by itself, as InterCode runs them: of what they leave, a guessed directory is kept.

    *run* runs a command in a directory, with a time limit in seconds, and returns how it ended, or what InterCode says
    instead of an output; see `run_words`.
    """

    def __init__(self, run: Callable[[str, str, float], Awaitable[CommandResult | str]], *, cwd: str) -> None:
        self._run = run
        self._directory = cwd

    async def run(self, action: str, info: dict[str, Any], *, limit_s: float) -> str:
        """As that of `Bash`, with InterCode's texts for what went wrong."""
        if not action.startswith("cd"):
            return _as_recorded(await self._run(action, self._directory, limit_s), info)
        wanted = change_of_directory(action)
        if wanted is None:
            return MALFORMED
        target = simplify(self._directory, wanted)
        result = await self._run(f"cd {target}", "/", limit_s)
        if isinstance(result, CommandResult) and result.exit_code == 0:
            self._directory = target
        return _as_recorded(result, info)


async def run_words(
    sandbox: Sandbox, words: list[str] | None, cwd: str, limit_s: float, *, user: User
) -> CommandResult | str:
    """Run the words of a command; return what InterCode says instead of an output where there are none, or no *cwd*.

    Raises:
        SandboxLost: The sandbox died.
    """
    if not words or any("\0" in word for word in words):
        return MALFORMED
    env = ROOT if user == "root" else None
    try:
        return await sandbox.run(
            words,
            cwd=cwd,
            env=env,
            limit_s=limit_s,
            max_output_bytes=MAX_OUTPUT_BYTES,
            merge_stderr=True,
            user=user,
        )
    except RequestRefused:
        return no_directory(cwd)


def no_directory(cwd: str) -> str:
    """Return what InterCode says where a command cannot be run in a directory."""
    return (
        "OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd "
        f'("{cwd}") set in config.json failed: no such file or directory: unknown'
    )


def shown(result: CommandResult, limit_s: float) -> str:
    """Return what is observed of a command that a `Bash` has run."""
    return decode(result.stdout) + (f"{CUT}{limit_s:g} s]" if result.timed_out else "")


def tell(info: dict[str, Any], result: CommandResult) -> None:
    """Write into *info* how a command ended."""
    info.update(
        action_executed=result.exit_code == 0,
        exit_code=np.int64(result.exit_code),
        signal=np.int64(result.signal),
        timed_out=result.timed_out,
        truncated_output=result.truncated,
        wall_s=np.float64(result.wall_s),
        cpu_s=np.float64(result.user_s + result.system_s),
    )


def _as_recorded(result: CommandResult | str, info: dict[str, Any]) -> str:
    if isinstance(result, str):
        return result
    tell(info, result)
    if result.timed_out:
        return TIMED_OUT
    try:
        return result.stdout.decode()
    except UnicodeDecodeError:
        info["action_executed"] = False
        return MALFORMED
