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
ROOT_STAGE = f"{STORE}/root"
"""An empty directory for the guest to mount a root of its own on."""
ROOTS = f"{STORE}/roots"
"""Where copies of images' root file systems are, inside of a container."""
_MIB = 1 << 20
_SHARED_TMP = 0o1777
# Of the memory; three quarters in all, so that a sandbox with full trees still has room for the guest and for graders.
# A layer over the root file system takes half of that from the trees.
_LAYER_SHARE = 3 / 8
_TREE_SHARES = {WORKSPACE: 3 / 8, HOME: 1 / 8, "/tmp": 1 / 8, "/var/tmp": 1 / 16, "/dev/shm": 1 / 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """What makes two sandboxes interchangeable: the image and the limits.

    Sizes are in bytes. `tree_bytes` bounds each writable tree (workspace, home, temporary files, shared memory); as
    their pages are memory, `memory_bytes` does too: see `tree_limit_bytes`. `cpus` is in cores.

    `reset` says how a used sandbox becomes a new one. "restore" (the default of the user "agent"): the root file system
    is read-only, and the guest brings the writable trees back. "overlay" (the default of "root"): commands write to a
    layer over the whole root file system (see `layer_limit_bytes`), which the guest throws away. "replace": the
    sandbox is ended and another one started; its root file system is read-only.
    """

    image: str = DEFAULT_IMAGE
    user: Literal["agent", "root"] = "agent"
    memory_bytes: int = 1024 * _MIB
    cpus: float = 1.0
    max_processes: int = 256
    tree_bytes: int = 256 * _MIB
    tree_files: int = 65_536
    reset: Literal["auto", "restore", "overlay", "replace"] = "auto"

    @property
    def reusable(self) -> bool:
        """Whether a restore makes such a sandbox as good as new."""
        return self.reset != "replace"

    def tree_limit_bytes(self, tree: str) -> int:
        """Return how much one writable tree may hold: `tree_bytes`, or its share of the memory if that is less."""
        share = _TREE_SHARES[tree] / 2 if self.reset == "overlay" else _TREE_SHARES[tree]
        return min(self.tree_bytes, int(self.memory_bytes * share))

    @property
    def layer_limit_bytes(self) -> int:
        """How much a layer over the root file system may hold: `tree_bytes`, or its share of the memory if less."""
        return min(self.tree_bytes, int(self.memory_bytes * _LAYER_SHARE))

    def __post_init__(self) -> None:
        if self.reset == "auto":  # so that what was chosen and what was named are equal
            object.__setattr__(self, "reset", "overlay" if self.user == "root" else "restore")
        if self.reset not in ("restore", "overlay", "replace"):
            raise ValueError(f"SandboxSpec.reset is {self.reset!r}; it must be 'restore', 'overlay' or 'replace'")
        for name in ("memory_bytes", "cpus", "max_processes", "tree_bytes", "tree_files"):
            value: float = getattr(self, name)
            if not value > 0:
                raise ValueError(f"SandboxSpec.{name} is {value!r}; it must be more than 0")
        if self.user not in ("agent", "root"):
            raise ValueError(f"SandboxSpec.user is {self.user!r}; it must be 'agent' or 'root'")
        if self.user == "root" and self.reset == "restore":
            raise ValueError("SandboxSpec.reset is 'restore', after which root's traces could stay; use 'overlay'")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended and what it printed. Output is the sandbox's word only; the rest is the guest's.

    `exit_code` is -1 if a signal ended it (`signal` is then its number, else 0). `timed_out`: it reached its wall
    limit; `truncated`: it reached its output cap; `cpu_limited`: it and its descendants used up their CPU time. In
    these cases it was killed with all its descendants and what it had printed is kept. `dropped_bytes` is how much
    output is known to have been thrown away over the cap. `out_of_memory`: the kernel ended some process of the sandbox
    for lack of memory while the command ran. Times in seconds, memory in bytes.

    Of a command in a persistent shell: CPU times come in the kernel's clock ticks, and peak memory is not known (0).
    `shell_ended`: the shell ended with it, and its state is gone; `shell_restarted`: it ran in a new shell, for the one
    before it had ended.
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
    dropped_bytes: int = 0
    cpu_limited: bool = False
    out_of_memory: bool = False
    shell_ended: bool = False
    shell_restarted: bool = False


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did: processes ended; entries removed, made and left alone; bytes copied; how long the guest took.

    `compared` is how many entries had to be compared with the snapshot by content.
    """

    killed: int
    removed: int
    made: int
    kept: int
    compared: int
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


def root_options(spec: SandboxSpec, source: str, better: str = "") -> list[str]:
    """Return the guest's words for a root of its own: the directory *source*, under a layer if *spec* says so.

    From the first restore on that finds the directory *better* there, that takes the place of *source*.
    """
    words = ["--root", source, *(("--better-root", better) if better else ())]
    if spec.reset == "overlay":
        words += ["--layer", f"{max(1, spec.layer_limit_bytes // _MIB)}:{spec.tree_files}"]
    for tree in writable_trees():
        words += ["--tree", tree.tree]
    return words


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
