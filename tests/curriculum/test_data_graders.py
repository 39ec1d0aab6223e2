"""Graders of data: documents, databases, directories, programs in scratch directories, servers."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from codecraft_curriculum import (
    AllOf,
    Answer,
    AnswersGrader,
    Case,
    CommandSpec,
    CsvGrader,
    Exchange,
    FixedCases,
    Grade,
    GradingSandbox,
    JsonGrader,
    Match,
    ProgramGrader,
    PythonCases,
    ServerGrader,
    SqliteGrader,
    Task,
    TreeEntry,
    TreeGrader,
    WorkspaceFile,
)
from tests.curriculum.directory_sandbox import DirectorySandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def box(tmp_path: Path) -> DirectorySandbox:
    """A sandbox with an empty workspace."""
    return await DirectorySandbox.start(Task(id="t", instruction="x"), tmp_path)


@dataclass(frozen=True, slots=True)
class Scores:
    """Gives a score."""

    score: float
    runs_agent_code: bool = field(default=False)

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Return the score."""
        del sandbox
        return Grade(self.score, reason=f"it is {self.score}")


@pytest.mark.parametrize(
    ("expected", "given", "score"),
    [
        ('{"a": [1, 2.0], "b": null}', '\n{"b":null,"a":[1.0,2]}', 1.0),
        ('{"a": 1}', '{"a": true}', 0.0),
        ('{"a": 1}', '{"a": 1, "a": 1}', 0.0),
        ('{"a": 1}', '{"a": 1, "b": 2}', 0.0),
        ("[1, 2]", "[2, 1]", 0.0),
        ("1", "NaN", 0.0),
        ("1", "1e999", 0.0),
        ("1", "[" * 100_000, 0.0),
        ("1", "\ufeff1", 0.0),
        ('"1"', "1", 0.0),
    ],
)
async def test_json(box: DirectorySandbox, expected: str, given: str, score: float) -> None:
    """Values count, and not how they are written; hostile documents are wrong ones."""
    (box.workspace / "x.json").write_text(given)
    grade = await JsonGrader("x.json", expected).grade(box)
    assert score == grade.score, grade.reason
    assert grade.reason.isprintable()


async def test_json_in_any_order(box: DirectorySandbox) -> None:
    """Lists may be compared as sets that count, at every depth, with numbers that are nearly equal."""
    (box.workspace / "x.json").write_text('[{"k": [2, 1]}, 0.30000000000000004, "b", "a"]')
    expected = '["a", "b", 0.3, {"k": [1, 2]}]'
    assert 1.0 == (await JsonGrader("x.json", expected, unordered=True).grade(box)).score
    grade = await JsonGrader("x.json", '["a", "a", 0.3, {"k": [1, 2]}]', unordered=True).grade(box)
    assert 0.0 == grade.score


@pytest.mark.parametrize(
    ("given", "score"),
    [
        ('id,note\r\n1,"a, b"\r\n2.50,c\r\n', 1.0),
        ('"id","note"\n1,"a, b"\n\n2.5,"c"', 1.0),
        ('id,note\n2.5,c\n1,"a, b"\n', 0.0),
        ("id;note\n", 0.0),
        ("note,id\n", 0.0),
        ('id,note\n1,"a', 0.0),
        ("id,note\n1,a b\n2.5,c\n", 0.0),
        ("", 0.0),
    ],
)
async def test_csv(box: DirectorySandbox, given: str, score: float) -> None:
    """Fields count, and not how they are quoted; numbers are numbers."""
    (box.workspace / "x.csv").write_bytes(given.encode())
    grade = await CsvGrader("x.csv", 'id,note\n1,"a, b"\n2.5,c\n').grade(box)
    assert score == grade.score, grade.reason


