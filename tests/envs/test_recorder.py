"""Recording: what is on the disk, whoever writes and however that ends."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from codecraft_async._track import Track
from codecraft_async._trajectory_files import MissingZstd
from codecraft_async.recorder import Recorder, RecorderStats, RecordingError
from codecraft_async.trajectory import Problem, read_trajectories
from tests.envs.trajectories import begin, files_of, play, step, step_line

COMPRESSIONS = ["none", "gzip", "zstd"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_episodes_of_several_environments_come_back_whole_and_apart(tmp_path: Path, compression: Any) -> None:
    """Two environments take turns in one file; what is read are two episodes, each with its own steps."""
    with Recorder(tmp_path, compression=compression) as recorder:
        one, other = Track(recorder), Track(recorder)
        begin(one, "one")
        begin(other, "other")
        for number in range(3):
            step(one, f"one {number}")
            step(other, f"other {number}", reward=0.5, ends=number == 2)
        stats = recorder.stats()
    episodes = list(read_trajectories(tmp_path))
    assert [["other 0", "other 1", "other 2"], ["one 0", "one 1", "one 2"]] == [each.actions for each in episodes]
    assert [("other", True, 1.5), ("one", False, 0.0)] == [(e.start.task, e.is_over, e.reward) for e in episodes]
    assert (8, 1) == (stats.lines, stats.files)
    assert len({episode.start.env for episode in episodes}) == 2


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_line_can_be_read_while_the_recorder_is_open(tmp_path: Path, compression: Any) -> None:
    """A step that has returned is in the file, though nobody has closed it."""
    recorder = Recorder(tmp_path, compression=compression)
    track = Track(recorder)
    told: list[Problem] = []
    for steps in range(1, 4):
        play(track, steps, ends=False)
        assert steps == len(list(read_trajectories(tmp_path, on_problem=told.append))[-1].steps)
    recorder.close()
    assert [] == told


def test_what_was_compressed_is_smaller(tmp_path: Path) -> None:
    """Lines are compressed by those before them, although each is flushed."""
    with Recorder(tmp_path, compression="gzip") as recorder:
        play(Track(recorder), 50)
        stats = recorder.stats()
    assert stats.file_bytes < stats.line_bytes / 2


def test_a_long_recording_is_cut_into_files_and_read_as_one(tmp_path: Path) -> None:
    """An episode goes on in the next file, and the numbers go on with it."""
    with Recorder(tmp_path, max_file_bytes=4096) as recorder:
        play(Track(recorder), 40)
        assert recorder.stats().files == len(files_of(tmp_path)) > 2
    (episode,) = read_trajectories(tmp_path)
    assert 40 == len(episode.steps)
    assert all(path.stat().st_size < 8192 for path in files_of(tmp_path))


def test_a_named_file_is_appended_to(tmp_path: Path) -> None:
    """Two recorders, one after the other, and both episodes are there."""
    path = tmp_path / "made" / "run.jsonl"
    for name in ("first", "second"):
        with Recorder(path) as recorder:
            play(Track(recorder), 1, says=name)
    assert [["first 1"], ["second 1"]] == [episode.actions for episode in read_trajectories(path)]


def test_a_line_that_was_cut_off_harms_none_that_is_appended(tmp_path: Path) -> None:
    """The recorder that finds it says so in the file, and a reader tells of that line only."""
    path = tmp_path / "run.jsonl"
    with Recorder(path) as recorder:
        play(Track(recorder), 3, ends=False)
    path.write_bytes(path.read_bytes()[:-20])
    with Recorder(path) as recorder:
        play(Track(recorder), 1)
    told: list[Problem] = []
    assert [1, 2] == [len(episode.steps) for episode in read_trajectories(path, on_problem=told.append)]
    assert [(4, True)] == [(problem.line, problem.is_cut) for problem in told]


def test_a_compressed_file_is_not_appended_to(tmp_path: Path) -> None:
    """What a killed writer left has no end; the error says what to do instead."""
    path = tmp_path / "run.jsonl.gz"
    Recorder(path).close()
    with pytest.raises(RecordingError, match="only a plain file can be appended to; choose another name"):
        Recorder(path)


def test_threads_share_a_recorder(tmp_path: Path) -> None:
    """No line is lost or mixed with another."""
    with Recorder(tmp_path) as recorder:
        tracks = [Track(recorder) for _ in range(4)]
        threads = [threading.Thread(target=play, args=(track, 50), kwargs={"says": "x" * 5000}) for track in tracks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [50] * 4 == [len(episode.steps) for episode in read_trajectories(tmp_path)]


def test_a_forked_process_writes_to_a_file_of_its_own(tmp_path: Path) -> None:
    """Parent and child go on with the same objects, and neither spoils the other's recording."""
    program = (
        "import os, sys; from pathlib import Path; from codecraft_async.recorder import Recorder\n"
        "from codecraft_async._track import Track\nfrom tests.envs.trajectories import play\n"
        f"recorder = Recorder({str(tmp_path)!r}, compression='gzip', fsync='episode')\n"
        "track = Track(recorder); play(track, 1, says='before')\n"
        "child = os.fork()\n"
        "play(track, 2, says='after'); recorder.close()\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=Path(__file__).parents[2])
    episodes = list(read_trajectories(tmp_path))
    assert [["after 1", "after 2"]] * 2 + [["before 1"]] == sorted(episode.actions for episode in episodes)
    assert (2, 2) == (len(files_of(tmp_path)), len({episode.start.env for episode in episodes}))


def test_a_killed_recorder_loses_at_most_its_last_line(tmp_path: Path) -> None:
    """However it compresses: each step that had returned when the process was killed is there."""
    program = (
        "import itertools, sys; from codecraft_async.recorder import Recorder\n"
        "from codecraft_async._track import Track; from tests.envs.trajectories import begin, step\n"
        f"tracks = [Track(Recorder({str(tmp_path)!r} + '/' + each, compression=each)) for each in {COMPRESSIONS}]\n"
        "for track in tracks: begin(track)\n"
        "for number in itertools.count(1):\n"
        "    for track in tracks: step(track, 'x' * 3000)\n"
        "    sys.stdout.write(f'{number}\\n'); sys.stdout.flush()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    with process, process.stdout:
        for _ in range(200):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        written = 200 + len(process.stdout.read().splitlines(keepends=True))
    for compression in COMPRESSIONS:
        told: list[Problem] = []
        (episode,) = read_trajectories(tmp_path / compression, on_problem=told.append)
        assert len(episode.steps) >= written - 1
        assert all(problem.is_cut for problem in told)


@pytest.mark.parametrize("fsync", ["never", "episode", "line"])
def test_what_must_reach_the_disk_is_brought_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: Any) -> None:
    """By the policy: at no time, after episodes and at the end, or with each line."""
    asked: list[int] = []
    monkeypatch.setattr(os, "fsync", asked.append)
    with Recorder(tmp_path, fsync=fsync) as recorder:
        play(Track(recorder), 3)
    least, most = {"never": (0, 0), "episode": (1, 2), "line": (5, 5)}[fsync]
    assert least <= len(asked) <= most


def test_a_full_disk_is_told_with_the_file_and_the_next_line_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a line stays behind; the recorder goes on in another file, and the reader tells of the half."""
    with Recorder(tmp_path) as recorder:
        track = Track(recorder)
        play(track, 1)
        with monkeypatch.context() as patch:
            patch.setattr("codecraft_async._recorder_file.write_all", _half)
            with pytest.raises(RecordingError, match=r"cannot be written to: No space left on device.*\.jsonl"):
                begin(track)
        play(track, 2)
    told: list[Problem] = []
    assert [1, 0, 2] == [len(episode.steps) for episode in read_trajectories(tmp_path, on_problem=told.append)]
    assert [True] == [problem.is_cut for problem in told]


def _half(fd: int, data: bytes) -> None:
    os.write(fd, data[: len(data) // 2])
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"compression": "lzma"}, "compression is 'lzma'; it must be 'none', 'gzip' or 'zstd'"),
        ({"fsync": "always"}, "fsync is 'always'; it must be 'never', 'episode' or 'line'"),
        ({"max_file_bytes": 10}, "max_file_bytes is 10; it must be at least 4096"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match=said):
        Recorder(tmp_path, **options)


def test_a_file_has_the_compression_that_its_name_says_and_no_successor(tmp_path: Path) -> None:
    """Contradictions are refused."""
    with pytest.raises(ValueError, match=r"the name of .* says 'gzip'"):
        Recorder(tmp_path / "run.jsonl.gz", compression="none")
    with pytest.raises(ValueError, match="needs a directory"):
        Recorder(tmp_path / "run.jsonl", max_file_bytes=1 << 20)


def test_copies_write_to_the_same_place(tmp_path: Path) -> None:
    """Each to a file of its own, as the worker processes of a vector environment do."""
    recorder = Recorder(tmp_path, compression="gzip", curriculum_source="tasks")
    for each in (recorder, deepcopy(recorder), pickle.loads(pickle.dumps(recorder))):
        play(Track(each), 1)
        each.close()
    assert (3, {"tasks"}) == (
        len(files_of(tmp_path)),
        {episode.start.curriculum_source for episode in read_trajectories(tmp_path)},
    )


def test_a_recorder_that_nobody_closed_is_told(tmp_path: Path) -> None:
    """With the file, which can be read all the same."""
    track = Track(Recorder(tmp_path, fsync="episode"))
    play(track, 1)
    with pytest.warns(ResourceWarning, match=r"unclosed recording .*\.jsonl: close its recorder"):
        del track
        gc.collect()
    assert 1 == len(list(read_trajectories(tmp_path)))


def test_a_disk_that_fails_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be on it may not be; the recorder is closed all the same."""
    recorder = Recorder(tmp_path, fsync="episode")
    play(Track(recorder), 1)
    monkeypatch.setattr(os, "fsync", _broken)
    with pytest.raises(RecordingError, match=r"cannot be completed: Input/output error.*\.jsonl"):
        recorder.close()
    recorder.close()


def _broken(fd: int) -> None:
    raise OSError(5, os.strerror(5))


def test_a_place_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    """Not at the first reset, after the sandboxes were started."""
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="cannot be made"):
        Recorder(tmp_path / "file" / "folder")


def test_zstd_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so at once."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingZstd, match="pip install"):
        Recorder(tmp_path, compression="zstd")


def test_a_closed_recorder_refuses_lines_and_closes_again(tmp_path: Path) -> None:
    """What it counted stays."""
    recorder = Recorder(tmp_path)
    recorder.write(step_line())
    recorder.close()
    recorder.close()
    with pytest.raises(RuntimeError, match="is closed; make a new one"):
        recorder.write(step_line())
    size = files_of(tmp_path)[0].stat().st_size
    assert RecorderStats(1, size, size, 1) == recorder.stats()
