"""Capture-the-flag tasks: rows with flags, their assets, and which of them are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from codecraft_async.intercode.ctf_assets import pack_assets, pack_directory
from codecraft_curriculum import Dataset, Record, TaskFileError, load_dataset
from codecraft_curriculum.ctf import CHALLENGES, Challenge

__all__ = ["BUILTIN", "CtfDataset", "CtfTask"]

BUILTIN: Final = "builtin"
_TASK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class CtfTask:
    """One row, checked. `archive` holds its assets; None: they are in the image."""

    record: Record = field(repr=False)
    task_id: str
    flag: str = field(repr=False)
    setup: str = ""
    hints: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    archive: bytes | None = field(default=None, repr=False)


class CtfDataset(Dataset):
    """A dataset of capture-the-flag tasks, as `CtfEnv` plays it; made by `read` or `made`."""

    __slots__ = ("_challenges", "_tasks", "excluded")

    def __init__(
        self,
        tasks: Sequence[CtfTask],
        *,
        name: str,
        excluded: Mapping[str, str] | None = None,
        challenges: Mapping[str, Challenge] | None = None,
    ) -> None:
        super().__init__([task.record for task in tasks], name=name)
        self._tasks = tuple(replace(task, record=record) for task, record in zip(tasks, self, strict=True))
        self._challenges = dict(challenges or {})
        self.excluded = dict(excluded or {})
        """Which tasks were left out, by their ids, and why."""

    @classmethod
    def read(
        cls,
        data: str | Path | Dataset,
        *,
        assets_dir: Path | str | None = None,
        exclude: Mapping[str, str] | None = None,
        trust_pickle: bool = False,
    ) -> CtfDataset:
        """Return the tasks of a file or dataset (blocking); "builtin" are the six that come with the package.

        A row has ``query``, ``gold`` (the flag) and ``task_id``, and may have ``setup`` (a command, or a list of
        them), ``hints`` or ``hint`` and ``tags`` (each a text, or a list). The assets of a task are what is in the
        directory of its id in *assets_dir*; without *assets_dir* they are in the image. Tasks in *exclude* are left
        out, with the reason that is given there; the indices of rows count without them.

        Raises:
            TaskFileError: A row cannot be used, or its assets cannot be had; names the file, the row and the field.
            ValueError: There is no task to be left out of that id, or built-in tasks are given assets.
        """
        left_out = dict(exclude or {})
        if isinstance(data, CtfDataset) or data == BUILTIN:
            if assets_dir is not None:
                raise ValueError(f"assets_dir is given, but {data!r} has its assets already: leave one out")
            return (data if isinstance(data, CtfDataset) else cls.made()).without(left_out)
        file = Path(data.name) if isinstance(data, Dataset) else Path(data)
        dataset = data if isinstance(data, Dataset) else load_dataset(data, trust_pickle=trust_pickle)
        rows = [_Row(file, record) for record in dataset]
        _check_excluded(left_out, _ids(rows), file)
        root = None if assets_dir is None else Path(assets_dir)
        # What is left out need not be right: that may be the reason.
        tasks = [row.task(root) for row in rows if row.task_id() not in left_out]
        return cls(tasks, name=dataset.name, excluded=left_out)

    @classmethod
    def made(
        cls, challenges: Sequence[Challenge] = CHALLENGES, *, seed: int = 0, name: str = "builtin-ctf"
    ) -> CtfDataset:
        """Return challenges as tasks, by default those of this package, their assets and flags made from *seed*.

        Raises:
            TaskFileError: Two have one id, or one makes no flag; names the challenge by its row.
        """
        tasks = [_made(challenge, seed, number) for number, challenge in enumerate(challenges)]
        _ids([_Row(Path(name), task.record) for task in tasks])
        return cls(tasks, name=name, challenges={challenge.id: challenge for challenge in challenges})

    def without(self, exclude: Mapping[str, str]) -> CtfDataset:
        """Return it without the tasks of these ids; what is said of each is kept in `excluded`.

        Raises:
            ValueError: There is none of such an id, or none would be left.
        """
        _check_excluded(exclude, [task.task_id for task in self._tasks], self.name)
        kept = [task for task in self._tasks if task.task_id not in exclude]
        return CtfDataset(kept, name=self.name, excluded={**self.excluded, **exclude}, challenges=self._challenges)

    def task(self, index: int) -> CtfTask:
        """Return the task of a row."""
        return self._tasks[index]

    def fresh(self, index: int, seed: int) -> CtfTask:
        """Return it with assets and a flag that are made from *seed*: some milliseconds of work.

        Raises:
            ValueError: Its assets are files, and always the same.
        """
        task = self._tasks[index]
        return _made(self.challenge(task.task_id), seed, index)

    def challenge(self, task_id: str) -> Challenge:
        """Return what makes the assets of a task.

        Raises:
            ValueError: They are files, and always the same.
        """
        challenge = self._challenges.get(task_id)
        if challenge is None:
            raise ValueError(f"fresh flags cannot be had for task {task_id!r} of {self.name}: its assets are files")
        return challenge


def _made(challenge: Challenge, seed: int, index: int) -> CtfTask:
    record = replace(Dataset.from_rows([challenge.row(seed)], name=challenge.id)[0], index=index)
    task = _Row(Path(challenge.id), record).task(None)
    return replace(task, archive=pack_assets(challenge.assets(seed), challenge.id))


def _check_excluded(exclude: Mapping[str, str], ids: Sequence[str], name: object) -> None:
    for task_id in exclude:
        if task_id not in ids:
            raise ValueError(f"exclude names the task {task_id!r}, but {name} has none of that id")
    if not set(ids) - set(exclude):
        raise ValueError(f"no task of {name} is left: all are excluded")


def _ids(rows: Sequence[_Row]) -> list[str]:
    first: dict[str, int] = {}
    for row in rows:
        number = first.setdefault(row.task_id(), row.record.index)
        if number != row.record.index:
            raise row.wrong("task_id", f"{row.task_id()!r} is that of row {number} already")
    return list(first)


@dataclass(frozen=True, slots=True)
class _Row:
    """Reads the fields of a row; what is wrong is said with the file, the row and the field."""

    file: Path
    record: Record

    def task(self, root: Path | None) -> CtfTask:
        """Return the task, with what is in the directory of its id in *root*."""
        task_id, archive = self.task_id(), None
        if root is not None:
            if not (root / task_id).is_dir():
                raise self.wrong(
                    "task_id", f"there is no directory {root / task_id}; make an empty one if it has no assets"
                )
            archive = pack_directory(root / task_id, task_id)
        return CtfTask(
            record=self.record,
            task_id=task_id,
            flag=self.flag(),
            setup="\n".join(self.texts("setup")),
            hints=self.texts("hints") or self.texts("hint"),
            tags=self.texts("tags"),
            archive=archive,
        )

    def task_id(self) -> str:
        value = self._value("task_id")
        if value is None:
            raise self.wrong("task_id", "is missing; it names the directory of the task's assets")
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not _TASK_ID.fullmatch(text):
            raise self.wrong("task_id", f"{str(value)[:40]!r} is no name of letters, digits, '.', '_' and '-'")
        return text

    def flag(self) -> str:
        flag: object = self.record.gold
        if not isinstance(flag, str) or not flag.strip() or "\n" in flag.strip():
            raise self.wrong("gold", "expected the flag, one line of text")
        return flag.strip()

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._value(name)
        if value is None:
            return ()
        values = [value] if isinstance(value, str) else value
        is_list = isinstance(values, list | tuple)
        if not is_list or not all(isinstance(each, str) and "\0" not in each for each in cast(list[Any], values)):
            raise self.wrong(name, "expected a text, or a list of texts")
        return tuple(each for each in cast(list[str], values) if each.strip())

    def _value(self, name: str) -> object:
        return cast(object, self.record.extras.get(name))

    def wrong(self, name: str, problem: str) -> TaskFileError:
        return TaskFileError(self.file, f"row {self.record.index}: {name}: {problem}")
