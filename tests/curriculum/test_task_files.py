"""Task files: what is right is read, what is wrong is one line that says where and what is allowed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codecraft_curriculum import (
    AllOf,
    Case,
    CurriculumError,
    Match,
    ProgramGrader,
    TaskFileError,
    TaskLimits,
    Ungraded,
    load_curriculum,
    load_task,
)

GOOD = """
title = "Title"
instruction = "Do it."
max_steps = 7
setup = ["true"]

[notes]
hint = "h"

[limits]
command_limit_s = 2
memory_bytes = 67108864

[workspace.files]
"a/b.txt" = "text"
"run" = { text = "#!/bin/sh", mode = "755" }
"raw" = { base64 = "AAH/" }
"link" = { symlink = "a/b.txt" }
"empty" = { directory = true }

[grader]
combine = "mean"
[[grader.checks]]
name = "b"
type = "file"
path = "a/b.txt"
expected = "text"
weight = 3

[[grader.checks]]
type = "exit-status"
command = "test -d empty"

[[grader.checks]]
type = "any-of"
[[grader.checks.checks]]
type = "output"
command = ["cat", "a/b.txt"]
cwd = "a"
expected = "^te"
match = "regex"
exit_status = "any"
[[grader.checks.checks]]
type = "program"
command = ["cat"]
[[grader.checks.checks.cases]]
stdin = "1"
expected = "1"

