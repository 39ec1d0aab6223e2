"""`CodeEnv` over fake sandboxes: what users see, and that faults never become rewards."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from contextlib import suppress
from typing import Any

import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, ResetNeeded

from codecraft_async import CodeEnv, EpisodeError
from codecraft_async._loop import LoopThread
from codecraft_async._observation import clip
from codecraft_async.curriculum import Grade, GradingSandbox, UnknownTask
from codecraft_async.pool import FakeLauncher, LaunchError
from tests.envs.code_envs import (
    Crashes,
    FileIsRight,
    ReturnsANumber,
    check_types,
    lose_sandbox,
    make,
    make_task,
    play,
    vector,
)

pytestmark = pytest.mark.anyio


async def test_an_episode_from_instruction_to_reward() -> None:
    """Reset gives the instruction, commands give their output, submit gives the grade."""
    env = make(FakeLauncher(play))
    text, info = await env.areset(seed=1)
    assert text.startswith("The answer\n\nWrite 42 into answer.\n\n")
    check_types(info)
    text, reward, terminated, truncated, info = await env.astep("ls")
    assert ("hint\n", 0.0, False, False) == (text, reward, terminated, truncated)
    check_types(info)
    *_, info = await env.astep("false")
    assert 1 == info["exit_code"]
    await env.astep("write 42")
    text, reward, terminated, truncated, info = await env.astep(" submit\n")
    assert ("score 1", 1.0, True, False) == (text, reward, terminated, truncated)
    assert (True, True, 1.0, False) == (info["graded"], info["valid"], info["score"], "fault" in info)
    check_types(info)
    await env.aclose()


async def test_a_wrong_answer_is_worth_nothing_and_says_why() -> None:
    """The grader's reason is in info, and only there: it may quote what was expected."""
    env = make(FakeLauncher(play))
    await env.areset()
    text, reward, terminated, _, info = await env.astep("submit")
    assert ("score 0", 0.0, True) == (text, reward, terminated)
    assert "answer is missing" == info["reason"]
    await env.aclose()


async def test_nothing_of_an_episode_reaches_the_next() -> None:
    """The workspace is the task's again, in the same sandbox."""
    launcher = FakeLauncher(play)
    env = make(launcher)
    await env.areset()
    await env.astep("write 42")
    await env.areset()
    text, *_ = await env.astep("ls")
    assert ("hint\n", 1) == (text, len(launcher.sandboxes))
    await env.aclose()


async def test_an_episode_is_truncated_at_its_steps() -> None:
    """The task's number of steps, or the smaller one that was asked for, ends the episode without a grade."""
    for options, steps in (({}, 5), ({"max_episode_steps": 2}, 2)):
        env = make(FakeLauncher(play), **options)
        await env.areset()
        ends = [(await env.astep("ls"))[2:4] for _ in range(steps)]
        assert [(False, False)] * (steps - 1) + [(False, True)] == ends
        with pytest.raises(ResetNeeded, match="call reset"):
            await env.astep("ls")
        await env.aclose()


@pytest.mark.parametrize("action", [3, None, b"ls", ["ls"]])
async def test_an_action_that_is_no_text_is_a_type_error_and_costs_nothing(action: Any) -> None:
    """The error says what an action is; the episode and the sandbox go on."""
    env = make(FakeLauncher(play))
    await env.areset()
    with pytest.raises(TypeError, match="an action is text, a shell command or 'submit'; this one is of type"):
        await env.astep(action)
    text, *_ = await env.astep("ls")
    assert "hint\n" == text
    await env.aclose()


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("echo \0", "an action cannot hold a NUL character"),
        ("echo \ud800", "an action cannot hold half of a surrogate pair"),
        ("x" * 100_001, "an action cannot be longer than 100000 characters"),
    ],
    ids=["nul", "surrogate", "long"],
)
async def test_text_that_no_program_can_be_given_is_an_observation(action: str, said: str) -> None:
    """It is told to the agent, counts as a step, and disturbs no other environment."""
    env = make(FakeLauncher(play))
    await env.areset()
    text, reward, *_, info = await env.astep(action)
    assert (said, 0.0, 1) == (text, reward, info["steps"])
    text, *_ = await env.astep("ls")
    assert "hint\n" == text
    await env.aclose()


async def test_two_calls_at_once_are_refused() -> None:
    """No command runs beside the grading of its sandbox; the first call goes on, and the environment stays usable."""
    env = make(FakeLauncher(play))
    await env.areset()
    first = asyncio.create_task(env.astep("hang"))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyPendingCallError, match="`step` while a call of `step` is in progress"):
        await env.astep("submit")
    with pytest.raises(AlreadyPendingCallError, match="`reset` while a call of `step`"):
        await env.areset()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    text, *_ = await env.astep("ls")
    assert "hint\n" == text
    await env.aclose()


