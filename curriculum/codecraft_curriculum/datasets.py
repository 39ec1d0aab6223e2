"""Datasets of queries and golds, as InterCode's users bring them: JSON, CSV, TSV, and pickles that are trusted."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast, overload

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.curriculum import Curriculum
from codecraft_curriculum.errors import TaskFileError
from codecraft_curriculum.fields import as_table, read_bounded
from codecraft_curriculum.grade import Grader, Ungraded, excerpt
from codecraft_curriculum.task import Task

__all__ = ["Dataset", "Record", "load_dataset"]

QUERY: Final = "query"
GOLD: Final = "gold"
_SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}
_MAX_BYTES: Final = 256 << 20  # SWE-bench, whole, is 40 MB
_LINES: Final = ".jsonl"
_PICKLES: Final = (".pickle", ".pkl")
_HARDNESS: Final = ("hardness", "difficulty")
_KNOWN_DIFFICULTIES: Final = {"easy": "easy", "medium": "medium", "hard": "hard", "extra": "hard"}


@dataclass(frozen=True, slots=True)
class Record:
    """One row: what is asked for, the reference answer, and all other fields that have a value.

    `gold` is text, or whatever else the file holds there (such as a list of commands); "" if there is none.
    """

    index: int
    query: str
    gold: Any = ""
    extras: Mapping[str, Any] = field(default_factory=FrozenMapping[str, Any])

    def as_dict(self) -> dict[str, Any]:
        """Return the row as the file has it, without its position."""
        gold = {} if self.gold == "" else {GOLD: self.gold}
        return {QUERY: self.query, **gold, **self.extras}


class Dataset(Sequence[Record]):
    """The rows of a file in its order; `dataset[3]` is the row with the index 3, counted from 0."""

    __slots__ = ("_records", "name")

    def __init__(self, records: Sequence[Record], *, name: str) -> None:
        self._records = tuple(replace(record, index=index) for index, record in enumerate(records))
        self.name = name

    @classmethod
    def from_rows(
        cls, rows: Sequence[Mapping[str, Any]], *, name: str = "dataset", names: Mapping[str, str] | None = None
    ) -> Dataset:
        """Return the dataset of rows that are at hand, checked as those of a file; *names* as in `load_dataset`.

        Raises:
            TaskFileError: A row has no query, or there are none; the message names the row and the field.
        """
        return _checked(Path(name), list(rows), name=name, names=names or {})

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        """Return a row, or some."""
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {len(self)} rows>"

    def curriculum(self, *, grader: Callable[[Record], Grader] | None = None, **fields: Any) -> Curriculum:
        """Return the rows as tasks, whose ids are their indices; *fields* are those of `Task` that all have.

        *grader* makes the grader of a row; without one, tasks are not graded but by the environment that plays them.
        A row's ``hardness`` or ``difficulty`` becomes the task's.

        Raises:
            ValueError: A field is not one of `Task`, or has a value that it cannot have.
        """
        make = grader or (lambda record: Ungraded(f"row {record.index} of {self.name}"))
        defaults: dict[str, Any] = {"category": "dataset", **fields}
        return Curriculum([_task(record, make(record), defaults) for record in self._records], name=self.name)


def load_dataset(path: Path | str, *, trust_pickle: bool = False, names: Mapping[str, str] | None = None) -> Dataset:
    """Return a file's dataset (blocking): ``.json`` (a list of objects), ``.jsonl`` (an object in each line), ``.csv``,
    ``.tsv``, ``.pickle`` or ``.pkl``.

    Every row needs a ``query``; ``gold`` and all other fields may be missing. Texts stay texts: nothing of a table
    is read as a number. A field without a value is left out of its row: null and NaN, and an empty cell of a table.

    *names* are other names that the file may have for fields, with those that they get here, such as
    ``{"problem_statement": "query"}``; a row that has both keeps both.

    A pickle is a program that runs when it is read, so it is read only with *trust_pickle*; it holds a list of
    dicts, a dict of columns, or a pandas data frame.

    Raises:
        TaskFileError: The file cannot be read, or a row of it cannot be used; names the file, the row (from 0, as
            `index` counts) and the field.
    """
    file = Path(path)
    ending = file.suffix.lower()
    if ending == ".json":
        rows: object = _read_json(file)
    elif ending == _LINES:
        rows = _read_lines(file)
    elif ending in _SEPARATORS:
        rows = _read_table(file, _SEPARATORS[ending])
    elif ending in _PICKLES:
        rows = _read_pickle(file, trusted=trust_pickle)
    else:
        known = ", ".join((".json", _LINES, *_SEPARATORS, *_PICKLES))
        raise TaskFileError(file, f"cannot tell the format by the ending {ending!r}: use one of {known}")
    return _checked(file, rows, name=file.stem, names=names or {})


def _read_json(file: Path) -> object:
    try:
        return cast(object, json.loads(read_bounded(file, _MAX_BYTES).removeprefix("\ufeff")))
    except (json.JSONDecodeError, RecursionError) as error:
        raise TaskFileError(file, f"not valid JSON: {error}") from None


def _read_lines(file: Path) -> list[object]:
    rows: list[object] = []
    for number, line in enumerate(read_bounded(file, _MAX_BYTES).removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError) as error:
            raise TaskFileError(file, f"row {len(rows)} (line {number}): not valid JSON: {error}") from None
    return rows


def _read_table(file: Path, separator: str) -> list[dict[str, str]]:
    text = read_bounded(file, _MAX_BYTES).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    rows: list[dict[str, str]] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not names:
                names = cells
                continue
            if len(cells) > len(names):
                raise TaskFileError(
                    file,
                    f"row {len(rows)} (line {reader.line_num}): {len(cells)} cells, but the first line names "
                    f"{len(names)} fields: quote a cell that holds a {separator!r}",
                )
            rows.append({name: cell for name, cell in zip(names, cells, strict=False) if cell})
    except csv.Error as error:
        raise TaskFileError(file, f"row {len(rows)} (line {reader.line_num}): not a valid table: {error}") from None
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise TaskFileError(file, f"the first line names the field {double!r} twice: rename one")
    return rows


def _read_pickle(file: Path, *, trusted: bool) -> object:
    if not trusted:
        raise TaskFileError(
            file,
            "a pickle runs whatever its author wrote into it: say trust_pickle=True if you trust this file, or "
            "convert it to JSON",
        )
    try:
        content: Any = pickle.loads(file.read_bytes())
    except OSError as error:
        raise TaskFileError(file, f"cannot be read: {error.strerror}") from None
    except Exception as error:  # what reading a pickle can raise is anybody's guess
        raise TaskFileError(file, f"not a pickle that can be read here: {type(error).__name__}: {error}") from None
    if hasattr(content, "to_dict"):
        return content.to_dict("records")
    columns = as_table(content)
    if columns is None:
        return cast(object, content)
    try:
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*cast(Any, columns.values()), strict=True)]
    except (TypeError, ValueError):
        raise TaskFileError(file, "holds columns that are no lists of one length") from None


def _checked(file: Path, rows: object, *, name: str, names: Mapping[str, str]) -> Dataset:
    if not isinstance(rows, list):
        raise TaskFileError(file, f"expected a list of objects with a {QUERY!r} and a {GOLD!r} in each")
    records = [_record(file, index, row, names) for index, row in enumerate(cast(list[object], rows))]
    if not records:
        raise TaskFileError(file, "holds no rows")
    return Dataset(records, name=name)


def _record(file: Path, index: int, row: object, names: Mapping[str, str]) -> Record:
    values = as_table(row)
    if values is None:
        raise TaskFileError(file, f"row {index}: expected an object with a {QUERY!r}, got {excerpt(repr(row), 60)}")
    kept = {str(name): value for name, value in values.items() if not _is_missing(value)}
    for theirs, ours in names.items():
        if theirs in kept and ours not in kept:
            kept[ours] = kept.pop(theirs)
    if QUERY not in kept:
        known = ", ".join(map(str, values)) or "none"
        raise TaskFileError(file, f"row {index}: the field {QUERY!r} is missing or empty; its fields: {known}")
    query = kept.pop(QUERY)
    if not isinstance(query, str) or not query.strip():
        raise TaskFileError(file, f"row {index}: {QUERY}: expected text, got {excerpt(repr(query), 40)}")
    return Record(index, query, kept.pop(GOLD, ""), FrozenMapping(kept))


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _task(record: Record, grader: Grader, fields: Mapping[str, Any]) -> Task:
    values = dict(fields)
    hardness = next((str(record.extras[name]) for name in _HARDNESS if name in record.extras), "")
    values.setdefault("difficulty", _KNOWN_DIFFICULTIES.get(hardness.lower(), ""))
    try:
        return Task(id=str(record.index), instruction=record.query, grader=grader, **values)
    except TypeError as error:
        raise ValueError(f"a field for the tasks of a dataset is none of a task's: {error}") from None
