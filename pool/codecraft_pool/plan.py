"""The pool's decisions: plain functions over plain state. Nothing here waits or does I/O.

Every change of a slot's phase goes through `Slot.move`, which knows the only ways a slot can go:

    STARTING -> IDLE, RETIRED        IDLE -> LEASED, RETIRED
    LEASED -> RESTORING, RETIRED     RESTORING -> IDLE, RETIRED
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Generic, TypeVar

from codecraft_pool.errors import PoolError
from codecraft_pool.spec import SandboxSpec

BoxT = TypeVar("BoxT")
AskerT = TypeVar("AskerT")


class Phase(Enum):
    """Where a slot stands."""

    STARTING = "starting"
    IDLE = "idle"
    LEASED = "leased"
    RESTORING = "restoring"
    RETIRED = "retired"


NEXT: Final = {
    Phase.STARTING: frozenset({Phase.IDLE, Phase.RETIRED}),
    Phase.IDLE: frozenset({Phase.LEASED, Phase.RETIRED}),
    Phase.LEASED: frozenset({Phase.RESTORING, Phase.RETIRED}),
    Phase.RESTORING: frozenset({Phase.IDLE, Phase.RETIRED}),
    Phase.RETIRED: frozenset[Phase](),
}


class Slot(Generic[BoxT]):
    """A place for one sandbox, from before it is started until it is gone."""

    __slots__ = ("box", "number", "phase", "spec")

    def __init__(self, number: int, spec: SandboxSpec) -> None:
        self.number = number
        self.spec = spec
        self.phase = Phase.STARTING
        self.box: BoxT | None = None

    def move(self, phase: Phase) -> None:
        """Go to *phase*.

        Raises:
            PoolError: There is no such way; the pool's own mistake.
        """
        if phase not in NEXT[self.phase]:
            raise PoolError(f"slot {self.number} cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase


@dataclass(slots=True)
class Decisions(Generic[BoxT, AskerT]):
    """What the pool has to do next."""

    start: list[Slot[BoxT]] = field(default_factory=list["Slot[BoxT]"])
    remove: list[Slot[BoxT]] = field(default_factory=list["Slot[BoxT]"])
    grant: list[tuple[AskerT, Slot[BoxT]]] = field(default_factory=list["tuple[AskerT, Slot[BoxT]]"])


class Plan(Generic[BoxT, AskerT]):
    """All slots, all who wait, and the targets; `settle` says what follows from them."""

    def __init__(self, *, max_sandboxes: int, max_failures: int) -> None:
        self._max = max_sandboxes
        self._max_failures = max_failures
        self._numbers = 0
        self.slots: dict[int, Slot[BoxT]] = {}
        self.waiting: deque[tuple[SandboxSpec, AskerT]] = deque()
        self.targets: dict[SandboxSpec, int] = {}
        self._failures: dict[SandboxSpec, int] = {}

    def count(self, phase: Phase, spec: SandboxSpec | None = None) -> int:
        """Return how many slots are in *phase*, for one spec or for all."""
        return sum(slot.phase is phase and spec in (None, slot.spec) for slot in self.slots.values())

    def started(self, slot: Slot[BoxT], box: BoxT) -> None:
        """A start has worked: its sandbox is idle."""
        slot.box = box
        slot.move(Phase.IDLE)
        self._failures.pop(slot.spec, None)

    def start_failed(self, slot: Slot[BoxT]) -> list[AskerT]:
        """A start has failed: forget the slot, and return who must hear of it.

        One failure is told to the one who has waited longest; once starts fail *max_failures* times in a row, to all
        who wait for that spec, and no spare is started until somebody asks again.
        """
        self.retire(slot)
        failures = self._failures[slot.spec] = self._failures.get(slot.spec, 0) + 1
        askers = [asker for spec, asker in self.waiting if spec == slot.spec]
        told = askers if failures >= self._max_failures else askers[:1]
        self.waiting = deque(entry for entry in self.waiting if entry[1] not in told)
        return told

    def retire(self, slot: Slot[BoxT]) -> None:
        """Take a slot out for good."""
        slot.move(Phase.RETIRED)
        del self.slots[slot.number]

    def aim(self, spec: SandboxSpec, target: int) -> None:
        """Keep *target* sandboxes of *spec*; whatever failed before is tried anew."""
        self._failures.pop(spec, None)
        self.targets[spec] = target

    def ask(self, spec: SandboxSpec, asker: AskerT) -> None:
        """Queue *asker* for a sandbox."""
        self._failures.pop(spec, None)
        self.waiting.append((spec, asker))

    def withdraw(self, asker: AskerT) -> None:
        """Take *asker* out of the queue, if it is there."""
        self.waiting = deque(entry for entry in self.waiting if entry[1] is not asker)

    def take_idle(self, spec: SandboxSpec) -> Slot[BoxT] | None:
        """Lease an idle slot, if there is one and nobody who came earlier waits for such."""
        if any(entry[0] == spec for entry in self.waiting):
            return None
        slot = self._idle(spec)
        if slot is not None:
            slot.move(Phase.LEASED)
        return slot

    def settle(self) -> Decisions[BoxT, AskerT]:
        """Grant what is idle in the order of asking, then start what is lacking.

        Idle slots of other kinds make room for those who wait.
        """
        decisions: Decisions[BoxT, AskerT] = Decisions()
        still: deque[tuple[SandboxSpec, AskerT]] = deque()
        for spec, asker in self.waiting:
            slot = self._idle(spec)
            if slot is None:
                still.append((spec, asker))
            else:
                slot.move(Phase.LEASED)
                decisions.grant.append((asker, slot))
        self.waiting = still
        for spec in self._lacking():
            if not self._make_room(spec, decisions):
                break
            decisions.start.append(self._new_slot(spec))
        return decisions

    def _idle(self, spec: SandboxSpec) -> Slot[BoxT] | None:
        # The one used last has the warmest caches; the oldest slots of the dictionary come first, so search from the
        # end.
        for slot in reversed(self.slots.values()):
            if slot.phase is Phase.IDLE and slot.spec == spec:
                return slot
        return None

    def _lacking(self) -> Iterator[SandboxSpec]:
        """Yield a spec for each sandbox that should be started: for those who wait first, then up to the targets."""
        coming: dict[SandboxSpec, int] = {}
        for slot in self.slots.values():
            if slot.phase in (Phase.STARTING, Phase.RESTORING):
                coming[slot.spec] = coming.get(slot.spec, 0) + 1
        for spec, _ in list(self.waiting):
            if coming.get(spec, 0) > 0:
                coming[spec] -= 1
            else:
                yield spec
        for spec, target in self.targets.items():
            if self._failures.get(spec, 0) < self._max_failures:
                have = sum(slot.spec == spec for slot in self.slots.values())
                yield from [spec] * (target - have)

    def _make_room(self, spec: SandboxSpec, decisions: Decisions[BoxT, AskerT]) -> bool:
        if len(self.slots) < self._max:
            return True
        wanted = any(entry[0] == spec for entry in self.waiting)
        for slot in list(self.slots.values()):
            if wanted and slot.phase is Phase.IDLE and slot.spec != spec:
                self.retire(slot)
                decisions.remove.append(slot)
                return True
        return False

    def _new_slot(self, spec: SandboxSpec) -> Slot[BoxT]:
        self._numbers += 1
        slot: Slot[BoxT] = Slot(self._numbers, spec)
        self.slots[slot.number] = slot
        return slot
