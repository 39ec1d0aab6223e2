"""Random work on the plan: whatever happens in whatever order, its invariants hold."""

from __future__ import annotations

import gc
import random
import sys
from collections import Counter

import pytest

from codecraft_pool import SandboxSpec
from codecraft_pool.pool_kind import Phase, Slot, key_of
from tests.pool.plan_bench import REPLACED, A, B, Bench, Named


class _Storm:
    """Random work on a plan, with what must hold after each piece of it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.max = self.rng.randint(1, 6)
        self.bench = Bench(max_sandboxes=self.max, max_starting=self.rng.randint(1, 4), idle_s=50.0, check_s=20.0)
        self.waiting: dict[SandboxSpec, list[int]] = {A: [], B: [], REPLACED: []}
        self.quarantined: list[Slot[str]] = []
        self.specs = list(self.waiting)

    def step(self) -> None:
        bench, rng = self.bench, self.rng
        bench.now += rng.choice([0.0, 0.1, 5.0])
        spec = rng.choice(self.specs)
        content = rng.choice([None, Named("x"), Named("y")])
        what = rng.choice("aaaggggsssrrrfxpwteqk")
        if what == "a" and bench.plan.waiting < 20:
            self.waiting[spec].append(bench.ask(spec, content))
        elif what == "g" and bench.leased:
            bench.give_back(rng.choice(list(bench.leased)))
        elif what in "sf" and bench.starting:
            self._end_start(works=what == "s")
        elif what in "rxq" and bench.restoring:
            self._end_restore(what)
        elif what == "p":
            bench.plan.aim(spec, rng.randint(0, 2), rng.choice([None, None, 3]))
        elif what == "w" and self.waiting[spec]:
            asker = rng.choice(self.waiting[spec])
            bench.plan.withdraw(spec, asker)
            self.waiting[spec].remove(asker)
        elif what == "t":
            bench.plan.expire()
            bench.plan.to_check(2)
        elif what == "e":
            bench.plan.expect(spec, content, rng.randint(1, 3))
        elif what == "k" and self.quarantined:
            bench.plan.retire(self.quarantined.pop())
        bench.settle()
        for asked in self.waiting.values():
            asked[:] = [asker for asker in asked if asker not in bench.granted]

    def _end_start(self, *, works: bool) -> None:
        slot = self.bench.starting.popleft()
        if works:
            self.bench.plan.started(slot, "box")
            return
        for asker in self.bench.plan.start_failed(slot):
            for asked in self.waiting.values():
                if asker in asked:
                    asked.remove(asker)

    def _end_restore(self, what: str) -> None:
        slot, plan = self.bench.restoring.popleft(), self.bench.plan
        plan.choose_goal(slot)
        if what == "r":
            plan.restored(slot)
        elif what == "q":
            plan.quarantine(slot)
            self.quarantined.append(slot)
        else:
            plan.restore_failed(slot, is_contents_fault=self.rng.random() < 0.5)

    def check(self) -> None:
        plan, bench = self.bench.plan, self.bench
        phases = Counter(slot.phase for slot in plan.slots.values())
        assert {phase: plan.count(phase) for phase in phases} == phases
        assert plan.places <= self.max and plan.waiting == sum(map(len, self.waiting.values()))
        assert {slot.number for slot in bench.starting} == self._numbers(Phase.STARTING)
        assert {slot.number for slot in bench.restoring} == self._numbers(Phase.RESTORING)
        assert {slot.number for slot in bench.leased.values()} == self._numbers(Phase.LEASED)
        assert set(plan._unchecked) == self._numbers(Phase.IDLE)  # pyright: ignore[reportPrivateUsage]
        for spec, kind in plan.kinds.items():
            assert list(kind.waiting) == self.waiting.get(spec, [])
            assert set(kind.idle) == {n for n in self._numbers(Phase.IDLE) if plan.slots[n].spec == spec}
            assert kind.wished() <= self.max and all(wish.count > 0 for wish in kind.wishes.values())
            assert sum(kind.under_way.values()) <= kind.count(Phase.RESTORING)
            if kind.waiting and kind.idle:  # only one whose own content is on its way waits beside an idle sandbox
                assert all(key_of(content) in kind.under_way for content in kind.waiting.values())

    def _numbers(self, phase: Phase) -> set[int]:
        return {number for number, slot in self.bench.plan.slots.items() if slot.phase is phase}


@pytest.mark.parametrize("seed", range(25))
def test_random_work_never_breaks_the_plan(seed: int) -> None:
    """Whatever happens in whatever order: no slot is lost, no bound passed, and in the end everybody is served."""
    storm = _Storm(seed)
    for _ in range(400):
        storm.step()
        storm.check()
    for _ in range(500):
        due = storm.bench.plan.next_due()
        storm.bench.now = max(storm.bench.now, due or 0.0)
        storm.bench.settle()
        storm.bench.start_all()
        storm.bench.restore_all()
        if storm.bench.leased:
            storm.bench.give_back(next(iter(storm.bench.leased)))
    assert 0 == storm.bench.plan.waiting
    assert not storm.bench.leased


def test_the_order_within_a_kind_is_the_order_of_asking() -> None:
    """Random givings back and cancellations never let a later asker pass an earlier one who asks for the same."""
    rng = random.Random(5)
    bench = Bench(max_sandboxes=3)
    gone: set[int] = set()
    for _ in range(300):
        bench.ask(A)
        bench.start_all()
        if bench.leased and rng.random() < 0.9:
            bench.give_back(rng.choice(list(bench.leased)))
            bench.restore_all()
        if rng.random() < 0.2:
            asker = rng.randint(1, bench.asked)
            bench.plan.withdraw(A, asker)
            gone.add(asker)
    assert sorted(bench.granted) == bench.granted


def test_a_long_queue_costs_no_more_than_a_short_one() -> None:
    """Withdrawing from the queue and settling do not look through it: their work is the same for 10 and for 65,000."""
    steps: dict[int, int] = {}
    for waiting in (10, 65_000):
        bench = Bench(max_sandboxes=1)
        for number in range(waiting):
            bench.plan.ask(A, None, number)
        steps[waiting] = _lines_run(bench, asker=waiting // 2)
    assert steps[65_000] <= steps[10] + 5


def _lines_run(bench: Bench, asker: int) -> int:
    """Count the lines of Python that withdrawing one asker and settling run."""
    lines = 0

    def trace(frame: object, event: str, arg: object) -> object:
        nonlocal lines
        lines += event == "line"
        return trace

    gc.collect()
    gc.disable()  # or it might run somebody's finalizers, which are lines too
    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        bench.plan.withdraw(A, asker)
        bench.settle()
    finally:
        sys.settrace(before)
        gc.enable()
    return lines
