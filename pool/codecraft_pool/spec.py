"""What a sandbox is to be like, and what a command in it came to: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codecraft_pool.protocol import AGENT, TreeRestore

WORKSPACE = "/workspace"
HOME = "/home/agent"
STORE = "/.codecraft"
"""Where the guest and the snapshots are, inside of a sandbox; closed to the agent."""

DEFAULT_IMAGE = "codecraft/base"
HOSTS = b"127.0.0.1 localhost sandbox\n::1 localhost\n"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MIB = 1 << 20
_SHARED_TMP = 0o1777


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """What makes two sandboxes interchangeable: the image and the limits.

    Sizes are in bytes. `tree_bytes` bounds each writable tree (workspace, home, temporary files, shared memory). `cpus`
    is in cores.
    """

    image: str = DEFAULT_IMAGE
    user: Literal["agent", "root"] = "agent"
    memory_bytes: int = 1024 * _MIB
    cpus: float = 1.0
    max_processes: int = 256
    tree_bytes: int = 256 * _MIB
    tree_files: int = 65_536

    @property
    def reusable(self) -> bool:
        """Whether a restore makes such a sandbox as good as new. Not where commands share the guest's user, root."""
        return self.user == "agent"

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "cpus", "max_processes", "tree_bytes", "tree_files"):
            value: float = getattr(self, name)
            if not value > 0:
                raise ValueError(f"SandboxSpec.{name} is {value!r}; it must be more than 0")
        if self.user not in ("agent", "root"):
            raise ValueError(f"SandboxSpec.user is {self.user!r}; it must be 'agent' or 'root'")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended and what it printed. Output is the sandbox's word only; the rest is the guest's.

    `exit_code` is -1 if a signal ended it (`signal` is then its number, else 0). `timed_out`: it reached its wall
    limit; `truncated`: it reached its output cap; in both cases it was killed with all its descendants and what it had
    printed is kept. Times in seconds, memory in bytes.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int
    signal: int
    timed_out: bool
    truncated: bool
    wall_s: float
    user_s: float
    system_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did: processes ended, entries removed and made, bytes copied, and how long the guest took."""

    killed: int
    removed: int
    made: int
    copied_bytes: int
    wall_s: float


def writable_trees(snapshot: str = "", *, uid: int = AGENT) -> tuple[TreeRestore, ...]:
    """Return the trees of every sandbox that a command can write to: the workspace from *snapshot*, all else empty.

    Workspace and home belong to *uid*, the user that commands run as: also root has no capability to pass over that.
    """
    return (
        TreeRestore(WORKSPACE, snapshot, uid, uid),
        TreeRestore(HOME, uid=uid, gid=uid),
        TreeRestore("/tmp", uid=0, gid=0, mode=_SHARED_TMP),
        TreeRestore("/var/tmp", uid=0, gid=0, mode=_SHARED_TMP),
        TreeRestore("/dev/shm", uid=0, gid=0, mode=_SHARED_TMP),
    )


def default_environment() -> dict[str, str]:
    """Return the environment of every command, before the caller's additions."""
    return {
        "PATH": PATH,
        "HOME": HOME,
        "USER": "agent",
        "LOGNAME": "agent",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PWD": WORKSPACE,
    }
