"""The plan alone: who gets what, what is started, and what makes room, with no sandbox and no time but the test's."""

from __future__ import annotations

from collections import Counter

import pytest

from codecraft_pool import PoolError, SandboxSpec
from codecraft_pool.pool_kind import NEXT, Phase, Slot, key_of
from tests.pool.plan_bench import REPLACED, A, B, Bench, C, Named


def test_a_phase_has_only_its_own_ways_on() -> None:
    """A slot that is moved where it cannot go says so, and stays where it was."""
    for start in Phase:
        for end in Phase:
            slot: Slot[str] = Slot(7, A, 0.0)
            slot.phase = start
            if end in NEXT[start]:
                slot.move(end)
                assert end is slot.phase
            else:
                with pytest.raises(PoolError, match=f"slot 7 cannot go from {start.value} to {end.value}"):
                    slot.move(end)
                assert start is slot.phase


def test_the_sandbox_used_last_is_lent_first() -> None:
    """Warm caches are used, and what is never needed grows old at the other end."""
    bench = Bench(max_sandboxes=4)
    bench.plan.aim(A, 3)
    bench.settle()
    bench.start_all()
    first = bench.ask(A)
    slot = bench.leased[first]
    bench.give_back(first)
    bench.restore_all()
    assert slot is bench.leased[bench.ask(A)]


def test_starts_go_round_between_the_kinds() -> None:
    """With many askers for one kind and few for another, both are started in turn."""
    bench = Bench(max_sandboxes=4)
    for spec in (A, A, A, A, B, B):
        bench.ask(spec)
    started = Counter(slot.spec.image for slot in bench.plan.slots.values())
    assert {"a": 4} == started  # they came first, and there was room for all of them
    bench = Bench(max_sandboxes=4, max_starting=1)
    for spec in (A, A, A, A, B, B):
        bench.ask(spec)
    order: list[str] = []
    while bench.starting:
        order.append(bench.starting[0].spec.image)
        bench.plan.started(bench.starting.popleft(), "box")
        bench.settle()
    assert ["a", "b", "a", "b"] == order


@pytest.mark.parametrize("places", [1, 2, 3, 8])
def test_many_askers_for_one_kind_do_not_starve_another(places: int) -> None:
    """A single asker of another kind is served at the latest with the second place that comes free."""
    bench = Bench(max_sandboxes=places)
    for _ in range(40):
        bench.ask(A)
    bench.start_all()
    lonely = bench.ask(B)
    for _ in range(2):
        bench.give_back(next(iter(bench.leased)))
        bench.start_all()
        bench.restore_all()
    assert lonely in bench.granted
    bench.work_off()
    assert 41 == len(bench.granted)


def test_two_kinds_that_are_always_asked_for_settle_on_equal_shares() -> None:
    """A full pool is shared out once, not again with every sandbox that comes back."""
    bench = Bench(max_sandboxes=6)
    for _ in range(100):
        bench.ask(A)
    bench.start_all()
    for _ in range(100):
        bench.ask(B)
    served = bench.work_off()
    assert {"a": 100, "b": 100} == served
    assert bench.plan._numbers <= 16  # pyright: ignore[reportPrivateUsage]


def test_more_kinds_than_places_are_served_in_turn() -> None:
    """Each kind gets the one place in its turn; none is served twice before all others were served once."""
    bench = Bench(max_sandboxes=1)
    for _ in range(3):
        for spec in (A, B, C):
            bench.ask(spec)
    order: list[str] = []
    bench.start_all()
    while bench.leased:
        asker, slot = next(iter(bench.leased.items()))
        order.append(slot.spec.image)
        bench.give_back(asker)
        bench.start_all()
        bench.restore_all()
    assert ["a", "b", "c"] * 3 == order


