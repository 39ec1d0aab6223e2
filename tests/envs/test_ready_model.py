"""First-ready batches against a model: calls in any order, legal or not, give what a few lists say they should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
import uvloop
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError, ResetNeeded
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from .ready_envs import inside, puppets, settle

NUM_ENVS = 4
ROWS = st.integers(0, NUM_ENVS - 1)
IDS = st.lists(ROWS, min_size=1, max_size=NUM_ENVS)
SIZES = st.integers(1, NUM_ENVS)
ACTIONS = st.sampled_from(["go", "go", "end", "cut"])


@dataclass
class Expected:
    """What a call will deliver: an observation, reward and flags, or an error."""

    row: int
    said: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    failed: bool = False


class Model(RuleBasedStateMachine):
    """Puppets on a loop of its own, beside lists of who is at rest, in line, in flight and ready."""

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    @initialize(
        mode=st.sampled_from(["NextStep", "SameStep", "Disabled"]),
        limit=st.sampled_from([None, 1, 2]),
        played=st.booleans() | st.just(True),
    )
    def begin(self, mode: str, limit: int | None, played: bool) -> None:
        self.loop = self.new_loop()
        self.mode = mode
        self.limit = limit or NUM_ENVS
        self.vec = puppets(NUM_ENVS, autoreset_mode=mode, max_concurrency=limit, background_resets=False)
        self.envs = inside(self.vec)
        # Outstanding calls in order of launching, their names, and results in order of arrival.
        self.launched: list[int] = []
        self.actions: dict[int, str] = {}
        self.ready: list[Expected] = []
        self.state = ["flawed"] * NUM_ENVS
        self.broken: set[int] = set()
        self.last: list[int] | None = None
        self.bound = False
        self.receiving: tuple[asyncio.Task[Any], int, int] | None = None
        if played:
            self.async_reset_all()
            self.receive(NUM_ENVS, None)
            while self.launched:
                self.finish_one(self.launched[0])

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.run(self.vec.aclose)
        if self.receiving is not None:
            self.run(asyncio.wait, [self.receiving[0]])
            self.receiving[0].exception()
        assert [1] * NUM_ENVS == [env.closed for env in self.envs]
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()

    # What may be done, sense or nonsense.

    @rule(rows=IDS)
    def async_reset(self, rows: list[int]) -> None:
        error = self.refusal(rows)
        self.attempt(error, lambda: self.vec.async_reset(rows))
        if error is None:
            self.launch(rows, ["reset"] * len(rows))

    @rule()
    def async_reset_all(self) -> None:
        self.async_reset(list(range(NUM_ENVS)))

    @rule(rows=st.none() | IDS, data=st.data())
    def send(self, rows: list[int] | None, data: st.DataObject) -> None:
        chosen = rows if rows is not None else list(range(NUM_ENVS)) if self.last is None else self.last
        actions = data.draw(st.lists(ACTIONS, min_size=len(chosen), max_size=len(chosen)))
        error = self.refusal(chosen) or self.refusal_to_step(chosen)
        self.attempt(error, lambda: self.vec.send(actions, rows))
        if error is None:
            resets = [self.mode == "NextStep" and self.state[row] == "over" for row in chosen]
            names = ["reset" if reset else action for reset, action in zip(resets, actions, strict=True)]
            self.launch(chosen, names)

    @precondition(lambda self: any(self.refusal([row]) is None for row in range(NUM_ENVS)))
    @rule(data=st.data())
    def send_where_it_makes_sense(self, data: st.DataObject) -> None:
        free = [row for row in range(NUM_ENVS) if self.refusal([row]) is None]
        playing = [row for row in free if self.refusal_to_step([row]) is None]
        if playing:
            self.send(data.draw(st.lists(st.sampled_from(playing), min_size=1, unique=True)), data)
        else:
            self.async_reset(free)

    @precondition(lambda self: self.bound and self.launched)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.finish_one(data.draw(st.sampled_from(self.launched[: self.limit])))

    @precondition(lambda self: self.bound and len(self.launched) > 1)
    @rule(data=st.data())
    def finish_several(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(2, len(self.launched)))):
            self.finish(data)

    @precondition(lambda self: self.bound and self.launched)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            self.finish(data)
            return
        row = data.draw(st.sampled_from(self.launched[: self.limit]))
        self.envs[row].break_down(OSError(f"lost {row}"))
        self.run(settle)
        self.land(row, failed=True)

    @rule(most=SIZES, least=st.none() | SIZES)
    def receive(self, most: int, least: int | None) -> None:
        wanted = most if least is None else least
        error: type[Exception] | None = None
        if wanted > most:
            error = ValueError
        elif self.receiving is not None:
            error = AlreadyPendingCallError
        elif len(self.launched) + len(self.ready) < wanted:
            error = NoAsyncCallError
        task = self.loop.create_task(self.vec.arecv(most, min_get=least))
        self.run(settle)
        if error is not None:
            assert isinstance(task.exception(), error)
            return
        self.bound = True
        self.receiving = (task, wanted, most)
        self.deliver()

    @precondition(lambda self: self.receiving is None and self.ready)
    @rule(data=st.data())
    def receive_where_it_makes_sense(self, data: st.DataObject) -> None:
        most = data.draw(st.integers(1, len(self.ready) + len(self.launched)))
        self.receive(most, data.draw(st.none() | st.integers(1, most)))

    @precondition(lambda self: self.receiving is None and len(self.ready) + len(self.launched) > 0)
    @rule()
    def receive_in_no_time(self) -> None:
        self.bound = True
        task = self.loop.create_task(self.vec.arecv(1, timeout=0))
        self.run(asyncio.wait, [task])
        if self.ready:
            self.receiving = (task, 1, 1)
            self.deliver()
        else:
            assert isinstance(task.exception(), TimeoutError)

    @precondition(lambda self: self.receiving is not None)
    @rule()
    def cancel_receiver(self) -> None:
        assert self.receiving is not None
        task, self.receiving = self.receiving[0], None
        task.cancel()
        self.run(settle)
        assert task.cancelled()

    @rule()
    def step_all(self) -> None:
        rows = list(range(NUM_ENVS))
        busy = self.refusal(rows)
        error = busy or self.refusal_to_step(rows)
        stepping = self.loop.create_task(self.vec.astep(["go"] * NUM_ENVS))
        self.bound = True
        self.run(settle)
        if error is not None:
            assert isinstance(stepping.exception(), error)
        else:
            while not stepping.done():
                for env in self.envs:
                    if env.waiting:
                        env.let_go()
                self.run(settle)
            stepping.result()
            self.state = ["running"] * NUM_ENVS
        if busy is None:
            self.last = None

    @invariant()
    def all_agree(self) -> None:
        if not hasattr(self, "vec"):
            return
        busy = {*self.launched, *(result.row for result in self.ready)}
        assert [row in busy for row in range(NUM_ENVS)] == self.vec.outstanding.tolist()
        assert [row in self.broken for row in range(NUM_ENVS)] == self.vec.interrupted.tolist()
        under_way = set(self.launched[: self.limit]) if self.bound else set()
        assert [row in under_way for row in range(NUM_ENVS)] == [env.waiting for env in self.envs]

    # The model.

    def refusal(self, rows: Sequence[int]) -> type[Exception] | None:
        if len(set(rows)) < len(rows):
            return ValueError
        busy = {*self.launched, *(result.row for result in self.ready)}
        return AlreadyPendingCallError if busy & set(rows) else None

    def refusal_to_step(self, rows: Sequence[int]) -> type[Exception] | None:
        states = {self.state[row] for row in rows}
        if "flawed" in states:
            return ResetNeeded
        return AssertionError if self.mode == "Disabled" and "over" in states else None

    def launch(self, rows: Sequence[int], actions: Sequence[str]) -> None:
        self.launched += rows
        self.actions.update(zip(rows, actions, strict=True))
        self.run(settle)

    def land(self, row: int, *, failed: bool) -> None:
        self.launched.remove(row)
        action = self.actions.pop(row)
        if failed:
            result = Expected(row, "", failed=True)
        elif action == "reset":
            result = Expected(row, f"{row}: reset")
        else:
            ended = action != "go" and self.mode == "SameStep"
            said = f"{row}: reset" if ended else f"{row}: step {action}"
            result = Expected(row, said, 1.0, action == "end", action == "cut")
        self.ready.append(result)
        self.deliver()

    def deliver(self) -> None:
        """Check what the receiver has, if it should have something by now."""
        if self.receiving is None:
            return
        task, least, most = self.receiving
        failures = [index for index, result in enumerate(self.ready) if result.failed]
        before = self.ready[: failures[0]] if failures else self.ready
        if len(before) >= least:
            results = before[:most]
            self.check(task.result(), results)
            self.last = [result.row for result in results]
        elif failures:
            results = [self.ready[failures[0]]]
            error = task.exception()
            assert isinstance(error, OSError)
            assert [f"lost {results[0].row}"] == list(error.args)
        else:
            assert not task.done()
            return
        self.receiving = None
        for result in results:
            self.ready.remove(result)
            ended = (result.terminated or result.truncated) and self.mode != "SameStep"
            self.state[result.row] = "flawed" if result.failed else "over" if ended else "running"
            (self.broken.add if result.failed else self.broken.discard)(result.row)

    def check(self, batch: Any, results: Sequence[Expected]) -> None:
        observations, rewards, terminations, truncations, infos = batch
        assert [result.row for result in results] == infos["env_id"].tolist()
        assert tuple(result.said for result in results) == observations
        assert [result.reward for result in results] == rewards.tolist()
        assert [result.terminated for result in results] == terminations.tolist()
        assert [result.truncated for result in results] == truncations.tolist()

    # How it is driven.

    def finish_one(self, row: int) -> None:
        while self.envs[row].waiting:
            self.envs[row].let_go()
            self.run(settle)
        self.land(row, failed=False)

    def attempt(self, error: type[Exception] | None, call: Callable[[], None]) -> None:
        """Make a call on the loop, which is to be refused with `error`, if any."""

        async def on_the_loop() -> None:
            if error is None:
                call()
            else:
                with pytest.raises(error):
                    call()

        self.run(on_the_loop)

    def run(self, function: Callable[..., Any], *args: Any) -> None:
        self.loop.run_until_complete(function(*args))


class UvloopModel(Model):
    """The same on uvloop."""

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


@pytest.mark.parametrize("machine", [Model, UvloopModel])
def test_any_order_of_calls(machine: type[Model]) -> None:
    """Whatever is sent, finished, broken, received or cancelled, nothing is lost, doubled or out of order."""
    run_state_machine_as_test(
        machine, settings=settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True)
    )
