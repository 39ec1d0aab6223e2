"""Reading recordings: what is whole is had, what is not is told with file and line, and nothing else happens."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from codecraft_async._trajectory_export import EXPORTERS
from codecraft_async._trajectory_files import CODECS, SUFFIXES, Compression
from codecraft_async._trajectory_lines import TORN_LINE, Branch, EpisodeStep, Line, decode_line, encode_line
from codecraft_async.trajectory import Problem, RecordedEpisode, TrajectoryError, read_lines, read_trajectories
from tests.envs.trajectories import encoded, start_line, step_line

LINES: list[Line] = [
    start_line(),
    *(step_line(step=step) for step in (1, 2)),
    step_line(step=3, terminated=True, reward=1.0),
]
PACKERS: dict[str, Any] = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}
WHOLE = encoded(LINES)


def written(folder: Path, data: bytes, name: str = "run.jsonl") -> Path:
    """Return a file with *data*."""
    path = folder / name
    path.write_bytes(data)
    return path


def episodes_of(path: Path) -> tuple[list[RecordedEpisode], list[Problem]]:
    """Read without raising."""
    told: list[Problem] = []
    return list(read_trajectories(path, on_error="tell", on_problem=told.append)), told


def again(line: EpisodeStep) -> EpisodeStep:
    """Write and read a step."""
    data = encode_line(line)
    back = decode_line(data)
    assert isinstance(back, EpisodeStep)
    assert (1, b"\n") == (data.count(b"\n"), data[-1:])
    return back


@pytest.mark.parametrize("text", ["plain", "half \ud800 pair", "nul \0", "new\nline \u2028", "emoji \U0001f600"])
def test_a_line_holds_every_text_verbatim(text: str) -> None:
    """Also what no encoding has a place for: it is what the agent said."""
    assert (text, text) == (again(step_line(action=text)).action, again(step_line(observation=text)).observation)


@pytest.mark.parametrize("action", ["fast", "slow \ud800"])
def test_a_line_holds_every_value_that_an_info_has(action: str) -> None:
    """Numbers of numpy and over 64 bits, keys that are no text; of objects their repr. Both ways of writing agree."""
    info: dict[Any, Any] = {"float": np.float64(0.5), "array": np.arange(2), "none": None, "object": Path("x")}
    if action != "fast":
        info |= {"big": 1 << 70, 3: "key"}
    expected: dict[str, Any] = {"float": 0.5, "array": [0, 1], "none": None, "object": repr(Path("x"))}
    if action != "fast":
        expected |= {"big": 1 << 70, "3": "key"}
    assert expected == again(step_line(action=action, info=info)).info


def test_recordings_and_exports_steer_no_terminal(tmp_path: Path) -> None:
    """Whoever shows them with cat or less is shown what an agent printed, and it is one line to every reader."""
    steering = "".join(map(chr, (*range(32), *range(127, 160), 0x200E, 0x200F, *range(0x2028, 0x202F))))
    steering += "".join(map(chr, range(0x2066, 0x206A)))
    said = f"\\{steering}é漢\u2027\u202f"
    lines: list[Line] = [
        start_line(),
        step_line(action=said, observation=f"\ud800{said}"),
        step_line(step=2, action=said),
    ]
    data = encoded(lines)
    path = written(tmp_path, data)
    (episode,) = read_trajectories(path)
    assert [said, said] == episode.actions
    assert 3 == len(data.decode().splitlines())
    for text in (data, *(b"".join(export([episode])) for export in EXPORTERS.values())):
        assert set(text.decode()).isdisjoint(set(steering) - {"\n"})


def test_a_branch_comes_back_with_where_it_came_from() -> None:
    """Its steps are numbered from there."""
    start = start_line(branch=Branch(episode="other", steps=4))
    assert start.branch == getattr(decode_line(encode_line(start)), "branch", None)


def test_the_steps_of_a_branch_begin_where_it_came_from(tmp_path: Path) -> None:
    """Number 5 follows upon four steps of the other episode."""
    lines: list[Line] = [start_line(branch=Branch(episode="other", steps=4)), step_line(step=5)]
    (episode,) = read_trajectories(written(tmp_path, encoded(lines)))
    assert [5] == [step.step for step in episode.steps]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_compressed_file_that_was_cut_anywhere_gives_all_that_is_whole(tmp_path: Path, kind: Compression) -> None:
    """At each byte: every line is there of which all bytes are, and at most one is told as cut."""
    codec = CODECS[kind]()
    pieces = [codec.encode(encode_line(line)) for line in LINES]
    packed = b"".join(pieces) + codec.end()
    ends = [len(b"".join(pieces[: count + 1])) for count in range(len(pieces))]
    for size in range(len(packed)):
        path = written(tmp_path, packed[:size], f"run{SUFFIXES[kind]}")
        told: list[Problem] = []
        lines = list(read_lines(path, on_problem=told.append))
        assert len(lines) >= sum(end <= size for end in ends)
        assert len(told) <= 1 and all(problem.is_cut for problem in told)


def test_the_lines_of_a_plain_file_are_had_up_to_the_cut(tmp_path: Path) -> None:
    """A last line is used only if all of it is there; its line end may be missing."""
    ends = [len(encoded(LINES[:count])) for count in range(len(LINES) + 1)]
    for size in range(len(WHOLE) + 1):
        told: list[Problem] = []
        lines = list(read_lines(written(tmp_path, WHOLE[:size]), on_problem=told.append))
        assert sum(end - 1 <= size for end in ends[1:]) == len(lines)
        assert (size not in (*ends, *(end - 1 for end in ends))) == bool(told)


def test_several_members_are_one_file(tmp_path: Path) -> None:
    """As `cat` makes them of compressed files, whatever their name."""
    halves = [encoded(half) for half in (LINES[:2], LINES[2:])]
    for name, packed in (("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress), ("a.log", gzip.compress)):
        (episode,) = read_trajectories(written(tmp_path, b"".join(map(packed, halves)), name))
        assert (3, 1.0, True) == (len(episode.steps), episode.reward, episode.is_over)


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        (b'{"schema":1}x\n' + WHOLE, 1, "it is no JSON"),
        (b"[1]\n" + WHOLE, 1, "it holds list where an object must be"),
        (b'{"kind":"step"}\n' + WHOLE, 1, "field 'schema' is None; it must be 1"),
        (b'{"schema":0,"kind":"step"}\n' + WHOLE, 1, "field 'schema' is 0; it must be 1"),
        (b'{"schema":1}\n' + WHOLE, 1, "field 'kind' is None; it must be 'reset', 'step' or another text"),
        (b'{"schema":2,"kind":"step"}\n' + WHOLE, 1, "it is of schema 2, and this version reads up to 1"),
        (WHOLE.replace(b'"reward":1.0', b'"reward":"1"'), 4, "field 'reward' is '1'; it must be of type float"),
        (WHOLE.replace(b'"reward":1.0', b'"reward":true'), 4, "field 'reward' is True; it must be of type float"),
        (WHOLE.replace(b'"reward":1.0,', b""), 4, "field 'reward' is missing"),
        (WHOLE.replace(b'"step":2', b'"step":7'), 3, "step 7 of episode 'e' comes where step 2 must"),
        (encode_line(step_line()) + WHOLE, 1, "step 1 is of episode 'e', whose start is not here or is over"),
        (WHOLE + encode_line(step_line(step=4)), 5, "whose start is not here or is over"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_line(tmp_path: Path, data: bytes, line: int, said: str) -> None:
    """Raised, or told, with all that can be had beside it."""
    path = written(tmp_path, data)
    with pytest.raises(TrajectoryError) as caught:
        list(read_trajectories(path))
    assert (path, line) == (caught.value.path, caught.value.line)
    assert f"{path}:{line}: " in str(caught.value) and said in str(caught.value)
    episodes, told = episodes_of(path)
    assert (1, (path, line, False)) == (len(episodes), (told[0].path, told[0].line, told[0].is_cut))
    assert said in str(told[0])


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_damaged_stream_is_told_and_what_was_before_it_is_had(tmp_path: Path, suffix: str) -> None:
    """From the damage on nothing can be trusted."""
    packed = PACKERS[suffix](WHOLE) + b"garbage behind it"
    episodes, told = episodes_of(written(tmp_path, packed, f"run{suffix}"))
    assert 1 == len(episodes) == len(told)
    assert "nothing after this line can be read: its" in told[0].message


def test_fields_and_kinds_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    """As long as the schema is one that is known."""
    more = orjson.dumps(orjson.loads(encode_line(LINES[0])) | {"mood": "good"}) + b"\n"
    other = b'{"schema":1,"kind":"note","text":"hello"}\n'
    (episode,) = read_trajectories(written(tmp_path, more + other + WHOLE[len(encode_line(LINES[0])) :]))
    assert 3 == len(episode.steps)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    """A missing file, and a directory without trajectories."""
    for path, said in ((tmp_path / "none.jsonl", "No such file"), (tmp_path, "holds no trajectories")):
        with pytest.raises(TrajectoryError, match=said):
            list(read_trajectories(path))
    with pytest.raises(ValueError, match="on_error is 'ignore'; it must be 'raise' or 'tell'"):
        list(read_trajectories(tmp_path, on_error="ignore"))  # type: ignore[arg-type]


def test_an_environment_that_starts_anew_has_left_its_episode(tmp_path: Path) -> None:
    """It is given as it is, before the next."""
    lines: list[Line] = [start_line("a"), step_line("a"), start_line("b"), step_line("b", terminated=True)]
    episodes = read_trajectories(written(tmp_path, encoded(lines)))
    assert [("a", False), ("b", True)] == [(episode.start.episode, episode.is_over) for episode in episodes]


@given(st.binary(max_size=400), st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"]))
@settings(max_examples=100, deadline=None)
def test_bytes_of_any_kind_are_told_and_never_raised(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    """A reader that is to go on goes on."""
    path = written(tmp_path_factory.getbasetemp(), data, f"any{suffix}")
    episodes, told = episodes_of(path)
    assert [] == episodes
    if suffix == ".jsonl" and not told:
        assert all(orjson.loads(line)["schema"] == 1 for line in data.removesuffix(b"\n").split(b"\n") if data)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A recording with some of its bytes changed, cut out or put in."""
    data = bytearray(WHOLE)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 40))
        data[at : at + gone] = draw(st.binary(max_size=10))
    return bytes(data)


