"""The benchmark as a whole: its options, its rows where they cannot be measured, its table, its files, short runs."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Generator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks import __main__ as program
from benchmarks.bench import Bench, Options
from benchmarks.floor import Floor
from benchmarks.leftovers import Belongings
from benchmarks.plot import as_svg
from benchmarks.registry import MEASUREMENTS, Measurement, measure_all, row_names
from benchmarks.results import BenchmarkError, Figure, Row, RowSpec, Target, Unavailable
from benchmarks.soak import Look, SoakPlan, report
from benchmarks.table import Machine, Method, as_json, as_markdown, as_notes, as_table
from codecraft_pool import SandboxLost

KEYS = {"name", "value", "unit", "target", "holds"}
MACHINE = Machine("a <processor>", 2, "6.1", "3.11", (0.5, 0.5, 0.5), (0.97, 0.96), "2026-01-01", "20.10", "overlay2")
METHOD = Method("docker", 64, 5, 1.5, "in C")
FAST = RowSpec("fast", "what is [fast]", "ms", Target("<", 10), "by a clock")
SLOW = RowSpec("slow", "what is slow", "times", Target(">=", 2), "by another clock")
BARE = RowSpec("bare", "for comparison", "times", None, "by none")
ROWS = [
    Row(FAST, Figure(5.0, (4.0, 6.0), "local", {"envs": 2})),
    Row(SLOW, Figure(1.0, (1.0,), "docker")),
    Row(BARE, Figure(3.0, (3.0,), "docker")),
    Row(replace(SLOW, name="missing"), None, "there is no [daemon]"),
]
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
def bench() -> Generator[Bench]:
    """What measurements share, without a daemon."""
    with asyncio.Runner() as runner:
        yield Bench(Options(backend="local", envs=2, rounds=1, seconds=0.05), Floor("none", ()), runner)


def test_defaults() -> None:
    """Nothing has to be said."""
    given = program.parse([])
    assert Options(backend="auto", envs=64, rounds=5, seconds=1.5) == given.options
    assert given.soak is None


def test_options(tmp_path: Path) -> None:
    """Everything can be said."""
    words = ["--backend", "local", "--envs", "4", "--seconds", "0.5", "--rounds", "2", "--only", "restore_small"]
    given = program.parse([*words, "--json", str(tmp_path / "a"), "--plot", str(tmp_path / "b")])
    assert Options(backend="local", envs=4, rounds=2, seconds=0.5, only=("restore_small",)) == given.options
    assert (tmp_path / "a", tmp_path / "b") == (given.json, given.plot)


def test_options_of_a_soak() -> None:
    """A soak has its own number of environments."""
    given = program.parse(["--soak", "--steps", "100"])
    assert (SoakPlan(steps=100, resets=2000), 32) == (given.soak, given.options.envs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--envs", "0"], "--envs is 0; it must be at least 1"),
        (["--seconds", "0"], "--seconds is 0; it must be more than 0 and at most 3600"),
        (["--seconds", "nan"], "--seconds is nan; it must be more than 0 and at most 3600"),
        (["--rounds", "-1"], "--rounds is -1; it must be at least 1"),
        (["--only", "speed"], "--only is 'speed'; the rows are step_vs_exec"),
        (["--backend", "podman"], "invalid choice: 'podman'"),
        (["--json", "/nowhere/at/all"], "there is no folder '/nowhere/at'; make it first"),
    ],
)
def test_wrong_options(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option is refused before anything starts, with what would be right."""
    with pytest.raises(SystemExit) as refused:
        program.parse(words)
    assert 2 == refused.value.code
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_rows_have_names_of_their_own() -> None:
    """A name says which row is meant, and each row says how it is measured."""
    assert len(set(row_names())) == len(row_names())
    assert all(spec.how and spec.unit for each in MEASUREMENTS for spec in each.rows)


