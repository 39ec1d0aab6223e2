"""What a capture-the-flag challenge is: assets that are made of a seed, a set-up, and scripts that prove it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files as package_files
from typing import Any, Final, Literal

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.workspace import WorkspaceFile, check_path

__all__ = ["Assets", "Challenge", "Script", "draw_flag", "program", "python"]

Script = tuple[str, ...]
"""Shell actions; what the last one prints on its last line is submitted as the flag."""

_FLAG_BYTES: Final = 12
_FLAG: Final = r"flag\{[0-9a-f]{24}\}"
_REMEMBERED: Final = 64

_MEMORY: Final = """
import os, re
for number in sorted(name for name in os.listdir("/proc") if name.isdecimal()):
    try:
        for line in open(f"/proc/{number}/maps"):
            first, last = (int(each, 16) for each in line.split()[0].split("-"))
            memory = open(f"/proc/{number}/mem", "rb", 0)
            memory.seek(first)
            for found in re.findall(rb"flag.[0-9a-f]{24}.", memory.read(min(last - first, 1 << 24))):
                if int(number) != os.getpid():
                    print(found.decode())
    except (OSError, ValueError, OverflowError):
        pass
"""


@dataclass(frozen=True, slots=True)
class Assets:
    """What one seed makes of a challenge.

    `files` are for the player, in the directory of the task; `hidden` are root's alone, in a directory whose path is
    ``$HIDDEN`` to the set-up.
    """

    flag: str = field(repr=False)
    files: Mapping[str, WorkspaceFile]
    hidden: Mapping[str, WorkspaceFile] = field(default_factory=FrozenMapping[str, WorkspaceFile])

    def __post_init__(self) -> None:
        for path in (*self.files, *self.hidden):
            check_path(path)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A task whose reward is a flag. `make` draws all chance from its argument: one seed makes one set of assets.

    `setup` is run by root in the directory of the task before the player comes. `expert` finds the flag; each of
    `failures` looks for it where it must not be, and submits something else.
    """

    id: str
    title: str
    category: str
    difficulty: Literal["easy", "medium", "hard"]
    query: str
    hints: tuple[str, ...]
    make: Callable[[random.Random], Assets] = field(repr=False)
    expert: Script = field(repr=False)
    failures: Mapping[str, Script] = field(repr=False)
    setup: str = ""

    def assets(self, seed: int) -> Assets:
        """Return what *seed* makes; the last few are remembered."""
        return _assets(self.id, self.make, seed)

    def row(self, seed: int = 0) -> dict[str, Any]:
        """Return the challenge as a row of a dataset, with the flag of *seed* as its gold."""
        return {
            "task_id": self.id,
            "query": self.query,
            "gold": self.assets(seed).flag,
            "source": "codecraft",
            "tags": [self.category],
            "difficulty": self.difficulty,
            "hints": list(self.hints),
            **({"setup": self.setup} if self.setup else {}),
        }


@lru_cache(maxsize=_REMEMBERED)
def _assets(name: str, make: Callable[[random.Random], Assets], seed: int) -> Assets:
    return make(random.Random(f"{name}:{seed}"))


def draw_flag(rng: random.Random) -> str:
    """Return a flag that nobody guesses: 96 bits."""
    return f"flag{{{rng.randbytes(_FLAG_BYTES).hex()}}}"


def program(name: str) -> WorkspaceFile:
    """Return a program of the package ``inside`` as a file."""
    return WorkspaceFile(package_files(f"{__package__}.inside").joinpath(name).read_bytes(), mode=0o755)


def python(source: str) -> str:
    """Return a shell command that runs a Python program."""
    return f"python3 - <<'END'\n{source.strip()}\nEND"


def cheats() -> dict[str, Script]:
    """Return what fails in every challenge: to look for a flag where it might lie about, and to make one up."""
    search = (
        f"grep -raohE '{_FLAG}' /ctf /srv /root /home /tmp /var/tmp /dev/shm /run /workspace 2>/dev/null",
        "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'" + f" | grep -oE '{_FLAG}'",
        python(_MEMORY),
        "printf 'flag{%024d}\\n' 0",
    )
    return {"search": ("{\n" + "\n".join(search) + "\n} 2>/dev/null | head -n 1",)}
