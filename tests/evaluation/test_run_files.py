"""The directory of a run: what survives a kill, who may write it, and when it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from codecraft_async.evaluation import EpisodeLog, LogError, RunBusy, RunChanged, RunFiles, Turn, read_log
from codecraft_async.evaluation import run_files as module

SETTINGS: Final = {"agent": "gold", "max_turns": 10}


def episode(task: int, reward: float = 1.0, **more: Any) -> EpisodeLog:
    """An episode of one turn."""
    return EpisodeLog("ic_bash", "d", task, f"q{task}", (Turn("ls", "\udcff", reward),), 10, **more)


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Episodes are there for the next process; half a line of a killed one is cut off; the last of a key counts."""
    with RunFiles(tmp_path / "a" / "b", SETTINGS) as files:
        files.add(episode(1))
        files.add(episode(0, end="fault"))
    lines = tmp_path / "a" / "b" / "episodes.jsonl"
    with lines.open("ab") as file:
        file.write(b'{"environment": "ic_')
    assert ["1", "0"] == list(read_log(lines.parent))
    with RunFiles(lines.parent, SETTINGS) as files:
        assert [("1", True), ("0", False)] == [(key, each.counts) for key, each in files.episodes.items()]
        files.add(episode(0))
        log = files.finish(["0", "1"])
    assert 3 == len(lines.read_bytes().splitlines())
    content = json.loads(log.read_bytes())
    assert ["0", "1"] == list(content) and "terminated" == content["0"]["end"]
    assert read_log(log) == {key: read_log(lines)[key] for key in ("0", "1")}


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second writer is refused and told who is first; when that one has ended, it may."""
    with RunFiles(tmp_path, SETTINGS):
        with pytest.raises(RunBusy, match=f"process {os.getpid()} is writing this run"):
            RunFiles(tmp_path, SETTINGS)
    RunFiles(tmp_path, SETTINGS).close()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """What has changed is said, with both values; the run stays as it is, and can be gone on with. Where nothing was
    played yet, settings may still be mended."""
    RunFiles(tmp_path, {**SETTINGS, "max_turns": 2}).close()
    with RunFiles(tmp_path, SETTINGS) as files:
        files.add(episode(0))
    with pytest.raises(RunChanged, match=r"max_turns was 10, now 3; model was not given, now \"m\""):
        RunFiles(tmp_path, {**SETTINGS, "max_turns": 3, "model": "m"})
    RunFiles(tmp_path, SETTINGS).close()


def test_damaged_directories(tmp_path: Path) -> None:
    """Lines that are no episodes, and episodes without settings, are errors that name the file."""
    RunFiles(tmp_path, SETTINGS).close()
    (tmp_path / "episodes.jsonl").write_text("[]\n")
    with pytest.raises(LogError, match=r"episodes.jsonl: line 1: expected an object"):
        RunFiles(tmp_path, SETTINGS)
    (tmp_path / "episodes.jsonl").write_text("{\n")
    with pytest.raises(LogError, match=r"line 1: not valid JSON"):
        RunFiles(tmp_path, SETTINGS)
    (tmp_path / "run.json").unlink()
    with pytest.raises(LogError, match="nobody knows how its episodes were played"):
        RunFiles(tmp_path, SETTINGS)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode that does not fit leaves nothing behind, and the file can be appended to again."""

    def fills(fd: int, data: bytes) -> None:
        os.write(fd, data[:10])
        raise OSError(28, "No space left on device")

    with RunFiles(tmp_path, SETTINGS) as files:
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_all", fills)
            with pytest.raises(OSError, match="No space left on device") as raised:
                files.add(episode(0))
        assert str(tmp_path / "episodes.jsonl") == raised.value.filename
        files.add(episode(1))
    assert ["1"] == list(read_log(tmp_path))