async def test_sqlite(box: DirectorySandbox) -> None:
    """A query of the task's is answered from the file's bytes, also where the database was left in WAL mode."""
    with sqlite3.connect(box.workspace / "x.db") as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (id INTEGER, name TEXT, data BLOB)")
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", [(1, "a", b"\x01"), (2, None, None)])
    db.close()
    right = SqliteGrader("x.db", "SELECT id, name, data FROM t ORDER BY id", '[[1, "a", "01"], [2, null, null]]')
    assert 1.0 == (await right.grade(box)).score
    wrong = SqliteGrader("x.db", "SELECT count(*) FROM t", "[[3]]")
    assert "expected item 1 of item 1 of the result to be '3', got '2'" in (await wrong.grade(box)).reason
    missing = SqliteGrader("x.db", "SELECT * FROM other", "[]")
    assert "no such table" in (await missing.grade(box)).reason


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE VIEW t AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) AS id FROM n",
        "CREATE VIEW t AS SELECT load_extension('/tmp/x') AS id",
        "CREATE VIEW t AS SELECT hex(zeroblob(100000000)) AS id",
        "CREATE VIEW t AS SELECT printf('%.100000000c', 'x') AS id",
    ],
)
async def test_hostile_databases(box: DirectorySandbox, schema: str) -> None:
    """What an agent puts into a schema neither runs for ever nor runs anything, and is worth nothing."""
    with sqlite3.connect(box.workspace / "x.db") as db:
        db.execute(schema)
    db.close()
    assert 0.0 == (await SqliteGrader("x.db", "SELECT id FROM t", "[[1]]").grade(box)).score
    data = (box.workspace / "x.db").read_bytes()
    rng = random.Random(1)
    for _ in range(50):
        broken = bytearray(data)
        for _ in range(20):
            broken[rng.randrange(16, len(broken))] = rng.randrange(256)
        (box.workspace / "x.db").write_bytes(broken[: rng.randrange(100, len(broken))])
        assert 0.0 == (await SqliteGrader("x.db", "SELECT id FROM t", "[[1]]").grade(box)).score


async def test_tree(box: DirectorySandbox) -> None:
    """Kinds, contents, modes, targets and identities are compared; what is missing or too much is told."""
    root = box.workspace / "d"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a b").write_text("text")
    (root / "sub" / "a b").chmod(0o640)
    os.link(root / "sub" / "a b", root / "twin")
    (root / "link").symlink_to("sub")
    entries = {
        "sub/a b": TreeEntry(content=Match("text", "exact"), mode=0o640),
        "twin": TreeEntry(same_file_as="sub/a b"),
        "link": TreeEntry("symlink", target="sub"),
        "gone": TreeEntry("missing"),
    }
    assert 1.0 == (await TreeGrader("d", entries).grade(box)).score
    (root / "extra\n").touch()
    assert "should not hold 'extra\\n'" in (await TreeGrader("d", entries).grade(box)).reason
    assert 1.0 == (await TreeGrader("d", entries, ignore=("extra*",)).grade(box)).score
    (root / "sub" / "a b").chmod(0o644)
    grade = await TreeGrader("d", entries, exact=False, partial=True).grade(box)
    assert (0.75, "d/sub/a b should have mode 640, and has 644") == (grade.score, grade.reason)
    (root / "gone").touch()
    assert 0.5 == (await TreeGrader("d", entries, exact=False, partial=True).grade(box)).score


async def test_tree_of_another_kind(box: DirectorySandbox) -> None:
    """A link in place of the directory is not followed, and a pipe is no file."""
    (box.workspace / "d").symlink_to(".")
    assert "is no directory" in (await TreeGrader("d", {"x": TreeEntry()}).grade(box)).reason
    os.mkfifo(box.workspace / "pipe")
    grade = await TreeGrader("", {"pipe": TreeEntry(content=Match("x"))}, exact=False).grade(box)
    assert "pipe should be a file, and is something else" == grade.reason


PROGRAM = CommandSpec(command=("sh", "-c", 'sh "$WHERE/run.sh" "$@"', "sh"))


def staged(box: DirectorySandbox, script: str, cases: Sequence[Case], *, partial: bool = False) -> ProgramGrader:
    """Return the grader of a script of the workspace."""
    (box.workspace / "run.sh").write_text(script)
    command = CommandSpec(command=PROGRAM.command, env={"WHERE": str(box.workspace)})
    return ProgramGrader(command, FixedCases(tuple(cases)), partial=partial)


