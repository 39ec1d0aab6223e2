"""What the callers of first-ready batches ask for: environments, seeds, sizes and times, read and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from codecraft_async._vector_batch import Seeds, seeds

__all__ = ["Ids", "check_timeout", "listed", "read_ids", "read_index", "read_size", "read_sizes", "scatter"]

Ids: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]

# How many environments an error names; the others are only counted.
_NAMED: Final = 8


def read_ids(env_id: Any, num_envs: int, *, name: str = "env_id") -> list[int]:
    """The environments that a caller names, in the caller's order.

    Raises:
        TypeError: something else than a sequence or an array of integers; a bool is none.
        ValueError: none at all, an array of another shape, or the same one twice.
        IndexError: one that does not exist; there are no negative indices.
    """
    if isinstance(env_id, np.ndarray):
        if env_id.ndim != 1:
            raise ValueError(f"{name} must have one dimension, got an array of shape {env_id.shape}")
        if not np.issubdtype(env_id.dtype, np.integer):
            raise TypeError(f"{name} must hold integers, got an array of dtype {env_id.dtype}")
    elif not isinstance(env_id, Sequence) or isinstance(env_id, (str, bytes)):
        raise TypeError(f"{name} must be a sequence or an array of integers, got {type(env_id).__name__}")
    if len(env_id) > num_envs:
        raise ValueError(f"{name} names {len(env_id)} environments, but there are {num_envs}")
    ids = [read_index(each, num_envs, name=name) for each in env_id]
    if not ids:
        raise ValueError(f"{name} is empty: name at least one environment, or leave it out")
    if len(set(ids)) != len(ids):
        twice = sorted({row for row in ids if ids.count(row) > 1})
        raise ValueError(f"{name} names {listed(twice)} more than once: an environment has one call at a time")
    return ids


def read_index(value: Any, num_envs: int, *, name: str = "env_id") -> int:
    """One environment's index.

    Raises:
        TypeError: it is no integer.
        IndexError: there is no such environment.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must hold integers, got {value!r} of type {type(value).__name__}")
    if not 0 <= value < num_envs:
        raise IndexError(f"{name} has {value}, but the environments are 0 to {num_envs - 1}")
    return int(value)


def scatter(seed: Seeds, rows: Sequence[int], num_envs: int) -> list[int | None]:
    """By environment, the seeds of `rows`: an int is added to their indices, a sequence has one for each of them.

    Raises:
        ValueError: a sequence of another length.
    """
    if seed is None or isinstance(seed, (int, np.integer)):
        return seeds(seed, num_envs)
    if len(seed) != len(rows):
        raise ValueError(f"seed has {len(seed)} seeds for the {len(rows)} environments of env_id")
    each: list[int | None] = [None] * num_envs
    for row, own in zip(rows, seed, strict=True):
        each[row] = own
    return each


def read_sizes(batch_size: Any, min_get: Any, num_envs: int) -> tuple[int, int]:
    """How many results a batch may have, and how many it must have.

    Raises:
        TypeError: a size is no integer.
        ValueError: it is not from 1 to `num_envs`, or the second is above the first.
    """
    most = read_size("batch_size", batch_size, num_envs)
    least = most if min_get is None else read_size("min_get", min_get, num_envs)
    if least > most:
        raise ValueError(f"min_get is {least}, more than the batch_size of {most}")
    return most, least


def read_size(name: str, size: Any, num_envs: int) -> int:
    """One of the sizes, as `read_sizes` reads them."""
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {size!r} of type {type(size).__name__}")
    if not 1 <= size <= num_envs:
        raise ValueError(f"{name} must be from 1 to the number of environments, {num_envs}, got {size}")
    return int(size)


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError if that is no time to wait."""
    if timeout is not None and (math.isnan(timeout) or timeout < 0):
        raise ValueError(f"timeout must be a number of seconds, at least 0, or None for no limit, got {timeout}")


def listed(things: Sequence[object]) -> str:
    """The first few of `things`, and how many more there are."""
    more = f" and {len(things) - _NAMED} more" if len(things) > _NAMED else ""
    return ", ".join(map(str, things[:_NAMED])) + more
