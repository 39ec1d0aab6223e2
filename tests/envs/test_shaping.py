"""Dense rewards: the sum telescopes, the potential comes from copies, and a fault is never paid."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from codecraft_async import CodeEnv
from codecraft_async.curriculum import Curriculum, Grade, GradingSandbox, Task, Workspace, WorkspaceFile
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher, Sandbox
from codecraft_async.runtime import Runtime
from tests.envs.code_envs import Crashes, check_types, make, make_local, make_task, play, vector

pytestmark = pytest.mark.anyio

PARTS = ("a", "b", "c", "d")


class Share:
    """Pays the share of four files that hold 1; notes in which sandboxes it was asked."""

    runs_agent_code = False

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        assert isinstance(sandbox, Sandbox)
        self.seen.append(sandbox.id)
        return Grade(sum([await self._is_right(sandbox, name) for name in PARTS]) / len(PARTS))

    async def _is_right(self, sandbox: GradingSandbox, name: str) -> bool:
        try:
            return await sandbox.read_file(name) == b"1"
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            return False


async def put(files: FakeFiles, argv: list[str]) -> FakeAnswer:
    """``put NAME VALUE`` writes, ``drop NAME`` removes; all else does nothing."""
    word, *rest = argv[-1].split()
    if word == "put":
        files.files[rest[0]] = rest[1].encode()
    if word == "drop":
        files.files.pop(rest[0], None)
    return FakeAnswer()


def share_task(grader: Any, **changes: Any) -> Task:
    return make_task(grader=grader, workspace=Workspace({"a": WorkspaceFile(b"1")}), max_steps=12, **changes)


async def play_out(env: CodeEnv, actions: list[str]) -> tuple[list[float], dict[str, Any], bool]:
    """Play until the episode ends; return the rewards, the last info, and whether it was submitted."""
    await env.areset()
    rewards: list[float] = []
    for action in actions:
        _, reward, terminated, truncated, info = await env.astep(action)
        check_types(info)
        assert info["valid"]
        rewards.append(reward)
        if terminated or truncated:
            return rewards, info, terminated
    raise AssertionError("the actions end before the episode does")


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5, 0.0])
async def test_the_sum_telescopes_for_random_trajectories(gamma: float) -> None:
    """Submitted: g^(T-1) * score - Phi(s0); truncated: g^T * Phi(s_T) - Phi(s0). Whatever was done on the way."""
    rng = random.Random(7)
    env = make(FakeLauncher(put), share_task(Share()), reward="dense", gamma=gamma)
    ends: set[bool] = set()
    for _ in range(25):
        state = {"a": "1"}
        actions: list[str] = []
        for _ in range(rng.randrange(16)):
            name = rng.choice(PARTS)
            actions.append(rng.choice([f"put {name} 1", f"put {name} 0", f"drop {name}", "look"]))
        rewards, info, submitted = await play_out(env, [*actions, *["look"] * 12 * (rng.random() < 0.3), "submit"])
        for action in actions[: len(rewards)]:
            word, *rest = action.split()
            state |= {rest[0]: rest[1]} if word == "put" else {rest[0]: ""} if word == "drop" else {}
        last = sum(state.get(name) == "1" for name in PARTS) / 4
        discounted = sum(gamma**step * reward for step, reward in enumerate(rewards))
        end = gamma ** (len(rewards) - 1) * last if submitted else gamma ** len(rewards) * last
        assert discounted == pytest.approx(end - 0.25)
        assert info["score"] == (last if submitted else 0.0)
        ends.add(submitted)
    assert {True, False} == ends
    await env.aclose()


async def test_progress_is_paid_when_it_is_made_and_taken_when_it_is_lost() -> None:
    """Step by step, at the learner's discount."""
    env = make(FakeLauncher(put), share_task(Share()), reward="dense", gamma=0.5)
    rewards, info, _ = await play_out(env, ["look", "put b 1", "put c 1", "drop a", "submit"])
    assert [-0.125, 0.0, -0.125, -0.5, 0.0] == rewards
    assert (0.5, True) == (info["score"], info["graded"])
    env_1 = make(FakeLauncher(put), share_task(Share()), reward="dense")
    rewards, *_ = await play_out(env_1, ["look", "put b 1", "put c 1", "drop a", "submit"])
    assert [0.0, 0.25, 0.25, -0.25, 0.0] == rewards
    await env.aclose()
    await env_1.aclose()


