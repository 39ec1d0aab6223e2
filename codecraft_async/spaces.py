"""Spaces for text that may hold any character."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import CustomSpaceError
from gymnasium.spaces.utils import (
    flatten,
    flatten_space,  # pyright: ignore[reportUnknownVariableType]  # gymnasium leaves the results of these two
    unflatten,
)
from gymnasium.vector.utils import (
    batch_differing_spaces,  # pyright: ignore[reportUnknownVariableType]  # partly untyped
    create_shared_memory,
)
from numpy.typing import NDArray

__all__ = ["SAMPLE_MAX", "Unicode"]

# A plain Text space samples up to max_length random characters: tens of thousands of them for a space that
# admits a command's output, and handed to a shell as a command. A random sample stays this short instead.
SAMPLE_MAX = 16

# One more than the last code point: fills a flattened text up to its full length.
_PADDING = 0x110000


class Unicode(spaces.Text):
    """Any str whose length in characters lies between `min_length` and `max_length`, whatever its characters.

    Samples are printable ASCII and at most `SAMPLE_MAX` characters long (longer only where `min_length` asks for it).
    """

    def __init__(self, max_length: int, *, min_length: int = 0, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=min_length, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a str of an admitted length."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length

    def sample(
        self,
        mask: tuple[int | None, NDArray[np.int8] | None] | None = None,
        probability: tuple[int | None, NDArray[np.float64] | None] | None = None,
    ) -> str:
        """A random text of printable ASCII; `mask` and `probability` as in `gymnasium.spaces.Text`."""
        if mask is None and probability is None:
            longest = min(self.max_length, max(self.min_length, SAMPLE_MAX))
            mask = (int(self.np_random.integers(self.min_length, longest + 1)), None)
        return super().sample(mask=mask, probability=probability)

    def __repr__(self) -> str:
        return f"Unicode({self.min_length}, {self.max_length})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Unicode) and self.min_length == other.min_length and self.max_length == other.max_length
        )

    def __hash__(self) -> int:
        return hash((Unicode, self.min_length, self.max_length))


def _flatten(space: Unicode, x: str) -> NDArray[np.int32]:
    codes = np.full(space.max_length, _PADDING, dtype=np.int32)
    codes[: len(x)] = [ord(character) for character in x]
    return codes


def _unflatten(space: Unicode, x: NDArray[np.int32]) -> str:
    return "".join(chr(code) for code in x if code < _PADDING)


def _flatten_space(space: Unicode) -> spaces.Box:
    return spaces.Box(low=0, high=_PADDING, shape=(space.max_length,), dtype=np.int32)


def _refuse(space: Unicode, n: int = 1, ctx: Any = None) -> Any:
    """gymnasium's AsyncVectorEnv reads text out of shared memory once, when it is made, and then returns that."""
    del n, ctx
    raise CustomSpaceError(f"{space} cannot go through shared memory: give AsyncVectorEnv shared_memory=False")


# The functions that gymnasium has for Text look characters up in the charset, where most of Unicode is missing.
flatten.register(Unicode, _flatten)
unflatten.register(Unicode, _unflatten)
flatten_space.register(Unicode, _flatten_space)
create_shared_memory.register(Unicode, _refuse)
# This one looks a type up without regard to inheritance.
batch_differing_spaces.register(Unicode, batch_differing_spaces.dispatch(spaces.Text))