def test_closing_before_the_first_use_closes() -> None:
    """A closed environment starts no sandbox, whether it was used or not."""
    env = make(FakeLauncher(play))
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError, match="is closed"):
        env.reset()


def test_first_calls_of_two_threads_meet_in_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is refused as any second call; the environment does not belong to a loop that nobody runs afterwards."""
    both = threading.Barrier(2)

    def start(**options: Any) -> LoopThread:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # the other one starts a loop as well, if it can
        return LoopThread(**options)

    monkeypatch.setattr("codecraft_async._faces.LoopThread", start)
    env = make(FakeLauncher(play))
    came: list[object] = []

    def ask() -> None:
        try:
            came.append(env.reset()[0])
        except AlreadyPendingCallError:
            came.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 == len(came)
    assert "hint\n" == env.step("ls")[0]
    env.close()


def test_an_environment_is_copied_before_its_first_use_only() -> None:
    """Afterwards a copy would be in the same sandbox; the error says so."""
    env = CodeEnv(task="sort-numbers", backend="local")
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert "ascending" in other.reset()[0]
        for copied in (pickle.dumps, copy.deepcopy, copy.copy):
            with pytest.raises(TypeError, match="a CodeEnv that was used holds a sandbox, and can be neither copied"):
                copied(other)
        assert "0\n" == other.step("echo 0")[0]
        other.close()
    env.close()


@pytest.mark.parametrize("num_envs", [None, 2])
def test_closing_after_the_loop_has_ended_lets_go(num_envs: int | None) -> None:
    """Where `aclose` was forgotten on a loop that is gone, `close` works, and the environment is closed."""
    launcher = FakeLauncher(play)
    env = make(launcher) if num_envs is None else vector(launcher, num_envs)

    async def use() -> None:
        await env.areset()

    asyncio.run(use())
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError, match="is closed"):
        env.reset()


async def test_a_lost_sandbox_is_a_fault_and_the_next_episode_has_a_new_one() -> None:
    """The episode ends truncated and invalid, with the fault named; reset works."""
    launcher = FakeLauncher(play)
    env = make(launcher)
    await env.areset()
    launcher.sandboxes[0].close()
    text, reward, terminated, truncated, info = await env.astep("ls")
    assert ("", 0.0, False, True, False) == (text, reward, terminated, truncated, info["valid"])
    assert ("sandbox", "fake-0") == (info["fault"]["kind"], info["fault"]["sandbox"])
    assert info["fault"]["message"].startswith("SandboxLost: sandbox fake-0 is lost")
    assert "fault" == info["truncation"]
    check_types(info)
    await env.areset()
    text, *_ = await env.astep("ls")
    assert ("hint\n", 2) == (text, len(launcher.sandboxes))
    await env.aclose()


async def test_a_sandbox_lost_between_episodes_costs_nothing() -> None:
    """Reset finds the sandbox dead and takes another."""
    launcher = FakeLauncher(play)
    env = make(launcher)
    await env.areset()
    launcher.sandboxes[0].close()
    _, info = await env.areset()
    assert (True, 2) == (info["valid"], len(launcher.sandboxes))
    await env.aclose()


async def test_a_sandbox_lost_at_submit_is_a_fault() -> None:
    """No reward comes from a sandbox that died before it was graded."""
    launcher = FakeLauncher(play)
    env = make(launcher)
    await env.areset()
    await env.astep("write 42")
    launcher.sandboxes[0].close()
    _, reward, terminated, truncated, info = await env.astep("submit")
    assert (0.0, False, True, False, False) == (reward, terminated, truncated, info["graded"], info["valid"])
    await env.aclose()


async def test_a_grader_that_crashes_is_a_fault() -> None:
    """A bug in a grader is no reward and no exception: it is told in info."""
    env = make(FakeLauncher(play), make_task(grader=Crashes()))
    await env.areset()
    _, reward, terminated, truncated, info = await env.astep("submit")
    assert (0.0, False, True, False) == (reward, terminated, truncated, info["valid"])
    assert {"kind": "grader", "sandbox": "fake-0", "message": "ZeroDivisionError: in the grader"} == info["fault"]
    await env.areset()
    await env.aclose()


async def test_a_grader_that_returns_no_grade_is_a_fault() -> None:
    """A bare number, which nothing has checked to lie in [0, 1], is no reward."""
    env = make(FakeLauncher(play), make_task(grader=ReturnsANumber()))
    await env.areset()
    _, reward, terminated, truncated, info = await env.astep("submit")
    assert (0.0, False, True, False) == (reward, terminated, truncated, info["valid"])
    assert "TypeError: a grader must return a Grade, this one returned 7.0" == info["fault"]["message"]
    assert "grader" == info["fault"]["kind"]
    await env.aclose()


async def test_a_set_up_that_fails_names_the_task() -> None:
    """A broken task is an error at reset, and the environment can go on with another task."""
    env = make(FakeLauncher(play), make_task("good"), make_task("broken", setup=("false",)))
    with pytest.raises(EpisodeError, match="task 'broken': its set-up 'false' ended with 1"):
        await env.areset(options={"task": "broken"})
    _, info = await env.areset(options={"task": "good"})
    assert "good" == info["task"]
    await env.aclose()


async def test_unknown_tasks_and_options_are_named() -> None:
    """Both errors say what there is."""
    env = make(FakeLauncher(play))
    with pytest.raises(UnknownTask, match="anser"):
        await env.areset(options={"task": "anser"})
    with pytest.raises(ValueError, match="unknown reset option 'tsk'"):
        await env.areset(options={"tsk": "answer"})
    with pytest.raises(TypeError, match=r"'task' is \['answer'\]; it must be one task's id"):
        await env.areset(options={"task": ["answer"]})
    _, info = await env.areset(options={"task": "answer"})
    assert "answer" == info["task"]
    await env.aclose()


async def test_a_launcher_that_fails_is_an_error_once() -> None:
    """No sandbox: reset raises, and works when the launcher does again."""
    launcher = FakeLauncher(play)
    launcher.fail_starts = 1
    env = make(launcher)
    with pytest.raises(LaunchError, match="told to fail"):
        await env.areset()
    await env.areset()
    await env.aclose()


async def test_a_cancelled_step_leaves_the_episode_usable() -> None:
    """The command is cancelled in the sandbox; the next one runs in the same episode."""
    env = make(FakeLauncher(play))
    await env.areset()
    step = asyncio.create_task(env.astep("hang"))
    for _ in range(10):
        await asyncio.sleep(0)
    step.cancel()
    await asyncio.wait([step])
    assert step.cancelled()
    text, *_ = await env.astep("ls")
    assert "hint\n" == text
    await env.aclose()


@pytest.mark.parametrize("recover", [False, True])
async def test_a_submission_that_is_cancelled_is_final(recover: bool) -> None:
    """What the grading has shown to the agent's programs is of no use: the next step grades, whatever it says."""
    grader = Slow()
    env, other = (make(FakeLauncher(play), make_task(grader=grader), recover=recover) for _ in range(2))
    await env.areset()
    step = asyncio.create_task(env.astep("submit"))
    await grader.began.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    await other.abranch_from(env)
    grader.goes_on.set()
    for each in (env, other):
        if recover:
            lose_sandbox(each)
        _, reward, terminated, _, info = await each.astep("write 42")
        assert (0.0, True, True, "answer is missing") == (reward, terminated, info["graded"], info["reason"])
        await each.aclose()