async def test_malformed_actions_cost_on_top() -> None:
    """They change no state, so that at a discount of 1 their price is all there is."""
    env = make(FakeLauncher(put), share_task(Share()), reward="dense", actions="json", malformed_reward=-1.0)
    await env.areset()
    assert -1.0 == (await env.astep("no"))[1]
    assert 0.0 == (await env.astep('{"action": "submit"}'))[1]  # the score is what the start was worth already
    await env.aclose()


async def test_the_agents_own_sandbox_never_sees_a_grader_before_the_end() -> None:
    """Potentials come from another one, and a state that was seen before is not graded again."""
    grader = Share()
    launcher = FakeLauncher(put)
    env = make(launcher, share_task(grader), reward="dense")
    await env.areset()
    assert [] == grader.seen
    for action in ("look", "look", "put b 1", "look", "put b 0", "drop b", "put b 1"):
        await env.astep(action)
    own, copy = "fake-0", "fake-1"
    assert [copy] * 3 == grader.seen  # at the start, with b, and with a wrong b
    await env.astep("submit")
    assert [copy] * 3 + [own] == grader.seen
    await env.areset()
    await env.astep("look")
    assert 4 == len(grader.seen)
    await env.aclose()


async def test_a_batch_is_paid_like_one_environment() -> None:
    """The same actions earn the same; copies are few and shared, and the pool is large enough for all."""
    launcher = FakeLauncher(put)
    env = vector(launcher, 5, share_task(Share()), reward="dense")
    await env.areset()
    for action, reward in (("look", 0.0), ("put b 1", 0.25), ("put c 1", 0.25), ("submit", 0.0)):
        _, rewards, *_, info = await env.astep((action,) * 5)
        assert [reward] * 5 == rewards.tolist()
    assert [0.75] * 5 == info["score"].tolist()
    await env.aclose()


@pytest.mark.parametrize("before", [[], ["look"]])
async def test_a_grader_that_crashes_midway_is_a_fault(before: list[str]) -> None:
    """At the first step and at later ones: no reward, truncated, invalid; the next episode begins."""

    class CrashesLater(Share):
        async def grade(self, sandbox: GradingSandbox) -> Grade:
            if len(self.seen) == len(before):
                raise ZeroDivisionError("in the grader")
            return await super().grade(sandbox)

    env = make(FakeLauncher(put), share_task(CrashesLater()), reward="dense")
    await env.areset()
    for action in before:
        await env.astep(action)
    text, reward, terminated, truncated, info = await env.astep("put b 1")
    assert ("", 0.0, False, True, False) == (text, reward, terminated, truncated, info["valid"])
    assert {"kind": "grader", "sandbox": "fake-1", "message": "ZeroDivisionError: in the grader"} == info["fault"]
    assert ("fault", len(before) + 1) == (info["truncation"], info["steps"])
    check_types(info)
    await env.areset()
    await env.aclose()


async def test_a_grader_that_never_worked_is_a_fault_at_the_first_step() -> None:
    """A reset does not grade, and so does not fail."""
    env = make(FakeLauncher(play), make_task(grader=Crashes()), reward="dense")
    await env.areset()
    *_, truncated, info = await env.astep("ls")
    assert (True, "grader") == (truncated, info["fault"]["kind"])
    await env.aclose()


async def test_a_step_that_is_cancelled_while_it_is_graded_is_paid_with_the_next() -> None:
    """The command has run, the copy is given back, and the sum telescopes as before."""
    grading = asyncio.Event()

    class Hangs(Share):
        async def grade(self, sandbox: GradingSandbox) -> Grade:
            if len(self.seen) == 1 and not grading.is_set():
                grading.set()
                await asyncio.sleep(999)
            return await super().grade(sandbox)

    launcher = FakeLauncher(put)
    env = make(launcher, share_task(Hangs()), reward="dense")
    await env.areset()
    assert 0.0 == (await env.astep("look"))[1]
    step = asyncio.create_task(env.astep("put b 1"))
    await grading.wait()
    step.cancel()
    await asyncio.wait([step])
    assert step.cancelled()
    assert [0.25, 0.25] == [(await env.astep(action))[1] for action in ("look", "put c 1")]
    pool = await env.runtime.pool()
    assert 1 == pool.stats().leased
    await env.aclose()


