"""Replays: what is the same, what differs and how that is told, and what cannot be played again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from codecraft_async import CodeEnv, Recorder
from codecraft_async._masks import MASKS, Masker
from codecraft_async._trajectory_lines import Line, encode_line
from codecraft_async.actions import Command
from codecraft_async.curriculum import Curriculum, Task
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher, LaunchError
from codecraft_async.replay import Difference, Replay, ReplayedEpisode
from codecraft_async.trajectory import (
    Branch,
    Problem,
    TrajectoryError,
    find_parents,
    origins_of,
    read_trajectories,
    with_past,
)
from tests.envs.code_envs import make, make_task, play
from tests.envs.trajectories import encoded, start_line, step_line

pytestmark = pytest.mark.anyio


class Shell:
    """Sandboxes that answer as `play` does, and ``say`` what they were made to; *meeting* of them at the same time."""

    def __init__(self, says: str = "hello\n", exit_code: int = 0, *, meeting: int = 1) -> None:
        self.launcher = FakeLauncher(self.answer)
        self.has_answered = asyncio.Event()
        self._says = says
        self._exit_code = exit_code
        self._meeting = asyncio.Barrier(meeting)

    async def answer(self, files: FakeFiles, argv: list[str]) -> FakeAnswer:
        self.has_answered.set()
        if argv[-1] == "say":
            await self._meeting.wait()
            return FakeAnswer(self._says.encode(), exit_code=self._exit_code)
        return await play(files, argv)


async def record(
    path: Path | Recorder,
    *episodes: Sequence[str],
    shell: Shell | None = None,
    task: Task | None = None,
    **options: Any,
) -> None:
    """Record an episode of each list of actions."""
    env = make((shell or Shell()).launcher, task or make_task(max_steps=20), record=path, **options)
    for actions in episodes:
        await env.areset()
        for action in actions:
            await env.astep(action)
    await env.aclose()


async def replay(
    path: Path, *, shell: Shell | None = None, task: Task | None = None, **options: Any
) -> list[ReplayedEpisode]:
    """Play all of it again; return the episodes in the order of the files."""
    curriculum = Curriculum([task or make_task(max_steps=20)])
    played: list[ReplayedEpisode] = []
    given: dict[str, Any] = {"backend": (shell or Shell()).launcher, "curriculum": curriculum}
    await Replay(path, **(given | options)).run(played.append)
    return sorted(played, key=lambda each: (each.episode.path, each.episode.line))


async def test_what_is_played_again_is_the_same(tmp_path: Path) -> None:
    """Reset, commands, files, grade; also an episode that nobody ended."""
    await record(tmp_path, ["ls", "say", "write 42", "submit"], ["false", "submit"], ["ls"], [])
    played = await replay(tmp_path)
    assert [(4, True, "", ""), (2, True, "", ""), (1, True, "", ""), (0, True, "", "")] == [
        (each.compared, each.is_same, each.failed, each.left_out) for each in played
    ]


async def test_episodes_are_played_at_the_same_time(tmp_path: Path) -> None:
    """As many as there may be, each in a sandbox of its own."""
    await record(tmp_path, *[["say", "say"]] * 8)
    shell = Shell(meeting=4)  # an answer needs four that ask
    played = await replay(tmp_path, shell=shell, num_envs=4)
    assert (8, 4) == (sum(each.is_same for each in played), len(shell.launcher.sandboxes))


async def test_what_differs_is_told_step_by_step(tmp_path: Path) -> None:
    """With both values, as far as the episode goes; what is the same is not told."""
    await record(tmp_path, ["ls", "say", "write 42", "submit"])
    (played,) = await replay(tmp_path, shell=Shell("good bye\n", 3))
    expected = [Difference(2, "observation", "hello\n", "good bye\n"), Difference(2, "info['exit_code']", 0, 3)]
    assert (expected, 4, False) == (played.differences, played.compared, played.is_same)


async def test_rewards_and_flags_are_compared(tmp_path: Path) -> None:
    """Whatever is in the file counts; where the episode ends early, the rest cannot be compared."""
    await record(tmp_path, ["write 42", "submit"])
    (path,) = tmp_path.iterdir()  # noqa: ASYNC240
    (episode,) = read_trajectories(path)
    first, last = episode.steps
    lines: list[Line] = [
        episode.start,
        step_line(first.episode, 1, action="submit", reward=1.0, info=first.info),
        step_line(first.episode, 2, action="ls", terminated=True, info=last.info),
    ]
    forged = tmp_path / "forged.jsonl"
    forged.write_bytes(encoded(lines))
    (played,) = await replay(forged)
    assert [
        Difference(1, "observation", "1\n", "score 0"),
        Difference(1, "info['exit_code']", 0, -1),
        Difference(1, "info['graded']", False, True),
        Difference(1, "reward", 1.0, 0.0),
        Difference(1, "terminated", False, True),
    ] == played.differences
    assert 1 == played.compared


async def test_what_a_mask_covers_is_overlooked_and_nothing_else(tmp_path: Path) -> None:
    """Masked text is told as the mask left it."""
    await record(tmp_path, ["say"], shell=Shell("it is 10:11:12 in room 5\n"))
    for says, masker, expected in (
        ("it is 23:59:59 in room 5\n", Masker(["times"]), []),
        (
            "it is 23:59:59 in room 5\n",
            Masker(["pids"]),
            [("it is 10:11:12 in room 5\n", "it is 23:59:59 in room 5\n")],
        ),
        ("it is 23:59:59 in room 6\n", Masker(["times"]), [("it is <time> in room 5\n", "it is <time> in room 6\n")]),
        ("it is 10:11:12 in room 6\n", Masker(patterns=["room .*"]), []),
    ):
        (played,) = await replay(tmp_path, shell=Shell(says), masker=masker)
        assert expected == [(each.recorded, each.replayed) for each in played.differences]


@pytest.mark.parametrize(
    ("name", "text", "masked"),
    [
        ("times", "2026-11-20T10:11:12.5Z x 2026-11-20 10:11", "<time> x <time>"),
        ("times", "-rw-r--r-- 1 a a 5 Nov  2 10:11 f", "-rw-r--r-- 1 a a 5 <time> f"),
        ("times", "-rw-r--r-- 1 a a 5 Nov 22  2025 f", "-rw-r--r-- 1 a a 5 <time> f"),
        ("times", "Fri Nov 20 15:21:17 UTC 2026", "Fri <time>"),
        ("times", "ratio 10:11, chapter 2026-11-20, Nov 20", "ratio 10:11, chapter 2026-11-20, Nov 20"),
        ("durations", "real 0m0.003s; 2 passed in 0.12s; 15 ms", "real <duration>; 2 passed in <duration>; <duration>"),
        ("durations", "5 sheep, v1.2, 3songs", "5 sheep, v1.2, 3songs"),
        ("pids", "pid 123, PID=45, process 6\n[1] 789\n", "pid <pid>, PID=<pid>, process <pid>\n[1] <pid>\n"),
        ("pids", "rapid 5, [1] done, 123", "rapid 5, [1] done, 123"),
        ("addresses", "<object at 0x7f0012345678> 0xff", "<object at <address>> 0xff"),
        ("tempnames", "/tmp/tmp.Ab3dEf6hIj /tmp/tmpab3_ef6h/x", "/tmp/<tempname> /tmp/<tempname>/x"),
        ("tempnames", "/tmp/tmp.log /tmp/temporary", "/tmp/tmp.log /tmp/temporary"),
    ],
)
async def test_masks_are_narrow(name: str, text: str, masked: str) -> None:
    """Each covers what it says, and leaves what looks a little like it."""
    assert masked == Masker([name])(text)
    assert text == Masker([other for other in MASKS if other != name])(text)


async def test_masks_that_are_none_are_refused() -> None:
    """With those that there are, or what is wrong with the pattern."""
    with pytest.raises(ValueError, match="there is no mask 'dates'; there are times, durations, pids"):
        Masker(["dates"])
    with pytest.raises(ValueError, match=r"'\(' is no regular expression: missing \)"):
        Masker(patterns=["("])


async def test_the_environments_options_are_those_of_the_recording(tmp_path: Path) -> None:
    """How actions are read, how much is shown, what is paid and when it ends."""
    options: dict[str, Any] = {
        "actions": "json",
        "max_observation_chars": 100,
        "max_episode_steps": 3,
        "reward": "dense",
        "malformed_reward": -0.5,
        "malformed_retries": 1,
    }
    actions = ["nonsense", '{"action": "run", "command": "flood"}', '{"action": "run", "command": "write 42"}']
    await record(tmp_path, [*actions, '{"action": "submit"}'], **options)
    (played,) = await replay(tmp_path)
    assert (4, [], "") == (played.compared, played.differences, played.failed)


async def test_a_parser_of_the_users_own_is_given_again(tmp_path: Path) -> None:
    """It is no part of a recording; without it the episode cannot be played, which is told."""

    class Shouting:
        def parse(self, text: str) -> Command:
            return Command(text.lower())

    await record(tmp_path, ["LS", "SAY"], actions=Shouting())
    (played,) = await replay(tmp_path)
    assert "the environment cannot be made as it was: actions is '<" in played.failed
    (played,) = await replay(tmp_path, env_options={"actions": Shouting()})
    assert (2, True) == (played.compared, played.is_same)


async def test_what_no_two_runs_have_alike_is_left_out(tmp_path: Path) -> None:
    """A fault, or a budget that was used up: the steps before it are compared."""
    shell = Shell()
    env = make(shell.launcher, make_task(max_steps=20), record=tmp_path / "a.jsonl")
    await env.areset()
    await env.astep("ls")
    shell.launcher.sandboxes[-1].close()
    await env.astep("ls")
    await env.aclose()
    await record(tmp_path / "b.jsonl", ["ls"], wall_budget_s=1e-6)
    fault, budget = await replay(tmp_path)
    assert (1, True, 0, True) == (fault.compared, fault.is_same, budget.compared, budget.is_same)
    assert fault.left_out.startswith("not from step 2 on: a fault ended it there: {'kind': 'sandbox'")
    assert "not from step 1 on: its wall_budget ended it there, which depends on the machine" == budget.left_out


async def test_an_episode_that_never_had_a_sandbox_is_left_out(tmp_path: Path) -> None:
    """There is nothing to compare with."""
    launcher = FakeLauncher(play)
    launcher.fail_starts = 100
    env = make(launcher, record=tmp_path, reset_faults="info")
    await env.areset()
    await env.astep("ls")
    await env.aclose()
    (played,) = await replay(tmp_path)
    assert (0, True) == (played.compared, played.is_same)
    assert played.left_out.startswith("not at all: it had no sandbox: {'kind': 'daemon'")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"instruction": "Another.", "max_steps": 20}, "its task 'answer' has changed since it was recorded"),
        ({"id": "another", "max_steps": 20}, "its task 'answer' is not in the curriculum 'curriculum'"),
    ],
)
async def test_a_task_that_is_not_what_it_was_is_not_played(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """Nothing could be said of the differences."""
    await record(tmp_path, ["ls"])
    (played,) = await replay(tmp_path, task=make_task(**changes))
    assert said in played.failed
    assert not played.is_same


@pytest.mark.parametrize(
    ("source", "said"),
    [("", "was made by a program: say where the tasks are"), ("/none/tasks", "its curriculum cannot be had: ")],
)
async def test_a_curriculum_that_cannot_be_had_is_told_for_each_episode(tmp_path: Path, source: str, said: str) -> None:
    """Others of the recording are played."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(encode_line(start_line(curriculum_source=source)))
    builtin = CodeEnv(backend=FakeLauncher(play), record=path)
    await builtin.areset()
    await builtin.aclose()
    first, second = await replay(path, curriculum=None)
    assert said in first.failed
    assert second.is_same


