"""What a grader needs of a sandbox: two methods, which the pool's sandboxes have.

The curriculum does not import the pool, so the two meet here, in protocols that are satisfied by structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = ["WORKSPACE_PATH", "CommandOutcome", "GradingSandbox", "is_agents_fault"]

WORKSPACE_PATH = "/workspace"
"""Where the workspace lies in every sandbox."""


class CommandOutcome(Protocol):
    """How a command ended and what it printed."""

    @property
    def stdout(self) -> bytes:
        """What it wrote to standard output, up to the cap."""
        ...

    @property
    def stderr(self) -> bytes:
        """What it wrote to standard error, up to the cap."""
        ...

    @property
    def exit_code(self) -> int:
        """Its exit status, or -1 if a signal ended it."""
        ...

    @property
    def signal(self) -> int:
        """The signal that ended it, or 0."""
        ...

    @property
    def timed_out(self) -> bool:
        """Whether it was ended at its time limit."""
        ...

    @property
    def truncated(self) -> bool:
        """Whether it was ended at, or lost output to, its output cap."""
        ...


class GradingSandbox(Protocol):
    """A sandbox in which the agent's processes are dead and its files are as it left them."""

    async def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = WORKSPACE_PATH,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        limit_s: float = 10.0,
        max_output_bytes: int = 1 << 20,
    ) -> CommandOutcome:
        """Run a command as the agent (text as ``sh -c``) and return how it ended.

        Raises:
            OSError: it cannot be started because of what the agent left, such as a missing `cwd`.
            ConnectionError: the sandbox is lost.
        """
        ...

    async def read_file(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """Return the content of a regular file; `path` is relative to the workspace and is not followed out of it.

        Raises:
            FileNotFoundError: nothing is there.
            OSError: it is no regular file, leads out of the workspace, or holds over `max_bytes` bytes.
            ConnectionError: the sandbox is lost.
        """
        ...


def is_agents_fault(error: OSError) -> bool:
    """Return whether an `OSError` tells of files that the agent left so, not of a broken sandbox or a missed deadline.

    ``ConnectionError`` and ``TimeoutError`` are OSErrors too; they must reach the environment as faults.
    """
    return not isinstance(
        error, ConnectionError | TimeoutError | BlockingIOError | ChildProcessError | InterruptedError
    )
