"""``codecraft tasks``: listing, showing and proving tasks, and what it says of those that break their promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from codecraft_async import CodeEnv, CodeVectorEnv
from codecraft_async._task_secrets import leaks_in, secrets_of
from codecraft_async.cli import main
from codecraft_async.pool import FakeLauncher
from codecraft_async.sampling import learn, make_samplers
from codecraft_async.task_proof import proof_scripts, prove_tasks
from codecraft_curriculum import (
    AdaptiveSampler,
    Curriculum,
    SequentialSampler,
    Task,
    WeightedSampler,
    load_curriculum,
    load_task,
)

pytestmark = pytest.mark.anyio

GOOD = """
title = "Title"
category = "text"
difficulty = "easy"
estimated_minutes = 2
instruction = "Write the right words into a.txt."
[grader]
combine = "mean"
[[grader.checks]]
name = "words"
type = "file"
path = "a.txt"
expected = "the right words, and nothing else"
[[grader.checks]]
name = "more"
type = "file"
path = "b.txt"
expected = "more"
[proof]
expert = ["echo 'the right words, and nothing else' > a.txt; echo more > b.txt"]
[proof.partial]
half = { score = 0.5, actions = ["echo more > b.txt"] }
[proof.failures]
empty = ["touch a.txt"]
[proof.cheats]
claims = ["echo passed"]
"""


def write(directory: Path, text: str) -> Path:
    """Write a task file and return its directory."""
    directory.mkdir()
    (directory / "task.toml").write_text(text)
    return directory


def check(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Return the exit status of ``codecraft tasks check`` and what it printed."""
    status = main(["tasks", "check", str(path), "--backend", "local", *options])
    return status, capsys.readouterr().out


def test_a_task_that_keeps_its_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every script is played and earns what is due; the exit status is 0."""
    status, said = check(write(tmp_path / "good", GOOD), capsys)
    assert (0, True, True) == (status, "proved good" in said, "1 of 1 tasks are proved" in said)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('; echo more > b.txt"]', '"]', "wrong: expert expert: earns 0.5 where 1 is due: more: b.txt is missing"),
        ("touch a.txt", "echo more > b.txt", "wrong: failure empty: earns 0.5 where 0 is due"),
        ("echo passed", "echo more > b.txt", "wrong: cheat claims: earns 0.5 where 0 is due"),
        ("score = 0.5", "score = 0.25", "wrong: partial half: earns 0.5 where 0.25 is due"),
        ("[grader]", '[workspace.files]\n"b.txt" = "more"\n[grader]', "wrong: no-op nothing: earns 0.5 where 0 is due"),
        ("[grader]", 'setup = ["false"]\n[grader]', "the set-up 'false' ended with 1"),
        ('expert = ["', 'expert = ["false || exit 3; ', "ended with 3"),
        (
            "[grader]",
            '[workspace.files]\n".old" = "x\\nthe right words, and nothing else\\n"\n[grader]',
            "wrong: check words (1) can be read in the sandbox",
        ),
    ],
)
def test_a_task_that_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, problem: str
) -> None:
    """One line says which script earned what, or which text can be read; the exit status is 1."""
    status, said = check(write(tmp_path / "wrong", GOOD.replace(old, new, 1)), capsys, "--repeats", "1")
    assert (1, True) == (status, problem in said), said


def test_a_grader_that_changes_its_mind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two plays of a script must earn the same."""
    cases = "from codecraft_curriculum import Case, Match\ncount = [0]\n"
    cases += "def cases(rng):\n    count[0] += 1\n    return [Case(Match(str(count[0] % 2)))]\n"
    text = GOOD.replace('[[grader.checks]]\nname = "more"', '[[grader.checks]]\nname = "program"\ntype = "program"\n')
    text = text.replace(
        'type = "file"\npath = "b.txt"\nexpected = "more"\n', 'command = "echo 1"\ncases = "cases.py"\n'
    )
    task = write(tmp_path / "odd", text)
    (task / "cases.py").write_text(cases)
    status, said = check(task, capsys, "--trust-code", "--jobs", "1", "--repeats", "4")
    assert (1, True) == (status, "another grade in another run" in said)


