"""The Unicode space."""

from __future__ import annotations

import copy
import pickle
import string
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import CustomSpaceError
from gymnasium.spaces.utils import flatdim, flatten, flatten_space, unflatten
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    iterate,
)

from codecraft_async.spaces import SAMPLE_MAX, Unicode

ANYTHING = ["", "hello world", "\n\t\r", "\x1b[31mred\x1b[0m", "\x00", "é", "日本", "\U0001f40d", "\ud800"]


@pytest.mark.parametrize("text", ANYTHING)
def test_contains_any_character(text: str) -> None:
    """Every character belongs, also those that the stock Text space refuses."""
    assert text in Unicode(64)


def test_contains_looks_at_type_and_length() -> None:
    """Only a str of an admitted number of characters belongs."""
    space = Unicode(3, min_length=2)
    assert [False, True, True, False] == [text in space for text in ("a", "ab", "日本語", "abcd")]
    assert [False] * 4 == [thing in space for thing in (b"ab", None, 12, ["a", "b"])]


def test_sample_is_short_and_printable() -> None:
    """Samples of a huge space are commands of a few characters, not tens of thousands."""
    space = Unicode(1 << 20, seed=1)
    samples = [space.sample() for _ in range(200)]
    assert max(map(len, samples)) <= SAMPLE_MAX
    assert len({len(sample) for sample in samples}) > 10
    assert set("".join(samples)) <= set(string.printable)


def test_sample_keeps_to_the_bounds() -> None:
    """A space whose minimum lies above the usual sample length gets samples of that length; a small one, small ones."""
    assert {20} == {len(Unicode(30, min_length=20, seed=seed).sample()) for seed in range(9)}
    assert all(Unicode(2, seed=seed).sample() in Unicode(2) for seed in range(9))


def test_sample_is_reproducible() -> None:
    """Equal seeds give equal samples."""
    assert Unicode(99, seed=7).sample() == Unicode(99, seed=7).sample()


def test_sample_takes_masks() -> None:
    """A mask fixes length and characters as for the stock Text space."""
    space = Unicode(64, seed=3)
    only_a = np.array([character == "a" for character in space.character_list], dtype=np.int8)
    assert "aaaaa" == space.sample(mask=(5, only_a))


def test_equality_and_hash() -> None:
    """Spaces are equal if their bounds are, and equal spaces have equal hashes."""
    assert Unicode(5) == Unicode(5)
    assert hash(Unicode(5)) == hash(Unicode(5))
    assert {Unicode(5)} == {Unicode(5), Unicode(5, seed=1)}
    assert Unicode(5) != Unicode(6)
    assert Unicode(5) != Unicode(5, min_length=1)
    assert Unicode(5) != spaces.Text(5, min_length=0, charset=string.printable)


def test_repr_is_short() -> None:
    """The charset is not part of the repr."""
    assert "Unicode(1, 65536)" == repr(Unicode(65536, min_length=1))


def test_copies_and_pickles_are_equal_and_small() -> None:
    """Copies and pickles keep bounds and random state, and a pickle is small."""
    space = Unicode(65536, min_length=2, seed=5)
    data = pickle.dumps(space)
    for other in (pickle.loads(data), copy.deepcopy(space)):
        assert space == other
        assert copy.deepcopy(space).sample() == other.sample()
    assert len(data) < 20_000


@pytest.mark.parametrize("bad", [-1, 1.5])
def test_bad_bounds_are_refused(bad: object) -> None:
    """Lengths are non-negative integers."""
    with pytest.raises((AssertionError, TypeError, ValueError)):  # the first from gymnasium before 1.4
        Unicode(bad)  # type: ignore[arg-type]


def test_batches_are_tuples_of_str() -> None:
    """A batch of the space is a tuple of strings, in every function of gymnasium that makes or splits one."""
    space = Unicode(64)
    batched = batch_space(space, 3)
    texts = ("a", "\x1b", "日本")
    assert texts in batched
    empty: Any = create_empty_array(space, 3)
    assert ("", "", "") == empty
    assert texts == concatenate(space, texts, empty)
    assert list(texts) == list(iterate(batched, texts))
    assert batched == batch_differing_spaces([space] * 3)


@pytest.mark.parametrize("text", ANYTHING)
def test_flattening_keeps_every_character(text: str) -> None:
    """A flattened text unflattens to itself, and lies in the flattened space."""
    space = Unicode(40)
    flat: Any = flatten(space, text)
    assert flat in flatten_space(space)
    assert (flatdim(space),) == flat.shape
    assert text == unflatten(space, flat)


def test_shared_memory_is_refused() -> None:
    """gymnasium's AsyncVectorEnv would return the text it first found there for ever; the error says what to do."""
    with pytest.raises(CustomSpaceError, match="give AsyncVectorEnv shared_memory=False"):
        create_shared_memory(spaces.Dict({"text": Unicode(40)}), n=2)
