"""`codecraft demo`: what it plays, what it makes of it, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from codecraft_async._demo_report import percentiles_ms, printable, problems_of, report_tasks
from codecraft_async._demo_view import demo_view
from codecraft_async._demo_work import Played, Script, Seat, WorkList, scripts_of
from codecraft_async.cli import main
from codecraft_curriculum import FIRST_TASKS, Curriculum, CurriculumError, RandomSource, Task, builtin_curriculum
from codecraft_pool import connect_daemon
from codecraft_pool.containers import Containers

DEMO = [sys.executable, "-m", "codecraft_async", "demo"]


class NoChance:
    """A random source that nobody asks."""

    def integers(self, low: int, /) -> int:
        raise AssertionError("a work list leaves nothing to chance")


RNG: RandomSource = NoChance()
ONE = Task(id="one", instruction="One.", expert=("a", "b"), failures={"nothing": ("true",)})
TWO = Task(id="two", instruction="Two.", expert=("c",))
BOTH = Curriculum([ONE, TWO])


def _deal(work: WorkList, number: int) -> list[tuple[str, str]]:
    dealt: list[tuple[str, str]] = []
    for _ in range(number):
        script = work.take(work.next(RNG).id)
        assert script is not None
        dealt.append((script.task, script.name))
    return dealt


def test_scripts_end_with_a_submit() -> None:
    """The expert's comes first, and each ends with the action that has it graded."""
    assert [
        Script("one", "expert", ("a", "b", "submit"), True),
        Script("one", "nothing", ("true", "submit"), False),
    ] == scripts_of(ONE)


def test_work_list_deals_each_script_in_each_round() -> None:
    """Every script is dealt as often as there are rounds; then tasks go on, without scripts."""
    work = WorkList(BOTH, rounds=2, seed=0)
    assert (3, 6) == (work.scripts, work.total)
    assert [("one", "expert"), ("one", "expert"), ("one", "nothing"), ("one", "nothing")] + [("two", "expert")] * 2 == (
        sorted(_deal(work, 6))
    )
    assert None is work.take(work.next(RNG).id)


def test_work_list_order_is_the_seed_s() -> None:
    """The same seed gives the same order, and another one another."""
    curriculum = builtin_curriculum()
    first, again, other = (WorkList(curriculum, rounds=1, seed=seed) for seed in (1, 1, 2))
    order = _deal(first, first.total)
    assert order == _deal(again, again.total)
    assert order != _deal(other, other.total)


def test_work_list_of_nothing() -> None:
    """A curriculum without scripts is refused, by name."""
    bare = Curriculum([Task(id="bare", instruction="Do it.")], name="mine")
    with pytest.raises(CurriculumError, match="mine: none of its tasks has a script to play"):
        WorkList(bare, rounds=1, seed=0)


def _info(**changes: Any) -> dict[str, Any]:
    return {"wall_s": 0.5, "graded": False, "reason": "", "fault": "", **changes}


def test_seat_plays_its_script() -> None:
    """It says the script's actions in order and returns the episode that the last one ended."""
    seat = Seat()
    script = scripts_of(TWO)[0]
    seat.begin(script, reset_s=0.25)
    assert "c" == seat.action()
    assert None is seat.end_step(reward=0.0, is_over=False, info=_info())
    assert "submit" == seat.action()
    played = seat.end_step(reward=1.0, is_over=True, info=_info(graded=True, reason="right"))
    assert Played(script, 1.0, 2, 0.25, 0.5, "right", "") == played
    assert not seat.is_playing


def test_seat_without_a_script() -> None:
    """It keeps its environment busy, and nothing of it counts."""
    seat = Seat()
    seat.begin(None, reset_s=0.0)
    assert not seat.is_playing
    assert "true" == seat.action()
    assert None is seat.end_step(reward=0.0, is_over=True, info=_info())


def test_episode_that_is_cut_off() -> None:
    """The task's own step limit is named as the reason, not the sandbox."""
    seat = Seat()
    seat.begin(scripts_of(ONE)[0], reset_s=0.0)
    played = seat.end_step(reward=0.0, is_over=True, info=_info())
    assert played is not None
    assert ("cut off after 1 steps, its max_steps", None, "") == (played.reason, played.grading_s, played.fault)


