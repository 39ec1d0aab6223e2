"""Graders: what the agent left is a grade, what the sandbox or the task did wrong is an exception."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from codecraft_curriculum import (
    AllOf,
    Answer,
    AnswersGrader,
    AnyOf,
    Case,
    CommandSpec,
    ExitStatusGrader,
    FileGrader,
    FixedCases,
    Grade,
    Grader,
    GradingSandbox,
    Match,
    OutputGrader,
    ProgramGrader,
    Task,
    UnitTestsGrader,
)
from codecraft_curriculum.case_sources import BUILTIN_CASE_SOURCES
from tests.curriculum.directory_sandbox import DirectorySandbox, Outcome

pytestmark = pytest.mark.anyio

RIGHT = "def f():\n    return 1\n"
WRONG = "def f():\n    return 2\n"


@pytest.fixture
async def box(tmp_path: Path) -> DirectorySandbox:
    """A sandbox with an empty workspace."""
    return await DirectorySandbox.start(Task(id="t", instruction="x"), tmp_path)


@dataclass(slots=True)
class BrokenSandbox:
    """Every call raises the given error."""

    error: Exception

    async def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        limit_s: float = 10.0,
        max_output_bytes: int = 1 << 20,
    ) -> Outcome:
        """Raise."""
        raise self.error

    async def read_file(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """Raise."""
        raise self.error


@dataclass(frozen=True, slots=True)
class Fixed:
    """Gives a score, and notes that it was asked."""

    score: float
    asked: list[float]
    runs_agent_code: bool = False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Return the score."""
        self.asked.append(self.score)
        return Grade(self.score, reason=f"scored {self.score}")


@pytest.mark.parametrize(
    ("match", "fits", "differs"),
    [
        (Match("a b"), b"\n a b \n", b"a  b"),
        (Match("a\n", "exact"), b"a\n", b"a"),
        (Match("^a.$", "regex"), b"ab", b"abc"),
        (Match("^a", "regex"), b"a", b"a" * 20_000),
        (Match("^.$", "regex"), "é".encode(), b"\xe9"),
        (Match("1 2.5 x", "numbers", 1e-3), b"1.0\n2.5001 x", b"1 2.6 x"),
        (Match("1", "numbers"), b"1.0", b"nan"),
        (Match("1 2", "numbers"), b"1 2", b"1"),
        (Match("1", "numbers"), b"1", b"1" + b"0" * 100),
        (Match("2c" * 32, "sha256"), b"", b"x"),
    ],
)
async def test_match(match: Match, fits: bytes, differs: bytes) -> None:
    """Each kind of match accepts what fits, and says on one bounded line what differs."""
    if match.kind != "sha256":
        assert match.mismatch(fits) is None
    problem = match.mismatch(differs)
    assert problem is not None
    assert problem.isprintable()
    assert len(problem) < 400


async def test_difference_is_shown(box: DirectorySandbox) -> None:
    """The reason shows where two long texts begin to differ."""
    box.workspace.joinpath("f").write_text("x" * 1000 + "here" + "y" * 1000)
    grade = await FileGrader("f", Match("x" * 1000 + "HERE" + "y" * 1000)).grade(box)
    assert "from byte 980 on" in grade.reason
    assert "here" in grade.reason


async def test_exit_status(box: DirectorySandbox) -> None:
    """The expected exit status passes, another or a signal fails with the reason."""
    assert 1.0 == (await ExitStatusGrader(CommandSpec(command="exit 3"), 3).grade(box)).score
    grade = await ExitStatusGrader(CommandSpec(command="exit 3")).grade(box)
    assert (0.0, "'exit 3': expected exit status 0, got exit status 3") == (grade.score, grade.reason)
    assert "signal 9" in (await ExitStatusGrader(CommandSpec(command="kill -9 $$")).grade(box)).reason


async def test_output(box: DirectorySandbox) -> None:
    """The output of a command given standard input is compared; its exit status counts unless told not to."""
    cat = CommandSpec(command=("cat",), stdin=b"hello")
    assert (await OutputGrader(cat, Match("hello")).grade(box)).passed
    assert "got 'hello'" in (await OutputGrader(cat, Match("x")).grade(box)).reason
    failing = CommandSpec(command="echo hello; echo why >&2; exit 1")
    assert "why" in (await OutputGrader(failing, Match("hello")).grade(box)).reason
    assert (await OutputGrader(failing, Match("hello"), exit_status=None).grade(box)).passed


async def test_limits(box: DirectorySandbox) -> None:
    """Too much time or output is a score of 0 with the limit in the reason."""
    slow = CommandSpec(command="exec sleep 9", limit_s=0.05)
    assert "did not end within 0.05 s" in (await OutputGrader(slow, Match("")).grade(box)).reason
    loud = CommandSpec(command="yes | head -c 5000", max_output_bytes=100)
    assert "printed over 100 bytes" in (await OutputGrader(loud, Match("")).grade(box)).reason


