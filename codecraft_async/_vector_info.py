"""The infos of single environments, merged into the info of a vector environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["AddInfo", "Entry", "merge_infos"]

# An environment's index and its info.
Entry: TypeAlias = tuple[int, dict[str, Any]]
# `VectorEnv._add_info`: merges one environment's info into a vector info.
AddInfo: TypeAlias = Callable[[dict[str, Any], dict[str, Any], int], dict[str, Any]]

# Types for which one conversion of a whole column gives what assigning its values one by one gives.
_SCALARS = frozenset(
    {
        bool,
        int,
        float,
        np.float16,
        np.float32,
        np.float64,
        np.int8,
        np.int16,
        np.int32,
        np.int64,
        np.uint8,
        np.uint16,
        np.uint32,
        np.uint64,
    }
)


def merge_infos(entries: Sequence[Entry], *, num_envs: int, add_info: AddInfo) -> dict[str, Any]:
    """What `add_info` makes of the entries one after the other, made key by key instead of value by value.

    Columns that mix types, and types that are not known here, go through `add_info` itself.
    """
    columns = _columns(entries)
    if any(_is_irregular(key, columns) for key in columns):
        return _one_by_one(entries, add_info)
    merged: dict[str, Any] = {}
    # Then a column of full length has one value of each environment, in order.
    in_order = [row for row, _ in entries] == list(range(num_envs))
    everywhere = np.ones(num_envs, dtype=np.bool_)
    for key, column in columns.items():
        full = in_order and len(column.rows) == num_envs
        array = _merge_column(key, column, num_envs, full, add_info)
        if array is None:
            for row, value in zip(column.rows, column.values, strict=True):
                merged = add_info(merged, {key: value}, row)
            continue
        merged[key] = array
        if full:
            merged[f"_{key}"] = everywhere.copy()  # a third of what making it anew takes
        else:
            mask = merged[f"_{key}"] = np.zeros(num_envs, dtype=np.bool_)
            mask[column.rows] = True
    return merged


class _Column:
    """The values that one key has, and in which environments."""

    __slots__ = ("rows", "values")

    def __init__(self, rows: list[int], values: list[Any]) -> None:
        self.rows = rows
        self.values = values


def _columns(entries: Sequence[Entry]) -> dict[str, _Column]:
    """The values of each key. Infos that all have the same keys, as nearly always, are taken column by column."""
    keys = entries[0][1].keys() if entries else ()
    if all(info.keys() == keys for _, info in entries):
        rows = [row for row, _ in entries]
        return {key: _Column(rows, [info[key] for _, info in entries]) for key in keys}
    columns: dict[str, _Column] = {}
    for row, info in entries:
        for key, value in info.items():
            column = columns.get(key)
            if column is None:
                column = columns[key] = _Column([], [])
            column.rows.append(row)
            column.values.append(value)
    return columns


def _merge_column(
    key: str, column: _Column, num_envs: int, full: bool, add_info: AddInfo
) -> NDArray[Any] | dict[str, Any] | None:
    """The merged values of one key; None where `add_info` has to decide."""
    rows, values = column.rows, column.values
    kinds = set(map(type, values))
    if key == "final_obs":
        return _objects(rows, values, num_envs)
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind in _SCALARS:
        if full:
            return np.array(values, dtype=kind)
        array = np.zeros(num_envs, dtype=kind)
        array[rows] = values
        return array
    if kind is dict:
        nested = cast("list[dict[str, Any]]", values)
        return merge_infos(list(zip(rows, nested, strict=True)), num_envs=num_envs, add_info=add_info)
    if kind is np.ndarray:
        # As `add_info` does, this takes shape and type from the first value and lets numpy refuse what does not fit.
        array = np.zeros((num_envs, *values[0].shape), dtype=values[0].dtype)
        for row, value in zip(rows, values, strict=True):
            array[row] = value
        return array
    if kind is str and full:
        return np.array(values, dtype=object)
    if kind in (str, list, tuple, bytes) or values[0] is None:
        return _objects(rows, values, num_envs)
    return None


def _objects(rows: Sequence[int], values: Sequence[Any], num_envs: int) -> NDArray[Any]:
    array = np.full(num_envs, fill_value=None, dtype=object)
    for row, value in zip(rows, values, strict=True):
        array[row] = value
    return array


def _is_irregular(key: object, columns: dict[str, _Column]) -> bool:
    """Whether a key is no str, or is where another key's mask goes."""
    return type(key) is not str or (key.startswith("_") and key[1:] in columns)


def _one_by_one(entries: Sequence[Entry], add_info: AddInfo) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for row, info in entries:
        merged = add_info(merged, info, row)
    return merged
