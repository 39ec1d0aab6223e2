"""Commands whose outcome depends on more than their files: such golds cannot be compared with another day's run."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["volatile"]

_CLASSES: Final = {
    "clock": r"\b(date|cal|ncal|uptime|w|touch)\b|-(m|a|c)(time|min)\b|-newer|\$(EPOCH\w*|SECONDS)\b|\bls\b.* -\w*l",
    "disk": r"\b(df|du|free|mount|lsblk|fdisk|stat -f)\b",
    "environment": r"\b(env|printenv|export -p|set)\b|\$(\w*HOST\w*|HOME|PATH|USER)\b|\bhostname\b",
    "kernel": r"\b(uname|nproc|lscpu|dmesg|sysctl)\b",
    "network": r"\b(ping|dig|nslookup|host|curl|wget|ifconfig|netstat|ip|ss|traceroute)\b",
    "processes": r"\b(ps|top|pstree|pgrep|pidof|who|w|last|jobs|lsof|fuser)\b|\$\$|\$PPID\b|\$BASHPID\b",
    "random": r"\$(RANDOM|SRANDOM)\b|\b(shuf|mktemp|urandom)\b|\bsort -R",
}
_PATTERNS: Final = {name: re.compile(pattern) for name, pattern in _CLASSES.items()}


def volatile(command: str) -> tuple[str, ...]:
    """Return what, besides files, a command seems to read, by its text: "clock", "disk", "network", ... in order."""
    return tuple(name for name, pattern in _PATTERNS.items() if pattern.search(command))