async def test_a_copy_that_cannot_be_had_is_a_fault_of_the_daemon() -> None:
    """The agent's own sandbox lives on, but what the step was worth is not known."""
    launcher = FakeLauncher(put)
    env = make(launcher, share_task(Share()), reward="dense")
    await env.areset()
    launcher.fail_starts = 100
    *_, truncated, info = await env.astep("look")
    assert (True, "daemon", "") == (truncated, info["fault"]["kind"], info["fault"]["sandbox"])
    assert info["fault"]["message"].startswith("LaunchError: the fake launcher was told to fail")
    launcher.fail_starts = 0
    await env.areset()
    await env.aclose()


@pytest.mark.parametrize("losses", [1, 2])
async def test_a_lost_copy_is_made_once_more(losses: int) -> None:
    """It is nothing of the agent's, whose episode goes on; the second one is a fault that names it."""

    class Kills(Share):
        async def grade(self, sandbox: GradingSandbox) -> Grade:
            for copied in launcher.sandboxes[1 : 1 + losses]:
                copied.close()
            return await super().grade(sandbox)

    launcher = FakeLauncher(put)
    env = make(launcher, share_task(Kills()), reward="dense")
    await env.areset()
    _, reward, *_, info = await env.astep("put b 1")
    if losses == 1:
        assert (0.25, True) == (reward, info["valid"])
    else:
        assert ("sandbox", "fake-2") == (info["fault"]["kind"], info["fault"]["sandbox"])
    await env.aclose()


async def test_the_loss_of_the_agents_sandbox_is_told() -> None:
    """There is nothing left to be graded."""
    launcher = FakeLauncher(put)
    env = make(launcher, share_task(Share()), reward="dense")
    await env.areset()
    await env.astep("look")
    launcher.sandboxes[0].close()
    *_, info = await env.astep("look")
    assert ("sandbox", "fake-0") == (info["fault"]["kind"], info["fault"]["sandbox"])
    await env.aclose()


async def test_what_the_agent_does_to_its_state_is_no_fault() -> None:
    """In real sandboxes: unreadable for the agent, changing all the time, and hostile to a grader that runs it."""
    task = make_task(max_steps=20, grader=Share())
    env = make_local(task, reward="dense")
    await env.areset()
    rewards = [
        (await env.astep(command))[1]
        for command in (
            "printf 1 > a",
            "printf 1 > b; chmod 000 b; mkfifo p; ln -s /proc/self/mem l",
            "chmod 644 b; (while :; do echo $RANDOM > noise; done) >/dev/null 2>&1 &",
            "mkdir -p c; kill -9 -1",
            "rm -rf c; printf 1 > c",
        )
    ]
    assert [0.25, 0.25, 0.0, 0.0, 0.25] == rewards
    _, reward, *_, info = await env.astep("submit")
    assert (0.75 - 0.75, 0.75, True) == (reward, info["score"], info["valid"])
    await env.aclose()


def test_a_runtime_without_room_for_copies_is_refused() -> None:
    """Else the first step would wait for a sandbox that never comes."""
    task = share_task(Share())
    runtime = Runtime(FakeLauncher(put), [task], max_sandboxes=1)
    with pytest.raises(ValueError, match="the runtime needs more sandboxes than environments"):
        CodeEnv(curriculum=Curriculum([task]), runtime=runtime, reward="dense")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": "shaped"}, "reward is 'shaped'; it must be 'sparse' or 'dense'"),
        ({"gamma": 1.5}, r"gamma is 1.5; it must lie in \[0, 1\]"),
        ({"gamma": float("nan")}, r"gamma is nan; it must lie in \[0, 1\]"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: str) -> None:
    """When the environment is made."""
    with pytest.raises(ValueError, match=words):
        make(FakeLauncher(put), **options)
