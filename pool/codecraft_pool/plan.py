"""The pool's decisions: plain functions over plain state. Nothing here waits or does I/O.

Every change of a slot's phase goes through `Slot.move`, which knows the only ways a slot can go:

    STARTING -> IDLE, RETIRED        IDLE -> LEASED, RESTORING, RETIRED        QUARANTINED -> RETIRED
    LEASED -> RESTORING, RETIRED     RESTORING -> IDLE, QUARANTINED, RETIRED

Who gets what, in short: within a kind, those who ask are served in the order of asking. Between kinds, the places of a
full pool are shared out fairly: a kind that somebody waits for gives up a sandbox that comes back to another such kind
if that has no place at all, or two fewer. Targets come after those who wait, wishes after the targets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic

from codecraft_pool.pool_kind import AskerT, BoxT, Content, Kind, Pauses, Phase, Slot, key_of
from codecraft_pool.spec import SandboxSpec

_MAX_KINDS: Final = 256
_FIRST_STARTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers that the plan decides by. Times in seconds.

    `max_starting` bounds the starts under way at once; how many there really may be grows with every start that works
    and is halved by every one that fails. An idle sandbox over its kind's target is ended after `idle_s` (None: never),
    and looked after every `check_s`. After `max_failures` failed starts in a row the next try waits `first_pause_s`,
    then twice as long, and so on up to `longest_pause_s`.
    """

    max_sandboxes: int
    max_starting: int = 16
    idle_s: float | None = None
    check_s: float | None = None
    max_failures: int = 3
    first_pause_s: float = 0.25
    longest_pause_s: float = 15.0


@dataclass(slots=True)
class Decisions(Generic[BoxT, AskerT]):
    """What the pool has to do next."""

    start: list[Slot[BoxT]] = field(default_factory=list["Slot[BoxT]"])
    remove: list[Slot[BoxT]] = field(default_factory=list["Slot[BoxT]"])
    restore: list[Slot[BoxT]] = field(default_factory=list["Slot[BoxT]"])
    grant: list[tuple[AskerT, Slot[BoxT]]] = field(default_factory=list["tuple[AskerT, Slot[BoxT]]"])


