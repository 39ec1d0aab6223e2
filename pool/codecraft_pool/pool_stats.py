"""What the pool has done so far, counted as it happens, and as frozen values for those who ask."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from codecraft_pool.launcher import Launcher
from codecraft_pool.spec import SandboxSpec

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RECENT: Final = 1024
_MAX_SPECS: Final = 256


@dataclass(frozen=True, slots=True)
class Timing:
    """How long something took, in seconds: how often it was done, the sum, and percentiles of the last 1,024 times.

    `buckets` holds, for each bound of `BUCKETS_S`, how many took at most so long.
    """

    count: int = 0
    total_s: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0
    buckets: tuple[int, ...] = (0,) * len(BUCKETS_S)


class Timings:
    """Collects durations; keeps their number, sum, a histogram, and the latest of them."""

    __slots__ = ("_buckets", "_recent", "count", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float) -> None:
        """Take in one."""
        self.count += 1
        self.total_s += seconds
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._recent.append(seconds)

    def frozen(self) -> Timing:
        """Return what is known of them."""
        if not self.count:
            return Timing()
        ordered = sorted(self._recent)
        middle, high = ordered[(len(ordered) - 1) // 2], ordered[(len(ordered) * 99 - 1) // 100]
        return Timing(self.count, self.total_s, middle, high, tuple(accumulate(self._buckets[:-1])))


class Tally:
    """Counts of what was done, for one spec or for all."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.waits = Timings()
        self.starts = Timings()
        self.restores = Timings()

    def frozen(self) -> dict[str, object]:
        """Return the fields of `PoolCounts` that it knows."""
        return {
            **self.done,
            "failures": dict(self.failures),
            "waits": self.waits.frozen(),
            "starts": self.starts.frozen(),
            "restores": self.restores.frozen(),
        }


class Ledger:
    """The tallies of all specs and their sum; of specs beyond the 256th, only the sum is kept."""

    def __init__(self) -> None:
        self.all = Tally()
        self._by_spec: dict[SandboxSpec, Tally] = {}

    def of(self, spec: SandboxSpec) -> Tally | None:
        """Return the tally of *spec* alone."""
        tally = self._by_spec.get(spec)
        if tally is None and len(self._by_spec) < _MAX_SPECS:
            tally = self._by_spec[spec] = Tally()
        return tally

    def specs(self) -> list[SandboxSpec]:
        """Return the specs that have a tally."""
        return list(self._by_spec)

    def count(self, spec: SandboxSpec, what: str, number: int = 1) -> None:
        """Count *number* of *what*, a field of `PoolCounts`."""
        self.all.done[what] += number
        tally = self.of(spec)
        if tally is not None:
            tally.done[what] += number

    def fail(self, spec: SandboxSpec, kind: str) -> None:
        """Count a failed start; *kind* is its error's name."""
        self.count(spec, "failed_starts")
        self.all.failures[kind] += 1
        tally = self.of(spec)
        if tally is not None:
            tally.failures[kind] += 1

    def wait(self, spec: SandboxSpec, seconds: float) -> None:
        """Take in how long an `acquire` took."""
        self.all.waits.add(seconds)
        tally = self.of(spec)
        if tally is not None:
            tally.waits.add(seconds)

    def start(self, spec: SandboxSpec, seconds: float) -> None:
        """Count a start, and how long it took."""
        self.count(spec, "started")
        self.all.starts.add(seconds)
        tally = self.of(spec)
        if tally is not None:
            tally.starts.add(seconds)

    def restore(self, spec: SandboxSpec, seconds: float) -> None:
        """Count a restore, and how long it took."""
        self.count(spec, "restored")
        self.all.restores.add(seconds)
        tally = self.of(spec)
        if tally is not None:
            tally.restores.add(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounts:
    """Sandboxes and waiting tasks at one moment, and what was done so far."""

    starting: int = 0
    idle: int = 0
    leased: int = 0
    restoring: int = 0
    quarantined: int = 0
    waiting: int = 0
    target: int = 0
    """How many are to be kept warm."""
    started: int = 0
    restored: int = 0
    replaced: int = 0
    """Ended because they could not be used again: lost, not restorable, not clean, or of a kind that never can be."""
    lost: int = 0
    """Of those replaced: died, or did not answer."""
    expired: int = 0
    """Ended because they had been idle for too long."""
    evicted: int = 0
    """Ended to make room for another kind."""
    failed_starts: int = 0
    failures: dict[str, int] = field(default_factory=dict[str, int])
    """Failed starts by the name of their error."""
    timed_out: int = 0
    """Tasks that waited for a sandbox until their deadline."""
    checks: int = 0
    """Idle sandboxes that were asked whether they live."""
    proofs: int = 0
    failed_proofs: int = 0
    """Proofs of a clean restore that found a difference."""
    proof_errors: int = 0
    """Proofs that could not be made."""
    prefetch_hits: int = 0
    """Times that a snapshot was asked for and an idle sandbox held it already."""
    prefetch_misses: int = 0
    """Times that a snapshot was asked for and had to be waited for."""
    forks: int = 0
    """Sandboxes that were made equal to a live one."""
    waits: Timing = Timing()
    starts: Timing = Timing()
    restores: Timing = Timing()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecStats(PoolCounts):
    """The sandboxes of one spec."""

    spec: SandboxSpec
    maximum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherInfo:
    """What starts the sandboxes, how their channels run ("" if it has nothing to say), and why not by a quicker way.

    `lanes` is what the launcher tells of its queues, by name.
    """

    name: str = ""
    description: str = ""
    transport: str = ""
    transport_reason: str = ""
    lanes: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats(PoolCounts):
    """The whole pool. `starts_at_once` is how many starts it allows itself at the moment."""

    max_sandboxes: int = 0
    starts_at_once: int = 0
    specs: tuple[SpecStats, ...] = ()
    launcher: LauncherInfo = LauncherInfo()


def launcher_info(launcher: Launcher) -> LauncherInfo:
    """Return what a launcher says of itself; one that has `stats` says how its channels run."""
    told = getattr(launcher, "stats", None)
    stats = told() if callable(told) else None
    return LauncherInfo(
        name=launcher.name,
        description=launcher.description,
        transport=str(getattr(stats, "transport", "")),
        transport_reason=str(getattr(stats, "transport_reason", "")),
        lanes=dict(getattr(stats, "lanes", {})),
    )


__all__ = [
    "BUCKETS_S",
    "LauncherInfo",
    "Ledger",
    "PoolCounts",
    "PoolStats",
    "SpecStats",
    "Tally",
    "Timing",
    "Timings",
    "launcher_info",
]
