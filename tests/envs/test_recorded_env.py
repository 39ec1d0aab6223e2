"""Recording environments: what they write, and what becomes of them where that fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import codecraft_curriculum
from codecraft_async import CodeEnv, Recorder
from codecraft_async._track import task_digest
from codecraft_async.curriculum import Curriculum, TaskLimits, UnknownTask, load_curriculum
from codecraft_async.pool import FakeLauncher
from codecraft_async.recorder import RecordingError
from codecraft_async.trajectory import RecordedEpisode, read_trajectories
from tests.envs.code_envs import FileIsRight, make, make_task, play, vector
from tests.envs.trajectories import files_of

pytestmark = pytest.mark.anyio


TASK_DIRECTORY = Path(codecraft_curriculum.__file__).parent / "tasks" / "hello-world"


def relative(path: Path) -> str:
    """Return *path* as seen from the working directory."""
    return os.path.relpath(path)


async def recorded(path: Path, *actions: str, **options: Any) -> RecordedEpisode:
    """Play *actions* and return what was recorded of that."""
    env = make(FakeLauncher(play), record=path, **options)
    await env.areset(seed=7, options={"task": "answer"})
    for action in actions:
        await env.astep(action)
    await env.aclose()
    (episode,) = read_trajectories(path)
    return episode


async def test_all_that_is_needed_to_play_it_again_is_there(tmp_path: Path) -> None:
    """The task, the curriculum, seed, options, sandbox, limits, the environment's options, and the version."""
    episode = await recorded(tmp_path, "ls", "write 42", "submit", max_observation_chars=500, cpu_budget_s=3.0)
    start = episode.start
    assert ("answer", 0, "curriculum", "", 7) == (
        *(start.task, start.task_index, start.curriculum, start.curriculum_source),
        start.seed,
    )
    assert {"task": "answer"} == start.options
    assert task_digest(make_task()) == start.task_digest
    assert ("fake", "fake-0", "codecraft/base") == (start.launcher, start.sandbox, start.spec["image"])
    assert (500, 3.0, "shell") == tuple(
        start.env_options[key] for key in ("max_observation_chars", "cpu_budget_s", "actions")
    )
    assert 10.0 == start.limits["command_limit_s"]
    assert start.package and start.observation.startswith("The answer\n\nWrite 42")


async def test_every_step_is_there_as_it_was(tmp_path: Path) -> None:
    """Action, observation, reward, flags, info and times."""
    env = make(FakeLauncher(play), record=tmp_path)
    await env.areset()
    seen = [(action, *await env.astep(action)) for action in ("ls", "false", "half \ud800", "write 42", "submit")]
    await env.aclose()
    (episode,) = read_trajectories(tmp_path)
    steps = episode.steps
    assert [each[:5] for each in seen] == [
        (step.action, step.observation, step.reward, step.terminated, step.truncated) for step in steps
    ]
    assert [{key: getattr(value, "item", lambda v=value: v)() for key, value in each[5].items()} for each in seen] == [
        step.info for step in steps
    ]
    times = [episode.start.time, *(step.time for step in steps)]
    assert sorted(times) == times
    assert all(step.took_s > 0 for step in steps)


