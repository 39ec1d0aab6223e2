"""The throughput benchmark: its options, its figures, and a short run of all of it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from benchmarks import throughput
from benchmarks.exec_fan_out import ExecFanOut
from benchmarks.floor import open_floor
from benchmarks.results import BenchmarkError, FloorRun, Round, Steps, summarize, was_busy

REQUIRED = {"exec_per_s", "ours_per_s", "floor_per_s", "p50_ms", "p99_ms"}
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def _round(ours: float, floor: float, by_exec: float | None = None, share: float = 1.0) -> Round:
    """A round of one step of two environments."""
    steps = Steps(2, step_s=(2 / ours,), command_s=(0.001, 0.003), own_cpu_s=0.0004)
    return Round(by_exec, steps, FloorRun(floor, share))


def test_defaults() -> None:
    """Nothing has to be said."""
    assert throughput.Options("auto", 32, 2.0, 5, None) == throughput.parse([])


def test_options(tmp_path: Path) -> None:
    """Everything can be said."""
    file = tmp_path / "figures.json"
    words = ["--backend", "local", "--envs", "4", "--seconds", "0.5", "--repeat", "2", "--json", str(file)]
    assert throughput.Options("local", 4, 0.5, 2, file) == throughput.parse(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--envs", "0"], "--envs is 0; it must be at least 1"),
        (["--seconds", "0"], "--seconds is 0; it must be more than 0 and at most 3600"),
        (["--seconds", "nan"], "--seconds is nan; it must be more than 0 and at most 3600"),
        (["--repeat", "-1"], "--repeat is -1; it must be at least 1"),
        (["--backend", "podman"], "invalid choice: 'podman'"),
        (["--json", "/nowhere/at/all"], "there is no folder '/nowhere/at'; make it first"),
    ],
)
def test_wrong_options(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option is refused before anything starts, with what would be right."""
    with pytest.raises(SystemExit) as refused:
        throughput.parse(words)
    assert 2 == refused.value.code
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_ratios_are_those_within_rounds() -> None:
    """A ratio is the median of the rounds' ratios, not the ratio of the medians."""
    rounds = [_round(100, 200, 10), _round(300, 1000, 100), _round(500, 500, 20)]
    figures = summarize(rounds)
    assert [10.0, 3.0, 25.0] == figures["ratio_exec_rounds"]
    assert (10.0, 0.5) == (figures["ratio_exec"], figures["ratio_floor"])
    assert (20.0, 300.0, 500.0) == (figures["exec_per_s"], figures["ours_per_s"], figures["floor_per_s"])


def test_latency_and_own_cost() -> None:
    """Percentiles are those of vector steps, in ms; the cost is that of one environment's step."""
    figures = summarize([_round(100, 200)])
    assert (20.0, 20.0) == (figures["p50_ms"], figures["p99_ms"])
    assert (2.0, 0.2) == (figures["command_p50_ms"], figures["own_cpu_ms"])
    assert figures["exec_per_s"] is None
    assert figures["ratio_exec"] is None


@pytest.mark.parametrize(("share", "busy"), [(0.97, False), (0.5, True)])
def test_a_busy_machine_is_told_by_the_floor(share: float, busy: bool) -> None:
    """A floor that did not get the cores was disturbed by others."""
    assert busy is was_busy({"true": summarize([_round(1, 1, share=share)])})


def test_floor() -> None:
    """The floor runs the command, and its CPU time is counted."""
    with open_floor() as floor:
        run = floor.measure("true", 0.05)
    assert run.per_s > 1
    assert 0 < run.cpu_share <= 1.1


def test_floor_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own posix_spawn stands in, and it says so."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with open_floor() as floor:
        assert "no C compiler" in floor.kind
        assert floor.measure("true", 0.05).per_s > 1


def test_floor_of_a_command_that_fails() -> None:
    """A command that fails has no floor."""
    with open_floor() as floor, pytest.raises(BenchmarkError, match="'exit 3' does not end with status 0"):
        floor.measure("exit 3", 0.05)


class _Execution:
    """An exec that gives one piece of output and ends with a status."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._output: list[bytes | None] = [b"out", None]

    def start(self, *, detach: bool) -> _Execution:
        assert not detach
        return self

    async def __aenter__(self) -> _Execution:
        return self

    async def __aexit__(self, *_: object) -> None:
        assert [] == self._output

    async def read_out(self) -> bytes | None:
        return self._output.pop(0)

    async def inspect(self) -> dict[str, int]:
        return {"ExitCode": self._status}


class _Container:
    """A container that keeps what it was asked to run."""

    def __init__(self, status: int = 0) -> None:
        self.commands: list[list[str]] = []
        self._status = status

    async def exec(self, command: list[str], **_: object) -> _Execution:
        self.commands.append(command)
        await asyncio.sleep(0)
        return _Execution(self._status)


@pytest.mark.anyio
async def test_exec_fan_out() -> None:
    """Every container runs the same command line as a step does."""
    containers = [_Container(), _Container()]
    assert await ExecFanOut(containers).measure("ls /", 0.01) > 1
    for container in containers:
        assert ["/bin/sh", "-c", "ls /"] == container.commands[0]


@pytest.mark.anyio
async def test_exec_of_a_command_that_fails() -> None:
    """A failing command is no measurement."""
    with pytest.raises(BenchmarkError, match="exec of 'false' failed: it ended with status 1"):
        await ExecFanOut([_Container(status=1)]).measure("false", 0.01)


@needs_bubblewrap
def test_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run on the local backend writes every figure of every command, and says that exec is left out."""
    file = tmp_path / "figures.json"
    words = ["--backend", "local", "--envs", "2", "--seconds", "0.05", "--repeat", "1", "--json", str(file)]
    assert 0 == throughput.main(words)
    figures = json.loads(file.read_text())
    assert [*throughput.COMMANDS, "machine", "method"] == list(figures)
    for command in throughput.COMMANDS:
        assert set(figures[command]) >= REQUIRED
        assert figures[command]["exec_per_s"] is None
        assert 0 < figures[command]["p50_ms"] <= figures[command]["p99_ms"]
        assert figures[command]["ours_per_s"] > 0
        assert figures[command]["floor_per_s"] > 0
    assert "local" == figures["method"]["backend"]
    said = capsys.readouterr().out
    assert "exec left out" in said
    assert "python3 -c pass" in said


def test_no_daemon(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Docker without a daemon is one line that says what to do."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert 1 == throughput.main(["--backend", "docker", "--envs", "2"])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("throughput.py: no container daemon answers")
    assert "use the local backend" in line
