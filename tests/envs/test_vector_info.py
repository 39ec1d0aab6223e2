"""Merged infos equal those of gymnasium's own merger."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codecraft_async._vector_info import Entry, merge_infos

from .vector_envs import assert_same

NUM_ENVS = 4

SORTS: list[st.SearchStrategy[Any]] = [
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(max_size=5),
    st.none(),
    st.lists(st.integers(), max_size=3),
    st.tuples(st.integers()),
    st.integers(-128, 127).map(np.int8),
    st.integers(0, 2**63).map(np.uint64),
    st.floats(width=32, allow_nan=False).map(np.float32),
    st.booleans().map(np.bool_),
    st.integers(0, 9).map(lambda count: np.timedelta64(count, "s")),
    st.lists(st.floats(-1, 1), min_size=2, max_size=2).map(np.array),
    st.lists(st.integers(0, 9), min_size=3, max_size=3).map(np.array),
    st.integers(0, 9).map(np.array),
    st.dictionaries(st.sampled_from(["x", "final_obs"]), st.one_of(st.integers(), st.text(max_size=2)), max_size=2),
]
KEYS = st.sampled_from(["a", "b", "_a", "__a", "final_obs", "final_info", ""])


class Oracle(VectorEnv[Any, Any, Any]):
    """Gymnasium's merger."""

    num_envs = NUM_ENVS

    def add_info(self, merged: dict[str, Any], info: dict[str, Any], row: int) -> dict[str, Any]:
        return self._add_info(merged, info, row)


def merge_both(entries: list[Entry]) -> tuple[Any, Any]:
    """What gymnasium's merger and ours make of the entries: a dict, or "refused"."""
    oracle = Oracle()

    def theirs() -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for row, info in entries:
            merged = oracle.add_info(merged, info, row)
        return merged

    def ours() -> dict[str, Any]:
        return merge_infos(entries, num_envs=NUM_ENVS, add_info=oracle.add_info)

    results: list[Any] = []
    for merge in (theirs, ours):
        try:
            results.append(merge())
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError, Warning):
            results.append("refused")
    return results[0], results[1]


@st.composite
def regular(draw: st.DrawFn) -> list[Entry]:
    """Every key has one sort of value throughout; some environments lack some keys."""
    columns = draw(st.dictionaries(KEYS, st.sampled_from(SORTS), max_size=4))
    rows = draw(st.sets(st.integers(0, NUM_ENVS - 1)))
    whole = draw(st.booleans())
    return [
        (row, {key: draw(sort) for key, sort in columns.items() if whole or draw(st.booleans())})
        for row in (range(NUM_ENVS) if whole else sorted(rows))
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(regular())
def test_regular_infos(entries: list[Entry]) -> None:
    """Infos whose keys have one type each merge as gymnasium merges them."""
    expected, actual = merge_both(entries)
    assert_same(expected, actual)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.integers(0, NUM_ENVS - 1), st.dictionaries(KEYS, st.one_of(SORTS), max_size=4)),
        max_size=2 * NUM_ENVS,
    )
)
def test_irregular_infos(entries: list[Entry]) -> None:
    """Mixed types, keys that collide with masks and repeated environments merge, or are refused, as gymnasium does."""
    expected, actual = merge_both(entries)
    assert_same(expected, actual)


@pytest.mark.parametrize(
    "values",
    [[1, 0.5], [1, None], [True, 3], [np.zeros(2), np.zeros(3)], [{"x": 1}, 2], [2, {"x": 1}], ["a", 1], [2**70, 1]],
)
def test_known_traps(values: list[Any]) -> None:
    """What gymnasium truncates, refuses or mixes up is treated alike, so that infos do not depend on the vectorizer."""
    expected, actual = merge_both([(row, {"key": value}) for row, value in enumerate(values)])
    assert_same(expected, actual)


def test_keys_that_are_no_str() -> None:
    """Keys of other types merge as gymnasium merges them."""
    entries: list[Any] = [(0, {1: "one", None: 2}), (2, {1: "two"})]
    expected, actual = merge_both(entries)
    assert_same(expected, actual)


def test_results_share_nothing() -> None:
    """Two merges of the same infos give different arrays and masks."""
    entries: list[Entry] = [(row, {"a": 1.0, "b": "x"}) for row in range(NUM_ENVS)]
    first, second = (merge_infos(entries, num_envs=NUM_ENVS, add_info=lambda *_: {}) for _ in range(2))
    assert ["a", "_a", "b", "_b"] == list(first)
    assert not any(np.shares_memory(first[key], second[key]) for key in first)
