"""What dead processes may leave, and who may say that it is left: plain values and one decision, no I/O but /proc.

Whether an owner lives can be seen only in its own boot and process id namespace. Elsewhere these hold: what ran before
this machine was started has no owner any more, a running container's guest ends with its channel, and nothing waits
longer than an hour between being created and being used.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from codecraft_pool.owner import Owner, boot_id

HOST_LABEL: Final = "io.codecraft.host"
BOOT_LABEL: Final = "io.codecraft.boot"
LIFETIME_LABEL: Final = "io.codecraft.lifetime"
LIFETIME_S: Final = 14 * 86_400
"""After this, in seconds from its creation by the daemon's clock, a container may be removed by anybody who cannot see
whether its owner lives. Longer than trainings keep one sandbox; never asked where the owner can be seen."""
UNUSED_LIMIT_S: Final = 3600
"""A container that was created and does not run is of no use to anybody after this: starting one takes minutes at
most, and one that has ended is never started again."""

Kind = Literal["container", "volume", "directory", "cgroup", "image"]
Action = Literal["removed", "would remove", "kept"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of this project's that was found, and what it says of where it comes from."""

    kind: Kind
    name: str
    owner: Owner | None
    """None: it names no owner."""
    before_boot: bool = False
    """It is of this very machine, and of a time before it was last started."""
    in_use: bool = False
    """A container that runs: its guest has a channel, so somebody holds the other end."""
    age_s: float = 0.0
    lifetime_s: float = LIFETIME_S


@dataclass(frozen=True, slots=True)
class Finding:
    """What was done about one leftover, and why."""

    kind: Kind
    name: str
    action: Action
    reason: str


def judge(found: Leftover) -> tuple[bool, str]:
    """Say whether it is to be removed, and why. Whatever may belong to a living process stays."""
    owner = found.owner
    if owner is None:
        return False, "it does not say which process owns it"
    if owner.is_from_here():
        if owner.is_alive():
            return False, f"its owner, process {owner.pid}, is running"
        return True, f"its owner, process {owner.pid}, has ended"
    if not found.in_use and found.before_boot:
        return True, "its owner ended when this machine was last started"
    if not found.in_use and found.age_s > UNUSED_LIMIT_S:
        return True, f"it does not run, and nobody needs one that was created {_ago(found.age_s)} ago"
    if found.age_s > found.lifetime_s:
        return True, f"it was created {_ago(found.age_s)} ago, which is longer than it was meant to live"
    return False, "its owner is of another machine, container or boot, and cannot be judged from here"


def _ago(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} days" if seconds >= 2 * 86_400 else f"{seconds / 3600:.1f} hours"


def this_host() -> str:
    """Name this machine: its host name, and a digest of its machine id, which is not to be shown as it is."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    digest = hashlib.sha256(f"codecraft {machine}".encode()).hexdigest()[:8] if machine else "unknown"
    return f"{platform.node()}/{digest}"


def this_boot() -> str:
    """Name this boot of this machine, whatever the process id namespace."""
    return hashlib.sha256(boot_id().encode()).hexdigest()[:8]


def origin_labels() -> dict[str, str]:
    """Labels for what this process creates at a daemon, beside the one that names the owner."""
    return {HOST_LABEL: this_host(), BOOT_LABEL: this_boot(), LIFETIME_LABEL: str(LIFETIME_S)}


def is_before_boot(labels: Mapping[str, str]) -> bool:
    """Say whether labels are of this machine in an earlier boot. A machine without a machine id is never sure."""
    host, boot = labels.get(HOST_LABEL, ""), labels.get(BOOT_LABEL, "")
    return host == this_host() and not host.endswith("/unknown") and boot not in ("", this_boot())


def lifetime_of(labels: Mapping[str, str]) -> float:
    """Return the lifetime in a label, in seconds; the usual one where it is missing or rubbish."""
    text = labels.get(LIFETIME_LABEL, "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 and int(text) > 0 else LIFETIME_S


def owner_in(name: str, prefix: str) -> Owner | None:
    """Return the owner in a name of the form ``<prefix><owner>-<more>``, or None."""
    words = name.removeprefix(prefix).split("-", 3)
    return Owner.parse("-".join(words[:3])) if name.startswith(prefix) and len(words) == 4 else None


def is_ours(uid: int) -> bool:
    """Say whether something of that user's may be removed by this process: its own, or by root anything."""
    return os.geteuid() in (0, uid)


__all__ = [
    "BOOT_LABEL",
    "HOST_LABEL",
    "LIFETIME_LABEL",
    "LIFETIME_S",
    "UNUSED_LIMIT_S",
    "Action",
    "Finding",
    "Kind",
    "Leftover",
    "is_before_boot",
    "is_ours",
    "judge",
    "lifetime_of",
    "origin_labels",
    "owner_in",
    "this_boot",
    "this_host",
]