class Plan(Generic[BoxT, AskerT]):
    """All slots, all who wait, the targets and the wishes; `settle` says what follows from them."""

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self.policy = policy
        self.kinds: dict[SandboxSpec, Kind[BoxT, AskerT]] = {}
        self.slots: dict[int, Slot[BoxT]] = {}
        self.starts_at_once = float(min(_FIRST_STARTS, policy.max_starting))
        self._clock = clock
        self._numbers = 0
        self._turns = 0
        self._settled_at = float("-inf")
        self._unchecked: OrderedDict[int, Slot[BoxT]] = OrderedDict()

    # --- what is ---

    def count(self, phase: Phase) -> int:
        """Return how many slots are in *phase*."""
        return sum(kind.count(phase) for kind in self.kinds.values())

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return sum(len(kind.waiting) for kind in self.kinds.values())

    @property
    def places(self) -> int:
        """How many of the pool's places are taken: all slots but those in quarantine."""
        return sum(kind.places for kind in self.kinds.values())

    def kind(self, spec: SandboxSpec) -> Kind[BoxT, AskerT]:
        """Return the kind of *spec*, made when it is first asked for; what is over and done with makes room for it."""
        kind = self.kinds.get(spec)
        if kind is None:
            if len(self.kinds) >= _MAX_KINDS:
                self.kinds = {key: each for key, each in self.kinds.items() if not each.is_forgettable}
            policy = self.policy
            pauses = Pauses(policy.max_failures, policy.first_pause_s, policy.longest_pause_s)
            kind = self.kinds[spec] = Kind(spec, pauses, self._clock)
        return kind

    # --- what happens ---

    def aim(self, spec: SandboxSpec, target: int, maximum: int | None = None) -> None:
        """Keep *target* sandboxes of *spec*, never more than *maximum*; whatever failed before is tried anew."""
        kind = self.kind(spec)
        kind.pauses.clear()
        kind.target, kind.maximum = target, maximum

    def prepared(self, spec: SandboxSpec) -> bool:
        """What starts of *spec* need is there. Return True if that is news."""
        kind = self.kind(spec)
        was_prepared, kind.is_prepared = kind.is_prepared, True
        return not was_prepared

    def expect(self, spec: SandboxSpec, content: Content | None, count: int) -> None:
        """Be ready for *count* askers who will come soon; more than the pool can hold are not prepared for."""
        kind = self.kind(spec)
        room = self.policy.max_sandboxes - kind.wished()
        while room < count and kind.wishes:  # the oldest go first: a sampler's latest word is the best
            room += kind.wishes.popitem(last=False)[1].count
        kind.wish(content, min(room, count))

    def take_idle(self, spec: SandboxSpec, content: Content | None) -> Slot[BoxT] | None:
        """Lease an idle slot, if there is one and nobody who came earlier waits for such.

        One that is just being restored to *content* is worth waiting for: any other would have to be restored too.
        """
        kind, key = self.kinds.get(spec), key_of(content)
        if kind is None or kind.waiting or not kind.idle or kind.is_on_its_way(key):
            return None
        slot = kind.pick(key)
        assert slot is not None
        kind.fulfil(key)
        kind.lease(slot, key)
        del self._unchecked[slot.number]
        return slot

    def ask(self, spec: SandboxSpec, content: Content | None, asker: AskerT) -> None:
        """Queue *asker* for a sandbox."""
        kind = self.kind(spec)
        kind.fulfil(key_of(content))
        kind.waiting[asker] = content

    def withdraw(self, spec: SandboxSpec, asker: AskerT) -> None:
        """Take *asker* out of the queue, if it is there."""
        kind = self.kinds.get(spec)
        if kind is not None:
            kind.waiting.pop(asker, None)

    def started(self, slot: Slot[BoxT], box: BoxT) -> None:
        """A start has worked: its sandbox is idle."""
        slot.box = box
        kind = self.kinds[slot.spec]
        kind.pauses.clear()
        kind.has_worked = True
        self.starts_at_once = min(float(self.policy.max_starting), self.starts_at_once + 0.5)
        self._move(slot, Phase.IDLE)

    def start_failed(self, slot: Slot[BoxT], *, is_outage: bool = False) -> list[AskerT]:
        """A start has failed: forget the slot, and return who must hear of it.

        One failure is told to the one who has waited longest; from *max_failures* in a row on, to all who wait for that
        kind, and the next try is made after a pause. *is_outage*: what starts sandboxes is away. Where it has worked
        before it is told to nobody: who waits is served when it is back, or hears of it when their time is up.
        """
        kind = self.kinds[slot.spec]
        self.retire(slot)
        kind.pauses.fail(slot.began_at, self._clock())
        self.starts_at_once = max(1.0, self.starts_at_once / 2)
        if is_outage and kind.has_worked:
            return []
        number = len(kind.waiting) if kind.pauses.failures >= self.policy.max_failures else min(1, len(kind.waiting))
        return [kind.waiting.popitem(last=False)[0] for _ in range(number)]

    def give_back(self, slot: Slot[BoxT]) -> bool:
        """A lease has ended. Return True if its sandbox is to be restored, False if it was retired."""
        kind = self.kinds[slot.spec]
        if not slot.spec.reusable or self._must_yield(kind):
            self.retire(slot)
            return False
        self._move(slot, Phase.RESTORING)
        return True

    def return_unused(self, slot: Slot[BoxT]) -> None:
        """A lease has ended before its borrower had it."""
        self._move(slot, Phase.RESTORING)
        self._move(slot, Phase.IDLE)

    def choose_goal(self, slot: Slot[BoxT]) -> Content | None:
        """Decide what a slot that is being restored will hold, and return it."""
        if slot.goal is None:
            kind = self.kinds[slot.spec]
            kind.aim(slot, kind.next_goal())
        return slot.goal

    def restored(self, slot: Slot[BoxT]) -> None:
        """A restore has worked: the sandbox is idle, and holds what it was restored to."""
        slot.holds = key_of(slot.goal)
        self.kinds[slot.spec].strikes.pop(slot.holds, None)
        self._move(slot, Phase.IDLE)

    def restore_failed(self, slot: Slot[BoxT], *, is_contents_fault: bool) -> None:
        """A restore has failed: forget the slot, and expect its content no more, or once less."""
        kind, key = self.kinds[slot.spec], key_of(slot.goal)
        if slot.goal is not None:
            kind.fulfil(key)
            if is_contents_fault:
                kind.strike(key)
        self.retire(slot)

    def quarantine(self, slot: Slot[BoxT]) -> None:
        """A restored sandbox is not clean: lend it to nobody."""
        self._move(slot, Phase.QUARANTINED)

    def retire(self, slot: Slot[BoxT]) -> None:
        """Take a slot out for good."""
        self._move(slot, Phase.RETIRED)
        del self.slots[slot.number]

    # --- what follows ---

    def settle(self) -> Decisions[BoxT, AskerT]:
        """Grant what is idle, start what is lacking, and restore ahead what is expected."""
        now = self._settled_at = self._clock()
        decisions: Decisions[BoxT, AskerT] = Decisions()
        for kind in self.kinds.values():
            for asker, slot in kind.grants():
                del self._unchecked[slot.number]
                decisions.grant.append((asker, slot))
        self._start_for_waiting(decisions, now)
        self._start_for_targets(decisions, now)
        for kind in list(self.kinds.values()):
            self._make_ready(kind, decisions, now)
        return decisions

    def expire(self) -> list[Slot[BoxT]]:
        """Retire what has been idle for too long, and return it; drop wishes that nobody came for."""
        idle_s, gone = self.policy.idle_s, list[Slot[BoxT]]()
        if idle_s is None:
            return gone
        now = self._clock()
        for kind in self.kinds.values():
            while (wish := kind.oldest_wish()) is not None and wish.since + idle_s <= now:
                kind.wishes.popitem(last=False)
            while (slot := kind.dispensable()) is not None and slot.idle_at + idle_s <= now:
                self.retire(slot)
                gone.append(slot)
        return gone

    def to_check(self, most: int) -> list[Slot[BoxT]]:
        """Return at most *most* idle slots that nobody has looked after for long, and take them for looked after."""
        check_s, due = self.policy.check_s, list[Slot[BoxT]]()
        now = self._clock()
        while check_s is not None and self._unchecked and len(due) < most:
            slot = next(iter(self._unchecked.values()))
            if slot.checked_at + check_s > now:
                break
            slot.checked_at = now
            self._unchecked.move_to_end(slot.number)
            due.append(slot)
        return due

    def next_due(self) -> float | None:
        """Return when something is to be done that no event will bring about, by the clock; None if nothing is."""
        times: list[float] = []
        idle_s, check_s = self.policy.idle_s, self.policy.check_s
        for kind in self.kinds.values():
            # A pause that was over in `settle` has had its turn: what holds the start up now ends with an event. By the
            # clock of now it could have ended since, and nobody would look again.
            if kind.pauses.retry_at > self._settled_at and (kind.waiting or kind.places < kind.target or kind.wishes):
                times.append(kind.pauses.retry_at)
            if idle_s is None:
                continue
            if (slot := kind.dispensable()) is not None:
                times.append(slot.idle_at + idle_s)
            if (wish := kind.oldest_wish()) is not None:
                times.append(wish.since + idle_s)
        if check_s is not None and self._unchecked:
            times.append(next(iter(self._unchecked.values())).checked_at + check_s)
        return min(times, default=None)

    # --- inside ---

    def _move(self, slot: Slot[BoxT], phase: Phase) -> None:
        if slot.phase is Phase.IDLE:
            del self._unchecked[slot.number]
        self.kinds[slot.spec].move(slot, phase)
        if phase is Phase.IDLE:
            self._unchecked[slot.number] = slot

    def _must_yield(self, kind: Kind[BoxT, AskerT]) -> bool:
        """Say whether a sandbox of *kind* that comes back has to make room for one of another kind."""
        if self.places < self.policy.max_sandboxes:
            return False
        now = self._clock()
        is_unwanted = not (kind.waiting or kind.wishes) and kind.places > kind.target
        for other in self.kinds.values():
            if other is kind:
                continue
            is_fairer = not kind.waiting or other.places == 0 or other.places + 2 <= kind.places
            if is_fairer and other.lacks(now):
                return True
            if is_unwanted and other.wishes and other.lacks_wished(now):
                return True
        return False

    def _may_start_more(self) -> bool:
        return self.count(Phase.STARTING) < int(self.starts_at_once)

    def _start_for_waiting(self, decisions: Decisions[BoxT, AskerT], now: float) -> None:
        """Start for those who wait: the kind that has fewest places first, then the one that got one longest ago."""
        while self._may_start_more():
            lacking = [kind for kind in self.kinds.values() if kind.waiting and kind.lacks(now)]
            if not lacking:
                return
            kind = min(lacking, key=lambda kind: (kind.places, kind.turn))
            if self.places >= self.policy.max_sandboxes and not self._evict(kind, decisions):
                return
            self._start(kind, decisions)

    def _start_for_targets(self, decisions: Decisions[BoxT, AskerT], now: float) -> None:
        for kind in self.kinds.values():
            while (
                kind.places < kind.target
                and self.places < self.policy.max_sandboxes
                and self._may_start_more()
                and kind.may_start(now)
            ):
                self._start(kind, decisions)

    def _make_ready(self, kind: Kind[BoxT, AskerT], decisions: Decisions[BoxT, AskerT], now: float) -> None:
        """Restore idle sandboxes to what is expected, and start those that are lacking for it."""
        while kind.wishes and kind.idle:
            content, slot = kind.unmet_wish(), kind.spare()
            if content is None or slot is None:
                break
            self._move(slot, Phase.RESTORING)
            kind.aim(slot, content)
            decisions.restore.append(slot)
        while kind.wishes and kind.lacks_wished(now) and self._may_start_more():
            if self.places >= self.policy.max_sandboxes and not self._evict(kind, decisions, only_spare=True):
                return
            self._start(kind, decisions)

    def _evict(self, kind: Kind[BoxT, AskerT], decisions: Decisions[BoxT, AskerT], *, only_spare: bool = False) -> bool:
        """Retire an idle sandbox of another kind, of the one that is furthest over its target."""
        others = [
            each
            for each in self.kinds.values()
            if each is not kind
            and each.idle
            and not (only_spare and (each.places <= each.target or each.wished() >= len(each.idle) + each.coming))
        ]
        if not others:
            return False
        other = max(others, key=lambda each: each.places - each.target)
        slot = (other.spare() if only_spare else None) or next(iter(other.idle.values()))
        self.retire(slot)
        decisions.remove.append(slot)
        return True

    def _start(self, kind: Kind[BoxT, AskerT], decisions: Decisions[BoxT, AskerT]) -> None:
        self._numbers += 1
        self._turns += 1
        kind.turn = self._turns
        slot: Slot[BoxT] = Slot(self._numbers, kind.spec, self._clock())
        self.slots[slot.number] = slot
        kind.add(slot)
        decisions.start.append(slot)


__all__ = ["Decisions", "Phase", "Plan", "Policy", "Slot"]
