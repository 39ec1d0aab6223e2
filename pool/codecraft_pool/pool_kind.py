"""One kind of sandbox in the pool's plan: its slots by phase, who waits for it, and what is expected next.

Interchangeable sandboxes, those of one `SandboxSpec`, are a kind. Every operation takes the same time however many
sandboxes there are and tasks wait. Nothing here waits or does I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from codecraft_pool.errors import PoolError
from codecraft_pool.spec import SandboxSpec

BoxT = TypeVar("BoxT")
AskerT = TypeVar("AskerT")

EMPTY: Final = ""
"""The key of an empty workspace, where others have the id of a content."""
_STRIKES: Final = 3
_MAX_STRUCK: Final = 64


class Content(Protocol):
    """What a workspace can be restored to; equal contents have equal ids."""

    @property
    def id(self) -> str:
        """The name of the content."""
        ...


def key_of(content: Content | None) -> str:
    """Return the key of a content; None is the empty workspace."""
    return EMPTY if content is None else content.id


class Phase(Enum):
    """Where a slot stands."""

    STARTING = "starting"
    IDLE = "idle"
    LEASED = "leased"
    RESTORING = "restoring"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


NEXT: Final = {
    Phase.STARTING: frozenset({Phase.IDLE, Phase.RETIRED}),
    Phase.IDLE: frozenset({Phase.LEASED, Phase.RESTORING, Phase.RETIRED}),
    Phase.LEASED: frozenset({Phase.RESTORING, Phase.RETIRED}),
    Phase.RESTORING: frozenset({Phase.IDLE, Phase.QUARANTINED, Phase.RETIRED}),
    Phase.QUARANTINED: frozenset({Phase.RETIRED}),
    Phase.RETIRED: frozenset[Phase](),
}


class Slot(Generic[BoxT]):
    """A place for one sandbox, from before it is started until it is gone.

    `holds` is the key of what its workspace was last restored to, `goal` what it is being restored to. Times are the
    plan's clock's.
    """

    __slots__ = ("began_at", "box", "checked_at", "goal", "holds", "idle_at", "number", "phase", "spec")

    def __init__(self, number: int, spec: SandboxSpec, now: float) -> None:
        self.number = number
        self.spec = spec
        self.phase = Phase.STARTING
        self.box: BoxT | None = None
        self.holds = EMPTY
        self.goal: Content | None = None
        self.began_at = now
        self.idle_at = now
        self.checked_at = now

    def move(self, phase: Phase) -> None:
        """Go to *phase*.

        Raises:
            PoolError: There is no such way; the pool's own mistake.
        """
        if phase not in NEXT[self.phase]:
            raise PoolError(f"slot {self.number} cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase


@dataclass(slots=True)
class Wish:
    """How many sandboxes with one content will be asked for soon."""

    content: Content | None
    count: int
    since: float


@dataclass(slots=True)
class Pauses:
    """When starts that failed may be tried again: at once at first, then after pauses that double.

    Starts that were under way together and failed together are one failure to it.
    """

    max_failures: int
    first_s: float
    longest_s: float
    failures: int = 0
    retry_at: float = 0.0
    _rounds: int = 0
    _failed_at: float = float("-inf")

    def fail(self, began_at: float, now: float) -> None:
        """Take note of a start that was begun at *began_at* and has failed."""
        self.failures += 1
        if self.failures >= self.max_failures and (self._rounds == 0 or began_at > self._failed_at):
            self.retry_at = now + min(self.longest_s, self.first_s * 2.0 ** min(self._rounds, 60))
            self._rounds += 1
        self._failed_at = now

    def clear(self) -> None:
        """Forget the failures: a start has worked, or somebody says that it is worth another try."""
        self.failures = self._rounds = 0
        self.retry_at = 0.0
        self._failed_at = float("-inf")


class Kind(Generic[BoxT, AskerT]):
    """The slots of one spec, the tasks that wait for one, and the wishes."""

    def __init__(self, spec: SandboxSpec, pauses: Pauses, clock: Callable[[], float]) -> None:
        self.spec = spec
        self.pauses = pauses
        self.target = 0
        self.maximum: int | None = None
        self.turn = 0
        self.unproved = 0
        self.is_prepared = False
        self.has_worked = False
        self.waiting: OrderedDict[AskerT, Content | None] = OrderedDict()
        self.wishes: OrderedDict[str, Wish] = OrderedDict()
        self.idle: OrderedDict[int, Slot[BoxT]] = OrderedDict()
        self.under_way: dict[str, int] = {}
        self.strikes: OrderedDict[str, int] = OrderedDict()
        self._clock = clock
        self._counts = dict.fromkeys(Phase, 0)
        self._ready: dict[str, OrderedDict[int, Slot[BoxT]]] = {}

    # --- slots ---

    def count(self, phase: Phase) -> int:
        """Return how many slots are in *phase*."""
        return self._counts[phase]

    @property
    def places(self) -> int:
        """How many of the pool's places its sandboxes take."""
        counts = self._counts
        return counts[Phase.STARTING] + counts[Phase.IDLE] + counts[Phase.LEASED] + counts[Phase.RESTORING]

    @property
    def coming(self) -> int:
        """How many sandboxes will be idle without anybody's doing."""
        return self._counts[Phase.STARTING] + self._counts[Phase.RESTORING]

    def add(self, slot: Slot[BoxT]) -> None:
        """Take in a slot that is being started."""
        self._counts[slot.phase] += 1

    def move(self, slot: Slot[BoxT], phase: Phase) -> None:
        """Have *slot* go to *phase*."""
        before = slot.phase
        slot.move(phase)
        self._counts[before] -= 1
        self._counts[phase] += 1
        if before is Phase.IDLE:
            del self.idle[slot.number]
            bucket = self._ready[slot.holds]
            del bucket[slot.number]
            if not bucket:
                del self._ready[slot.holds]
        elif before is Phase.RESTORING:
            self.aim(slot, None)
        if phase is Phase.IDLE:
            slot.idle_at = slot.checked_at = self._clock()
            self.idle[slot.number] = slot
            self._ready.setdefault(slot.holds, OrderedDict())[slot.number] = slot

    def aim(self, slot: Slot[BoxT], goal: Content | None) -> None:
        """Have the restore of *slot* lead to *goal*."""
        if slot.goal is not None:
            self.under_way[slot.goal.id] -= 1
            if not self.under_way[slot.goal.id]:
                del self.under_way[slot.goal.id]
        slot.goal = goal
        if goal is not None:
            self.under_way[goal.id] = self.under_way.get(goal.id, 0) + 1

    # --- who gets which ---

    def pick(self, key: str) -> Slot[BoxT] | None:
        """Return the idle slot that suits *key* best: one that holds it, else one that nobody wishes for, else any.

        Of those, the one used last: its caches are the warmest.
        """
        exact = self._ready.get(key)
        if exact:
            return next(reversed(exact.values()))
        slot = self.spare()
        if slot is None and self.idle:
            slot = next(reversed(self.idle.values()))
        return slot

    def is_on_its_way(self, key: str) -> bool:
        """Say whether no idle sandbox holds *key*, and one is being restored to it."""
        return key in self.under_way and key not in self._ready

    def spare(self) -> Slot[BoxT] | None:
        """Return an idle slot whose content nobody has wished for, used last, or None."""
        for key, bucket in self._ready.items():
            wish = self.wishes.get(key)
            if len(bucket) > (0 if wish is None else wish.count):
                return next(reversed(bucket.values()))
        return None

    def lease(self, slot: Slot[BoxT], key: str) -> None:
        """Lend an idle slot to somebody who asked for *key*; a wish that it was restored for in vain is dropped."""
        if slot.holds != key:
            bucket, wish = self._ready[slot.holds], self.wishes.get(slot.holds)
            if wish is not None and len(bucket) <= wish.count:
                self.fulfil(slot.holds)
        self.move(slot, Phase.LEASED)

    def grants(self) -> Iterator[tuple[AskerT, Slot[BoxT]]]:
        """Lease the idle slots to those who wait, in the order of asking.

        One whose content another sandbox is being restored to at this moment waits for that one, and lets others pass.
        """
        if not self.idle:
            return
        covered = dict(self.under_way)
        for asker, content in list(islice(self.waiting.items(), len(self.idle) + self._counts[Phase.RESTORING])):
            if not self.idle:
                return
            key = key_of(content)
            if key not in self._ready and covered.get(key, 0) > 0:
                covered[key] -= 1
                continue
            slot = self.pick(key)
            assert slot is not None
            self.lease(slot, key)
            del self.waiting[asker]
            yield asker, slot

    def next_goal(self) -> Content | None:
        """Return what a sandbox that is to be restored should hold: what is waited for first, then what is wished."""
        covered = dict(self.under_way)
        for content in islice(self.waiting.values(), self._counts[Phase.RESTORING]):
            key = key_of(content)
            if covered.get(key, 0) > 0:
                covered[key] -= 1
            elif not self._is_out(key):
                return content
        return self.unmet_wish()

    # --- wishes ---

    def wish(self, content: Content | None, count: int) -> None:
        """Expect *count* more askers for *content*."""
        key = key_of(content)
        if self._is_out(key):
            return
        known = self.wishes.pop(key, None)
        self.wishes[key] = Wish(content, count + (known.count if known else 0), self._clock())

    def fulfil(self, key: str) -> None:
        """One of those who were expected for *key* has come, or never will."""
        wish = self.wishes.get(key)
        if wish is not None:
            wish.count -= 1
            if wish.count < 1:
                del self.wishes[key]

    def strike(self, key: str) -> None:
        """A sandbox could not be restored to *key*. After three in a row it is no more restored to ahead of time.

        Otherwise a content that fits no sandbox would cost one after another.
        """
        self.strikes[key] = self.strikes.pop(key, 0) + 1
        if self._is_out(key):
            self.wishes.pop(key, None)
        while len(self.strikes) > _MAX_STRUCK:
            self.strikes.popitem(last=False)

    def _is_out(self, key: str) -> bool:
        return self.strikes.get(key, 0) >= _STRIKES

    def oldest_wish(self) -> Wish | None:
        """Return the wish that was made first."""
        return next(iter(self.wishes.values()), None)

    def dispensable(self) -> Slot[BoxT] | None:
        """Return the slot that has been idle for longest, if the kind has more than its target."""
        return next(iter(self.idle.values()), None) if self.places > self.target else None

    def wished(self) -> int:
        """Return how many askers are expected."""
        return sum(wish.count for wish in self.wishes.values())

    def unmet_wish(self) -> Content | None:
        """Return the first content that is wished for more often than it is ready or under way."""
        for key, wish in self.wishes.items():
            ready = len(self._ready[key]) if key in self._ready else 0
            if wish.count > ready + self.under_way.get(key, 0):
                return wish.content
        return None

    # --- starts ---

    def may_start(self, now: float) -> bool:
        """Say whether a start would make sense.

        Not in a pause after failures; and one at a time until it has shown that starts work again, or has the image:
        starts that all wait for the same thing would keep those of other kinds waiting.
        """
        if self.maximum is not None and self.places >= self.maximum:
            return False
        if self._counts[Phase.STARTING] and (self.pauses.failures or not self.is_prepared):
            return False
        return not self.pauses.failures or now >= self.pauses.retry_at

    def lacks(self, now: float) -> bool:
        """Say whether somebody waits for whom no sandbox is coming, and one may be started."""
        return len(self.waiting) > self.coming and self.may_start(now)

    def lacks_wished(self, now: float) -> bool:
        """Say whether more askers are expected than sandboxes are there for them, and one may be started."""
        return self.wished() + len(self.waiting) > self.coming + len(self.idle) and self.may_start(now)

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing would be lost with it."""
        return not (any(self._counts[p] for p in Phase if p is not Phase.RETIRED) or self.waiting or self.wishes) and (
            self.target == 0 and self.maximum is None and not self.pauses.failures
        )
