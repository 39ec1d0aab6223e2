"""Histories that an agent made: what the check of type git-branch sees, and what cannot deceive it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from codecraft_curriculum import Grade, Task, load_curriculum
from codecraft_curriculum.errors import TaskFileError
from codecraft_curriculum.git_repository import Commit, GitObject, GitRepository
from codecraft_curriculum.workspace import WorkspaceFile
from tests.curriculum.directory_sandbox import PATH, DirectorySandbox

pytestmark = pytest.mark.anyio

REPOSITORY = """
instruction = "Work."
[[workspace.repositories]]
path = "remote.git"
author = "Ada Example <ada@example.org>"
[[workspace.repositories.commits]]
message = "First"
tag = "v1.0"
files = { "a.txt" = "1\\n", "d/b.txt" = "secret-word\\n" }
[[workspace.repositories.commits]]
message = "Second"
files = { "a.txt" = "2\\n" }
[[workspace.repositories.commits]]
message = "On the side"
branch = "side"
files = { "c.txt" = "3\\n" }
[[grader.checks]]
type = "git-branch"
git_dir = "remote.git"
repository = "remote.git"
reference = "heads/main"
"""
COMMIT = "git -c user.name=Bo -c user.email=bo@example.org commit --quiet"


def load(tmp_path: Path, check: str) -> Task:
    """Return the task whose only check has these fields."""
    file = tmp_path / "x" / "task.toml"
    file.parent.mkdir()
    file.write_text(REPOSITORY + check)
    return load_curriculum(file)["x"]


async def play(tmp_path: Path, check: str, *actions: str) -> Grade:
    """Return the grade after these actions."""
    task = load(tmp_path, check)
    sandbox = await DirectorySandbox.start(task, tmp_path)
    for action in actions:
        assert 0 == await sandbox.act(action)
    return await task.grader.grade(sandbox)


@pytest.mark.parametrize(
    "check",
    [
        'at = "main"',
        'at = "side~1"\nsame_tree_as = "main"',
        'contains = ["v1.0", "main~1"]',
        'base = "v1.0"\nhistory = [{ subject = "Second", parents = 1, changed = ["a.txt"] }]',
        'base = "nothing"\nhistory = [{}, { subject_regex = "^F", changed = ["a.txt", "d/b.txt"] }]',
        'history = [{ author = "Ada Example <ada@example.org>", files = { "a.txt" = "2" }, absent = ["c.txt"] }]',
        'without = ["another-word"]',
    ],
)
async def test_expected_history(tmp_path: Path, check: str) -> None:
    """A history passes for what it is."""
    grade = await play(tmp_path, check)
    assert grade.passed, grade.reason


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ('at = "v1.0"', "is at"),
        ('contains = ["side"]', "does not contain the commit"),
        ('same_tree_as = "side"', "its files are not the expected ones"),
        ('base = "main~1"', "below its newest 0 commits"),
        ('base = "nothing"\nhistory = [{}]', "expected nothing"),
        ("history = [{}, {}, {}]", "has 2 commits, expected at least 3"),
        ('history = [{ subject = "First" }]', "subject"),
        ('history = [{ author = "Bo <bo@example.org>" }]', "its author is"),
        ("history = [{ parents = 2 }]", "it has 1 parents"),
        ("history = [{ changed = [] }]", "it changes 'a.txt'"),
        ('history = [{ changed = ["a.txt", "d/b.txt"] }]', "it does not change 'd/b.txt'"),
        ('history = [{ files = { "c.txt" = "3" } }]', "it has no file c.txt"),
        ('history = [{ files = { "a.txt" = "1" } }]', "a.txt: expected"),
        ('history = [{ absent = ["d/b.txt"] }]', "d/b.txt is still in it"),
        ('without = ["secret-word"]', "'secret-word' is still in its history"),
    ],
)
async def test_other_history(tmp_path: Path, check: str, reason: str) -> None:
    """A history fails for what it is not, and the reason says why."""
    grade = await play(tmp_path, check)
    assert 0.0 == grade.score
    assert reason in grade.reason


@pytest.mark.parametrize(
    ("revision", "problem"),
    [("main~9", "no commit"), ("gone", "no commit"), ("main~", "no commit"), ("main~x", "no commit")],
)
def test_unknown_revision(tmp_path: Path, revision: str, problem: str) -> None:
    """A revision that the repository has not is an error of the task file, which lists those that it has."""
    with pytest.raises(TaskFileError, match=f"{problem} '{revision}'.*main, side, v1.0"):
        load(tmp_path, f'at = "{revision}"')


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ("history = [{ message = 'x' }]", r"unknown field 'message' in grader.checks\[0\].history\[0\]"),
        ("history = [{ files = { a = 3 } }]", r"history\[0\].files.a: expected text, or a table"),
        ("history = [{ files = { a = { expected = 'x', match = 'numbers' } } }]", "'numbers' is not allowed"),
        ("history = [{ subject_regex = '(' }]", "does not compile"),
        ("history = 'main'", "history: expected a list of tables"),
    ],
)
def test_malformed_rules(tmp_path: Path, check: str, problem: str) -> None:
    """What is wrong with a rule is said in one line that names the field."""
    with pytest.raises(TaskFileError, match=problem):
        load(tmp_path, check)


async def test_packed_clone_and_annotated_tag(tmp_path: Path) -> None:
    """Packed objects and references count as loose ones do, and an annotated tag stands for its commit."""
    check = 'base = "main"\nhistory = [{ subject = "Third", changed = [] }]'
    clone = "git clone --quiet remote.git clone && cd clone"
    tag = "git -c user.name=Bo -c user.email=bo@example.org tag -a v2.0 -m v2.0"
    work = f"{clone} && {COMMIT} --allow-empty -m Third && {tag} && git gc --quiet && git pack-refs --all"
    task = check.replace("base", 'git_dir = "clone/.git"\nreference = "tags/v2.0"\nbase', 1)
    text = REPOSITORY.replace('git_dir = "remote.git"\n', "").replace('reference = "heads/main"\n', "") + task
    file = tmp_path / "x" / "task.toml"
    file.parent.mkdir()
    file.write_text(text)
    loaded = load_curriculum(file)["x"]
    sandbox = await DirectorySandbox.start(loaded, tmp_path)
    assert 0 == await sandbox.act(work)
    grade = await loaded.grader.grade(sandbox)
    assert grade.passed, grade.reason


async def test_missing_objects(tmp_path: Path) -> None:
    """A reference to a commit whose objects are gone is no history."""
    grade = await play(tmp_path, 'at = "main"', "rm -rf remote.git/objects/*")
    assert "is not complete" in grade.reason


async def test_forged_object(tmp_path: Path) -> None:
    """An object whose content is not what its name says does not count, even where git does not look."""
    name = GitObject("blob", b"2\n").id
    loose = tmp_path / "workspace" / "remote.git" / "objects" / name[:2] / name[2:]
    task = load(tmp_path, 'at = "main"')
    sandbox = await DirectorySandbox.start(task, tmp_path)
    loose.chmod(0o644)
    loose.write_bytes(GitObject("blob", b"something else\n").loose())
    grade = await task.grader.grade(sandbox)
    assert f"object {name[:12]} holds something else than its name says" in grade.reason


async def test_hostile_configuration_is_not_run(tmp_path: Path) -> None:
    """Hooks, filters and monitors of the repository stay asleep."""
    mark = "touch $PWD/was-run"
    grade = await play(
        tmp_path,
        'at = "main"',
        f"printf '#!/bin/sh\\n{mark}\\n' > evil && chmod +x evil && cp evil remote.git/reference-transaction",
        "git --git-dir=remote.git config core.fsmonitor $PWD/evil",
        "git --git-dir=remote.git config core.hooksPath $PWD",
        "rm -f was-run",
    )
    assert grade.passed, grade.reason
    assert not (tmp_path / "workspace" / "was-run").exists()


async def test_replaced_objects_do_not_count(tmp_path: Path) -> None:
    """What git would show in a commit's place, by its replacements, is no part of the history."""
    replace = "git --git-dir=remote.git replace refs/heads/main refs/heads/side"
    grade = await play(tmp_path, 'history = [{ files = { "c.txt" = "3" } }]', replace)
    assert "it has no file c.txt" in grade.reason


