"""A task: what to do, where, from which files, within which limits, and how it is graded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.grade import Grader, Ungraded
from codecraft_curriculum.workspace import Workspace

__all__ = [
    "DIFFICULTIES",
    "NETWORKS",
    "RESET_MODES",
    "USERS",
    "Network",
    "PartialSolution",
    "ResetMode",
    "Task",
    "TaskLimits",
    "User",
]

User = Literal["agent", "root"]
Network = Literal["none"]
ResetMode = Literal["restore"]
USERS: tuple[str, ...] = get_args(User)
NETWORKS: tuple[str, ...] = get_args(Network)
RESET_MODES: tuple[str, ...] = get_args(ResetMode)
DIFFICULTIES: tuple[str, ...] = ("easy", "medium", "hard")

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


@dataclass(frozen=True, slots=True)
class PartialSolution:
    """Actions that solve a part of a task, and the score that its grader must give them."""

    score: float
    actions: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0.0 < self.score < 1.0:
            raise ValueError(f"score is {self.score}: give a number between 0 and 1, both excluded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an agent is to do, as data; equal tasks start equal episodes.

    `image` is a reference or an alias such as ``codecraft/base``. `setup` commands run as the agent in the workspace
    before an episode starts. `expert` is a list of shell commands that solves the task; `failures` are named lists that
    do not, `cheats` those that try to look as if they did, `partial` those that solve a part. All of them prove the
    grader and serve demonstrations, and never enter a sandbox on their own; `public` are texts of them that an agent
    may find in its sandbox. `estimated_minutes` is how long somebody who knows the tools needs (0: not said). `notes`
    is what a file said that is not for the agent, such as hints for a human or a model that grades.

    Raises `ValueError` that names the field.
    """

    id: str
    instruction: str
    image: str = "codecraft/base"
    title: str = ""
    category: str = "general"
    difficulty: str = ""
    estimated_minutes: float = 0.0
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
    cheats: Mapping[str, tuple[str, ...]] = field(default_factory=FrozenMapping[str, tuple[str, ...]], repr=False)
    partial: Mapping[str, PartialSolution] = field(default_factory=FrozenMapping[str, PartialSolution], repr=False)
    public: tuple[str, ...] = field(default=(), repr=False)
    notes: Mapping[str, str] = field(default_factory=FrozenMapping[str, str], repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "failures", FrozenMapping(self.failures))
        object.__setattr__(self, "cheats", FrozenMapping(self.cheats))
        object.__setattr__(self, "partial", FrozenMapping(self.partial))
        object.__setattr__(self, "notes", FrozenMapping(self.notes))
        double = sorted((set(self.failures) & set(self.cheats)) | ({*self.failures, *self.cheats} & set(self.partial)))
        if double:
            raise ValueError(f"two scripts of the proof are named {double[0]!r}: rename one")
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
        if not 0.0 <= self.estimated_minutes <= 10_000:
            raise ValueError(f"estimated_minutes is {self.estimated_minutes}: give minutes from 0 to 10000")
        if self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}: give a whole number of at least 1")
        for name, allowed in {"user": USERS, "network": NETWORKS, "reset": RESET_MODES}.items():
            value: str = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} {value!r} is not allowed: use {' or '.join(map(repr, allowed))}")

    def __str__(self) -> str:
        return f"{self.id} ({self.title})" if self.title else self.id
