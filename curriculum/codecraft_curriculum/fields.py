"""Reading a table of a file field by field, with one-line errors that name file, field and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn, cast

from codecraft_curriculum.errors import TaskFileError, did_you_mean
from codecraft_curriculum.grade import excerpt

__all__ = ["Table", "as_table", "read_bounded"]

_MAX_FILE_BYTES = 16 << 20

_TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a table",
}


class Table:
    """One table of a file, whose fields are read by type; unknown fields are refused when it is made."""

    __slots__ = ("_values", "file", "where")

    def __init__(self, values: Mapping[str, object], *, file: Path, where: str = "", allowed: Iterable[str]) -> None:
        self._values = values
        self.file = file
        self.where = where
        self._refuse_unknown(list(allowed))

    def _refuse_unknown(self, allowed: list[str]) -> None:
        for name in self._values:
            if name not in allowed:
                place = f" in {self.where}" if self.where else ""
                hint = did_you_mean(name, allowed)
                raise TaskFileError(
                    self.file, f"unknown field {excerpt(name)}{place}{hint}; allowed: {', '.join(allowed)}"
                )

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def error(self, name: str, problem: str) -> TaskFileError:
        """Return the error about one field of this table."""
        return TaskFileError(self.file, f"{self.path(name)}: {problem}")

    def path(self, name: str) -> str:
        """Return the full name of a field, such as ``limits.memory_bytes``."""
        return f"{self.where}.{name}" if self.where else name

    def text(self, name: str, default: str | None = None) -> str:
        """Return text; an error if it is missing and has no default."""
        value = self._value(name, default)
        if not isinstance(value, str):
            self._wrong(name, value, "text")
        return value

    def choice(self, name: str, allowed: Iterable[str], default: str | None = None) -> str:
        """Return text that is one of `allowed`."""
        value = self.text(name, default)
        options = list(allowed)
        if value not in options:
            hint = did_you_mean(value, options)
            raise self.error(name, f"{excerpt(value)} is not allowed{hint}; allowed: {', '.join(options)}")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(name, value, "a whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(name, value, "a number")
        return float(value)

    def truth(self, name: str, default: bool | None = None) -> bool:
        """Return true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            self._wrong(name, value, "true or false")
        return value

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self._value(name, default)
        if isinstance(value, tuple):
            return cast(tuple[str, ...], value)
        if not isinstance(value, list):
            self._wrong(name, value, "a list of texts")
        texts: list[str] = []
        for number, item in enumerate(cast(list[object], value)):
            if not isinstance(item, str):
                self._wrong(f"{name}[{number}]", item, "text")
            texts.append(item)
        return tuple(texts)

    def table(self, name: str) -> dict[str, object]:
        """Return a table, empty if it is missing."""
        value = self._value(name, {})
        table = as_table(value)
        if table is None:
            self._wrong(name, value, "a table")
        return table

    def tables(self, name: str) -> list[dict[str, object]]:
        """Return a list of tables, empty if it is missing."""
        value = self._value(name, [])
        if not isinstance(value, list):
            self._wrong(name, value, "a list of tables")
        tables: list[dict[str, object]] = []
        for number, item in enumerate(cast(list[object], value)):
            table = as_table(item)
            if table is None:
                self._wrong(f"{name}[{number}]", item, "a table")
            tables.append(table)
        return tables

    def texts_by_name(self, name: str) -> dict[str, str]:
        """Return a table of texts, empty if it is missing."""
        return {
            key: value if isinstance(value, str) else self._wrong(f"{name}.{key}", value, "text")
            for key, value in self.table(name).items()
        }

    def raw(self, name: str) -> object:
        """Return a field of whatever type; an error if it is missing."""
        return self._value(name, None)

    def _value(self, name: str, default: object) -> object:
        if name in self._values:
            return self._values[name]
        if default is None:
            place = f" in {self.where}" if self.where else ""
            raise TaskFileError(self.file, f"missing field {name!r}{place}")
        return default

    def _wrong(self, name: str, value: object, wanted: str) -> NoReturn:
        kind = _TYPE_NAMES.get(type(value), type(value).__name__)
        shown = f" {excerpt(str(value), 40)}" if isinstance(value, str | int | float) else ""
        raise self.error(name, f"expected {wanted}, got {kind}{shown}")


def as_table(value: object) -> dict[str, object] | None:
    """Return `value` if it is a table (the keys of TOML and JSON tables are texts), else None."""
    return cast(dict[str, object], value) if isinstance(value, dict) else None


def read_bounded(file: Path, max_bytes: int = _MAX_FILE_BYTES) -> str:
    """Return the text of a file of at most *max_bytes*, 16 MiB by default.

    Raises:
        TaskFileError: it is missing, no file, too large, or not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise TaskFileError(file, f"cannot be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise TaskFileError(file, f"holds over {max_bytes} bytes: put large files into the workspace directory")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TaskFileError(file, f"is not UTF-8 text (byte {error.start})") from None
