"""Curricula, their loading by name and path, and samplers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codecraft_curriculum import (
    FIRST_TASKS,
    Curriculum,
    CurriculumError,
    FileGrader,
    LookAhead,
    Match,
    Sampler,
    SequentialSampler,
    Task,
    TaskFileError,
    UniformSampler,
    UnknownTask,
    builtin_curriculum,
    load_curriculum,
    load_gym_codecraft,
)
from tests.curriculum.directory_sandbox import DirectorySandbox

THREE = Curriculum([Task(id=name, instruction="Do it.") for name in ("a", "b", "c")], name="three")
RNG = np.random.default_rng(0)
GRADER = FileGrader("x", Match("1"))


def test_mapping() -> None:
    """A curriculum is an ordered, hashable, picklable mapping of ids to tasks."""
    assert ["a", "b", "c"] == list(THREE)
    assert ("b", 3) == (THREE["b"].id, len(THREE))
    assert "x" not in THREE
    assert THREE == pickle.loads(pickle.dumps(THREE))
    assert ["c", "a"] == list(THREE.subset(["c", "a"]))
    assert hash(THREE) == hash(pickle.loads(pickle.dumps(THREE)))
    assert "three" in repr(THREE)


def test_unknown_task() -> None:
    """An unknown id is a one-line LookupError that lists near matches and all ids."""
    with pytest.raises(UnknownTask) as caught:
        builtin_curriculum().subset(FIRST_TASKS)["hello-wrld"]
    expected = (
        "no task 'hello-wrld' in builtin; did you mean 'hello-world'?; "
        "its tasks: hello-world, git-clone, sort-numbers, refactor-sqrt, review-code"
    )
    assert expected == str(caught.value)
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, CurriculumError)
    assert expected == str(pickle.loads(pickle.dumps(caught.value)))
    odd: Any = 3
    assert odd not in builtin_curriculum()
    with pytest.raises(UnknownTask, match="no task '3' in builtin"):
        builtin_curriculum()[odd]


def test_unknown_task_among_many() -> None:
    """Of very many ids only the first are listed."""
    many = Curriculum([Task(id=f"t{number}", instruction="x") for number in range(1000)])
    with pytest.raises(UnknownTask, match=r"980 more"):
        many["nothing-like-it"]


def test_bad_curricula() -> None:
    """No tasks, or two of one id, is an error."""
    with pytest.raises(CurriculumError, match="at least one task"):
        Curriculum([])
    with pytest.raises(CurriculumError, match="two tasks have the id 'a'"):
        Curriculum([THREE["a"], THREE["b"], THREE["a"]])


def test_sequential_sampler() -> None:
    """Samplers with offsets and a common stride share the tasks out."""
    alone = SequentialSampler(THREE)
    assert ["a", "b", "c", "a"] == [alone.next(RNG).id for _ in range(4)]
    second = SequentialSampler(THREE, offset=1, stride=2)
    assert ["b", "a", "c", "b"] == [second.next(RNG).id for _ in range(4)]
    with pytest.raises(ValueError, match="offset is -1"):
        SequentialSampler(THREE, offset=-1)


def test_uniform_sampler() -> None:
    """The same generator gives the same tasks, and all of them come."""

    def draw(sampler: Sampler, seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [sampler.next(rng).id for _ in range(50)]

    sampler = UniformSampler(THREE)
    assert draw(sampler, 1) == draw(sampler, 1)
    assert draw(sampler, 1) != draw(sampler, 2)
    assert {"a", "b", "c"} == set(draw(sampler, 1))


@pytest.mark.parametrize("sampler", [SequentialSampler(THREE, offset=1, stride=2), UniformSampler(THREE)])
def test_samplers_that_look_ahead(sampler: SequentialSampler | UniformSampler) -> None:
    """What `peek` says with a generator in the same state is what `next` then gives, and asking changes nothing."""
    assert isinstance(sampler, LookAhead)
    for seed in range(10):
        foreseen = [sampler.peek(np.random.default_rng(seed)) for _ in range(3)]
        assert foreseen == [sampler.next(np.random.default_rng(seed))] * 3


def test_bad_tasks() -> None:
    """A task with a wrong field is a ValueError that names the field."""
    with pytest.raises(ValueError, match=r"^id "):
        Task(id="../x", instruction="x")
    with pytest.raises(ValueError, match=r"^max_steps is -1"):
        Task(id="x", instruction="x", max_steps=-1)
    with pytest.raises(ValueError, match=r"^user 'me' is not allowed: use 'agent' or 'root'"):
        Task(id="x", instruction="x", user="me")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_directory_of_tasks(tmp_path: Path) -> None:
    """A directory of tasks is a curriculum in the order of its names, or of its curriculum.toml."""
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.toml").write_text('instruction = "x"')
    assert ["a", "b", "c"] == list(load_curriculum(tmp_path))
    assert ["b"] == list(load_curriculum(str(tmp_path / "b")))
    assert ["b"] == list(load_curriculum(tmp_path / "b" / "task.toml"))
    (tmp_path / "curriculum.toml").write_text('name = "mine"\norder = ["c"]')
    assert ("mine", ["c", "a", "b"]) == (load_curriculum(tmp_path).name, list(load_curriculum(tmp_path)))
    (tmp_path / "curriculum.toml").write_text('order = ["cc"]')
    with pytest.raises(TaskFileError, match=r"order\[0\]: no task directory 'cc'"):
        load_curriculum(tmp_path)
    (tmp_path / "curriculum.toml").unlink()
    (tmp_path / "a" / "task.toml").write_text('instruction = "x"\nid = "b"')
    with pytest.raises(TaskFileError, match="two tasks have the id 'b'"):
        load_curriculum(tmp_path)


@pytest.mark.parametrize("source", ["hello-wrld", "no/such/directory", "nul\0", "n" * 5000])
def test_unknown_source(source: str) -> None:
    """A name that is neither a path nor built in is a one-line error that says what is allowed."""
    with pytest.raises(
        TaskFileError, match=r"(?s)^.*: no such file or directory, nor a built-in name.*'builtin'"
    ) as caught:
        load_curriculum(source)
    assert ("did you mean 'hello-world'?" in str(caught.value)) == (source == "hello-wrld")


def test_graders_of_the_caller() -> None:
    """A grader can be attached to a task by id."""
    assert GRADER == load_curriculum("builtin", graders={"hello-world": GRADER})["hello-world"].grader
    with pytest.raises(UnknownTask, match="nothing"):
        load_curriculum(graders={"nothing": GRADER})


NEW = {
    "category": "Python",
    "docker": "python:alpine3.18",
    "shell": "/bin/sh",
    "title": "Hello",
    "description": "Write it.",
    "for_teacher": "Run it.",
}
OLD = {"docker": "alpine:3.18", "title": "Old", "description": "Do it.", "working_dir": "/w", "test": "Look."}


def write_json(directory: Path, content: object) -> Path:
    """Write a curriculum.json and return its path."""
    file = directory / "curriculum.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.anyio
async def test_gym_codecraft(tmp_path: Path) -> None:
    """Both forms of gym-codecraft's file are read; what is for the teacher stays out of the instruction."""
    file = write_json(tmp_path, {"tasks": {"1": NEW, "2": OLD}})
    curriculum = load_curriculum(file)
    new, old = curriculum["1"], curriculum["2"]
    assert ("Python", "python:alpine3.18", "/bin/sh", "Hello") == (new.category, new.image, new.shell, new.title)
    assert "Hello\n\nWrite it." == new.instruction
    assert {"for_teacher": "Run it."} == dict(new.notes)
    assert {"working_dir": "/w", "test": "Look."} == dict(old.notes)
    grade = await new.grader.grade(DirectorySandbox(tmp_path))
    assert 0.0 == grade.score
    assert "task 1 of curriculum.json has no automatic grader" in grade.reason


