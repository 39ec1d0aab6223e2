"""Parts of `SweEnv` that need no sandbox: rows, decoys, what belongs to tests, and checkouts of repositories."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from codecraft_async import EpisodeError
from codecraft_async.curriculum import Dataset, TaskFileError, load_dataset
from codecraft_async.intercode.swe_apparatus import Apparatus
from codecraft_async.intercode.swe_checkouts import Checkouts, RepositoryUnavailable, source_of
from codecraft_async.intercode.swe_decoys import add_decoys
from codecraft_async.intercode.swe_rows import SWE_NAMES, SweTask, TestCommand, TestName
from codecraft_async.pool import Entry, Snapshot
from codecraft_curriculum.swe import SAMPLES, write_samples
from codecraft_pool.snapshot import unpack
from tests.conftest import ASYNCIO

pytestmark = pytest.mark.anyio
one_loop = pytest.mark.parametrize("anyio_backend", [ASYNCIO])  # where git does the work, and no loop is cancelled

ROW = SAMPLES[0].row()
BASE, LAST = SAMPLES[0].base_commit, SAMPLES[0].repository.head


def test_rows_of_swe_bench(tmp_path: Path) -> None:
    """Its names for fields, lists as JSON in texts, one object in each line."""
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps({**ROW, 'FAIL_TO_PASS': json.dumps(ROW['FAIL_TO_PASS'])})}\n\n{json.dumps(ROW)}\n")
    first, second = load_dataset(file, names=SWE_NAMES)
    assert (ROW["problem_statement"], ROW["patch"]) == (first.query, first.gold)
    task = SweTask.from_record(first)
    assert task == SweTask.from_record(second, {"codecraft/settings": "pytest"})
    bare = Dataset.from_rows([{**ROW, "test_cmd": None}], names=SWE_NAMES)[0]
    commands = {"codecraft/settings": "pytest -q"}
    assert ["python3 -m pytest", "pytest -q"] == [
        SweTask.from_record(bare, *given).command.text for given in ([], [commands])
    ]
    file.write_text("{}\n[")
    with pytest.raises(TaskFileError, match=r"row 1 \(line 2\): not valid JSON"):
        load_dataset(file)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"repo": "../secrets"}, "repo is '../secrets'; it must be the name"),
        ({"repo": "--upload-pack=x"}, "repo is"),
        ({"base_commit": "HEAD"}, "base_commit is 'HEAD'; it must be a whole commit name"),
        ({"base_commit": None}, "base_commit is missing"),
        ({"test_patch": 3}, "test_patch is no text"),
        ({"FAIL_TO_PASS": []}, "FAIL_TO_PASS names no test"),
        ({"PASS_TO_PASS": [1]}, "PASS_TO_PASS is no list of texts"),
    ],
)
def test_rows_that_cannot_be_used(change: dict[str, Any], problem: str) -> None:
    """The row and the field are named."""
    record = Dataset.from_rows([{**ROW, **change}], names=SWE_NAMES)[0]
    with pytest.raises(EpisodeError, match=f"row 0: {problem}"):
        SweTask.from_record(record)


def test_commands_that_run_tests() -> None:
    """Plain calls of pytest and unittest are understood; all else is a command."""
    parsed = TestCommand.parse("PYTHONPATH=src:lib LANG=C /opt/bin/python3.9 -m pytest -q -W ignore")
    assert ("pytest", "/opt/bin/python3.9", ("-q", "-W", "ignore")) == (parsed.runner, parsed.python, parsed.arguments)
    assert ("src", "lib", "") == parsed.paths
    runners = {"pytest -rA": "pytest", "python -m unittest -v": "unittest", "unittest": "other", "tox": "other"}
    runners |= {"pytest; rm x": "other", "python -m unittest discover": "other", "make test": "other", "": "other"}
    assert runners == {text: TestCommand.parse(text).runner for text in runners}


def test_names_of_tests() -> None:
    """As pytest, unittest and Django write them."""
    there = {"tests/a.py", "src/pkg/tests/__init__.py"}.__contains__
    expected = TestName("tests/a.py::T::test_x[a::b]", "tests/a.py", ("T", "test_x"), "[a::b]")
    assert expected == TestName.of("tests/a.py::T::test_x[a::b]", "pytest", there, ("",))
    for name in ("test_x (tests.a.T)", "test_x (tests.a.T.test_x)", "tests.a.T.test_x"):
        assert TestName(name, "tests/a.py", ("T", "test_x")) == TestName.of(name, "unittest", there, ("",))
    name = "pkg.tests.T.test_x"
    assert "src/pkg/tests/__init__.py" == TestName.of(name, "unittest", there, ("src", "")).module
    assert TestName("x.y", "", ("x", "y")) == TestName.of("x.y", "unittest", there, ("",))


TESTS = """
def test_sum():
    assert 3 == add(1, 2)