MOVE = Case(
    Match("done ok"),
    ("ok",),
    files={"in/a b": "x", "tool": WorkspaceFile(b'#!/bin/sh\necho done "$@"\n', 0o755)},
    expected_files={"out/a b": "x", "tool": WorkspaceFile(b'#!/bin/sh\necho done "$@"\n', 0o755)},
)


MOVES = 'mkdir out && mv in/* out/ && ./tool "$@"'
SCRIPTS = [
    (MOVES, "all 1 cases are right"),
    ('./tool "$@"', "out/a b is missing afterwards"),
    (MOVES.replace("mv", "cp"), "'in/a b' should not be there afterwards"),
    (f"{MOVES}; echo y > 'out/a b'", "should hold 'x' afterwards, and holds 'y\\n'"),
    (f"{MOVES}; ln -sf ../tool 'out/a b'", "should be a file afterwards, and is a symlink"),
    (f"{MOVES}; chmod 644 tool", "tool should have mode 755 afterwards, and has 644"),
    ("mkfifo out; echo done ok", "cannot be read back"),
    ("exit 3", "expected exit status 0, got exit status 3"),
    ("rm ../status; chmod 000 .; echo done ok", "is missing afterwards"),
    ("rm -rf ../*; echo done ok", "cannot be read back"),
]


@pytest.mark.parametrize(("script", "reason"), SCRIPTS)
async def test_programs_in_a_scratch_directory(box: DirectorySandbox, script: str, reason: str) -> None:
    """What a program leaves is compared on the host, and whatever it leaves is a grade."""
    grade = await staged(box, script, [MOVE]).grade(box)
    assert reason in grade.reason
    assert float(reason.startswith("all")) == grade.score
    assert ["home", "workspace"] == sorted(os.listdir(box.root))


async def test_cases_of_a_task(box: DirectorySandbox) -> None:
    """Cases come from a Python text that pickles as text; its mistakes are told with its name."""
    text = "from codecraft_curriculum import *\ndef cases(rng):\n    return [Case(Match(str(rng.randint(0, 9))))]\n"
    source = PythonCases(text, "cases", "t/cases.py")
    assert source(random.Random(1)) == source(random.Random(1))
    with pytest.raises(ValueError, match=r"t/cases\.py defines no function 'other'"):
        PythonCases(text, "other", "t/cases.py")
    with pytest.raises(ValueError, match=r"t/cases\.py fails: NameError"):
        PythonCases("nonsense", "cases", "t/cases.py")
    halves = [Case(Match("1"), stdin=b"1"), Case(Match("2"), stdin=b"1")]
    grade = await ProgramGrader(CommandSpec(command=("cat",)), FixedCases(tuple(halves)), partial=True).grade(box)
    assert (0.5, True) == (grade.score, grade.reason.startswith("case 2 of 2"))


ECHO = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = listener.accept()
    data = client.recv(4096)
    if data.startswith(b"GET /"):
        data = b"HTTP/1.0 200 OK\\r\\nX-Path: " + data.split()[1] + b"\\r\\n\\r\\nbody"
    client.sendall(data)
    client.close()