async def test_hostile_files(box: DirectorySandbox) -> None:
    """A missing, special, huge or escaping file, or one that is no text, scores 0 with a reason."""
    await box.act(
        "mkdir d; mkfifo p; ln -s /etc/passwd out; ln -s ../home up; ln -s loop loop; ln -s nowhere dangling;"
        "head -c 2000 /dev/zero > huge; printf '\\377\\376\\033[2J' > binary; : > file"
    )
    names = ["missing", "d", "p", "out", "up/x", "loop", "dangling", "huge", "binary", "file/x"]
    for name in names:
        grade = await FileGrader(name, Match("x", "regex"), max_bytes=1000).grade(box)
        assert 0.0 == grade.score
        assert name in grade.reason
        assert grade.reason.isprintable()


@pytest.mark.parametrize(
    "grader",
    [
        FileGrader("f", Match("x")),
        OutputGrader(CommandSpec(command="true"), Match("x")),
        ExitStatusGrader(CommandSpec(command="true")),
        AllOf({"file": FileGrader("f", Match("x"))}),
        AnyOf({"file": FileGrader("f", Match("x"))}),
        AnswersGrader("f", {"a": Answer("1")}),
        ProgramGrader(CommandSpec(command="true"), FixedCases((Case(Match("x")),))),
        UnitTestsGrader("t.py", "m.py", CommandSpec(command=("true",)), ("",), ("",)),
    ],
)
async def test_faults(grader: Grader) -> None:
    """A lost sandbox, a missed deadline or a bug is an exception, never a score; a refusal to read is a score."""
    for error in (ConnectionResetError("lost"), TimeoutError("late"), RuntimeError("bug")):
        with pytest.raises(type(error)):
            await grader.grade(BrokenSandbox(error))
    assert 0.0 == (await grader.grade(BrokenSandbox(PermissionError("no")))).score


async def test_all_of(box: DirectorySandbox) -> None:
    """By default the lowest part counts; product and weighted mean do as they are named; the reason is the first's."""
    parts: dict[str, Grader] = {"a": Fixed(1.0, []), "b": Fixed(0.5, []), "c": Fixed(0.2, [])}
    grade = await AllOf(parts).grade(box)
    assert (0.2, {"a": 1.0, "b": 0.5, "c": 0.2}, "b: scored 0.5") == (grade.score, dict(grade.parts), grade.reason)
    assert 0.1 == pytest.approx((await AllOf(parts, combine="product").grade(box)).score)
    assert 0.65 == pytest.approx(
        (await AllOf(parts, combine="mean", weights={"a": 2.5, "b": 2.5}).grade(box)).score, abs=0.05
    )
    assert (await AllOf({"a": Fixed(1.0, []), "b": Fixed(1.0, [])}, combine="mean").grade(box)).passed


async def test_trusted_parts_go_first(box: DirectorySandbox) -> None:
    """Parts that run the agent's programs are graded after those that do not, whatever their order."""
    asked: list[float] = []
    parts: dict[str, Grader] = {"program": Fixed(0.1, asked, True), "file": Fixed(0.9, asked)}
    grade = await AllOf(parts).grade(box)
    assert [0.9, 0.1] == asked
    assert ["program", "file"] == list(grade.parts)


async def test_any_of(box: DirectorySandbox) -> None:
    """The best part counts, and nothing is graded after a full score."""
    asked: list[float] = []
    assert 0.5 == (await AnyOf({"a": Fixed(0.5, asked), "b": Fixed(0.2, asked)}).grade(box)).score
    assert (await AnyOf({"a": Fixed(1.0, asked), "b": Fixed(0.3, asked)}).grade(box)).passed
    assert [0.5, 0.2, 1.0] == asked