class Slow(FileIsRight):
    """Grades when it is told to."""

    def __init__(self) -> None:
        self.began, self.goes_on = asyncio.Event(), asyncio.Event()

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        self.began.set()
        await self.goes_on.wait()
        return await super().grade(sandbox)


async def test_observations_are_cut_in_the_middle_and_fit_the_space() -> None:
    """Long output keeps head and tail and says what was left out; bytes that are no UTF-8 are replaced."""
    env = make(FakeLauncher(play), max_observation_chars=1000)
    await env.areset()
    text, *_ = await env.astep("flood")
    assert 1000 == len(text)
    assert env.observation_space.contains(text)
    assert "[... 49000 characters or more left out ...]" in text
    text, *_ = await env.astep("binary")
    assert "\ufffd\ufffd ok" == text
    await env.aclose()


@pytest.mark.parametrize("limit", [1, 10, 44, 100])
def test_a_cut_is_never_longer_than_the_limit(limit: int) -> None:
    """Also where the note itself would not fit."""
    assert limit == len(clip("ab" * 200, limit))
    assert "ab" == clip("ab", 2)


def test_the_synchronous_face_needs_no_loop() -> None:
    """reset, step and close work in a plain script, and leave no thread."""
    before = threading.active_count()
    env = make(FakeLauncher(play))
    env.reset(seed=3)
    env.step("write 42")
    _, reward, terminated, _, _ = env.step("submit")
    env.close()
    env.close()
    assert (1.0, True, before) == (reward, terminated, threading.active_count())


async def test_the_synchronous_face_works_where_a_loop_runs() -> None:
    """As in a notebook: the work happens in a thread of the environment's own."""
    env = make(FakeLauncher(play))
    text, _ = env.reset()
    assert text.startswith("The answer")
    env.close()


async def test_the_two_faces_do_not_mix() -> None:
    """Sandboxes belong to one loop; using them from another, or after close, is an error that says so."""
    env = make(FakeLauncher(play))
    await env.areset()
    with pytest.raises(RuntimeError, match="belong to another event loop"):
        env.reset()
    with pytest.raises(RuntimeError, match="await aclose"):
        env.close()
    await env.aclose()
    await env.aclose()
    env.close()
    with pytest.raises(ClosedEnvironmentError, match="is closed"):
        env.reset()
