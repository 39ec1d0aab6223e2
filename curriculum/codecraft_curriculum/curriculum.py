"""A curriculum: tasks by id, in an order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from codecraft_curriculum.errors import CurriculumError, UnknownTask
from codecraft_curriculum.task import Task

__all__ = ["Curriculum"]


class Curriculum(Mapping[str, Task]):
    """An immutable, ordered mapping of task ids to tasks, with a name.

    Looking up an id that it has not raises `UnknownTask`, which names the nearest ones.
    """

    __slots__ = ("_by_id", "_name", "_tasks")

    def __init__(self, tasks: Iterable[Task], *, name: str = "curriculum") -> None:
        self._tasks = tuple(tasks)
        self._name = name
        self._by_id = {task.id: task for task in self._tasks}
        if not self._tasks:
            raise CurriculumError(f"{name}: a curriculum needs at least one task")
        if len(self._by_id) != len(self._tasks):
            ids = [task.id for task in self._tasks]
            double = next(task_id for task_id in ids if ids.count(task_id) > 1)
            raise CurriculumError(f"{name}: two tasks have the id {double!r}: rename one")

    @property
    def name(self) -> str:
        """What the curriculum is called in messages and logs."""
        return self._name

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in order."""
        return self._tasks

    def subset(self, task_ids: Iterable[str]) -> Curriculum:
        """Return the curriculum of these tasks, in this order.

        Raises:
            UnknownTask: there is none of such an id.
        """
        return Curriculum([self[task_id] for task_id in task_ids], name=self._name)

    def __getitem__(self, task_id: str) -> Task:
        try:
            return self._by_id[task_id]
        except KeyError:
            raise UnknownTask(str(task_id), self._by_id, curriculum=self._name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._tasks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Curriculum) and (self._name, self._tasks) == (other._name, other._tasks)

    def __hash__(self) -> int:
        return hash((self._name, tuple(self._by_id)))

    def __repr__(self) -> str:
        return f"Curriculum({self._name!r}, {len(self)} tasks: {', '.join(self._by_id)})"
