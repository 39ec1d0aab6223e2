"""Commands whose outcome depends on more than their files: such golds cannot be compared with another day's run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["explain", "volatile"]

_TREE: Final = r"(\.?/?|\*|\$\W?\w+\W?)( |$)"  # of commands at the root of the file system: all of it
_CLASSES: Final = {
    "clock": r"\b(date|cal|ncal|uptime|w|touch)\b|-(m|a|c)(time|min)\b|-newer|\$(EPOCH\w*|SECONDS)\b",
    "disk": r"\b(df|du|free|mount|lsblk|fdisk|stat -f)\b",
    "environment": r"\b(env|printenv|export -p|set)\b|\$(\w*HOST\w*|HOME|PATH|USER)\b|\bhostname\b",
    # A search of the whole tree walks through /proc and /sys.
    "kernel": r"\b(uname|nproc|lscpu|dmesg|sysctl)\b|/(proc|sys)\b"
    rf"|\bfind( -[a-z]{{2}}| {_TREE}| \S+ / )|\b(du|tree)( -\w+)* {_TREE}",
    "network": r"\b(ping|dig|nslookup|host|curl|wget|ifconfig|netstat|ip|ss|traceroute)\b",
    "processes": r"\b(ps|top|pstree|pgrep|pidof|who|w|last|jobs|lsof|fuser)\b|\$\$|\$PPID\b|\$BASHPID\b",
    "random": r"\$(RANDOM|SRANDOM)\b|\b(shuf|mktemp|urandom)\b|\bsort -R",
}
_PATTERNS: Final = {name: re.compile(pattern.replace(r"\b(", r"(?<![\w.-])(")) for name, pattern in _CLASSES.items()}

# What comes one after the other in a line. Searches from where the one before has ended take a time in proportion to
# the text, which an agent may make very long; in one expression it would be the square of that, or the cube.
_IN_TURN: Final = {
    "clock": (r"\bls\b", r" -[^\Wl]*l"),
    "disk": (r"\bls\b", r" -[^\Wls]*[ls]"),
    "kernel": (r"\b[efz]?grep\b", r" -[^\WrR]*[rR]\w* ", f" {_TREE}"),
}
_PATTERNS_IN_TURN: Final = {name: tuple(map(re.compile, patterns)) for name, patterns in _IN_TURN.items()}


def volatile(command: str) -> tuple[str, ...]:
    """Return what, besides files, a command seems to read, by its text: "clock", "disk", "network", ... in order."""
    return tuple(name for name, pattern in _PATTERNS.items() if pattern.search(command) or _has_in_turn(name, command))


def _has_in_turn(name: str, command: str) -> bool:
    patterns = _PATTERNS_IN_TURN.get(name)
    return patterns is not None and any(_come_in_turn(patterns, line) for line in command.split("\n"))


def _come_in_turn(patterns: tuple[re.Pattern[str], ...], line: str) -> bool:
    at = 0
    for pattern in patterns:
        found = pattern.search(line, at)
        if found is None:
            return False
        at = found.end()
    return True


# The host's name is part of its network, and the kernel is a tool whose version shows in /proc and /sys.
_NAMED: Final = {"environment": "network", "kernel": "tool version", "random": "processes"}
# bash 5.2 tells of a quote that is not closed in one line, 5.1 in two; readline 8.2 and 8.1 name keys differently.
_TOOLS_WORDS: Final = re.compile(r"unexpected EOF while looking for matching")
_TOOLS_TABLES: Final = re.compile(r"\bbind -[pPsSvVX]")


def explain(commands: Iterable[str], recorded: str, observed: str) -> tuple[str, ...]:
    """Return why an action may be paid otherwise than where it was recorded: some of "clock", "disk", "network",
    "processes" and "tool version"; nothing if it should not.

    *commands* are the gold and the episode's actions up to that one, *recorded* and *observed* what the action printed
    there and here.
    """
    texts = list(commands)
    if recorded != observed and (
        (_TOOLS_WORDS.search(recorded) and _TOOLS_WORDS.search(observed))
        or any(_TOOLS_TABLES.search(text) for text in texts)
    ):
        return ("tool version",)
    return tuple(sorted({_NAMED.get(name, name) for text in texts for name in volatile(text)}))
