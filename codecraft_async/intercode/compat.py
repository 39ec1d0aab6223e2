"""How InterCode hands a command to a shell, wrong cases included, for recorded actions to do what they did."""

from __future__ import annotations

import shlex

__all__ = ["MALFORMED", "TIMED_OUT", "change_of_directory", "mangle", "simplify"]

MALFORMED = "Malformed command"
TIMED_OUT = "Command timed out"


def mangle(command: str, *, shell: str = "/bin/bash") -> list[str] | None:
    """Return the words that are really executed for *command*; None where its quotes do not pair.

    It is put between double quotes and split as a shell would: its own double quotes end and begin those.
    """
    try:
        return shlex.split(f'{shell} -c "{command.strip()}"')
    except ValueError:
        return None


def change_of_directory(action: str) -> str | None:
    """Return where an action that begins with ``cd`` wants to go; None if it goes nowhere."""
    _, found, argument = action.partition("cd ")
    return argument.strip() if found else None


def simplify(directory: str, path: str) -> str:
    """Return *path*, seen from *directory*, without ``.`` and ``..``; by its text alone."""
    parts: list[str] = []
    for part in (path if path.startswith("/") else f"{directory}/{path}").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