def test_gym_codecraft_with_graders(tmp_path: Path) -> None:
    """Graders are attached by task id, and must name tasks that are there."""
    file = write_json(tmp_path, {"tasks": {"1": NEW}})
    assert GRADER == load_gym_codecraft(file, graders={"1": GRADER})["1"].grader
    with pytest.raises(TaskFileError, match="graders: no task '3'; its tasks: 1"):
        load_curriculum(file, graders={"3": GRADER})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], 'expected an object with the key "tasks"'),
        ({"tasks": []}, "tasks: expected a table, got a list"),
        ({"tasks": {}}, "at least one task"),
        ({"tasks": {"1": 3}}, "tasks.1: expected an object with the fields category, docker"),
        ({"tasks": {"1": {**NEW, "dockr": ""}}}, "unknown field 'dockr' in tasks.1; did you mean 'docker'?"),
        ({"tasks": {"1": {**NEW, "title": 1}}}, "tasks.1.title: expected text, got a whole number"),
        ({"tasks": {"1": {"title": "x", "description": "y"}}}, "missing field 'docker' in tasks.1"),
        ({"tasks": {"a b": NEW}}, "tasks.a b: id 'a b' is not allowed"),
    ],
)
def test_bad_gym_codecraft(content: object, message: str, tmp_path: Path) -> None:
    """What is wrong with a gym-codecraft file is said in one line."""
    with pytest.raises(TaskFileError) as caught:
        load_curriculum(write_json(tmp_path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_json(tmp_path: Path) -> None:
    """A file that is not JSON, or nested without end, is an error of the file."""
    file = tmp_path / "curriculum.json"
    for text in ("{", "[" * 200_000):
        file.write_text(text)
        with pytest.raises(TaskFileError, match="not valid JSON"):
            load_curriculum(file)