[proof]
expert = ["true"]
[proof.failures]
no-op = []
"""


def write(directory: Path, text: str) -> Path:
    """Write a task file and return its path."""
    directory.mkdir(exist_ok=True)
    file = directory / "task.toml"
    file.write_text(text)
    return file


def test_full_task(tmp_path: Path) -> None:
    """Every field arrives in the task, with defaults for the others; the id is the name of the directory."""
    directory = tmp_path / "my-task"
    write(directory, GOOD)
    (directory / "workspace").mkdir()
    (directory / "workspace" / "from-directory").write_bytes(b"\xff")
    task = load_task(directory)
    assert ("my-task", "Title", "Do it.", 7) == (task.id, task.title, task.instruction, task.max_steps)
    assert ("agent", "none", "restore", "/bin/sh") == (task.user, task.network, task.reset, task.shell)
    assert TaskLimits(command_limit_s=2.0, memory_bytes=64 << 20) == task.limits
    assert ["a/b.txt", "empty", "from-directory", "link", "raw", "run"] == list(task.workspace.files)
    assert (b"\x00\x01\xff", 0o755) == (task.workspace.files["raw"].data, task.workspace.files["run"].mode)
    assert isinstance(task.grader, AllOf)
    assert ["b", "exit-status", "any-of"] == list(task.grader.graders)
    assert (("true",), {"no-op": ()}, {"hint": "h"}) == (task.expert, dict(task.failures), dict(task.notes))
    assert task == pickle.loads(pickle.dumps(task))


def test_case_sources_of_the_caller(tmp_path: Path) -> None:
    """A check of type program may name a case source that the caller passes."""
    check = '[[grader.checks]]\ntype = "program"\ncommand = ["cat"]\ncases = "mine"\n'
    file = write(tmp_path, 'id = "t"\ninstruction = "x"\n' + check)
    task = load_task(file, case_sources={"mine": lambda _: [Case(Match("1"))]})
    assert isinstance(task.grader, AllOf)
    assert isinstance(task.grader.graders["program"], ProgramGrader)
    with pytest.raises(TaskFileError, match=r"checks\[0\]\.cases: 'mine' is not allowed; allowed: square-root-"):
        load_task(file)


def test_no_grader(tmp_path: Path) -> None:
    """A task without a grader is ungraded."""
    assert isinstance(load_task(write(tmp_path, 'id = "t"\ninstruction = "x"')).grader, Ungraded)


BASE = 'id = "t"\ninstruction = "x"\n'
CHECK = BASE + "[[grader.checks]]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing field 'instruction'"),
        ("x = ", "not valid TOML"),
        ('instuction = "x"', "unknown field 'instuction'; did you mean 'instruction'?; allowed: id, title"),
        ("instruction = 3", "instruction: expected text, got a whole number '3'"),
        ('instruction = " "', "instruction is empty"),
        ('instruction = "x"\nid = "a b"', "id 'a b' is not allowed"),
        (BASE + 'max_steps = "3"', "max_steps: expected a whole number, got text '3'"),
        (BASE + "max_steps = true", "max_steps: expected a whole number, got true or false"),
        (BASE + "max_steps = 0", "max_steps is 0"),
        (BASE + 'user = "rot"', "user: 'rot' is not allowed; did you mean 'root'?; allowed: agent, root"),
        (BASE + 'network = "host"', "network: 'host' is not allowed; allowed: none"),
        (BASE + 'image = "a b"', "image 'a b' is no image reference"),
        (BASE + 'shell = "sh"', "shell 'sh' is not allowed"),
        (BASE + "setup = [1]", "setup[0]: expected text, got a whole number"),
        (BASE + 'setup = "x"', "setup: expected a list of texts, got text 'x'"),
        (BASE + "limits = 3", "limits: expected a table, got a whole number"),
        (BASE + "[limits]\nmemory_bites = 1", "unknown field 'memory_bites' in limits; did you mean 'memory_bytes'?"),
        (BASE + "[limits]\nmemory_bytes = 1", "limits: memory_bytes is 1"),
        (BASE + "[limits]\ncommand_limit_s = nan", "limits: command_limit_s is nan"),
        (BASE + '[workspace]\ndirectory = "../x"', "holds '..'"),
        (BASE + '[workspace]\ndirectory = "x"', "workspace.directory: there is no directory"),
        (BASE + '[workspace.files]\n"../x" = ""', "workspace: path '../x' holds '..'"),
        (BASE + '[workspace.files]\n"x" = 1', "workspace.files.'x': expected text or a table, got int"),
        (BASE + '[workspace.files]\n"x" = {}', "give exactly one of text, base64, symlink, directory"),
        (BASE + '[workspace.files]\n"x" = {text = "", mode = "9"}', "mode: '9' is not allowed"),
        (BASE + '[workspace.files]\n"x" = {base64 = "?"}', "base64: is not valid"),
        (BASE + '[workspace.files]\n"x" = {symlink = "/etc"}', "leads out of the workspace"),
        (BASE + '[[workspace.repositories]]\npath = "r"', "repositories[0]: a repository needs at least one commit"),
        (BASE + "[grader]", "grader.checks: expected at least one"),
        (BASE + 'grader = {combine = "sum", checks = []}', "grader.combine: 'sum' is not allowed"),
        (CHECK, "grader.checks[0].type: expected a type of check, got 'None'; allowed: exit-status, output"),
        (CHECK + 'type = "outputs"', "did you mean 'output'"),
        (CHECK + 'type = "file"\npath = "/x"\nexpected = ""', "grader.checks[0]: path '/x' is absolute"),
        (CHECK + 'type = "file"\npath = "x"', "missing field 'expected' in grader.checks[0]"),
        (CHECK + 'type = "file"\npath = "x"\nexpected = "("\nmatch = "regex"', "does not compile"),
        (CHECK + 'type = "file"\npath = "x"\nexpected = "1"\nmatch = "sha256"', "64 lower-case"),
        (CHECK + 'type = "file"\npath = "x"\nexpected = "1"\nmatch = "xact"', "did you mean 'exact'?"),
        (CHECK + 'type = "file"\npath = "x"\nexpected = "1"\nweight = 2', "weights count only with combine = 'mean'"),
        (CHECK + 'type = "output"\ncommand = []\nexpected = ""', "grader.checks[0]: command is empty"),
        (CHECK + 'type = "output"\ncommand = "x"\nexpected = ""\nlimit_s = 0', "limit_s is 0.0"),
        (CHECK + 'type = "output"\ncommand = "x"\nexpected = ""\nexit_status = "0"', "exit_status: expected a whole"),
        (CHECK + 'type = "exit-status"\ncommand = "x"\nexit_status = 300', "exit_status is 300"),
        (CHECK + 'type = "program"\ncommand = "x"', "missing field 'cases'"),
        (CHECK + 'type = "program"\ncommand = "x"\ncases = []', "expected the name of a case source, or a list"),
        (CHECK + 'type = "git-clone"\ndirectory = "x"\nremote = "r"', "remote: 'r' is not allowed"),
        (CHECK + 'type = "answers"\npath = "x"\nanswers = {a = 1}', "answers.a: expected text, or a table"),
        (CHECK + 'type = "all-of"', "grader.checks[0].checks: expected at least one"),
        (BASE + "[proof]\nexperts = []", "unknown field 'experts' in proof; did you mean 'expert'?"),
        (BASE + "[proof.failures]\na = 1", "proof.failures.a: expected a list of texts"),
    ],
)
def test_bad_file(text: str, message: str, tmp_path: Path) -> None:
    """What is wrong with a file is said in one line that starts with the file's name."""
    file = write(tmp_path, text)
    with pytest.raises(TaskFileError) as caught:
        load_task(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), junk=st.sampled_from(["", '"', "[", "x", "9", "=", "\n", "\0", "{}"]))
def test_damaged_file(at: int, junk: str, tmp_path: Path) -> None:
    """A damaged file is a task or a one-line TaskFileError, never anything else."""
    file = write(tmp_path / "t", GOOD[:at] + junk + GOOD[at + 1 :])
    try:
        load_task(file)
    except TaskFileError as error:
        assert "\n" not in str(error)


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file, a directory without one and bytes that are no text are one-line errors."""
    with pytest.raises(TaskFileError, match="cannot be read: No such file"):
        load_task(tmp_path / "nothing.toml")
    with pytest.raises(TaskFileError, match="holds no tasks"):
        load_curriculum(tmp_path)
    (tmp_path / "task.toml").write_bytes(b"\xff")
    with pytest.raises(TaskFileError, match="not UTF-8"):
        load_curriculum(tmp_path)
    with pytest.raises(TaskFileError) as caught:
        load_task(tmp_path)
    error = caught.value
    assert isinstance(error, CurriculumError)
    assert isinstance(error, ValueError)
    assert str(error) == str(pickle.loads(pickle.dumps(error)))
