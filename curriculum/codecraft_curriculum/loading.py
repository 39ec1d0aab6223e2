"""Loading a curriculum by name or path, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

from codecraft_curriculum.curriculum import Curriculum
from codecraft_curriculum.errors import CurriculumError, TaskFileError, did_you_mean
from codecraft_curriculum.fields import Table
from codecraft_curriculum.grade import Grader
from codecraft_curriculum.gym_codecraft import load_gym_codecraft
from codecraft_curriculum.program import CaseSource
from codecraft_curriculum.task import Task
from codecraft_curriculum.task_files import TASK_FILE, load_task, read_toml

__all__ = ["BUILTIN", "FIRST_TASKS", "builtin_curriculum", "load_curriculum"]

BUILTIN = "builtin"
FIRST_TASKS: tuple[str, ...] = ("hello-world", "git-clone", "sort-numbers", "refactor-sqrt", "review-code")
"""The built-in tasks to begin with: few, quick, and of different kinds."""
_ORDER_FILE = "curriculum.toml"


def load_curriculum(
    source: Path | str = BUILTIN,
    *,
    graders: Mapping[str, Grader] | None = None,
    case_sources: Mapping[str, CaseSource] | None = None,
    trust_code: bool = False,
) -> Curriculum:
    """Return a curriculum: ``"builtin"``, the id of a built-in task, or a path (reads files, blocking).

    A path is a directory of task directories, one task directory, a ``task.toml``, or a gym-codecraft
    ``curriculum.json``. `graders` replaces the graders of tasks, by id. `case_sources` and `trust_code` are those of
    `load_task`.

    Raises:
        TaskFileError: there is no such thing, or a file of it cannot be used.
        UnknownTask: `graders` names a task that is not there.
    """
    if isinstance(source, str) and not _exists(source):
        builtin = builtin_curriculum()
        if source != BUILTIN and source not in builtin:
            hint = did_you_mean(source, (BUILTIN, *builtin))
            raise TaskFileError(
                source,
                f"no such file or directory, nor a built-in name{hint}; give a directory of tasks, a {TASK_FILE}, a "
                f"gym-codecraft curriculum.json, '{BUILTIN}', or the id of a built-in task (codecraft tasks list)",
            )
        return _with_graders(builtin if source == BUILTIN else builtin.subset([source]), graders or {})
    if source == BUILTIN:
        return _with_graders(builtin_curriculum(), graders or {})
    path = Path(source)
    if path.suffix == ".json":
        return load_gym_codecraft(path, graders=graders)
    if path.suffix == ".toml" or (path / TASK_FILE).exists():
        task = load_task(path, case_sources=case_sources, trust_code=trust_code)
        return _with_graders(Curriculum([task], name=task.id), graders or {})
    if path.is_dir():
        return _with_graders(_load_directory(path, case_sources or {}, trust_code=trust_code), graders or {})
    raise TaskFileError(path, f"is no curriculum: give a directory of tasks, a {TASK_FILE}, or a curriculum.json")


@cache
def builtin_curriculum() -> Curriculum:
    """Return the tasks that come with the package; they need no network, and of the image python3 and git (or gcc)."""
    with resources.as_file(resources.files("codecraft_curriculum") / "tasks") as directory:
        return _load_directory(directory, {}, name=BUILTIN, trust_code=True)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long a name, or a NUL in it
        return False


def _load_directory(
    directory: Path, case_sources: Mapping[str, CaseSource], *, trust_code: bool, name: str = ""
) -> Curriculum:
    """Return the tasks of a directory, in the order of its ``curriculum.toml``, or else of their names."""
    try:
        names = sorted(child.name for child in directory.iterdir() if (child / TASK_FILE).exists())
    except OSError as error:
        raise TaskFileError(directory, f"cannot be read: {error.strerror}") from None
    if not names:
        raise TaskFileError(directory, f"holds no tasks: expected directories with a {TASK_FILE} in each")
    order = directory / _ORDER_FILE
    if order.exists():
        table = Table(read_toml(order), file=order, allowed=("name", "order"))
        name = name or table.text("name", "")
        names = _ordered(table, names)
    tasks = [load_task(directory / task, case_sources=case_sources, trust_code=trust_code) for task in names]
    try:
        return Curriculum(tasks, name=name or directory.absolute().name)
    except CurriculumError as error:
        raise TaskFileError(directory, str(error)) from None


def _ordered(table: Table, names: list[str]) -> list[str]:
    """Return `names`, those of the field ``order`` first."""
    first = list(table.texts("order", ()))
    for number, task in enumerate(first):
        if task not in names:
            raise table.error(f"order[{number}]", f"no task directory {task!r}{did_you_mean(task, names)}")
        if task in first[:number]:
            raise table.error(f"order[{number}]", f"{task!r} is there twice")
    return first + [task for task in names if task not in first]


def _with_graders(curriculum: Curriculum, graders: Mapping[str, Grader]) -> Curriculum:
    if not graders:
        return curriculum
    for task_id in graders:
        curriculum[task_id]  # raises UnknownTask
    changed: list[Task] = [
        replace(task, grader=graders[task.id]) if task.id in graders else task for task in curriculum.tasks
    ]
    return Curriculum(changed, name=curriculum.name)
