"""Digests, checkpoints and inspections as values: what is no digest, what is equal, what differs."""

from __future__ import annotations

import struct

import pytest

from codecraft_pool import Digest, FakeLauncher, ProtocolError, SandboxSpec, Snapshot, differences
from codecraft_pool.checkpoint import Checkpoint
from codecraft_pool.fake_trees import answer_tool
from codecraft_pool.proof import changed_lines
from codecraft_pool.protocol import Tool
from codecraft_pool.trees import _parse_stat  # pyright: ignore[reportPrivateUsage]

GOOD = answer_tool(Tool.DIGEST, ["/workspace"], {"a": b"1", "b": b"2"})


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_a_cut_digest_is_none(size: int) -> None:
    """Wherever it was cut."""
    with pytest.raises(ProtocolError, match="malformed"):
        Digest.parse(GOOD[:size])


@pytest.mark.parametrize(
    "data", [GOOD + b"x", b"E" + struct.pack("<Q", 1), b"?" + GOOD[1:], GOOD[:-8] + struct.pack("<Q", 9)]
)
def test_rubbish_is_no_digest(data: bytes) -> None:
    """Spare bytes, a wrong count, an unknown kind."""
    with pytest.raises(ProtocolError, match="malformed"):
        Digest.parse(data)


def test_a_digest_is_a_mapping() -> None:
    """By path; equal if the entries are; its name is that of its bytes."""
    digest = Digest.parse(GOOD)
    assert ["/workspace", "/workspace/a", "/workspace/b"] == list(digest)
    assert 1 == digest["/workspace/a"].size
    assert digest == Digest.parse(GOOD)
    assert digest.id[:12] in repr(digest)
    other = Digest.parse(answer_tool(Tool.DIGEST, ["/workspace"], {"a": b"10", "c": b""}))
    lines = differences(digest, other)
    assert ["'/workspace/a': size is 2, not 1", "'/workspace/b' is missing", "'/workspace/c' is new"] == [
        line for line in lines if "content" not in line
    ]


def test_equal_checkpoints_have_equal_names() -> None:
    """Whatever the order of the trees; another tree, stream or user makes another."""
    one = Checkpoint({"/a": b"x", "/b": b"y"}, "agent")
    assert one == Checkpoint({"/b": b"y", "/a": b"x"}, "agent")
    assert hash(one) == hash(Checkpoint({"/b": b"y", "/a": b"x"}, "agent"))
    others = [Checkpoint({"/a": b"xy", "/b": b""}, "agent"), Checkpoint(one.trees, "root"), Checkpoint({}, "agent")]
    assert 4 == len({each.id for each in (one, *others)})
    assert 2 == one.size_bytes


def test_inspections_are_compared_as_they_count() -> None:
    """A line twice is not a line once; what lingers does not count."""
    assert [] == changed_lines(["b", "a", "a"], ["a", "b", "a", "lingering tcp 3"])
    assert ["is not as in a new sandbox: b", "is in no new sandbox: a"] == changed_lines(["a", "b"], ["a", "a"])


@pytest.mark.parametrize("text", ["", "processes x", "processes 1 2", "rubbish", "processes 1\nmemory_bytes 1\n"])
def test_a_malformed_stat_is_the_guests_fault(text: str) -> None:
    """It breaks the protocol."""
    with pytest.raises(ProtocolError, match="malformed"):
        _parse_stat(text, [])


@pytest.mark.anyio
async def test_fakes_have_checkpoints_too() -> None:
    """Users' tests can branch: what one fake sandbox had, another gets."""
    async with FakeLauncher() as launcher:
        one, two = await launcher.start(SandboxSpec()), await launcher.start(SandboxSpec())
        await one.restore(Snapshot.from_files({"a/b": "text"}))
        await two.restore(await one.snapshot())
        assert b"text" == await two.read_file("a/b")
        assert [] == differences(await one.digest(), await two.digest())
        assert [] == await two.prove_clean(await one.baseline())
        assert 4 == (await two.stat()).trees["/workspace"].bytes_used
