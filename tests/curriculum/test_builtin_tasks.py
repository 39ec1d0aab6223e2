"""Every built-in task: proved in real sandboxes, script by script, and complete."""

from __future__ import annotations

import math
import random
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from codecraft_async._tasks_cli import markdown_row
from codecraft_async.task_proof import prove_tasks
from codecraft_curriculum import (
    FIRST_TASKS,
    Case,
    ExitStatusGrader,
    Grader,
    ProgramGrader,
    ServerGrader,
    UnitTestsGrader,
    builtin_curriculum,
    load_curriculum,
)
from codecraft_curriculum.composition import AllOf, AnyOf
from tests.conftest import UVLOOP

TASKS = builtin_curriculum()


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One loop: what is proved here are tasks, by hundreds of commands."""
    return UVLOOP


@pytest.mark.anyio
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
async def test_every_task_is_proved() -> None:
    """Experts earn 1.0, wrong and cheating solutions 0.0, parts what is said, and no secret can be read inside."""
    proofs = await prove_tasks(TASKS.tasks, backend="local", jobs=24, repeats=1)
    assert [] == [f"{proof.task.id}: {problem}" for proof in proofs for problem in proof.problems]
    assert list(TASKS) == [proof.task.id for proof in proofs]


@pytest.mark.parametrize("task_id", TASKS)
def test_every_task_is_complete(task_id: str) -> None:
    """It says what it is, how hard, and how long; it has an expert, and enough wrong and cheating solutions."""
    task = TASKS[task_id]
    assert all((task.title, task.category, task.difficulty, task.estimated_minutes, task.expert))
    assert len({*task.failures, *task.partial} - {"no-op"}) >= 3
    assert len(task.cheats) >= 2
    assert task.image in ("codecraft/base", "codecraft/c")
    assert ("agent", "/bin/sh") == (task.user, task.shell)
    if task_id not in FIRST_TASKS:
        assert isinstance(task.grader, AllOf)
        assert len(task.grader.graders) >= 2
        assert task.partial, "a task that pays for parts proves what it pays"


def test_no_two_tasks_are_alike() -> None:
    """Titles and instructions are each task's own."""
    assert len(TASKS) == len({task.title for task in TASKS.values()})
    assert len(TASKS) == len({task.instruction for task in TASKS.values()})


def test_random_tests_rarely_pass() -> None:
    """Tests that guess are right for all implementations in less than one of a hundred gradings.

    The best guess counts the runs, in a file that outlives them, and says "pass" as often as there are right ones.
    """
    for tests in (grader for task in TASKS.values() for grader in leaves(task.grader)):
        if isinstance(tests, UnitTestsGrader):
            right, wrong = len(tests.right), len(tests.wrong)
            assert 1 / math.comb(right + wrong, right) < 0.01


def leaves(grader: Grader) -> list[Grader]:
    """Return all graders that a grader is made of."""
    if isinstance(grader, AllOf | AnyOf):
        return [leaf for each in grader.graders.values() for leaf in leaves(each)]
    return [grader]


def limit_s(grader: Grader) -> float:
    """Return how long all commands of a grading may take together."""
    if isinstance(grader, UnitTestsGrader):
        return grader.command.limit_s * (1 + len(grader.right) + len(grader.wrong))
    if isinstance(grader, ProgramGrader):
        return grader.command.limit_s * len(grader.cases(random.Random(1)))
    return grader.command.limit_s if isinstance(grader, ServerGrader) else 10.0


@pytest.mark.parametrize("task_id", TASKS)
def test_slowness_is_a_score_and_no_fault(task_id: str) -> None:
    """The limits of a task's commands end before that of a grading, which would void the episode."""
    assert sum(map(limit_s, leaves(TASKS[task_id].grader))) <= 100.0


@pytest.mark.parametrize("task_id", TASKS)
def test_programs_get_fresh_inputs(task_id: str) -> None:
    """What a program is asked differs from grading to grading, but not for the same state of the generator."""
    for grader in leaves(TASKS[task_id].grader):
        if isinstance(grader, ProgramGrader):
            first, again, other = ([*grader.cases(random.Random(seed))] for seed in (1, 1, 2))
            assert first == again
            assert first != other, f"{task_id}: the cases are always the same: {first[:1]}"
            assert all(isinstance(case, Case) for case in first)


@pytest.mark.parametrize("task_id", TASKS)
def test_exit_statuses_are_of_the_system(task_id: str) -> None:
    """No verdict is the exit status of something that runs the agent's code."""
    for grader in leaves(TASKS[task_id].grader):
        if isinstance(grader, ExitStatusGrader):
            words = str(grader.command.command)
            assert not any(word in words for word in ("python", "pytest", "make", "git ", "./"))


def test_builtin_names() -> None:
    """The built-in tasks to begin with come first, the others in an order that a file says."""
    assert list(FIRST_TASKS) == list(load_curriculum("builtin"))[:5]


def test_the_readme_lists_every_task() -> None:
    """The table of the curriculum's README is that of the files: `codecraft tasks list --markdown` prints it."""
    readme = (Path(__file__).parents[2] / "curriculum" / "README.md").read_text()
    table = [line for line in readme.splitlines() if line.startswith("| `") and line.endswith(" min |")]
    assert [markdown_row(task) for task in TASKS.values()] == table


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