async def test_an_environment_without_a_recorder_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not even look at the clock for it."""
    monkeypatch.chdir(tmp_path)
    env = make(FakeLauncher(play))
    await env.areset()
    await env.astep("ls")
    await env.aclose()
    assert [] == files_of(tmp_path)


async def test_environments_of_a_batch_write_to_one_place(tmp_path: Path) -> None:
    """One file, an episode for each reset, also those that they make themselves."""
    env = vector(FakeLauncher(play), 3, record=tmp_path, autoreset_mode="SameStep")
    await env.areset()
    await env.astep(("write 42", "ls", "ls"))
    await env.astep(("submit", "ls", "ls"))
    await env.astep(("false", "ls", "ls"))
    await env.aclose()
    episodes = list(read_trajectories(tmp_path))
    assert [["false"], ["ls"] * 3, ["ls"] * 3, ["write 42", "submit"]] == sorted(each.actions for each in episodes)
    assert (3, 1) == (len({each.start.env for each in episodes}), len(files_of(tmp_path)))


async def test_a_recorder_of_the_users_is_shared_and_stays_open(tmp_path: Path) -> None:
    """Environments come and go."""
    with Recorder(tmp_path / "all.jsonl.gz") as recorder:
        for _ in range(2):
            env = make(FakeLauncher(play), record=recorder)
            await env.areset()
            await env.astep("ls")
            await env.aclose()
        assert 4 == recorder.stats().lines
    assert 2 == len(list(read_trajectories(tmp_path / "all.jsonl.gz")))


async def test_the_source_of_a_curriculum_is_recorded(tmp_path: Path) -> None:
    """A name as it is, a path in full; of a curriculum that a program made there is none."""
    given: list[str | Curriculum] = ["builtin", relative(TASK_DIRECTORY), load_curriculum(), Curriculum([make_task()])]
    for curriculum in given:
        env = CodeEnv(curriculum=curriculum, backend=FakeLauncher(play), record=tmp_path)
        await env.areset()
        await env.aclose()
    sources = sorted(episode.start.curriculum_source for episode in read_trajectories(tmp_path))
    assert sorted(["builtin", str(TASK_DIRECTORY), "builtin", ""]) == sources


async def test_an_episode_that_a_fault_ended_says_so(tmp_path: Path) -> None:
    """A lost sandbox, and a reset that found none."""
    launcher = FakeLauncher(play)
    env = make(launcher, record=tmp_path, reset_faults="info")
    await env.areset()
    launcher.sandboxes[-1].close()
    await env.astep("ls")
    launcher.fail_starts = 100
    await env.areset()
    await env.astep("ls")
    await env.aclose()
    lost, never = read_trajectories(tmp_path)
    assert (False, "sandbox", "fake-0") == (lost.is_valid, lost.steps[0].info["fault"]["kind"], lost.start.sandbox)
    assert (False, "daemon", "") == (never.is_valid, never.start.info["fault"]["kind"], never.start.sandbox)


@pytest.mark.parametrize("place", ["run.jsonl", "folder"])
async def test_a_disk_that_is_full_harms_no_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """What could not be recorded raises; it was done, the next step goes on, and then the recording has no gap."""
    env = make(FakeLauncher(play), record=tmp_path / place)
    await env.areset()
    open_files = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr("codecraft_async._recorder_file.write_all", _full)
        with pytest.raises(RecordingError, match="cannot be written to: No space left on device"):
            await env.astep("write 42")
        with pytest.raises(RecordingError, match="No space left on device"):
            await env.astep("ls")
    assert open_files >= len(os.listdir("/proc/self/fd"))
    _, reward, *_ = await env.astep("submit")
    assert 1.0 == reward
    with monkeypatch.context() as patch:
        patch.setattr("codecraft_async._recorder_file.write_all", _full)
        with pytest.raises(RecordingError):
            await env.areset()
    await env.astep("false")
    await env.aclose()
    actions = [episode.actions for episode in read_trajectories(tmp_path / place)]
    assert [["write 42", "ls", "submit"], ["false"]] == actions


async def test_what_cannot_be_written_is_given_up_with_its_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recording is one that was broken off; nothing is kept for ever."""
    env = make(FakeLauncher(play), record=tmp_path)
    await env.areset()
    await env.astep("ls")
    with monkeypatch.context() as patch:
        patch.setattr("codecraft_async._recorder_file.write_all", _full)
        for call in (env.astep("write 42"), env.areset(), env.areset()):
            with pytest.raises(RecordingError):
                await call
    await env.astep("false")
    await env.aclose()
    assert [["ls"], ["false"]] == [episode.actions for episode in read_trajectories(tmp_path)]


def test_an_environment_that_cannot_be_made_leaves_no_recording(tmp_path: Path) -> None:
    """Whatever is wrong with its other arguments is told before a file is opened."""
    for options in ({"render_mode": "loud"}, {"task": "none"}, {"ansi": "maybe"}):
        with pytest.raises((ValueError, UnknownTask)):
            make(FakeLauncher(play), record=tmp_path / "run.jsonl", **options)
    assert [] == list(tmp_path.iterdir())


