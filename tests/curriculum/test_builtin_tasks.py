"""Every built-in task: its expert earns 1.0, each of its wrong solutions 0.0."""

from __future__ import annotations

import math
import random
from importlib import resources
from pathlib import Path

import pytest

from codecraft_curriculum import (
    Grade,
    Grader,
    ProgramGrader,
    Task,
    UnitTestsGrader,
    builtin_curriculum,
    load_curriculum,
)
from codecraft_curriculum.composition import AllOf
from tests.curriculum.directory_sandbox import DirectorySandbox

pytestmark = pytest.mark.anyio

TASKS = builtin_curriculum()
FAILURES = [(task_id, name) for task_id, task in TASKS.items() for name in task.failures]


async def play(task: Task, actions: tuple[str, ...], root: Path) -> Grade:
    """Return the grade of an episode of these actions."""
    sandbox = await DirectorySandbox.start(task, root)
    try:
        for action in actions:
            await sandbox.act(action, shell=task.shell)
        sandbox.end_processes()
        return await task.grader.grade(sandbox)
    finally:
        sandbox.end_processes()


@pytest.mark.parametrize("task_id", TASKS)
async def test_expert(task_id: str, tmp_path: Path) -> None:
    """The scripted solution earns the full reward, within the number of steps."""
    task = TASKS[task_id]
    grade = await play(task, task.expert, tmp_path)
    assert (1.0, True) == (grade.score, grade.passed), grade.reason
    assert 0 < len(task.expert) <= task.max_steps


@pytest.mark.parametrize(("task_id", "name"), FAILURES)
async def test_failure(task_id: str, name: str, tmp_path: Path) -> None:
    """A wrong or cheating solution earns nothing, and one line says why."""
    task = TASKS[task_id]
    grade = await play(task, task.failures[name], tmp_path)
    assert 0.0 == grade.score
    assert grade.reason
    assert grade.reason.isprintable()


async def test_random_tests_rarely_pass() -> None:
    """Tests that guess are right for all implementations in less than one of a hundred gradings.

    The best guess counts the runs, in a file that outlives them, and says "pass" as often as there are right ones.
    """
    grader = TASKS["refactor-sqrt"].grader
    assert isinstance(grader, AllOf)
    tests = grader.graders["tests"]
    assert isinstance(tests, UnitTestsGrader)
    right, wrong = len(tests.right), len(tests.wrong)
    assert 1 / math.comb(right + wrong, right) < 0.01


def limits_s(grader: Grader) -> float:
    """Return how long all commands of a grading may take together."""
    if isinstance(grader, AllOf):
        return sum(map(limits_s, grader.graders.values()))
    if isinstance(grader, UnitTestsGrader):
        return grader.command.limit_s * (1 + len(grader.right) + len(grader.wrong))
    if isinstance(grader, ProgramGrader):
        return grader.command.limit_s * len(grader.cases(random.Random(1)))
    return 20.0


@pytest.mark.parametrize("task_id", TASKS)
def test_slowness_is_a_score_and_no_fault(task_id: str) -> None:
    """The limits of a task's commands end before that of a grading, which would void the episode."""
    assert limits_s(TASKS[task_id].grader) <= 90.0


def test_builtin_names() -> None:
    """The built-in tasks come in the order of their difficulty, and each has enough wrong solutions."""
    expected = ["hello-world", "git-clone", "sort-numbers", "refactor-sqrt", "review-code"]
    assert expected == list(load_curriculum("builtin"))
    assert all(len(task.failures) >= 5 and "no-op" in task.failures for task in TASKS.values())
    assert {"codecraft/base"} == {task.image for task in TASKS.values()}


def test_one_builtin_task_by_name() -> None:
    """The id of a built-in task names a curriculum of this one task."""
    assert ["git-clone"] == list(load_curriculum("git-clone"))


def test_package_data() -> None:
    """The files of the tasks are found as resources of the package."""
    tasks = resources.files("codecraft_curriculum") / "tasks"
    assert all((tasks / task_id / "task.toml").is_file() for task_id in TASKS)
    assert (tasks / "sort-numbers" / "workspace" / "input.txt").is_file()
    assert (resources.files("codecraft_curriculum") / "py.typed").is_file()


def test_workspaces_are_the_same_everywhere() -> None:
    """The digest of a built repository depends on nothing of this machine."""
    assert "1018726660363f10eb814d1892211b53ee592127e0c585d6c5f4db4ac5885317" == TASKS["git-clone"].workspace.digest
