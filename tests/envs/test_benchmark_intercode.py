"""What is measured on InterCode's data: the side of docker-py, the recorded actions, and the table of what is right."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import intercode as program
from benchmarks import peer
from benchmarks.intercode_bash_data import misses_of
from benchmarks.proofs import Proofs
from benchmarks.recordings import BASH, bash_recording, data_folder
from benchmarks.results import Figure, Unavailable
from codecraft_async.evaluation import Turn
from tests.intercode.data import intercode_data


class Container:
    """Stands in for a container of docker-py: notes what is run in it, and answers by the command."""

    def __init__(self, **answers: tuple[int, bytes]) -> None:
        self.ran: list[tuple[Any, str]] = []
        self.answers = answers

    def exec_run(self, command: Any, workdir: str) -> tuple[int, bytes]:
        """Answer by the first word of ours that is in the command."""
        self.ran.append((command, workdir))
        return next((answer for word, answer in self.answers.items() if word in str(command)), (0, b""))


@pytest.fixture(name="side", scope="module")
def load_side() -> ModuleType:
    """The program that runs in docker-py's environment."""
    spec = importlib.util.spec_from_file_location("intercode_side", peer.SIDES / "intercode_side.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_actions_reach_a_shell_as_with_intercode(side: ModuleType) -> None:
    """Between double quotes, as one text, in the directory that was last changed to."""
    container = Container(nowhere=(1, b"no such"), bad=(0, b"\xff"))
    box = side.Box(container)
    assert (True, "") == box.act(' echo "a b" ')
    assert [True, False, False] == [box.act(action)[0] for action in ("cd /usr/../tmp", "cd nowhere", "bad")]
    assert (False, "Malformed command") == box.act("bad")
    assert ('/bin/bash -c "echo "a b""', "/") == container.ran[0]
    assert ('/bin/bash -c "cd /tmp"', "/") == container.ran[1]
    assert ('/bin/bash -c "cd /tmp/nowhere"', "/") == container.ran[2]
    assert "/tmp" == container.ran[3][1]


def test_a_score_takes_the_same_execs_as_with_intercode(side: ModuleType) -> None:
    """Reset and gold in the judge's container, the changes of both, and the sums of what both have added."""
    agent, judge = Container(status=(0, b"?? a.txt\n M b\n")), Container(status=(0, b"?? a.txt\n?? c/\n"))
    assert 1 == side.score(side.Box(agent), side.Box(judge), "touch a.txt")
    bash = "/bin/bash"
    assert [[bash, "-c", "git status --short"], [bash, "-c", "md5sum a.txt"]] == [command for command, _ in agent.ran]
    assert [bash, "-c", side.RESET] == judge.ran[0][0] and '/bin/bash -c "touch a.txt"' == judge.ran[1][0]
    assert 4 == len(judge.ran)


def test_recorded_actions_that_end() -> None:
    """Of the 532 recorded ones those nine are left out that had reached the time limit."""
    folder = intercode_data("nl2bash").parent
    recordings = [bash_recording(number, folder) for number in BASH]
    ended = [each.ended_actions() for each in recordings]
    assert [60, 27] == [len(each) for each in ended]
    assert [392, 131] == [sum(map(len, each.values())) for each in ended]
    assert [401, 131] == [sum(len(episode.turns) for episode in each.episodes.values()) for each in recordings]


def test_data_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that need them say where they were looked for."""
    monkeypatch.setenv("CODECRAFT_DATA", str(tmp_path))
    with pytest.raises(Unavailable, match="set CODECRAFT_DATA"):
        data_folder()
    with pytest.raises(Unavailable, match="no recorded bash runs"):
        bash_recording("1", data_folder(tmp_path))


def test_misses_are_told_with_what_was_read() -> None:
    """A reward within 0.005 is the same; a step that was not played is a miss; what earlier actions read counts."""
    recorded = [Turn("df", "", 0.5), Turn("cat a", "", 0.5), Turn("cat b", "", 0.5)]
    ours = [Turn("df", "", 0.504), Turn("cat a", "", 0.6)]
    misses = misses_of(7, "cat a", recorded, ours)
    assert [(1, "disk"), (2, "disk")] == [(miss.step, miss.why) for miss in misses]
    assert "7.1: 0.5 then, 0.6 now (disk): cat a" == str(misses[0])
    assert "" == misses_of(7, "cat a", recorded[1:], ours[:1])[-1].why


def test_episodes_without_a_proof() -> None:
    """Each must be followed by one that finds nothing."""
    assert 0 == Proofs(episodes=3, clean=5).missing
    assert 1 == Proofs(episodes=3, clean=2).missing
    assert 2 == Proofs(episodes=3, clean=5, different=1, failed=1).missing


def test_episodes_that_were_looked_at_otherwise() -> None:
    """They count as well."""
    proofs = Proofs(episodes=1, clean=1)
    proofs.take(episodes=3, different=2)
    assert (4, 2, 2) == (proofs.episodes, proofs.clean, proofs.missing)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "bash_golds_1,speed"], "--rows has 'speed'; the rows are bash_golds_1"),
        (["--runs", "0"], "--runs is 0; it must be at least 1"),
        (["--every", "-1"], "--every is -1; it must be at least 1"),
        (["--json", "/nowhere/at/all"], "there is no folder '/nowhere/at'; make it first"),
    ],
)
def test_wrong_options(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused before anything starts."""
    with pytest.raises(SystemExit) as refused:
        program.parse(words)
    assert 2 == refused.value.code
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_target_that_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit status tells; a row that fails says why, and the others are measured all the same."""

    async def paid(check: program.Check) -> dict[str, Figure]:
        check.proofs.episodes = 1
        return {program.NOTHING.name: Figure(1.0), program.NOTHING_MEAN.name: Figure(0.01)}

    async def fail(_: program.Check) -> dict[str, Figure]:
        raise ValueError("odd")

    groups = (((program.NOTHING, program.NOTHING_MEAN), paid), ((program.MBPP,), fail))
    monkeypatch.setattr(program, "GROUPS", (*groups, program.GROUPS[-1]))
    assert 1 == program.main(["--data", str(tmp_path), "--json", str(tmp_path / "a.json")])
    rows = {row["name"]: row for row in json.loads((tmp_path / "a.json").read_text())["rows"]}
    assert {"bash_nothing_paid": False, "bash_nothing_mean": True, "mbpp_golds": None, "unclean": False} == {
        name: row["holds"] for name, row in rows.items()
    }
    assert "ValueError: odd" == rows["mbpp_golds"]["reason"]


@pytest.mark.docker
def test_a_sample_of_the_real_data(tmp_path: Path, base_image: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Golds of bash and of Python are paid in full, and each episode is followed by a proof."""
    del base_image
    words = ["--rows", "bash_golds_4,mbpp_golds,unclean", "--runs", "1", "--every", "26", "--json"]
    data = intercode_data("nl2bash").parent
    assert 0 == program.main(["--data", str(data), *words, str(tmp_path / "a.json")]), capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads((tmp_path / "a.json").read_text())["rows"]}
    assert [2, 19, 0] == [row["value"] for row in rows.values()]
    assert 2 + 19 == rows["unclean"]["details"]["episodes"] <= rows["unclean"]["details"]["clean"]