def test_a_kind_never_has_more_than_its_maximum() -> None:
    """Askers over the maximum wait although the pool has room."""
    bench = Bench(max_sandboxes=8)
    bench.plan.aim(A, 1, maximum=2)
    for _ in range(5):
        bench.ask(A)
    bench.start_all()
    assert (2, 3) == (bench.plan.places, bench.plan.waiting)
    assert {"a": 5} == bench.work_off()


def test_a_sandbox_to_be_replaced_is_not_restored() -> None:
    """What no restore makes as good as new is retired when it comes back."""
    bench = Bench(max_sandboxes=2)
    asker = bench.ask(REPLACED)
    bench.start_all()
    bench.give_back(asker)
    assert (0, 0) == (len(bench.restoring), bench.plan.places)


def test_one_failure_is_told_to_one_and_many_to_all() -> None:
    """The first failures cost one asker each; then all who wait hear of it."""
    bench = Bench(max_sandboxes=8, max_starting=1)
    for _ in range(6):
        bench.ask(A)
    told = [bench.fail_start() for _ in range(3)]
    assert [[1], [2], [3, 4, 5, 6]] == told
    assert 0 == len(bench.starting)


def test_pauses_between_tries_grow_to_a_bound_and_end_with_success() -> None:
    """After three failures in a row: 0.25 s, 0.5 s, ..., at most 15 s; a start that works resets it."""
    bench = Bench(max_sandboxes=8)
    bench.plan.aim(A, 4)
    bench.settle()
    pauses: list[float] = []
    for _ in range(14):
        while bench.starting:
            bench.fail_start()
        due = bench.plan.next_due()
        assert due is not None
        pauses.append(due - bench.now)
        bench.now = due
        assert 1 == len(bench.settle().start)
    assert [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0] == pytest.approx(pauses[:8])
    assert pytest.approx(15.0) == pauses[-1]
    bench.start_all()
    assert (4, None) == (bench.plan.count(Phase.IDLE), bench.plan.next_due())


def test_starts_that_fail_together_are_one_failure_to_the_pause() -> None:
    """Eight starts that were under way when the daemon died cost one short pause, not eight doublings."""
    bench = Bench(max_sandboxes=8)
    bench.plan.aim(A, 8)
    bench.settle()
    assert 8 == len(bench.starting)
    bench.now = 5.0
    while bench.starting:
        bench.fail_start()
    assert pytest.approx(5.25) == bench.plan.next_due()


def test_starts_at_once_adapt() -> None:
    """Failures halve how many starts may be under way, successes let it grow again up to the maximum."""
    bench = Bench(max_sandboxes=64, max_starting=12)
    bench.plan.aim(A, 64)
    bench.settle()
    assert 8 == len(bench.starting)
    bench.fail_start()
    assert 4.0 == bench.plan.starts_at_once
    bench.start_all()
    assert (64, 12.0) == (bench.plan.count(Phase.IDLE), bench.plan.starts_at_once)


def test_a_sandbox_comes_back_with_what_is_waited_for() -> None:
    """Each sandbox that comes back is restored to the content of the asker who will get it."""
    bench = Bench(max_sandboxes=2)
    first, second = bench.ask(A), bench.ask(A)
    bench.start_all()
    x, y = bench.ask(A, Named("x")), bench.ask(A, Named("y"))
    bench.give_back(first)
    bench.give_back(second)
    goals = [key_of(bench.plan.choose_goal(slot)) for slot in bench.restoring]
    assert ["x", "y"] == goals
    bench.restoring.reverse()  # the second one is done first, and goes to the one whose content it holds
    bench.restore_all()
    assert {"x", "y"} == {bench.leased[x].holds, bench.leased[y].holds}
    assert ("x", "y") == (bench.leased[x].holds, bench.leased[y].holds)


def test_idle_sandboxes_are_restored_to_what_is_expected() -> None:
    """As many as are expected, no more; what they hold is then lent to those who ask for it."""
    bench = Bench(max_sandboxes=4)
    bench.plan.aim(A, 4)
    bench.settle()
    bench.start_all()
    bench.plan.expect(A, Named("x"), 2)
    bench.settle()
    assert 2 == len(bench.restoring)
    bench.restore_all()
    assert {"x": 2, "": 2} == bench.holds()
    assert "x" == bench.leased[bench.ask(A, Named("x"))].holds
    assert "" == bench.leased[bench.ask(A)].holds