"""


def server(text: str, *exchanges: Exchange, idle: int = 0, partial: bool = False) -> ServerGrader:
    """Return a grader of a Python server."""
    command = CommandSpec(command=("python3", "-I", "-S", "-c", text, "@PORT@"), limit_s=8.0)
    return ServerGrader(command, exchanges, idle=idle, partial=partial)


async def test_a_server_is_asked_on_a_free_port(box: DirectorySandbox) -> None:
    """HTTP and plain TCP, with words that are new each time, in both the question and the answer."""
    web = Exchange(Match("body"), method="GET", path="/@WORD1@", status=200, headers={"X-Path": "/@WORD1@"})
    plain = Exchange(Match("a @WORD2@", "exact"), send="a @WORD2@")
    assert 1.0 == (await server(ECHO, web, plain).grade(box)).score
    for wrong in (
        Exchange(method="GET", status=404),
        Exchange(method="GET", headers={"X-Path": "/x"}),
        Exchange(Match("@WORD1@"), send="@WORD2@"),
    ):
        assert 0.0 == (await server(ECHO, plain, wrong).grade(box)).score
        assert 0.5 == (await server(ECHO, plain, wrong, partial=True).grade(box)).score


async def test_a_server_that_serves_one_after_the_other_is_held_up(box: DirectorySandbox) -> None:
    """Silent clients are there first."""
    grade = await server(ECHO, Exchange(Match("a"), send="a"), idle=2).grade(box)
    assert (0.0, True) == (grade.score, "TimeoutError" in grade.reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ConnectionRefusedError"),
        ("raise SystemExit('no port')", "standard error ends in 'no port'"),
        ("import os; os.kill(os.getppid(), 9)", "were broken off"),
        (
            "import os; open(f'/proc/{os.getppid()}/fd/1', 'w').write('[]'); os.kill(os.getppid(), 9)",
            "not as many answers",
        ),
    ],
)
async def test_a_server_that_does_not_serve(box: DirectorySandbox, text: str, reason: str) -> None:
    """It is a score of 0, whatever it does to the client that asks."""
    grade = await server(text, Exchange(Match("a"), send="a")).grade(box)
    assert 0.0 == grade.score
    assert reason in grade.reason


async def test_required_checks(box: DirectorySandbox) -> None:
    """A condition that is not met zeroes the whole; one that is pays nothing unless it has a weight."""

    async def score(required: float, weights: Mapping[str, float]) -> float:
        graders = {"guard": Scores(required), "half": Scores(0.5), "full": Scores(1.0)}
        whole = AllOf(graders, combine="mean", weights=weights, required=frozenset({"guard"}))
        return (await whole.grade(box)).score

    assert 0.75 == await score(1.0, {})
    assert 0.0 == await score(0.9, {})
    assert (0.5 + 1 + 2) / 4 == await score(1.0, {"guard": 2.0})
    with pytest.raises(ValueError, match="'x' is required, but no check"):
        AllOf({"a": Scores(1.0)}, required=frozenset({"x"}))
    with pytest.raises(ValueError, match="nothing would pay"):
        AllOf({"a": Scores(1.0)}, combine="mean", required=frozenset({"a"}))


async def test_answers_in_part(box: DirectorySandbox) -> None:
    """The score may be the share of right answers."""
    (box.workspace / "a.txt").write_text("one: 1\ntwo: 3\n")
    answers = {"one": Answer("1"), "two": Answer("2")}
    assert 0.5 == (await AnswersGrader("a.txt", answers, partial=True).grade(box)).score
    assert 0.0 == (await AnswersGrader("a.txt", answers).grade(box)).score


def test_what_graders_refuse() -> None:
    """Mistakes of a task's author are errors that say what is allowed."""
    command = CommandSpec(command="x @PORT@")
    with pytest.raises(ValueError, match="port is 70000"):
        ServerGrader(command, (Exchange(Match("a")),), port=70000)
    with pytest.raises(ValueError, match="does not say @PORT@"):
        ServerGrader(CommandSpec(command="x"), (Exchange(Match("a")),))
    with pytest.raises(ValueError, match="nothing is expected"):
        Exchange(method="GET")
    with pytest.raises(ValueError, match="those of HTTP"):
        Exchange(Match("a"), status=200)
    with pytest.raises(ValueError, match="no list of rows"):
        SqliteGrader("x", "SELECT 1", json.dumps({"a": 1}))
    with pytest.raises(ValueError, match="give one character"):
        CsvGrader("x", "a", delimiter=";;")
    with pytest.raises(ValueError, match="Expecting value"):
        JsonGrader("x", "nonsense")
    with pytest.raises(ValueError, match="mode 77777"):
        TreeEntry(mode=0o77777)
