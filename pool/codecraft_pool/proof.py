"""Proof that a restored sandbox is as good as a new one: what can be seen of it equals what was seen of a new one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from codecraft_pool.digest import Digest, differences

if TYPE_CHECKING:
    from codecraft_pool.sandbox import Sandbox
    from codecraft_pool.snapshot import Snapshot
    from codecraft_pool.spec import SandboxSpec

# A TCP connection's ghost outlives its processes for a minute. It holds nothing but a port of the loopback.
_MAY_LINGER: Final = ("lingering ",)
_GONE: Final = "is not as in a new sandbox:"
_NEW: Final = "is in no new sandbox:"


_Key: TypeAlias = "tuple[str, SandboxSpec, str]"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a new sandbox was like: processes, mounts, sockets, objects, limits (`lines`), and its writable trees."""

    lines: tuple[str, ...] = field(repr=False)
    trees: Digest


def changed_lines(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Return how two inspections differ, a readable line for each; what may linger is passed over."""
    old, new = (Counter(line for line in lines if not line.startswith(_MAY_LINGER)) for lines in (before, after))
    gone = [f"{_GONE} {line}" for line in sorted((old - new).elements())]
    return gone + [f"{_NEW} {line}" for line in sorted((new - old).elements())]


async def compare(sandbox: Sandbox, baseline: Baseline, *, full: bool) -> list[str]:
    """Return what tells the sandbox from the new one; *full* looks at the content of every file too."""
    found = changed_lines(baseline.lines, await sandbox.inspect())
    if full:
        found += differences(baseline.trees, await sandbox.digest())
    return found


class Baselines:
    """What new sandboxes were like, for each launcher, spec and snapshot; those last used are kept.

    Args:
        max_kept: How many.
        max_entries: How many entries of their trees in all, but for the latest, which is kept whatever its size.
    """

    def __init__(self, *, max_kept: int = 64, max_entries: int = 200_000) -> None:
        if max_kept < 1:
            raise ValueError(f"max_kept is {max_kept}; it must be at least 1")
        self._max_kept = max_kept
        self._max_entries = max_entries
        self._known: dict[_Key, Baseline] = {}  # the last used is the last

    def __len__(self) -> int:
        return len(self._known)

    def knows(self, launcher: str, spec: SandboxSpec, snapshot: Snapshot | None) -> bool:
        """Whether `check` has something to compare with."""
        return _key(launcher, spec, snapshot) in self._known

    async def record(self, launcher: str, sandbox: Sandbox, snapshot: Snapshot | None) -> Baseline:
        """Take *sandbox* as the measure: it is new, has run no command, and was just restored to *snapshot*.

        Raises:
            RequestRefused: The guest could not look.
            SandboxLost: The sandbox died.
        """
        baseline = await sandbox.baseline()
        self._use(_key(launcher, sandbox.spec, snapshot), baseline)
        while len(self._known) > 1 and self._is_too_much():
            del self._known[next(iter(self._known))]
        return baseline

    async def check(
        self, launcher: str, sandbox: Sandbox, snapshot: Snapshot | None, *, full: bool = False
    ) -> list[str]:
        """Return what tells a sandbox, just restored to *snapshot*, from a new one; empty if it is clean.

        Raises:
            KeyError: No new sandbox of the kind was recorded, or its root file system was of another making, as when
                the launcher has found out meanwhile that guests cannot make it; that record is then forgotten.
            RequestRefused: The guest could not look.
            SandboxLost: The sandbox died.
        """
        key = _key(launcher, sandbox.spec, snapshot)
        baseline = self._known[key]
        self._use(key, baseline)
        found = await sandbox.prove_clean(baseline, full=full)
        if any(line.startswith((f"{_GONE} root ", f"{_NEW} root ")) for line in found):
            self._known.pop(key, None)
            raise KeyError(f"sandbox {sandbox.id} and the one it is compared with have roots of different makings")
        return found

    def _use(self, key: _Key, baseline: Baseline) -> None:
        self._known.pop(key, None)
        self._known[key] = baseline

    def _is_too_much(self) -> bool:
        entries = sum(len(each.trees) for each in self._known.values())
        return len(self._known) > self._max_kept or entries > self._max_entries


def _key(launcher: str, spec: SandboxSpec, snapshot: Snapshot | None) -> _Key:
    return launcher, spec, "" if snapshot is None else snapshot.id
