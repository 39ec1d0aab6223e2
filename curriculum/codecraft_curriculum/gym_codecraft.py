"""The loader of gym-codecraft's ``curriculum.json``, with the fields of its older and its newer form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from codecraft_curriculum.curriculum import Curriculum
from codecraft_curriculum.errors import CurriculumError, TaskFileError
from codecraft_curriculum.fields import Table, as_table, read_bounded
from codecraft_curriculum.grade import Grader, Ungraded
from codecraft_curriculum.task import Task

__all__ = ["load_gym_codecraft"]

_HIDDEN = ("for_teacher", "test", "working_dir")
_FIELDS = ("category", "docker", "shell", "title", "description", *_HIDDEN)


def load_gym_codecraft(path: Path | str, *, graders: Mapping[str, Grader] | None = None) -> Curriculum:
    """Return the tasks of a gym-codecraft ``curriculum.json``.

    The file has no automatic graders: a task without one in `graders` (by task id) scores 0 and says so. What it tells
    the teacher is in `Task.notes`, with ``working_dir`` of old files, which that program did not honour either.

    Raises:
        TaskFileError: one line that names the file, the task and the field; or a grader for a task that is not there.
    """
    file = Path(path)
    try:
        content: object = json.loads(read_bounded(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise TaskFileError(file, f"not valid JSON: {error}") from None
    top = as_table(content)
    if top is None or "tasks" not in top:
        raise TaskFileError(file, 'expected an object with the key "tasks", as gym-codecraft writes it')
    tasks = Table(top, file=file, allowed=("tasks",)).table("tasks")
    for task_id in graders or {}:
        if task_id not in tasks:
            raise TaskFileError(file, f"graders: no task {task_id!r}; its tasks: {', '.join(tasks)}")
    try:
        return Curriculum([_read_task(file, name, tasks[name], graders or {}) for name in tasks], name=file.stem)
    except TaskFileError:
        raise
    except CurriculumError as error:
        raise TaskFileError(file, str(error)) from None


def _read_task(file: Path, task_id: str, value: object, graders: Mapping[str, Grader]) -> Task:
    where = f"tasks.{task_id}"
    values = as_table(value)
    if values is None:
        raise TaskFileError(file, f"{where}: expected an object with the fields {', '.join(_FIELDS)}")
    table = Table(values, file=file, where=where, allowed=_FIELDS)
    title, description = table.text("title"), table.text("description")
    try:
        return Task(
            id=task_id,
            title=title,
            category=table.text("category", "general"),
            instruction=f"{title}\n\n{description}".strip(),
            image=table.text("docker"),
            shell=table.text("shell", "/bin/sh"),
            grader=graders.get(task_id, Ungraded(f"task {task_id} of {file.name}")),
            notes={name: table.text(name) for name in _HIDDEN if name in table},
        )
    except TaskFileError:
        raise
    except ValueError as error:
        raise TaskFileError(file, f"{where}: {error}") from None