async def test_a_replay_that_loses_its_sandbox_is_no_difference(tmp_path: Path) -> None:
    """It is told as what could not be played."""
    await record(tmp_path, ["ls", "say"])
    shell = Shell()

    async def dies(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        shell.launcher.sandboxes[-1].close()
        return FakeAnswer()

    shell.launcher = FakeLauncher(dies)
    (played,) = await replay(tmp_path, shell=shell)
    assert "the replay failed at step 1: " in played.failed and "SandboxLost" in played.failed
    assert [] == played.differences


async def test_no_sandbox_at_all_is_an_error(tmp_path: Path) -> None:
    """It is not told a thousand times, once for each episode."""
    env = make(FakeLauncher(play), make_task(user="root"), record=tmp_path)
    await env.areset()
    await env.aclose()
    with pytest.raises(LaunchError, match="the local launcher gives no root user"):
        await replay(tmp_path, backend="local", task=make_task(user="root"))


async def test_only_the_episodes_that_were_named_are_played(tmp_path: Path) -> None:
    """By the beginning of their names."""
    await record(tmp_path, ["ls"], ["say"])
    names = [episode.start.episode for episode in read_trajectories(tmp_path)]
    (played,) = await replay(tmp_path, episodes=[names[1][:12]])
    assert names[1] == played.episode.start.episode


async def test_branches_are_played_from_where_they_came(tmp_path: Path) -> None:
    """Also those of branches; what the original did later is no part of them."""
    with Recorder(tmp_path) as recorder:
        envs = [make(Shell().launcher, make_task(max_steps=20), record=recorder) for _ in range(3)]
        await envs[0].areset()
        await envs[0].astep("write 42")
        await envs[1].abranch_from(envs[0])
        await envs[0].astep("write 41")
        await envs[1].astep("ls")
        await envs[2].abranch_from(envs[1])
        for env in envs:
            await env.astep("submit")
            await env.aclose()
    played = await replay(tmp_path)
    assert [(True, 3), (True, 2), (True, 1)] == [(each.is_same, each.compared) for each in played]
    assert [0.0, 1.0, 1.0] == [each.episode.reward for each in played]
    (alone,) = await replay(tmp_path, episodes=[played[2].episode.start.episode])
    assert alone.is_same


async def test_a_branch_without_its_origin_cannot_be_played(tmp_path: Path) -> None:
    """It says what is missing."""
    one, other = (make(Shell().launcher, make_task(max_steps=20), record=tmp_path / name) for name in ("one", "other"))
    await one.areset()
    await other.abranch_from(one)
    await one.aclose()
    await other.aclose()
    (played,) = await replay(tmp_path / "other")
    assert "it is a branch of episode" in played.failed and "which is not in the recording" in played.failed


async def test_branches_of_branches_may_be_many(tmp_path: Path) -> None:
    """As a search makes them: the depth is no limit, and no more than two sandboxes are held for an episode."""
    depth, path = 1200, tmp_path / "run.jsonl"
    await record(path, ["ls"])
    (origin,) = read_trajectories(path)
    names = [origin.start.episode, *(f"b{n:04}" for n in range(depth))]
    starts = [
        replace(origin.start, episode=name, env=name, branch=Branch(episode=parent, steps=1))
        for parent, name in pairwise(names)
    ]
    path.write_bytes(path.read_bytes() + encoded(starts) + encoded([step_line(starts[-1].episode, 2)]))
    parents = find_parents(path)
    *_, last = read_trajectories(path)
    assert depth == len(origins_of(last, parents))
    assert ["ls", "echo 2"] == with_past(last, parents).actions
    shell = Shell()
    (played,) = await replay(path, shell=shell, episodes=["b0020"], num_envs=1)
    assert ("", 2) == (played.failed, len(shell.launcher.sandboxes))


async def test_an_episode_that_comes_of_itself_is_told(tmp_path: Path) -> None:
    """No recorder writes such; the others are played."""
    path = tmp_path / "run.jsonl"
    await record(path, ["ls"])
    loop = [start_line(name, name, branch=Branch(episode=origin, steps=0)) for name, origin in (("a", "b"), ("b", "a"))]
    (good,) = read_trajectories(path)
    path.write_bytes(path.read_bytes() + encoded([replace(each, task_digest=good.start.task_digest) for each in loop]))
    parents = find_parents(path)
    assert [["ls"], [], []] == [with_past(each, parents).actions for each in read_trajectories(path)]
    played = await replay(path)
    assert [True, False, False] == [each.is_same for each in played]
    assert "it is a branch of episode" in played[1].failed


async def test_what_ends_before_its_branch_begins_is_told(tmp_path: Path) -> None:
    """Such as a task whose steps are fewer now; others are played."""
    with Recorder(tmp_path) as recorder:
        one, other = (make(Shell().launcher, make_task(max_steps=20), record=recorder) for _ in range(2))
        await one.areset()
        for _ in range(3):
            await one.astep("ls")
        await other.abranch_from(one)
        for env in (one, other):
            await env.astep("submit")
            await env.aclose()
    origin, branch = await replay(tmp_path, env_options={"max_episode_steps": 2})
    assert origin.differences and not origin.failed
    assert "is over, when it is played again, before the branch begins" in branch.failed


async def test_a_set_up_that_fails_is_told_and_others_are_played(tmp_path: Path) -> None:
    """It is the task's fault, and no end of the replay."""
    await record(tmp_path, ["ls"], ["say"], task=make_task(setup=("say",)))
    played = await replay(tmp_path, shell=Shell(exit_code=1), task=make_task(setup=("say",)))
    assert 2 == len(played)
    assert all("its set-up 'say' ended with 1" in each.failed for each in played)


async def test_a_damaged_recording_is_an_error_or_played_as_far_as_it_goes(tmp_path: Path) -> None:
    """As was asked; each problem is told once."""
    path = tmp_path / "run.jsonl"
    await record(path, ["ls"], ["say"])
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], b"garbage", *lines[2:-1], b'{"cut']))
    with pytest.raises(TrajectoryError, match=r"run\.jsonl:3: it is no JSON"):
        await replay(path)
    told: list[Problem] = []
    played = await replay(path, on_error="tell", on_problem=told.append)
    assert [True, True] == [each.is_same for each in played]
    assert [(3, False), (6, True)] == [(problem.line, problem.is_cut) for problem in told]


async def test_a_replay_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """Its sandboxes are gone when it has ended."""
    await record(tmp_path, ["ls"] * 15)
    shell = Shell()
    work = asyncio.create_task(replay(tmp_path, shell=shell, num_envs=1))
    await shell.has_answered.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert all(sandbox.lost is not None for sandbox in shell.launcher.sandboxes)


async def test_wrong_arguments_are_named() -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match="num_envs is 0; it must be at least 1"):
        Replay("none", num_envs=0)
