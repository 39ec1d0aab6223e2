"""A plan with a world around it that does what it decides when a test says so."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from codecraft_pool import SandboxSpec
from codecraft_pool.plan import Decisions, Plan, Policy
from codecraft_pool.pool_kind import Content, Phase, Slot

A, B, C = (SandboxSpec(image=name) for name in ("a", "b", "c"))
REPLACED = SandboxSpec(image="replaced", reset="replace")


@dataclass(frozen=True)
class Named:
    """A content that is its name."""

    id: str


class Bench:
    """A plan, its clock, and a world in which what it decides is done when the test says so."""

    def __init__(self, **policy: float | int | None) -> None:
        self.now = 0.0
        self.plan: Plan[str, int] = Plan(Policy(**policy), lambda: self.now)  # type: ignore[arg-type]
        self.starting: deque[Slot[str]] = deque()
        self.restoring: deque[Slot[str]] = deque()
        self.leased: dict[int, Slot[str]] = {}
        self.removed: list[Slot[str]] = []
        self.granted: list[int] = []
        self.asked = 0

    def settle(self) -> Decisions[str, int]:
        decisions = self.plan.settle()
        news = [self.plan.prepared(slot.spec) for slot in decisions.start]
        self.starting += decisions.start
        self.restoring += decisions.restore
        self.removed += decisions.remove
        for asker, slot in decisions.grant:
            self.leased[asker] = slot
            self.granted.append(asker)
        if any(news):
            self.settle()
        return decisions

    def ask(self, spec: SandboxSpec, content: Content | None = None) -> int:
        self.asked += 1
        slot = self.plan.take_idle(spec, content)
        if slot is None:
            self.plan.ask(spec, content, self.asked)
            self.settle()
        else:
            self.leased[self.asked] = slot
            self.granted.append(self.asked)
        return self.asked

    def start_all(self) -> None:
        while self.starting:
            self.plan.started(self.starting.popleft(), "box")
            self.settle()

    def fail_start(self) -> list[int]:
        told = self.plan.start_failed(self.starting.popleft())
        self.settle()
        return told

    def give_back(self, asker: int) -> None:
        slot = self.leased.pop(asker)
        if self.plan.give_back(slot):
            self.restoring.append(slot)
        self.settle()

    def restore_all(self) -> None:
        while self.restoring:
            slot = self.restoring.popleft()
            self.plan.choose_goal(slot)
            self.plan.restored(slot)
            self.settle()

    def holds(self) -> Counter[str]:
        return Counter(slot.holds for slot in self.plan.slots.values() if slot.phase is Phase.IDLE)

    def work_off(self, *asked: int) -> Counter[str]:
        """Serve all who wait, one place coming free at a time; return how many were served of each image."""
        served: Counter[str] = Counter()
        for _ in range(1000):
            self.start_all()
            self.restore_all()
            if not self.leased:
                break
            asker = next(iter(self.leased))
            served[self.leased[asker].spec.image] += 1
            self.give_back(asker)
        return served