def test_what_is_expected_of_another_kind_is_started_in_place_of_what_nobody_needs() -> None:
    """A full pool ends idle sandboxes over their target for it, and none that is aimed at, lent or expected."""
    bench = Bench(max_sandboxes=3)
    asked = [bench.ask(A) for _ in range(3)]
    bench.start_all()
    bench.give_back(asked[0])
    bench.restore_all()
    bench.plan.expect(B, None, 2)
    bench.settle()
    assert [("b", 1)] == list(Counter(slot.spec.image for slot in bench.starting).items())
    bench.start_all()
    bench.give_back(asked[1])  # not even restored: its place is expected by another kind
    assert ([], 1) == (list(bench.restoring), len(bench.starting))


def test_a_content_that_fits_no_sandbox_is_given_up() -> None:
    """After three failed restores it is not prepared for any more: it would cost one sandbox after another."""
    bench = Bench(max_sandboxes=2)
    bench.plan.aim(A, 2)
    bench.settle()
    bench.start_all()
    for _ in range(10):
        bench.plan.expect(A, Named("too big"), 2)
        bench.settle()
        while bench.restoring:
            bench.plan.restore_failed(bench.restoring.popleft(), is_contents_fault=True)
            bench.settle()
            bench.start_all()
    # One more than three: two at a time are restored.
    assert bench.plan._numbers <= 2 + 4  # pyright: ignore[reportPrivateUsage]


def test_wishes_are_bounded_and_the_latest_count() -> None:
    """However much is expected, no more than the pool can hold is prepared for: the latest."""
    bench = Bench(max_sandboxes=3)
    for number in range(100):
        bench.plan.expect(A, Named(str(number)), 1)
    bench.plan.expect(A, Named("many"), 50)
    kind = bench.plan.kind(A)
    assert ({"many": 3}, 3) == ({key: wish.count for key, wish in kind.wishes.items()}, kind.wished())


def test_idle_sandboxes_over_the_target_end_after_their_time() -> None:
    """Those used least go; the target stays whatever its age."""
    bench = Bench(max_sandboxes=4, idle_s=10.0)
    bench.plan.aim(A, 1)
    asked = [bench.ask(A) for _ in range(3)]
    bench.start_all()
    for asker in asked:
        bench.now += 1.0
        bench.give_back(asker)
        bench.restore_all()
    assert pytest.approx(11.0) == bench.plan.next_due()
    bench.now = 11.5
    assert 1 == len(bench.plan.expire())
    bench.now = 100.0
    assert 1 == len(bench.plan.expire())
    assert ([], None, 1) == (bench.plan.expire(), bench.plan.next_due(), bench.plan.places)


def test_idle_sandboxes_are_looked_after_in_turn() -> None:
    """Those that were looked after longest ago come first, a few at a time."""
    bench = Bench(max_sandboxes=4, check_s=10.0)
    bench.plan.aim(A, 3)
    bench.settle()
    bench.start_all()
    assert [] == bench.plan.to_check(8)
    bench.now = 10.0
    first, second = bench.plan.to_check(2), bench.plan.to_check(2)
    assert (2, 1, 3) == (len(first), len(second), len({slot.number for slot in first + second}))
    assert ([], 20.0) == (bench.plan.to_check(8), bench.plan.next_due())


def test_kinds_that_are_over_and_done_with_are_forgotten() -> None:
    """A pool that sees thousands of kinds keeps few."""
    bench = Bench(max_sandboxes=1)
    for number in range(2000):
        asker = bench.ask(SandboxSpec(image=f"image-{number}"))
        bench.start_all()
        bench.give_back(asker)
        bench.restore_all()
    assert len(bench.plan.kinds) <= 256