def _played(script: Script, reward: float, *, fault: str = "") -> Played:
    return Played(script, reward, 2, 0.002, 0.1, "looked at", fault)


def test_report_of_what_went_wrong() -> None:
    """Experts below 1, failures above 0 and faults are told, each once; faults are no rewards."""
    expert, failure = scripts_of(ONE)
    played = [
        _played(expert, 1.0),
        _played(expert, 0.5),
        _played(expert, 0.5),
        _played(failure, 0.0),
        _played(failure, 0.25),
        _played(failure, 0.0, fault="sandbox: SandboxLost:\x1b[31m gone\n"),
    ]
    assert [
        "task one: the expert got 0.5 where 1 was due: looked at",
        "task one: the failure nothing got 0.25 where 0 was due",
        "task one: the failure nothing was interrupted by a fault: sandbox: SandboxLost: [31m gone",
    ] == problems_of(played)
    (report,) = report_tasks(BOTH, played)
    assert (2 / 3, {"nothing": 0.25}, 6, 1) == (report.expert, report.failures, report.episodes, report.faults)
    assert pytest.approx([2.0, 2.0]) == [report.mean_steps, report.mean_reset_ms]
    assert [] == problems_of([_played(expert, 1.0), _played(failure, 0.0)])


def test_report_of_faults_alone() -> None:
    """A task of which nothing could be graded has no rewards at all."""
    expert, failure = scripts_of(ONE)
    (report,) = report_tasks(BOTH, [_played(expert, 0.0, fault="x"), _played(failure, 0.0, fault="x")])
    assert (None, {}, 2, 2, 0.0) == (report.expert, report.failures, report.episodes, report.faults, report.mean_steps)