@pytest.mark.parametrize(
    ("error", "said", "failed"),
    [
        (Unavailable("there is\nno daemon"), "there is no daemon", False),
        (BenchmarkError("it went wrong"), "it went wrong", True),
        (SandboxLost("box-1", "killed"), str(SandboxLost("box-1", "killed")), True),
        (ExceptionGroup("several", [ValueError("odd")]), "ValueError: odd", True),
    ],
)
def test_what_cannot_be_measured_is_null(error: Exception, said: str, failed: bool, bench: Bench) -> None:
    """A row without a figure says why and has no verdict, and the next one is measured all the same."""

    def fail(_: Bench) -> dict[str, Figure]:
        raise error

    first, second = measure_all(
        bench, [Measurement((SLOW,), fail), Measurement((FAST,), lambda _: {"fast": Figure(5.0)})]
    )
    shown = first.as_json()
    assert (None, None, failed) == (shown["value"], shown["holds"], first.failed)
    assert said == shown["reason"]
    assert 5.0 == second.as_json()["value"]


def test_a_figure_that_does_not_apply_is_null(bench: Bench) -> None:
    """What a measurement leaves out says that containers are needed for it."""
    bench.options = replace(bench.options, only=("slow",))
    [row] = measure_all(bench, [Measurement((FAST, SLOW), lambda _: {"fast": Figure(5.0)})])
    assert (None, False) == (row.holds, row.failed)
    assert "needs containers" in row.reason


def test_only_what_is_asked_for_is_measured(bench: Bench) -> None:
    """Other measurements are not even started."""

    def refuse(_: Bench) -> dict[str, Figure]:
        raise AssertionError("it was not asked for")

    measurements = [Measurement((SLOW,), refuse), Measurement((FAST,), lambda _: {"fast": Figure(5.0)})]
    bench.options = replace(bench.options, only=("fast",))
    assert ["fast"] == [row.spec.name for row in measure_all(bench, measurements)]


def test_docker_rows_without_docker(bench: Bench) -> None:
    """Without containers the rows that need them are null, and say so."""
    asked = ("reset_overlay", "docker_start", "nitrobox_rate", "swerex_rate")
    bench.options = replace(bench.options, only=asked)
    rows = measure_all(bench)
    assert list(asked) == [row.spec.name for row in rows]
    assert all(row.figure is None and not row.failed for row in rows)
    assert all("needs containers" in row.reason for row in rows)


def test_json() -> None:
    """The file has every row by the same keys, the machine and the method."""
    written: dict[str, Any] = json.loads(json.dumps(as_json(ROWS, MACHINE, METHOD)))
    assert ["rows", "machine", "method"] == list(written)
    assert all(set(row) >= KEYS for row in written["rows"])
    assert [True, False, None, None] == [row["holds"] for row in written["rows"]]
    assert [5.0, 1.0, 3.0, None] == [row["value"] for row in written["rows"]]
    assert ["< 10", ">= 2", None, ">= 2"] == [row["target"] for row in written["rows"]]
    assert (False, 2) == (written["machine"]["was_busy"], written["machine"]["cores"])


def test_a_busy_machine_is_told_by_the_floor() -> None:
    """A floor that did not get the cores was disturbed by others, and the reader is told."""
    busy = replace(MACHINE, floor_shares=(0.97, 0.5))
    assert busy.was_busy and not MACHINE.was_busy
    assert any("was busy" in line for line in as_notes(ROWS, busy, METHOD))
    assert not any("was busy" in line for line in as_notes(ROWS, MACHINE, METHOD))


def test_table() -> None:
    """Each row has its value, its noise, its target and its verdict; one without a figure, the reason."""
    out = StringIO()
    Console(file=out, width=160).print(as_table(ROWS, "title"))
    fast, slow, bare, missing = (line.split() for line in out.getvalue().splitlines()[4:8])
    assert fast[-7:] == ["5", "ms", "4..6", "<", "10", "yes", "local"]
    assert slow[-6:] == ["times", "1..1", ">=", "2", "no", "docker"]
    assert bare[-1:] == ["docker"]
    assert "(not measured: there is no [daemon])" in " ".join(missing)


def test_markdown() -> None:
    """A document's table has a line for each row, and says where it was measured."""
    written = as_markdown(ROWS, replace(MACHINE, floor_shares=(0.5,)), METHOD).splitlines()
    assert "2026-01-01: 2 cores" in written[0]
    assert "it was busy" in written[0]
    assert "| `fast` | what is [fast] | 5 ms | 4..6 | < 10 | yes | local |" == written[4]
    assert "| `missing` | what is slow (not measured: there is no [daemon]) | - |  | >= 2 |  |  |" == written[7]


