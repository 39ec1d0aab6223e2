"""Who may say that something is left: the decision alone, on values."""

from __future__ import annotations

import pytest

from codecraft_pool.leftovers import (
    BOOT_LABEL,
    HOST_LABEL,
    LIFETIME_LABEL,
    LIFETIME_S,
    Leftover,
    is_before_boot,
    judge,
    lifetime_of,
    origin_labels,
    this_host,
)
from codecraft_pool.owner import Owner

HERE = Owner.current()
ENDED = Owner(HERE.boot, HERE.pid, HERE.start + 1)
AWAY = Owner("0" * 8, HERE.pid, HERE.start)
DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("found", "goes"),
    [
        (Leftover("container", "no owner", None, age_s=1e9), False),
        (Leftover("container", "a living owner's, however old", HERE, in_use=True, age_s=1e9), False),
        (Leftover("container", "an ended owner's that runs", ENDED, in_use=True), True),
        (Leftover("container", "a process id used again", ENDED), True),
        (Leftover("container", "away, just made", AWAY), False),
        (Leftover("container", "away, made an hour ago", AWAY, age_s=3700), True),
        (Leftover("container", "away, running for a week", AWAY, in_use=True, age_s=7 * DAY_S), False),
        (Leftover("container", "away, running for three", AWAY, in_use=True, age_s=21 * DAY_S), True),
        (Leftover("container", "away, for longer than it may", AWAY, in_use=True, age_s=70, lifetime_s=60), True),
        (Leftover("container", "of an earlier boot", AWAY, before_boot=True), True),
        (Leftover("container", "of a clone of this machine", AWAY, before_boot=True, in_use=True), False),
        (Leftover("directory", "of another namespace", AWAY), False),
    ],
    ids=lambda value: value.name if isinstance(value, Leftover) else "",
)
def test_who_may_be_removed(found: Leftover, goes: bool) -> None:
    """Only what certainly belongs to no living process goes."""
    assert goes == judge(found)[0]


@pytest.mark.parametrize(
    ("text", "lifetime_s"),
    [("60", 60), ("", LIFETIME_S), ("0", LIFETIME_S), ("-5", LIFETIME_S), ("1e9", LIFETIME_S), ("9" * 400, LIFETIME_S)],
)
def test_lifetimes(text: str, lifetime_s: int) -> None:
    """A lifetime that is missing or rubbish is the usual one."""
    assert lifetime_s == lifetime_of({LIFETIME_LABEL: text})


def test_labels_of_this_process() -> None:
    """They name this machine and this boot, so they are not of an earlier one; what names neither is not either."""
    labels = origin_labels()
    assert not is_before_boot(labels)
    assert is_before_boot({**labels, BOOT_LABEL: "00000000"})
    assert not is_before_boot({**labels, BOOT_LABEL: "00000000", HOST_LABEL: "other/01234567"})
    assert [False] * 3 == [
        is_before_boot({}),
        is_before_boot({HOST_LABEL: this_host()}),
        is_before_boot({BOOT_LABEL: "x"}),
    ]