def test_percentiles() -> None:
    """They are in milliseconds, and 0 where there is nothing to measure."""
    assert pytest.approx([2.0, 2.98]) == list(percentiles_ms([0.001, 0.002, 0.003]))
    assert (0.0, 0.0) == percentiles_ms([])


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain", "plain"), ("a\nb\x1b[2Jc\x00", "a b [2Jc"), ("x" * 50, "x" * 17 + "..."), ("\u202eright", "right")],
)
def test_printable(text: str, shown: str) -> None:
    """Nothing that a terminal obeys is left, and it is one line of bounded length."""
    assert shown == printable(text, max_chars=20)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_view(is_terminal: bool) -> None:
    """Bars on a terminal, some lines elsewhere; both tell how many sandboxes, episodes and steps."""
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
    with demo_view(console, num_envs=4, num_episodes=200) as view:
        for started in (0, 4, 4):
            view.sandboxes(started)
        for done in range(201):
            view.episodes(done, 123.4)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    if is_terminal:
        assert all(words in said for words in ("sandboxes", "4/4", "episodes", "200/200", "123 steps/s"))
    else:
        assert ["4 sandboxes are ready", "50 of 200 episodes, 123 steps/s"] == said.splitlines()[:2]
        assert 5 == len(said.splitlines())


WRONG = """
id = "wrong"
instruction = "Make the file done."
max_steps = 2
[grader]
[[grader.checks]]
type = "file"
path = "done"
expected = "yes"
[proof]
expert = ["echo no > done"]
[proof.failures]
right = ["echo yes > done"]
too-long = ["echo yes > done", "true", "true"]
"""


def test_wrong_rewards_are_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 1, and lines say which script got what; the JSON has it all, more environments than work or not."""
    tasks, out = tmp_path / "task.toml", tmp_path / "out.json"
    tasks.write_text(WRONG)
    words = ["--curriculum", str(tasks), "--backend", "local", "--num-envs", "4", "--rounds", "1", "--json", str(out)]
    assert 1 == main(["demo", *words])
    lines = capsys.readouterr().err.splitlines()
    assert 2 == len(lines)
    assert any(line.startswith("codecraft demo: task wrong: the expert got 0 where 1 was due: ") for line in lines)
    assert "codecraft demo: task wrong: the failure right got 1 where 0 was due" in lines
    report = orjson.loads(out.read_bytes())
    assert (False, 3, 3, 2, 0) == tuple(report[key] for key in ("is_ok", "scripts", "episodes", "gradings", "faults"))
    assert {"right": 1.0, "too-long": 0.0} == report["tasks"][0]["failures"]


def _play(tmp_path: Path, *words: str) -> tuple[str, dict[str, Any]]:
    out = tmp_path / "out.json"
    ended = subprocess.run(
        [*DEMO, *words, "--rounds", "1", "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (0, "") == (ended.returncode, ended.stderr)
    assert [out] == list(tmp_path.iterdir())
    return ended.stdout, orjson.loads(out.read_bytes())


def _check(report: dict[str, Any], *, backend: str, num_envs: int) -> None:
    scripts = {
        task.id: {script.name for script in scripts_of(task)}
        for task in map(builtin_curriculum().__getitem__, FIRST_TASKS)
    }
    total = sum(map(len, scripts.values()))
    assert (True, [], 0) == (report["is_ok"], report["problems"], report["faults"])
    assert (backend, num_envs) == (report["launcher"]["name"], report["environments"])
    assert (total, total, total) == (report["scripts"], report["episodes"], report["gradings"])
    assert num_envs == report["sandboxes_started"] - report["sandboxes_replaced"]
    assert scripts == {task["id"]: {"expert", *task["failures"]} for task in report["tasks"]}
    assert {1.0} == {task["expert"] for task in report["tasks"]}
    assert {0.0} == {reward for task in report["tasks"] for reward in task["failures"].values()}
    assert report["steps_per_s"] > 0 and report["reset_p99_ms"] >= report["reset_p50_ms"] > 0


def test_demo_with_the_local_backend(tmp_path: Path) -> None:
    """Every built-in expert gets 1.0 and every failure 0.0, without a fault, and nothing is left."""
    said, report = _play(tmp_path, "--backend", "local")
    _check(report, backend="local", num_envs=16)
    assert "launcher: local (it was asked for)" == said.splitlines()[0]
    assert all(task in said for task in FIRST_TASKS)
    gradings = report["gradings"]
    assert f"per second ({report['steps'] - gradings} commands, {gradings} gradings)" in said


@pytest.mark.docker
@pytest.mark.usefixtures("base_image")
def test_demo_with_the_docker_backend(tmp_path: Path) -> None:
    """The same holds in containers, which "auto" takes where a daemon answers."""
    said, report = _play(tmp_path, "--num-envs", "4")
    _check(report, backend="docker", num_envs=4)
    assert said.startswith("launcher: docker (")


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child} | _descendants(child)
    return found


def _containers_of(pid: int) -> list[str]:
    async def ask() -> list[str]:
        async with await connect_daemon() as daemon:
            return [name for name in await Containers(daemon).owned() if f"-{pid}-" in name]

    return asyncio.run(ask())


def _stop(tmp_path: Path, backend: str, number: signal.Signals, line: str) -> tuple[int, set[int]]:
    """Send a signal when *line* is said; return the process id of the demo and those of its children at that time."""
    words = [*DEMO, "--backend", backend, "--num-envs", "4", "--rounds", "1000"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            assert any(said.startswith(line) for said in process.stdout)
            children = _descendants(process.pid)
            process.send_signal(number)
            assert 128 + number == process.wait(timeout=30)
            assert "codecraft: stopped, and everything is closed\n" == process.stderr.read()
        finally:
            process.kill()
    return process.pid, children


def _alive(pids: set[int], *, limit_s: float) -> set[int]:
    """Return those of *pids* that do not end within the limit; who adopts an orphan may reap it a little late."""
    deadline = time.monotonic() + limit_s
    while (left := {pid for pid in pids if Path(f"/proc/{pid}").exists()}) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["launcher: ", "4 sandboxes are ready"])
def test_stopped_in_the_middle(tmp_path: Path, number: signal.Signals, line: str) -> None:
    """Ctrl-C and SIGTERM, while sandboxes start and while they are used, leave no process and no directory."""
    _, children = _stop(tmp_path, "local", number, line)
    assert set() == _alive(children, limit_s=5.0)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.docker
@pytest.mark.usefixtures("base_image")
@pytest.mark.parametrize(("number", "line"), [(signal.SIGINT, "4 sandboxes are ready"), (signal.SIGTERM, "launcher: ")])
def test_stopped_in_the_middle_with_containers(tmp_path: Path, number: signal.Signals, line: str) -> None:
    """They leave no container either."""
    pid, _ = _stop(tmp_path, "docker", number, line)
    assert [] == _containers_of(pid)
