"""Random sessions: whatever is reset how, and in whichever order, the numbers are SyncVectorEnv's, by either face."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from hypothesis import strategies as st

from codecraft_async.vector import AsyncioVectorEnv

from .vector_envs import MODES, NUM_ENVS, SPACES, assert_same, factories

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Session:
    """A vector environment to make, and the calls to make to it."""

    kind: str
    mode: str
    sort: str
    options: dict[str, Any]
    draws: list[tuple[bool, Any, list[bool] | None, bool]]


_seeds = st.none() | st.integers(0, 99) | st.lists(st.none() | st.integers(0, 99), min_size=NUM_ENVS, max_size=NUM_ENVS)
_masks = st.none() | st.lists(st.booleans(), min_size=NUM_ENVS, max_size=NUM_ENVS).filter(any)
_draws = st.tuples(st.sampled_from([True, True, True, False]), _seeds, _masks, st.booleans())
_sessions = st.builds(
    Session,
    kind=st.sampled_from([*SPACES]),
    mode=st.sampled_from(MODES),
    sort=st.sampled_from(["plain", "async", "mixed"]),
    options=st.fixed_dictionaries(
        {
            "background_resets": st.booleans(),
            "max_concurrency": st.none() | st.integers(1, NUM_ENVS),
            "copy": st.booleans(),
        }
    ),
    draws=st.lists(_draws, min_size=4, max_size=14),
)


def _call(vec: Any, session: Session, draw: tuple[bool, Any, list[bool] | None, bool], over: Any) -> Call:
    """The next call: in DISABLED mode ended episodes come first."""
    is_step, seed, mask, has_options = draw
    if session.mode == "Disabled" and over.any():
        return "reset", {"seed": seed, "options": {"reset_mask": over}}
    if is_step:
        return "step", {"actions": vec.action_space.sample()}
    options: dict[str, Any] = {"level": 1} if has_options else {}
    if mask is not None:
        options["reset_mask"] = np.array(mask)
    return "reset", {"seed": seed, "options": options or None}


def _ended(result: tuple[Any, ...], over: Any) -> Any:
    return result[2] | result[3] if len(result) == 5 else np.zeros_like(over)


def _play(vec: Any, session: Session) -> list[Any]:
    vec.action_space.seed(5)
    over = np.zeros(NUM_ENVS, dtype=np.bool_)
    results = [_kept(vec.reset(seed=1))]
    for draw in session.draws:
        name, keywords = _call(vec, session, draw, over)
        results.append(_kept(getattr(vec, name)(**keywords)))
        over = _ended(results[-1], over)
    vec.close()
    return results


async def _aplay(vec: Any, session: Session) -> list[Any]:
    vec.action_space.seed(5)
    over = np.zeros(NUM_ENVS, dtype=np.bool_)
    results = [_kept(await vec.areset(seed=1))]
    for draw in session.draws:
        name, keywords = _call(vec, session, draw, over)
        results.append(_kept(await getattr(vec, f"a{name}")(**keywords)))
        over = _ended(results[-1], over)
    await vec.aclose()
    return results


def _kept(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """A result whose observations later calls cannot change, which they may do with `copy=False`."""

    def keep(batch: Any) -> Any:
        if isinstance(batch, np.ndarray):
            return batch.copy()
        if isinstance(batch, dict):
            return {key: keep(value) for key, value in batch.items()}
        return tuple(map(keep, batch)) if isinstance(batch, tuple) else batch

    return (keep(result[0]), *result[1:])


@pytest.mark.parametrize("face", ["synchronous", "asynchronous"])
@hypothesis.settings(max_examples=25, deadline=None, database=None, derandomize=True)
@hypothesis.given(_sessions)
def test_random_sessions(face: str, session: Session) -> None:
    """Observations, rewards, flags and infos are equal in every value, type, dtype and shape."""
    theirs = SyncVectorEnv(factories("plain", session.kind), autoreset_mode=session.mode, copy=session.options["copy"])
    expected = _play(theirs, session)
    ours: AsyncioVectorEnv[Any, Any] = AsyncioVectorEnv(
        factories(session.sort, session.kind), autoreset_mode=session.mode, **session.options
    )
    actual = _play(ours, session) if face == "synchronous" else asyncio.run(_aplay(ours, session))
    assert_same(expected, actual)
