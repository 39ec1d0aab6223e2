"""The tasks of gym-codecraft: a user's ``curriculum.json``, or ours, with what a student is shown of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from posixpath import normpath
from typing import Final, cast

from codecraft_async.gym_codecraft.interface import InterfaceName
from codecraft_curriculum import Curriculum, Grader, Task, TaskFileError, load_curriculum
from codecraft_curriculum.task_files import read_bounded
from codecraft_pool import WORKSPACE

__all__ = ["DEFAULT", "StudentTask", "StudentTasks"]

DEFAULT: Final = "default"
_OWN_FILES: Final = {"new": "curriculum.json", "old": "curriculum_old.json"}
# Our own file says what is to be done; files to start from and graders, which the format has no place for, are those
# of the built-in tasks of the same content.
_BUILTIN_IDS: Final = {
    "1": "hello-world",
    "2": "git-clone",
    "3": "sort-numbers",
    "4": "refactor-sqrt",
    "5": "review-code",
}


@dataclass(frozen=True, slots=True)
class StudentTask:
    """A task, and its fields as the file has them, in the file's order."""

    task: Task
    fields: Mapping[str, str]

    @property
    def working_dir(self) -> str:
        """Where commands run."""
        return normpath(self.fields.get("working_dir") or WORKSPACE)

    def shown(self, hidden: frozenset[str]) -> str:
        """Return the first observation of the task, which leaves out the fields *hidden*."""
        seen = {name: value for name, value in self.fields.items() if name not in hidden}
        return f"Task {self.task.id}:\n {seen!r}\n"


class StudentTasks(Mapping[str, StudentTask]):
    """Tasks by id, in order.

    Args:
        source: "default" (ours), the path of a ``curriculum.json`` of the newer or the older form, or whatever else
            `load_curriculum` takes, or a `Curriculum`.
        graders: Graders by task id, for a file that has none, or in place of its own.
        form: Which form of our own file to take.

    Raises:
        TaskFileError: The file cannot be used; says why.
        UnknownTask: A grader is for a task that is not there.
    """

    def __init__(
        self,
        source: str | Path | Curriculum = DEFAULT,
        *,
        graders: Mapping[str, Grader] | None = None,
        form: InterfaceName = "new",
    ) -> None:
        if source == DEFAULT:
            with resources.as_file(resources.files("codecraft_async.gym_codecraft") / _OWN_FILES[form]) as path:
                found = _from_json(path, _builtin_graders() | dict(graders or {}))
            self._by_id = {each.task.id: _with_files(each) for each in found}
        elif isinstance(source, str | Path) and Path(source).suffix == ".json":
            self._by_id = {each.task.id: each for each in _from_json(Path(source), graders or {})}
        else:
            curriculum = source if isinstance(source, Curriculum) else load_curriculum(source)
            for task_id in graders or {}:
                curriculum[task_id]  # raises UnknownTask
            self._by_id = {task.id: _from_task(task, (graders or {}).get(task.id)) for task in curriculum.tasks}

    def __getitem__(self, task_id: str) -> StudentTask:
        return self._by_id[task_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)


def _from_json(path: Path, graders: Mapping[str, Grader]) -> list[StudentTask]:
    curriculum = load_curriculum(path, graders=graders)
    # Read again for the order of the fields; that it is made of objects with texts in them has been checked.
    fields = cast("dict[str, dict[str, str]]", json.loads(read_bounded(path))["tasks"])
    for task in curriculum.tasks:
        where = fields[task.id].get("working_dir", WORKSPACE)
        if not where.startswith("/") or "\0" in where:
            raise TaskFileError(path, f"tasks.{task.id}.working_dir: {where!r} is no absolute path like {WORKSPACE!r}")
    return [StudentTask(task, fields[task.id]) for task in curriculum.tasks]


def _from_task(task: Task, grader: Grader | None) -> StudentTask:
    fields = {
        "category": task.category,
        "docker": task.image,
        "shell": task.shell,
        "title": task.title,
        "description": task.instruction.strip(),
    }
    return StudentTask(task if grader is None else replace(task, grader=grader), fields)


def _builtin_graders() -> dict[str, Grader]:
    builtin = load_curriculum()
    return {task_id: builtin[name].grader for task_id, name in _BUILTIN_IDS.items()}


def _with_files(each: StudentTask) -> StudentTask:
    twin = load_curriculum()[_BUILTIN_IDS[each.task.id]]
    task = replace(
        each.task,
        workspace=twin.workspace,
        setup=twin.setup,
        limits=twin.limits,
        expert=twin.expert,
        failures=twin.failures,
        difficulty=twin.difficulty,
    )
    return StudentTask(task, each.fields)
