"""Who grades: the tasks' own graders, or a teacher of the user's, which sees the sandbox and what was done in it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from codecraft_async.curriculum import Curriculum, Grade, Task
from codecraft_async.gym_codecraft import AutomaticTeacher, Turn
from codecraft_async.gym_codecraft.teaching import remark
from codecraft_async.pool import Sandbox
from tests.envs.code_envs import make_task
from tests.gym_codecraft.students import NEW, act, fake_env, write_curriculum

pytestmark = pytest.mark.anyio


class Recites:
    """A teacher that keeps what it was given."""

    def __init__(self, grade: Grade, wait_s: float = 0.0) -> None:
        self.grade = grade
        self.wait_s = wait_s
        self.seen: list[tuple[bytes, str, tuple[Turn, ...]]] = []

    async def agrade(self, sandbox: Sandbox, task: Task, transcript: Sequence[Turn]) -> Grade:
        await asyncio.sleep(self.wait_s)
        self.seen.append((await sandbox.read_file("answer"), task.id, tuple(transcript)))
        return self.grade


async def test_a_teacher_sees_the_work_and_the_way_to_it() -> None:
    """Its comments and its score, on the scale of the interface, are what the student reads and earns."""
    teacher = Recites(Grade(0.75, reason="Nearly\nthere"))
    env = fake_env(teacher=teacher)
    await env.areset(task_id="answer")
    await act(env, "command", command="write 7")
    await act(env, "dance")
    observation, reward, _, _, info = await env.astep('{"action": "submit"}')
    assert (
        "Code submitted.\nThe teacher's comments: Nearly there.\nThe score is: 7.5.\n"
        "Task closed. Please start a new task.",
        7.5,
    ) == (observation["obs"], reward)
    assert (0.75, True, "Nearly there") == (info["score"], info["graded"], info["reason"])
    turns = (
        Turn('{"action": "command", "command": "write 7"}', "", 0.0),
        Turn('{"action": "dance"}', "Unknown action: dance", -1.0),
    )
    assert [(b"7", "answer", turns)] == teacher.seen
    await env.aclose()


async def test_a_transcript_is_of_one_task_and_bounded() -> None:
    """It begins anew with each task, and keeps the last turns of a long one."""
    teacher = Recites(Grade(1.0))
    env = fake_env(teacher=teacher)
    for _ in range(2):
        await env.areset(task_id="answer")
        for number in range(300):
            await act(env, "command", command=f"write {number}")
        await act(env, "submit")
    assert [256, 256] == [len(turns) for _, _, turns in teacher.seen]
    assert "write 299" in teacher.seen[-1][2][-1].action
    await env.aclose()


async def test_a_teacher_that_takes_too_long_is_a_fault() -> None:
    """Of the grader's kind, which says what the limit is; there is no reward."""
    env = fake_env(teacher=Recites(Grade(1.0), wait_s=999.0), grade_limit_s=0.01)
    await env.areset(task_id="answer")
    _, reward, _, truncated, info = await env.astep('{"action": "submit"}')
    assert (0.0, True, "grader") == (reward, truncated, info["fault"]["kind"])
    assert "TimeoutError: the teacher took longer than 0.01 s, its limit (grade_limit_s)" == info["fault"]["message"]
    await env.aclose()


async def test_a_task_without_a_grader_and_without_a_teacher_is_worth_nothing(tmp_path: Path) -> None:
    """The student reads that nothing was graded; info says what to do about it."""
    env = fake_env(curriculum=write_curriculum(tmp_path, t1=NEW))
    await env.areset(task_id="1")
    observation, reward, _, _, info = await env.astep('{"action": "submit"}')
    assert (
        "Code submitted.\nThe teacher's comments: This task has no automatic grader, and no teacher is here: nothing "
        "was graded.\nThe score is: 0.\nTask closed. Please start a new task.",
        0.0,
    ) == (observation["obs"], reward)
    assert (False, True) == (info["graded"], info["valid"])
    assert "pass one to load_curriculum(..., graders=" in info["reason"]
    await env.aclose()


@pytest.mark.parametrize(
    ("interface", "max_score", "earned"), [("new", None, 10.0), ("new", 1.0, 1.0), ("old", 5.0, 5.0)]
)
async def test_the_scale_of_scores_can_be_chosen(interface: str, max_score: float | None, earned: float) -> None:
    """10 is what the newer interface pays for perfect work, 1 the older."""
    env = fake_env(interface=interface, max_score=max_score)
    await env.areset(task_id="answer")
    await act(env, "command", command="write 42")
    _, reward = await act(env, "submit")
    assert earned == reward
    await env.aclose()


async def test_submitting_again_pays_only_what_is_better() -> None:
    """In the older interface a task goes on after a submission; begun again, it is paid again."""
    env = fake_env(interface="old")
    await env.areset(task_id="answer")
    earned: list[float] = []
    for command in ("write 1", "write 42", "write 42", "write 1", "write 42"):
        await act(env, "command", command=command)
        earned.append((await act(env, "submit"))[1])
    assert [0.0, 1.0, 0.0, 0.0, 0.0] == earned
    await act(env, "reset")
    await act(env, "command", command="write 42")
    assert ("Code submitted.", 1.0) == await act(env, "submit")
    await env.aclose()


async def test_a_student_is_told_which_checks_fail_and_nothing_of_what_they_expect() -> None:
    """The reason of an automatic grade may quote the answer: it stays in info."""

    class Quotes:
        runs_agent_code = False

        async def grade(self, sandbox: object) -> Grade:
            return Grade(0.5, {"first": 1.0, "second": 0.0}, "second: the answer is 4711")

    env = fake_env(curriculum=Curriculum([make_task(grader=Quotes())]), teacher=AutomaticTeacher())
    await env.areset(task_id="answer")
    observation, reward, _, _, info = await env.astep('{"action": "submit"}')
    assert "The teacher's comments: Not right yet: second." in observation["obs"]
    assert ("4711" in observation["obs"], "4711" in info["reason"], 5.0) == (False, True, reward)
    await env.aclose()


def test_remarks_are_short() -> None:
    """However many checks fail."""
    grade = Grade(0.0, {f"check-{number}": 0.0 for number in range(30)})
    assert remark(grade).endswith("check-19 and 10 more")
    assert "Good job!" == remark(Grade(1.0))
