"""What goes into and comes out of a vector environment: spaces, seeds, masks, actions, observations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import islice
from typing import Any, TypeAlias, cast

import numpy as np
from gymnasium import Env, Space, spaces
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import (
    batch_differing_spaces,  # pyright: ignore[reportUnknownVariableType]  # gymnasium leaves its result untyped
    batch_space,
    concatenate,
    create_empty_array,
    iterate,
)
from numpy.typing import NDArray

__all__ = [
    "Batch",
    "ObservationMode",
    "Seeds",
    "batch_observations",
    "observation_spaces",
    "read_options",
    "seeds",
    "split",
]

# A tuple holds the batched observation space, then the single one.
ObservationMode: TypeAlias = str | tuple[Space[Any], Space[Any]]
Seeds: TypeAlias = int | Sequence[int | None] | None


def observation_spaces(envs: Sequence[Env[Any, Any]], mode: ObservationMode) -> tuple[Space[Any], Space[Any]]:
    """The batched and the single observation space of `envs`.

    Raises:
        ValueError: `mode` is unknown.
        TypeError: `mode` is a tuple of other things than two spaces.
        RuntimeError: the observation or action spaces of `envs` do not go together.
    """
    first = envs[0].observation_space
    batched: Space[Any]
    single: Space[Any]
    if mode == "same":
        batched, single = batch_space(first, len(envs)), first
    elif mode == "different":
        batched, single = batch_differing_spaces([env.observation_space for env in envs]), first
    elif isinstance(mode, tuple):
        batched, single = _two_spaces(mode)
    else:
        raise ValueError(
            f"observation_mode must be 'same', 'different' or a tuple (batched space, single space), got {mode!r}"
        )
    for index, env in enumerate(envs):
        _check_spaces(index, env, single, envs[0].action_space, exact=mode == "same")
    return batched, single


def _two_spaces(mode: tuple[Any, ...]) -> tuple[Space[Any], Space[Any]]:
    if len(mode) != 2 or not all(isinstance(space, Space) for space in mode):
        raise TypeError(f"observation_mode as a tuple must hold two spaces, (batched, single), got {mode!r}")
    return mode[0], mode[1]


def _check_spaces(index: int, env: Env[Any, Any], single: Space[Any], action_space: Space[Any], *, exact: bool) -> None:
    space = env.observation_space
    if exact and space != single:
        raise RuntimeError(
            f"env {index} has observation space {space}, which is not {single}; if this is intended, "
            "use observation_mode='different'"
        )
    if not exact and not _have_same_arrays(space, single):
        raise RuntimeError(f"env {index} has observation space {space}, which differs in shape or dtype from {single}")
    if env.action_space != action_space:
        raise RuntimeError(f"env {index} has action space {env.action_space}, env 0 has {action_space}")


def _have_same_arrays(space: Space[Any], other: Space[Any]) -> bool:
    try:
        return bool(is_space_dtype_shape_equiv(space, other))
    except NotImplementedError:
        # A custom space, of which gymnasium knows no arrays.
        return type(space) is type(other)


def seeds(seed: Seeds, num_envs: int) -> list[int | None]:
    """One seed for each environment: an int counts up from env to env.

    Raises:
        ValueError: a sequence of another length than `num_envs`.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + index for index in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(
            f"If seeds are passed as a list the length must match num_envs={num_envs} but got length={len(seed)}."
        )
    return list(seed)


def read_options(options: Mapping[str, Any] | None, num_envs: int) -> tuple[list[int], dict[str, Any] | None]:
    """The indices of the environments to reset, and the options for them; `options` itself stays as it is.

    Raises:
        TypeError, ValueError: `options["reset_mask"]` is not a boolean array with a True for some environment.
    """
    if options is None:
        return list(range(num_envs)), None
    others = dict(options)
    if "reset_mask" not in others:
        return list(range(num_envs)), others
    mask = others.pop("reset_mask")
    name = "`options['reset_mask']`"
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {type(mask)}")
    mask = cast("NDArray[Any]", mask)
    if mask.shape != (num_envs,):
        raise ValueError(f"{name} must have shape `({num_envs},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(f"{name} must contain a boolean array with at least one True value, got reset_mask={mask}")
    return [int(index) for index in np.flatnonzero(mask)], others


def split(action_space: Space[Any], actions: Any, num_envs: int) -> list[Any]:
    """One action for each environment.

    Raises:
        TypeError: one action instead of a batch, be it one that can be iterated over: a str, bytes or a mapping.
        ValueError: too few or too many actions.
    """
    by_name = isinstance(actions, Mapping) and not isinstance(action_space, spaces.Dict)
    single = isinstance(action_space, spaces.Tuple) and not isinstance(actions, Iterable)
    if by_name or single or isinstance(actions, (str, bytes)):
        kind = type(cast("object", actions)).__name__
        raise TypeError(f"actions must be a batch of {num_envs} actions, one for each environment, got one {kind}")
    each: Iterable[Any] = iterate(action_space, actions)
    # One more than wanted is enough to know, even of an iterator without an end.
    taken = list(islice(each, num_envs + 1))
    if len(taken) != num_envs:
        got = len(taken) if len(taken) < num_envs else f"more than {num_envs}"
        raise ValueError(f"actions must be a batch of {num_envs} actions, one for each environment, got {got}")
    return taken


class Batch:
    """Makes one batch of `space`'s batched space of the observations of all environments.

    With `copy` it shares no array with them nor with any other batch; without, arrays are those of the batch before.
    """

    def __init__(self, space: Space[Any], num_envs: int, *, copy: bool) -> None:
        self._space = space
        self._copies = copy
        self._kept: Any = None if copy else create_empty_array(space, n=num_envs, fn=np.zeros)

    def __call__(self, observations: Sequence[Any]) -> Any:
        if self._copies or isinstance(self._space, spaces.Text):
            return batch_observations(self._space, observations)
        self._kept = concatenate(self._space, observations, self._kept)
        return self._kept

    def misfits(self, observations: Sequence[Any]) -> list[int]:
        """The environments whose observations do not fit into a batch, not even alone."""
        return [row for row, observation in enumerate(observations) if not self._fits(observation)]

    def _fits(self, observation: Any) -> bool:
        try:
            batch_observations(self._space, [observation])
        except Exception:
            return False
        return True


def batch_observations(space: Space[Any], observations: Sequence[Any]) -> Any:
    """The observations as one batch of `space`'s batched space, sharing no array with them."""
    if isinstance(space, spaces.Text):
        return tuple(observations)
    out: Any = create_empty_array(space, n=len(observations), fn=np.zeros)
    batch = concatenate(space, observations, out)
    return batch if _is_copied(space) else deepcopy(batch)


def _is_copied(space: Space[Any]) -> bool:
    """Whether concatenation copies every part of an observation that could be changed."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts: Any = space.spaces
        return all(map(_is_copied, parts.values() if isinstance(space, spaces.Dict) else parts))
    return isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Text))