async def test_bad_graders() -> None:
    """Graders that can never be right are refused when they are made."""
    for make in (
        lambda: AllOf({}),
        lambda: AllOf({"a": Fixed(1.0, [])}, weights={"a": 2.0}),
        lambda: AllOf({"a": Fixed(1.0, [])}, combine="mean", weights={"b": 2.0}),
        lambda: Grade(1.5),
        lambda: Grade(float("nan")),
        lambda: Grade(1.0, {"a": -0.1}),
        lambda: CommandSpec(command=""),
        lambda: CommandSpec(command="x", cwd="relative"),
        lambda: UnitTestsGrader("t.py", "m.py", CommandSpec(command=("x",)), (), ("",)),
        lambda: UnitTestsGrader("d/t.py", "m.py", CommandSpec(command=("x",)), ("",), ("",)),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            make()


async def test_reason_is_one_bounded_line() -> None:
    """Line ends, escapes and length of a reason do not get through."""
    reason = Grade(0.0, reason="a\nb\033[31m\u2028" + "x" * 10_000).reason
    assert reason.isprintable()
    assert 600 == len(reason)


async def test_program(box: DirectorySandbox) -> None:
    """A program that computes passes; one that prints verdicts, exits well or repeats itself does not."""

    def doubles(rng: random.Random) -> list[Case]:
        numbers = [rng.randint(0, 10**9) for _ in range(3)]
        return [Case(Match(str(2 * number)), stdin=str(number).encode()) for number in numbers]

    grader = ProgramGrader(CommandSpec(command=("python3", "-I", "-S", "-B", "p.py")), doubles)
    for text, score in {
        "print(2 * int(input()))": 1.0,
        "print('OK'); print('all tests passed')": 0.0,
        "import os; os._exit(0)": 0.0,
        "import atexit, sys; atexit.register(lambda: print('passed')); sys.exit(0)": 0.0,
        "print(84)": 0.0,
    }.items():
        box.workspace.joinpath("p.py").write_text(text)
        assert score == (await grader.grade(box)).score


async def test_program_arguments_and_fixed_cases(box: DirectorySandbox) -> None:
    """Cases may give arguments; a source without cases is the task's fault."""
    echo = CommandSpec(command=("echo",))
    cases = FixedCases((Case(Match("a b"), arguments=("a", "b")), Case(Match("c"), arguments=("d",))))
    grade = await ProgramGrader(echo, cases).grade(box)
    assert "case 2 of 2, input 'd': expected 'c', got 'd'" == grade.reason
    with pytest.raises(ValueError, match="drew no cases"):
        await ProgramGrader(echo, FixedCases(())).grade(box)


async def test_cases_are_fresh() -> None:
    """Every built-in case source draws other inputs for another state of chance, and the same for the same."""
    for source in BUILTIN_CASE_SOURCES.values():
        assert source(random.Random(1)) == source(random.Random(1))
        assert source(random.Random(1)) != source(random.Random(2))


async def test_unit_tests_are_a_classifier(box: DirectorySandbox) -> None:
    """Tests pass the grade only if they tell right from wrong modules by what these do."""
    command = CommandSpec(command=("python3", "-B", "-m", "unittest", "test_m"))
    grader = UnitTestsGrader(
        "test_m.py", "m.py", command, (RIGHT, "f = lambda: 1\n"), (WRONG, "f = lambda: 0\n"), seed=3
    )
    case = "import unittest\nfrom m import f\nclass T(unittest.TestCase):\n    def test(self):\n        "
    box.workspace.joinpath("m.py").write_text(RIGHT)
    for text, score, reason in (
        (case + "self.assertEqual(1, f())", 1.0, "tells 2 right from 2 wrong"),
        (case + "self.assertTrue(f() is not None)", 0.0, "pass with a wrong m.py"),
        (case + "self.assertIn('return 1', open('m.py').read())", 0.0, "fail with a right m.py"),
        (case + "self.fail('always')", 0.0, "do not pass with your own m.py"),
        ("import os\nos._exit(0)", 0.0, "pass with a wrong m.py"),
    ):
        box.workspace.joinpath("test_m.py").write_text(text)
        grade = await grader.grade(box)
        assert (score, True) == (grade.score, reason in grade.reason), grade.reason


async def test_answers(box: DirectorySandbox) -> None:
    """Answers are read through Markdown, once each; the parts say which are right."""
    grader = AnswersGrader(
        "r.md",
        {
            "Names": Answer("a, b_c", "list"),
            "Bug": Answer("The File"),
            "Value": Answer("3.5", "number"),
            "Line": Answer(r"\d+", "regex"),
        },
    )
    for text, score in {
        "- **Names:** `b_c()`, `a`\n* Bug: the  file\nvalue: 3.50\nLINE: 12.": 1.0,
        "Names: a\nBug: the file\nValue: 3.5\nLine: 12": 0.0,
        "Names: a, b_c, d\nBug: the file\nValue: 3.5\nLine: 12": 0.0,
        "Names: a, b_c\nBug: the file\nBug: x\nValue: 3.5\nLine: 12": 0.0,
        "": 0.0,
    }.items():
        box.workspace.joinpath("r.md").write_text(text)
        assert score == (await grader.grade(box)).score
    box.workspace.joinpath("r.md").write_text("Names: a, b_c\nBug: no\nValue: 4\nLine: x")
    assert {"Names": 1.0, "Bug": 0.0, "Value": 0.0, "Line": 0.0} == dict((await grader.grade(box)).parts)