def test_code_of_others_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without being told so, no Python file of a task's is executed."""
    text = GOOD.replace(
        'type = "file"\npath = "b.txt"\nexpected = "more"', 'type = "program"\ncommand = "x"\ncases = "c.py"'
    )
    task = write(tmp_path / "code", text)
    (task / "c.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\ndef cases(rng): return []\n")
    assert 1 == main(["tasks", "show", str(task)])
    assert "--trust-code" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_list_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks are listed by category and difficulty, and shown without their solution unless that is asked for."""
    write(tmp_path / "good", GOOD)
    assert 0 == main(["tasks", "list", str(tmp_path), "--category", "text", "--markdown"])
    assert "| `good` | text | easy | Title | 1 + 1 + 1 | 2 min |\n" == capsys.readouterr().out
    assert 0 == main(["tasks", "list", str(tmp_path), "--difficulty", "hard"])
    assert "0 tasks" in capsys.readouterr().out
    assert 0 == main(["tasks", "show", str(tmp_path / "good")])
    said = capsys.readouterr().out
    assert "text, easy, about 2 minutes" in said
    assert "checks: words, more, [mean]" in said
    assert "cheat claims (0)" in said
    assert "b.txt" not in said
    assert 0 == main(["tasks", "show", str(tmp_path / "good"), "--expert"])
    assert "echo more > b.txt" in capsys.readouterr().out


def test_secrets(tmp_path: Path) -> None:
    """Texts of the solution and of the grader are secret; those of the instruction, and short ones, are not."""
    task = load_task(write(tmp_path / "good", GOOD))
    secrets = secrets_of(task, passed=set())
    assert b"the right words, and nothing else" in secrets.values()
    assert b"more" not in secrets.values()
    assert b"the right words, and nothing else" not in secrets_of(task, passed={"words"}).values()
    assert [] == list(leaks_in(b"nothing", task, passed=set()))
    assert "task files can be read" in "".join(leaks_in(b"/usr/lib/codecraft_curriculum/tasks/x", task, passed=set()))


async def test_a_broken_grader_is_told() -> None:
    """What a grader raises is a problem of the task, and not a score."""
    task = Task(id="broken", instruction="x", expert=("true",), max_steps=1, failures={"long": ("true", "true")})
    (proof,) = await prove_tasks([task], backend="local", repeats=1)
    assert ["nothing", "expert", "long"] == [script.name for script in proof_scripts(task)]
    assert any("2 steps, of max_steps 1" in problem for problem in proof.problems)
    assert any("expert expert: earns 0 where 1 is due" in problem for problem in proof.problems)


def test_samplers_by_name() -> None:
    """Environments of a vector share one sampler, but for the sequential one, and its state can be had."""
    tasks = load_curriculum("builtin")
    assert 3 == len({id(each) for each in make_samplers("sequential", tasks, 3)})
    for name, kind in {"weighted": WeightedSampler, "adaptive": AdaptiveSampler}.items():
        vector = CodeVectorEnv(3, curriculum=tasks, sampler=name)
        assert 1 == len({id(each) for each in vector.samplers})
        assert isinstance(vector.samplers[0], kind)
        vector.close()
    learn(SequentialSampler(tasks), "hello-world", 1.0)


async def test_an_adaptive_sampler_learns_from_episodes() -> None:
    """What its grade came to, and 0 for one that was cut off: a task that is never finished is no new one."""
    curriculum = Curriculum([load_curriculum("hello-world")["hello-world"]])
    env = CodeEnv(curriculum=curriculum, backend="local", sampler="adaptive", max_episode_steps=1)
    assert isinstance(env.sampler, AdaptiveSampler)
    await env.areset()
    await env.astep("true")
    assert {"hello-world": [0.0]} == env.sampler.state_dict()["rewards"]
    await env.areset()
    await env.astep("submit")
    assert {"hello-world": [0.0, 0.0]} == env.sampler.state_dict()["rewards"]
    await env.aclose()


async def test_an_adaptive_sampler_hears_nothing_of_an_episode_with_a_fault() -> None:
    """The machine's fault says nothing of the task."""
    curriculum = Curriculum([load_curriculum("hello-world")["hello-world"]])
    launcher = FakeLauncher()
    env = CodeEnv(curriculum=curriculum, backend=launcher, sampler="adaptive")
    assert isinstance(env.sampler, AdaptiveSampler)
    await env.areset()
    launcher.sandboxes[-1].close()
    *_, truncated, info = await env.astep("true")
    assert truncated and not info["valid"]
    assert {"hello-world": []} == env.sampler.state_dict()["rewards"]
    await env.aclose()