def test_picture() -> None:
    """The picture is well-formed, and has a line for each row that has a target."""
    drawn = ElementTree.fromstring(as_svg(ROWS, MACHINE))
    said = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "what is [fast]" in said
    assert "5 ms (< 10)" in said
    assert "not measured" in said
    assert "for comparison" not in said
    assert any("a <processor>" in (text or "") for text in said)


def test_soak_report() -> None:
    """Growth and leftovers, each of them, keep a soak from being clean."""
    plan = SoakPlan(steps=1000, resets=10)
    flat = [Look(steps, 50 << 20, 8 << 20, 0, 0) for steps in range(0, 1000, 50)]
    grows = [replace(look, driver=look.driver + look.steps * 10_000) for look in flat]
    nothing, left = Belongings(), Belongings(containers=frozenset({"some"}))
    assert [True, False, False] == [
        report("local", 2, plan, looks, found, 1.0)["clean"]
        for looks, found in ((flat, nothing), (grows, nothing), (flat, left))
    ]
    assert {"driver", "guests"} == set(report("local", 2, plan, flat, nothing, 1.0)["memory"])
    with pytest.raises(BenchmarkError, match="ask for more --steps"):
        report("local", 2, plan, flat[:3], nothing, 1.0)


@needs_bubblewrap
def test_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A short run on the local backend writes every row asked for, and a picture."""
    names = ["step_vs_exec", "step_vs_floor", "own_cost", "restore_small", "acquire_warm"]
    words = ["--backend", "local", "--envs", "2", "--seconds", "0.05", "--rounds", "1"]
    files = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg")]
    assert 0 == program.main([*words, *files, *(word for name in names for word in ("--only", name))])
    rows = {row["name"]: row for row in json.loads((tmp_path / "a.json").read_text())["rows"]}
    assert names == list(rows)
    assert rows.pop("step_vs_exec")["value"] is None
    assert all(row["value"] > 0 and row["holds"] is not None and "local" == row["on"] for row in rows.values())
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    said = capsys.readouterr().out
    assert all(name in said for name in names)


@pytest.mark.docker
def test_run_with_containers(tmp_path: Path, base_image: str) -> None:
    """A short run with containers compares steps with exec in the same ones."""
    words = ["--backend", "docker", "--envs", "2", "--seconds", "0.5", "--rounds", "1", "--only", "step_vs_exec"]
    assert 0 == program.main([*words, "--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg")])
    [row] = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert "docker" == row["on"]
    assert row["value"] == pytest.approx(row["details"]["ours_per_s"] / row["details"]["exec_per_s"], rel=0.01)


@needs_bubblewrap
def test_whole_soak(tmp_path: Path) -> None:
    """A short soak finds nothing left, and its report joins what is in the file."""
    file = tmp_path / "a.json"
    file.write_text('{"rows": []}')
    words = ["--soak", "--backend", "local", "--envs", "2", "--steps", "40", "--resets", "8", "--json", str(file)]
    program.main(words)
    written = json.loads(file.read_text())
    assert [] == written["rows"]
    assert not any(written["soak"]["local"]["left"].values())
    assert set(written["soak"]["local"]["memory"]) == {"driver", "guests"}


@pytest.mark.parametrize("content", ["no JSON", "[1]", '{"name": "somebody else\'s"}'])
def test_a_file_of_somebody_else(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not the benchmark's is refused before anything is measured, and stays as it is."""
    file = tmp_path / "a.json"
    file.write_text(content)
    assert 1 == program.main(["--backend", "local", "--json", str(file)])
    assert "is not a file of this benchmark" in capsys.readouterr().err
    assert content == file.read_text()


def test_no_daemon(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Docker without a daemon is one line that says what to do."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert 1 == program.main(["--backend", "docker", "--json", str(tmp_path / "a.json")])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks: no container daemon answers")
    assert "use the local backend" in line