async def test_a_tree_that_names_itself_many_times(tmp_path: Path) -> None:
    """Few objects that stand for a million files are refused, not unrolled."""
    bomb = """
export GIT_DIR=$PWD/remote.git GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a
ten="0 1 2 3 4 5 6 7 8 9"
blob=$(echo x | git hash-object -w --stdin)
tree=$(for i in $ten; do printf '100644 blob %s\\t%s\\n' $blob $i; done | git mktree)
for level in 1 2 3 4 5 6 7; do
    tree=$(for i in $ten; do printf '040000 tree %s\\t%s\\n' $tree $i; done | git mktree)
done
git commit-tree -m bomb $tree > remote.git/refs/heads/main
"""
    # git itself unrolls nothing: it walks each tree once
    grade = await play(tmp_path, "history = [{ changed = [] }]", bomb)
    assert "holds over 10000 files" in grade.reason


def test_git_reads_branches_and_tags(tmp_path: Path) -> None:
    """git agrees with what is written for branches and tags."""
    repository = GitRepository(
        (
            Commit("First", {"a": WorkspaceFile(b"1")}, tag="v1"),
            Commit("Side", {"b": WorkspaceFile(b"2")}, branch="side-1.0"),
            Commit("Second", {"a": WorkspaceFile(b"3")}),
            Commit("Side again", {}, remove=("a",), branch="side-1.0"),
        )
    )
    for path, entry in repository.bare("r.git").items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(entry.data)
    git = ["git", f"--git-dir={tmp_path / 'r.git'}"]
    env = {"PATH": PATH, "HOME": os.devnull, "LC_ALL": "C"}
    subprocess.run([*git, "fsck", "--strict"], check=True, env=env, capture_output=True)
    shown = subprocess.run(
        [*git, "for-each-ref", "--format=%(refname) %(objectname)"], check=True, env=env, capture_output=True, text=True
    )
    assert {f"{name} {commit}" for name, commit in repository.references.items()} == set(shown.stdout.splitlines())
    log = subprocess.run([*git, "log", "--format=%s", "side-1.0"], check=True, env=env, capture_output=True, text=True)
    assert ["Side again", "Side", "First"] == log.stdout.splitlines()
    assert {"a"} == set(repository.files)


@pytest.mark.parametrize("name", ["-x", "a/b", "a..b", "a.lock", "a b", "a."])
def test_refused_branches(name: str) -> None:
    """A name that git would refuse, or that is more than a name, is refused."""
    with pytest.raises(ValueError, match="is not allowed"):
        Commit("First", {}, branch=name)
    with pytest.raises(ValueError, match="is not allowed"):
        Commit("First", {}, tag=name)


def test_first_commit_is_on_the_branch_of_the_repository() -> None:
    """Another branch has to start somewhere."""
    with pytest.raises(ValueError, match="begin with the branch 'main'"):
        GitRepository((Commit("First", {}, branch="side"),))