@given(damaged(), st.sampled_from(sorted(PACKERS)), st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_recording_gives_only_lines_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, suffix: str, data: st.DataObject
) -> None:
    """Whatever was changed, in the text or in the compressed bytes: what is given is well-formed, all else is told."""
    packed = bytearray(PACKERS[suffix](text))
    if suffix != ".jsonl" and packed:
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.getbasetemp(), bytes(packed), f"damaged{suffix}")
    episodes, told = episodes_of(path)
    for episode in episodes:
        assert [number + 1 for number in range(len(episode.steps))] == [step.step for step in episode.steps]
    if suffix == ".jsonl" and sum(len(episode.steps) + 1 for episode in episodes) < len(LINES):
        assert told or text.count(b"kind") < len(LINES) or b"torn" in text or _has_other_kind(text)


def _has_other_kind(text: bytes) -> bool:
    return any(b'"kind":"reset"' not in line and b'"kind":"step"' not in line for line in text.splitlines())


def test_a_line_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of something else does not fill the memory."""
    monkeypatch.setattr("codecraft_async._trajectory_files.MAX_LINE_BYTES", 100_000)
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = bomb.compress(bytes(10 << 20)) + bomb.flush()
    for name, data in (
        ("a.jsonl", b"x" * 200_000),
        ("a.jsonl.gz", packed),
        ("a.jsonl.zst", zstandard.compress(bytes(10 << 20))),
    ):
        with pytest.raises(TrajectoryError, match="longer than 100000 bytes, which no recorder writes"):
            list(read_trajectories(written(tmp_path, data, name)))


def test_a_mended_line_needs_no_excuse(tmp_path: Path) -> None:
    """A garbled line is harmless only where the line behind it says that it was cut."""
    garbled = WHOLE + b'{"schema":1,"kin\n'
    path = written(tmp_path, garbled + TORN_LINE)
    told: list[Problem] = []
    assert 1 == len(list(read_trajectories(path, on_problem=told.append)))
    assert [(5, True)] == [(problem.line, problem.is_cut) for problem in told]
    with pytest.raises(TrajectoryError, match=":5: it is no JSON"):
        list(read_trajectories(written(tmp_path, garbled)))