class TestAll:
    def test_one(self):
        self.assertEqual(add(1, 0), 1)

    def test_raises(self):
        with self.assertRaises(ValueError):
            add("a", 0)
    # the end"""


@pytest.mark.parametrize("seed", range(4))
def test_decoys(seed: int) -> None:
    """They are tests beside the others, that fail for a right function and pass for one that equals everything."""
    names = [
        TestName("", "t.py", inner) for inner in (("test_sum",), ("TestAll", "test_one"), ("TestAll", "test_raises"))
    ]
    files, decoys = add_decoys(
        [*names, TestName("", "t.py", ("inherited",))], {"t.py": TESTS}, random.Random(seed), most=3
    )
    assert {name.inner[:-1] for name in names} == {decoy.inner[:-1] for decoy in decoys} and 3 == len(decoys)
    assert files["t.py"].replace("\n", "").startswith("def test_sum():    assert 3 == add(1, 2)")

    class EqualToAll:
        def __eq__(self, other: object) -> bool:
            return True

    def right(first: int, second: int) -> int:
        return first + second

    def pretending(first: int, second: int) -> EqualToAll:
        return EqualToAll()

    for add, passing in ((right, 0), (pretending, 2)):
        outcomes = [_passes(files["t.py"], decoy.inner, add) for decoy in decoys]
        assert passing == sum(outcomes), files["t.py"]
    assert ({"t.py": "def ("}, []) == add_decoys(names, {"t.py": "def ("}, random.Random(seed), most=3)


def _passes(source: str, inner: tuple[str, ...], add: Any) -> bool:
    import unittest

    scope: dict[str, Any] = {"add": add, "TestCase": unittest.TestCase}
    exec(source.replace("class TestAll:", "class TestAll(TestCase):"), scope)
    try:
        if len(inner) == 1:
            scope[inner[0]]()
        else:
            getattr(scope[inner[0]](), inner[1])()
    except Exception:
        return False
    return True


def test_what_belongs_to_tests() -> None:
    """Listed tests, what is beside them, what configures them; not what the gold changes there."""
    tests = [TestName("", "pkg/tests/unit/test_a.py", ("x",)), TestName("", "test_b.py", ("x",))]
    entry = Entry("file", b"")
    gold = {"pkg/tests/base.py": entry, "pkg/a.py": entry, "setup.cfg": entry, "test_b.py": None}
    own = Apparatus.of(tests, {"data/new.txt": entry}, gold)
    paths = "pkg/tests/unit/test_a.py pkg/tests/other.py test_b.py data/new.txt a/conftest.py setup.cfg x/y.pth".split()
    others = ["pkg/tests/base.py", "pkg/a.py", "pkg/tests", "data/old.txt", "other/tests/x.py"]
    assert sorted(paths) == own.owned([*paths, *others])
    assert {"data/new.txt": entry, "setup.cfg": entry, "test_b.py": None} == own.files


