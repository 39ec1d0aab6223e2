"""Datasets of queries and golds: every format, what is left out of a row, and errors that name file, row and field."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from codecraft_curriculum import Dataset, Grade, GradingSandbox, Record, TaskFileError, load_dataset

ROWS: list[dict[str, Any]] = [
    {"query": "list files", "gold": "ls", "hardness": "easy", "zip": "00501"},
    {"query": "say, a lot", "gold": 'echo "a,\tb"', "hardness": None, "zip": "2"},
]


def refusal(file: Path, **options: Any) -> str:
    """What is wrong with a file, without its name."""
    with pytest.raises(TaskFileError) as caught:
        load_dataset(file, **options)
    assert str(file) == caught.value.file
    return caught.value.problem


def written(directory: Path, name: str, content: str | bytes) -> Path:
    """A file with this content."""
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json(tmp_path: Path) -> None:
    """Rows are numbered from 0; null and NaN are no values; all else keeps its type."""
    dataset = load_dataset(
        written(tmp_path, "data.json", json.dumps([*ROWS, {"query": "q", "a": float("nan"), "b": [1]}]))
    )
    assert 3 == len(dataset)
    assert Record(0, "list files", "ls", dataset[0].extras) == dataset[0]
    assert ROWS[0] == dataset[0].as_dict()
    assert {"zip": "2"} == dict(dataset[1].extras)
    assert {"query": "q", "b": [1]} == dataset[2].as_dict()
    assert [0, 1, 2] == [record.index for record in dataset]


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_tables(tmp_path: Path, ending: str, separator: str) -> None:
    """Quoted cells hold anything, line ends included; digits stay text; an empty cell is no value."""
    lines = [["query", "gold", "hardness", "zip"], ["list files", "ls", "easy", "00501"]]
    lines.append(['"say, a lot"', '"echo ""a,\tb"""', "", "2"])
    lines.append(['"two\r\nlines"', "true"])
    text = "\ufeff" + "".join(separator.join(line) + "\r\n" for line in lines)
    dataset = load_dataset(written(tmp_path, f"data.{ending}", text))
    assert [{k: v for k, v in row.items() if v} for row in ROWS] == [record.as_dict() for record in dataset[:2]]
    assert {"query": "two\r\nlines", "gold": "true"} == dataset[2].as_dict()


class Runs:
    """A pickle of this runs code when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles(tmp_path: Path) -> None:
    """A pickle is read only if the caller trusts it: rows, columns, or what turns into rows; nothing runs before."""
    columns = {"query": ["list files", "say, a lot"], "gold": ["ls", 'echo "a,\tb"']}
    for name, content in {"rows.pkl": ROWS, "columns.pickle": columns}.items():
        dataset = load_dataset(written(tmp_path, name, pickle.dumps(content)), trust_pickle=True)
        assert ["ls", 'echo "a,\tb"'] == [record.gold for record in dataset]
    evil = written(tmp_path, "evil.pkl", pickle.dumps(Runs(tmp_path / "ran")))
    assert "trust_pickle=True" in refusal(evil)
    assert not (tmp_path / "ran").exists()
    assert "expected a list of objects" in refusal(evil, trust_pickle=True)
    assert "not a pickle" in refusal(written(tmp_path, "bad.pkl", b"no"), trust_pickle=True)
    uneven = pickle.dumps({"query": ["a"], "gold": []})
    assert "no lists of one length" in refusal(written(tmp_path, "uneven.pkl", uneven), trust_pickle=True)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", "[{", "not valid JSON"),
        ("a.json", '{"query": "q"}', "expected a list of objects"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", '[{"query": "q"}, 7]', "row 1: expected an object with a 'query', got '7'"),
        (
            "a.json",
            '[{"query": "q"}, {"gold": "x", "n": 1}]',
            "row 1: the field 'query' is missing or empty; its fields: gold",
        ),
        ("a.json", '[{"query": 7}]', "row 0: query: expected text, got '7'"),
        ("a.json", b'["\xff"]', "is not UTF-8 text"),
        ("a.csv", "query,gold\nq\nq,ls,more\n", "row 1 (line 3): 3 cells, but the first line names 2 fields"),
        ("a.csv", "query,gold\n,ls\n", "row 0: the field 'query' is missing or empty"),
        ("a.csv", 'query,gold\n"q,ls\n', "row 0 (line 2): not a valid table"),
        ("a.csv", "query,gold,gold\nq,a,b\n", "twice"),
        ("a.tsv", "", "holds no rows"),
        (
            "a.txt",
            "",
            "cannot tell the format by the ending '.txt': use one of .json, .jsonl, .csv, .tsv, .pickle, .pkl",
        ),
    ],
)
def test_errors(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    """What is wrong is said in one line, with the row as `index` counts it, and the field."""
    assert problem in refusal(written(tmp_path, name, content))


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is said to be missing."""
    assert "cannot be read: No such file" in refusal(tmp_path / "none.json")
    assert "cannot be read: No such file" in refusal(tmp_path / "none.pkl", trust_pickle=True)


class SaysTheGold:
    """A grader of a row."""

    runs_agent_code = False

    def __init__(self, record: Record) -> None:
        self.record = record

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        return Grade(float(await sandbox.read_file("answer") == str(self.record.gold).encode()))


def test_a_dataset_is_a_curriculum() -> None:
    """Rows become tasks with their index as id, the query as instruction, and the grader that is made for each."""
    dataset = Dataset.from_rows([*ROWS, {"query": "q", "difficulty": "extra"}], name="mine")
    curriculum = dataset.curriculum(grader=SaysTheGold, image="codecraft/c", user="root")
    assert ["0", "1", "2"] == list(curriculum)
    assert ["easy", "", "hard"] == [task.difficulty for task in curriculum.values()]
    task = curriculum["1"]
    assert ("say, a lot", "codecraft/c", "root") == (task.instruction, task.image, task.user)
    assert isinstance(task.grader, SaysTheGold) and dataset[1] == task.grader.record
    with pytest.raises(ValueError, match=r"none of a task's: .*'img'"):
        dataset.curriculum(img="x")
    with pytest.raises(TaskFileError, match="mine: row 0: the field 'query'"):
        Dataset.from_rows([{"gold": "x"}], name="mine")
