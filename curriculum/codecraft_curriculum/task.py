"""A task: what to do, where, from which files, within which limits, and how it is graded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.grade import Grader, Ungraded
from codecraft_curriculum.workspace import Workspace

__all__ = ["NETWORKS", "RESET_MODES", "USERS", "Network", "ResetMode", "Task", "TaskLimits", "User"]

User = Literal["agent", "root"]
Network = Literal["none"]
ResetMode = Literal["restore"]
USERS: tuple[str, ...] = get_args(User)
NETWORKS: tuple[str, ...] = get_args(Network)
RESET_MODES: tuple[str, ...] = get_args(ResetMode)

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLimits:
    """What one command (time, output) and the whole sandbox (memory, processes) may use."""

    command_limit_s: float = 10.0
    max_output_bytes: int = 1 << 20
    memory_bytes: int = 512 << 20
    max_processes: int = 128

    def __post_init__(self) -> None:
        bounds = {
            "command_limit_s": (0.001, 86_400),
            "max_output_bytes": (1, 1 << 30),
            "memory_bytes": (16 << 20, 1 << 44),
            "max_processes": (4, 1 << 22),
        }
        for name, (low, high) in bounds.items():
            value: float = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, which is not allowed: give {low} to {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an agent is to do, as data; equal tasks start equal episodes.

    `image` is a reference or an alias such as ``codecraft/base``. `setup` commands run as the agent in the workspace
    before an episode starts. `expert` is a list of shell commands that solves the task, `failures` are named lists that
    do not: both prove the grader and serve demonstrations, and never enter a sandbox. `notes` is what a file said that
    is not for the agent, such as hints for a human or a model that grades.

    Raises `ValueError` that names the field.
    """

    id: str
    instruction: str
    image: str = "codecraft/base"
    title: str = ""
    category: str = "general"
    difficulty: str = ""
    shell: str = "/bin/sh"
    user: User = "agent"
    workspace: Workspace = field(default_factory=Workspace)
    setup: tuple[str, ...] = ()
    max_steps: int = 30
    limits: TaskLimits = field(default_factory=TaskLimits)
    network: Network = "none"
    reset: ResetMode = "restore"
    grader: Grader = field(default_factory=Ungraded)
    expert: tuple[str, ...] = field(default=(), repr=False)
    failures: Mapping[str, tuple[str, ...]] = field(default_factory=FrozenMapping[str, tuple[str, ...]], repr=False)
    notes: Mapping[str, str] = field(default_factory=FrozenMapping[str, str], repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "failures", FrozenMapping(self.failures))
        object.__setattr__(self, "notes", FrozenMapping(self.notes))
        if not re.fullmatch(_ID, self.id):
            raise ValueError(
                f"id {self.id[:80]!r} is not allowed: use 1 to 64 letters, digits, '.', '_' and '-', first no mark"
            )
        if not self.instruction.strip():
            raise ValueError("instruction is empty: say what the agent is to do")
        if not re.fullmatch(_IMAGE, self.image):
            raise ValueError(f"image {self.image[:80]!r} is no image reference: write something like 'codecraft/base'")
        if not self.shell.startswith("/"):
            raise ValueError(f"shell {self.shell!r} is not allowed: give an absolute path like '/bin/sh'")
        if self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}: give a whole number of at least 1")
        for name, allowed in {"user": USERS, "network": NETWORKS, "reset": RESET_MODES}.items():
            value: str = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} {value!r} is not allowed: use {' or '.join(map(repr, allowed))}")

    def __str__(self) -> str:
        return f"{self.id} ({self.title})" if self.title else self.id