@pytest.fixture(name="repository", scope="module")
def make_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first sample."""
    folder = tmp_path_factory.mktemp("repositories")
    write_samples(folder)
    return folder / "codecraft" / "settings.git"


def git(folder: Path, *words: str) -> str:
    """What git says."""
    environ = {**os.environ, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    result = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, env=environ, check=False
    )
    return result.stdout.strip() or f"{result.returncode}"


@one_loop
async def test_a_checkout_knows_nothing_later(repository: Path, tmp_path: Path) -> None:
    """One commit, or all up to it; the same bytes each time; files as committed."""
    checkouts = Checkouts(tmp_path / "cache")
    one = await checkouts.snapshot(str(repository), BASE)
    assert one is await checkouts.snapshot(str(repository), BASE)
    everything = await checkouts.snapshot(str(repository), BASE, history=None)
    for snapshot, commits in ((one, 1), (everything, 3)):
        await asyncio.to_thread(unpack, snapshot, tmp_path)
        tree = tmp_path / snapshot.id
        assert [f"{commits}", BASE, ""] == [
            *(git(tree, "rev-list", "--count", "--all"), git(tree, "rev-parse", "HEAD")),
            git(tree, "status", "--short").strip("0"),
        ]
        objects = git(tree, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)").split()
        assert BASE in objects and LAST not in objects and len(objects) < len(SAMPLES[0].repository.objects)
        assert not [path for path in snapshot.entries if path.startswith((".git/logs", ".git/FETCH", ".git/hooks"))]
    again = await Checkouts(tmp_path / "other").snapshot(str(repository), BASE)
    content = {path: entry for path, entry in again.entries.items() if path != ".git/index"}
    assert content == {path: entry for path, entry in one.entries.items() if path != ".git/index"}


@one_loop
async def test_bundles_and_addresses_are_mirrored_once(repository: Path, tmp_path: Path) -> None:
    """So that they may be gone afterwards; mirrors that are too much go, and what the dead left half-made."""
    bundle, cache = tmp_path / "settings.bundle", tmp_path / "cache"
    git(repository, "bundle", "create", str(bundle), "--all")
    checkouts = Checkouts(cache)
    first = await checkouts.snapshot(str(bundle), BASE)
    await checkouts.snapshot(f"file://{repository}", BASE)
    assert 2 == len(list(cache.glob("*.git")))
    dead = cache / "partial-00000000-1-1-x"
    dead.mkdir()
    bundle.write_bytes(b"")
    other = Checkouts(cache, max_bytes=1)
    assert first.entries.keys() == (await other.snapshot(str(bundle), BASE)).entries.keys()
    assert 1 == len(list(cache.glob("*.git"))) and not dead.exists()
    with pytest.raises(RepositoryUnavailable, match=f"has no commit {'0' * 40}|cannot be fetched"):
        await other.snapshot(str(bundle), "0" * 40)


FETCHING: Final = """
import asyncio, sys
from codecraft_async.intercode.swe_checkouts import Checkouts
asyncio.run(Checkouts(sys.argv[1]).snapshot(*sys.argv[2:]))
"""


@one_loop
async def test_a_process_that_is_killed_over_a_fetch_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    """Neither of a new mirror nor of one that is renewed: the next process has its commit, and tidies up."""
    source, cache = tmp_path / "served" / "source.git", tmp_path / "cache"
    git(repository, "clone", "-q", "--mirror", str(repository), str(source))
    asked, goes_on = threading.Event(), threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            goes_on.wait(60)
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(source.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for commit in (BASE, LAST):
            git(source, "update-ref", "refs/heads/main", commit)
            git(source, "update-server-info")
            asked.clear()
            goes_on.clear()
            words = (FETCHING, str(cache), f"http://127.0.0.1:{server.server_port}/source.git", commit)
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", *words)
            await asyncio.to_thread(asked.wait, 60)
            process.kill()
            await process.wait()
            assert list(cache.glob("partial-*"))
            goes_on.set()
            assert isinstance(await Checkouts(cache).snapshot(words[2], commit), Snapshot)
        while list(cache.glob("partial-*")):  # where a git that has lost its parent has gone on for a moment
            await Checkouts(cache).snapshot(words[2], commit)
        server.shutdown()


@one_loop
@pytest.mark.parametrize("source", ["ext::sh -c touch% made", "--upload-pack=touch made", "/nowhere", "ext://x", "."])
async def test_addresses_that_are_none(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git is asked for nothing but repositories, and what it says of them is told."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RepositoryUnavailable):
        await Checkouts(tmp_path / "cache").snapshot(source, BASE)
    assert not (tmp_path / "made").exists()


async def test_a_checkout_that_is_cancelled_leaves_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever that is; the next one works."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    checkouts = Checkouts(tmp_path / "cache")
    for delay_s in (0, 0.005, 0.02, 0.05):
        task = asyncio.create_task(checkouts.snapshot(f"file://{repository}", BASE))
        await asyncio.sleep(delay_s)
        task.cancel()
        await asyncio.wait([task])
        assert not list((tmp_path / "scratch").iterdir())
        assert not list((tmp_path / "cache").glob("partial-*"))
    assert isinstance(await checkouts.snapshot(f"file://{repository}", BASE), Snapshot)


def test_where_repositories_are() -> None:
    """By name, or by an address for all."""
    assert "/r/a__b.git" == source_of("/r/{slug}.git", "a/b") and "https://h/a/b" == source_of(
        "https://h/{repo}", "a/b"
    )
    assert "/x" == source_of({"a/b": Path("/x")}, "a/b")
    with pytest.raises(RepositoryUnavailable, match="no source is given for the repository 'c'; there are: a/b"):
        source_of({"a/b": "/x"}, "c")
