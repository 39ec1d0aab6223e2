"""Curriculum files: ours in both forms, a user's, what a student is shown, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from codecraft_async.curriculum import Curriculum, TaskFileError, Ungraded, UnknownTask, load_curriculum
from codecraft_async.gym_codecraft import StudentTasks
from codecraft_async.gym_codecraft.interface import InterfaceName
from tests.envs.code_envs import make_task
from tests.gym_codecraft.students import GRADERS, NEW, OLD, write_curriculum

TWINS = {"1": "hello-world", "2": "git-clone", "3": "sort-numbers", "4": "refactor-sqrt", "5": "review-code"}


@pytest.mark.parametrize("form", ["new", "old"])
def test_our_own_tasks_are_the_built_in_ones(form: InterfaceName) -> None:
    """Same words, files, limits and graders, so that the proofs of those hold for these."""
    tasks, builtin = StudentTasks(form=form), load_curriculum()
    assert list(TWINS) == list(tasks)
    for task_id, name in TWINS.items():
        ours, twin = tasks[task_id].task, builtin[name]
        assert twin.instruction.strip() == tasks[task_id].fields["description"]
        assert (twin.title, twin.image, twin.workspace) == (ours.title, ours.image, ours.workspace)
        assert (twin.grader, twin.limits, twin.setup) == (ours.grader, ours.limits, ours.setup)


def test_both_forms_of_our_file_differ_in_what_the_forms_differ_in() -> None:
    """The older one has a working directory, and shows how a task is checked under another name."""
    new, old = StudentTasks(), StudentTasks(form="old")
    for task_id, task in new.items():
        assert ["category", "docker", "shell", "title", "description", "for_teacher"] == list(task.fields)
        assert ["category", "docker", "shell", "working_dir", "title", "description", "test"] == list(
            old[task_id].fields
        )
        assert dict(task.fields, working_dir="/workspace", test=task.fields["for_teacher"]) == dict(
            old[task_id].fields, for_teacher=task.fields["for_teacher"]
        )


def test_a_student_sees_the_fields_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Without those that are hidden; quotes and new lines as Python writes them."""
    path = write_curriculum(
        tmp_path, tx={"title": "It's", "for_teacher": "hidden", "docker": "a", "description": "b\nc"}
    )
    task = StudentTasks(path)["x"]
    assert "Task x:\n {'title': \"It's\", 'docker': 'a', 'description': 'b\\nc'}\n" == task.shown(
        frozenset({"for_teacher"})
    )
    assert ("/workspace", {"for_teacher": "hidden"}) == (task.working_dir, dict(task.task.notes))
    assert isinstance(task.task.grader, Ungraded)


def test_a_file_of_the_older_form_keeps_what_it_says(tmp_path: Path) -> None:
    """Its working directory is where commands run, and its check is for the teacher."""
    task = StudentTasks(write_curriculum(tmp_path, t1=dict(OLD, working_dir="/tmp/../tmp/x/")), graders=GRADERS)["1"]
    assert ("/tmp/x", OLD["test"], GRADERS["1"]) == (task.working_dir, task.task.notes["test"], task.task.grader)


@pytest.mark.parametrize("where", ["relative", "", "/a\0b"])
def test_a_working_directory_is_absolute(tmp_path: Path, where: str) -> None:
    """What is none is said with file, task and field."""
    path = write_curriculum(tmp_path, t1=dict(OLD, working_dir=where))
    with pytest.raises(TaskFileError, match=r"curriculum\.json: tasks\.1\.working_dir: .* is no absolute path"):
        StudentTasks(path)


def test_tasks_of_other_curricula_can_be_played() -> None:
    """The built-in ones by name, or any `Curriculum`, with graders of the caller's in place of their own."""
    assert "Sort" == StudentTasks("sort-numbers")["sort-numbers"].fields["title"]
    tasks = StudentTasks(Curriculum([make_task()]), graders={"answer": GRADERS["1"]})
    assert GRADERS["1"] == tasks["answer"].task.grader
    assert (
        "Task answer:\n {'category': 'test', 'docker': 'codecraft/base', 'shell': '/bin/sh', 'title': 'The answer', "
        "'description': 'Write 42 into answer.'}\n"
    ) == tasks["answer"].shown(frozenset())
    with pytest.raises(UnknownTask, match="no task 'x'"):
        StudentTasks(Curriculum([make_task()]), graders={"x": GRADERS["1"]})


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    """A missing file, a missing field, and a grader for a task that is not there."""
    with pytest.raises(TaskFileError, match="cannot be read"):
        StudentTasks(tmp_path / "none.json")
    with pytest.raises(TaskFileError, match="title"):
        StudentTasks(write_curriculum(tmp_path, t1={k: v for k, v in NEW.items() if k != "title"}))
    with pytest.raises(TaskFileError, match="no task '9'"):
        StudentTasks(write_curriculum(tmp_path, t1=NEW), graders={"9": GRADERS["1"]})
