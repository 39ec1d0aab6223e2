"""Rows and assets of capture-the-flag tasks: what can be read, and what is said of what cannot."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest

from codecraft_async.curriculum import Dataset, TaskFileError
from codecraft_async.intercode import CtfDataset, CtfEnv, CtfVectorEnv
from codecraft_curriculum.ctf import CHALLENGES, Assets, Challenge, draw_flag
from codecraft_curriculum.workspace import WorkspaceFile

ROW: Final = {"query": "q", "gold": "flag{x}", "task_id": "a"}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    """A file of rows."""
    file = folder / "ctf.json"
    file.write_text(json.dumps(rows))
    return file


def test_rows_as_intercode_has_them(tmp_path: Path) -> None:
    """Numbers as ids, one hint or many, set-up in lines; tasks that are left out are named, and need not be right."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "f").write_bytes(b"data")
    file = written(
        tmp_path,
        {"query": "q", "task_id": 0, "setup": 7},
        {**ROW, "task_id": 1, "setup": ["one", "two"], "hint": "look", "tags": "Web", "gold": " flag{y} "},
    )
    data = CtfDataset.read(file, assets_dir=tmp_path, exclude={"0": "has no flag"})
    task = data.task(0)
    assert ({"0": "has no flag"}, 1) == (data.excluded, len(data))
    assert ("1", "flag{y}", "one\ntwo", ("look",), ("Web",)) == (
        task.task_id,
        task.flag,
        task.setup,
        task.hints,
        task.tags,
    )
    with tarfile.open(fileobj=io.BytesIO(task.archive or b"")) as archive:
        assert ["home/agent", "workspace", "ctf/1", "ctf/1/f"] == archive.getnames()
        assert {"agent"} == {member.uname for member in archive}
    assert "flag{y}" not in repr(task)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task_id": None}, r"ctf.json: row 1: task_id: is missing"),
        ({"task_id": "../x"}, r"ctf.json: row 1: task_id: '../x' is no name"),
        ({"task_id": "a"}, r"row 1: task_id: 'a' is that of row 0 already"),
        ({"gold": ""}, r"row 1: gold: expected the flag"),
        ({"gold": ["x"]}, r"row 1: gold: expected the flag"),
        ({"setup": 3}, r"row 1: setup: expected a text, or a list of texts"),
        ({"hints": ["a", 1]}, r"row 1: hints: expected a text, or a list of texts"),
        ({}, r"row 1: task_id: there is no directory .*/b; make an empty one"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    """The file, the row and the field are named."""
    (tmp_path / "a").mkdir()
    file = written(tmp_path, ROW, {**ROW, "task_id": "b", **fields})
    with pytest.raises(TaskFileError, match=words):
        CtfDataset.read(file, assets_dir=None if fields else tmp_path)


def test_assets_that_cannot_be_packed(tmp_path: Path) -> None:
    """A pipe is no asset; the path is named."""
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe")
    with pytest.raises(TaskFileError, match="a/pipe: is no file, directory or link"):
        CtfDataset.read(written(tmp_path, ROW), assets_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data_path": "builtin", "assets_dir": "/x"}, "assets_dir is given, but 'builtin' has its assets"),
        ({"data_path": "builtin", "exclude": {"nothing": "x"}}, "exclude names the task 'nothing'"),
        ({"data_path": "builtin", "exclude": {each.id: "x" for each in CHALLENGES}}, "all are excluded"),
        ({"assets_dir": "/x"}, "give a data_path"),
    ],
)
@pytest.mark.parametrize("kind", [CtfEnv, CtfVectorEnv])
def test_wrong_tasks(kind: type[CtfEnv] | type[CtfVectorEnv], options: dict[str, Any], words: str) -> None:
    """One environment and many refuse the same."""
    with pytest.raises(ValueError, match=words):
        kind(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": "paid"}, "reward is 'paid'"),
        ({"hint_cost": 2}, "hint_cost is 2"),
        ({"setup_limit_s": 0}, "setup_limit_s is 0"),
        ({"fresh_flags": True}, "give a data_path"),
        (
            {"fresh_flags": True, "data_path": Dataset.from_rows([ROW], name="own")},
            "task 'a' of own: its assets are files",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    """Each says what is allowed."""
    with pytest.raises(ValueError, match=words):
        CtfEnv(**options)


def test_challenges_of_ones_own() -> None:
    """They become tasks, with new flags from new seeds; two of one id are refused."""

    def make(rng: random.Random) -> Assets:
        flag = draw_flag(rng)
        return Assets(flag, {"deep/er/f": WorkspaceFile(flag[::-1].encode(), 0o400)}, {"flag": WorkspaceFile(b"")})

    own = Challenge("own", "t", "Web", "easy", "Turn it round.", (), make, (), {})
    data = CtfDataset.made([own], seed=1, name="mine")
    with tarfile.open(fileobj=io.BytesIO(data.task(0).archive or b"")) as archive:
        seen = {member.name: (member.uname, member.mode) for member in archive}
    assert ("agent", 0o755) == seen["ctf/own/deep/er"] == seen["ctf/own/deep"]
    assert [("agent", 0o400), ("root", 0o700)] == [seen["ctf/own/deep/er/f"], seen["srv/ctf"]]
    assert data.task(0).flag == data.fresh(0, 1).flag != data.fresh(0, 2).flag
    with pytest.raises(TaskFileError, match="row 1: task_id: 'own' is that of row 0 already"):
        CtfDataset.made([own, own])


@pytest.mark.parametrize("challenge", CHALLENGES, ids=lambda challenge: str(challenge.id))
def test_assets_are_made_of_a_seed(challenge: Challenge) -> None:
    """The same seed makes the same bytes, another one others, and no file holds the flag as it is."""
    assets, again, other = (challenge.make(random.Random(seed)) for seed in (3, 3, 4))
    assert assets == again and assets.flag != other.flag
    assert not any(assets.flag.encode() in entry.data for entry in assets.files.values())
    assert 2 <= len(challenge.failures) and challenge.hints