async def test_closing_writes_what_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one environment of a batch, whose other ones were not held up."""
    env = vector(FakeLauncher(play), 2, record=tmp_path)
    await env.areset()
    with monkeypatch.context() as patch:
        patch.setattr("codecraft_async._recorder_file.write_all", _full)
        with pytest.raises(RecordingError):
            await env.astep(("ls", "ls"))
    await env.aclose()
    assert [["ls"], ["ls"]] == [episode.actions for episode in read_trajectories(tmp_path)]


async def test_a_line_that_may_not_have_reached_the_disk_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written, and as the disk reported an error it is written again."""
    env = make(FakeLauncher(play), record=Recorder(tmp_path, fsync="line"))
    for call, args in ((env.areset, ()), (env.astep, ("ls",))):
        with monkeypatch.context() as patch:
            patch.setattr("codecraft_async._recorder_file.os.fsync", _broken)
            with pytest.raises(RecordingError, match="Input/output error"):
                await call(*args)
    await env.astep("false")
    vars(env)["_track"].recorder.close()
    await env.aclose()
    assert [["ls", "false"]] == [episode.actions for episode in read_trajectories(tmp_path)]


def _broken(fd: int) -> None:
    raise OSError(5, os.strerror(5))


def _full(fd: int, data: bytes) -> None:
    os.write(fd, data[:10])
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize("num_envs", [None, 2])
async def test_a_recording_that_cannot_be_completed_keeps_no_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_envs: int | None
) -> None:
    """All that is open is closed, and then the error is raised."""
    launcher = FakeLauncher(play)
    path = tmp_path / "run.jsonl.gz"
    env = make(launcher, record=path) if num_envs is None else vector(launcher, num_envs, record=path)
    await env.areset()
    monkeypatch.setattr("codecraft_async._recorder_file.write_all", _full)
    with pytest.raises(RecordingError, match="cannot be completed: No space left on device"):
        await env.aclose()
    assert all(sandbox.lost is not None for sandbox in launcher.sandboxes)


def test_recording_without_an_event_loop(tmp_path: Path) -> None:
    """The recorder is closed with the environment, also where nothing was played."""
    env = make(FakeLauncher(play), record=tmp_path / "played")
    env.reset()
    env.step("ls")
    env.close()
    make(FakeLauncher(play), record=tmp_path / "idle").close()
    assert [["ls"]] == [episode.actions for episode in read_trajectories(tmp_path / "played")]


async def test_a_branch_is_recorded_with_where_it_came_from(tmp_path: Path) -> None:
    """Its steps go on counting, and what it saw first is there."""
    with Recorder(tmp_path) as recorder:
        one, other = (make(FakeLauncher(play), record=recorder) for _ in range(2))
        await one.areset()
        await one.astep("write 42")
        await other.abranch_from(one)
        await other.astep("submit")
        await one.aclose()
        await other.aclose()
    branch, origin = read_trajectories(tmp_path)
    assert branch.start.branch is not None
    assert (origin.start.episode, 1) == (branch.start.branch.episode, branch.start.branch.steps)
    assert [2] == [step.step for step in branch.steps]


def test_the_digest_of_a_task_is_that_of_all_an_episode_depends_on() -> None:
    """Equal tasks have equal ones, however often they are made; each field that matters changes it."""
    base = task_digest(make_task())
    assert base == task_digest(make_task()) == task_digest(make_task(expert=("ls",), notes={"a": "b"}))
    changes: list[dict[str, Any]] = [
        {"instruction": "Another."},
        {"setup": ("true",)},
        {"shell": "/bin/bash"},
        {"limits": TaskLimits(command_limit_s=1.0)},
        {"grader": load_curriculum().tasks[0].grader},
        {"max_steps": 6},
    ]
    digests = {task_digest(make_task(**change)) for change in changes}
    assert len(changes) == len(digests - {base})
    assert isinstance(make_task().grader, FileIsRight)
