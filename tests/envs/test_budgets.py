"""Wall and CPU budgets of an episode: what is left limits each command, and their end is told apart in `info`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from codecraft_async._budget import Budget
from codecraft_async._episode import Episode
from codecraft_async._rules import Rules
from codecraft_async.pool import CommandResult, FakeAnswer, FakeFiles, FakeLauncher
from tests.envs.code_envs import check_types, make, make_local, make_task, play, vector

pytestmark = pytest.mark.anyio


class Clock:
    """Tells the time that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def result(cpu_s: float, *, cpu_limited: bool = False) -> CommandResult:
    return CommandResult(
        b"out",
        b"",
        0,
        0,
        timed_out=False,
        truncated=False,
        wall_s=0.1,
        user_s=cpu_s / 2,
        system_s=cpu_s / 2,
        peak_memory_bytes=0,
        cpu_limited=cpu_limited,
    )


def test_wall_time_runs_and_cuts_the_limit_of_a_command() -> None:
    """The limit is the task's until less than that is left; never 0, which would be none."""
    clock = Clock()
    budget = Budget(60.0, None, clock=clock)
    assert (10.0, None, "") == (budget.command_limit_s(10.0), budget.cpu_limit_s(), budget.spent())
    clock.now = 155.0
    assert (5.0, "") == (budget.command_limit_s(10.0), budget.spent())
    clock.now = 160.0
    assert (0.001, "wall_budget") == (budget.command_limit_s(10.0), budget.spent())
    assert "[the episode's wall time of 60 s is used up]" == budget.say("wall_budget")


def test_cpu_time_is_what_commands_used() -> None:
    """Their sum; a command that was killed for it has used all, whatever was measured."""
    budget = Budget(None, 3.0)
    budget.charge(result(1.0))
    assert (2.0, 10.0, "") == (budget.cpu_limit_s(), budget.command_limit_s(10.0), budget.spent())
    budget.charge(result(1.9, cpu_limited=True))
    assert (0.001, "cpu_budget") == (budget.cpu_limit_s(), budget.spent())
    assert "[the episode's CPU time of 3 s is used up]" == budget.say("cpu_budget")


@dataclass
class Sandbox:
    """Notes what it is asked to run, and answers with results that are given to it."""

    id: str = "stub"
    results: list[CommandResult] = field(default_factory=list[CommandResult])
    asked: list[tuple[float, float | None]] = field(default_factory=list[tuple[float, float | None]])

    async def run(self, command: str, *, limit_s: float, cpu_limit_s: float | None = None, **_: Any) -> CommandResult:
        self.asked.append((limit_s, cpu_limit_s))
        return self.results.pop(0)


def start(sandbox: Sandbox, **rules: Any) -> Episode:
    return Episode(make_task(), sandbox, Rules(**rules))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_commands_limits_are_what_the_episode_has_left() -> None:
    """Without budgets a command has its task's limit, and its CPU time none."""
    sandbox = Sandbox(results=[result(0.5), result(0.75), result(0.25)])
    episode = start(sandbox)
    await episode.begin(restore_s=0.0)
    *_, info = await act(episode)
    assert ([(10.0, None)], 0.5) == (sandbox.asked, info["cpu_s"])
    episode = start(sandbox, cpu_budget_s=1.0, wall_budget_s=1000.0)
    await episode.begin(restore_s=0.0)
    truncated, info = await act(episode)
    assert ((10.0, 1.0), False, "") == (sandbox.asked[-1], truncated, info["truncation"])
    truncated, info = await act(episode)
    assert ((10.0, 0.25), True, "cpu_budget") == (sandbox.asked[-1], truncated, info["truncation"])


async def act(episode: Episode) -> tuple[bool, dict[str, Any]]:
    outcome = await episode.step("x")
    check_types(outcome.info)
    return outcome.truncated, outcome.info


async def test_a_budget_comes_before_the_number_of_steps() -> None:
    """Where both are used up by one step, `info` says the budget: more steps would not have helped."""
    episode = start(Sandbox(results=[result(2.0)]), cpu_budget_s=1.0, max_episode_steps=1)
    await episode.begin(restore_s=0.0)
    assert (True, "cpu_budget") == ((end := await act(episode))[0], end[1]["truncation"])


async def test_what_comes_after_the_wall_time_is_not_run() -> None:
    """The agent thought too long: the step ends the episode and says why, also if it would have submitted."""
    ran: list[str] = []

    async def note(files: FakeFiles, argv: list[str]) -> FakeAnswer:
        ran.append(argv[-1])
        return await play(files, argv)

    for action in ("ls", "submit"):
        env = make(FakeLauncher(note), wall_budget_s=0.01)
        await env.areset()
        await asyncio.sleep(0.02)
        text, reward, terminated, truncated, info = await env.astep(action)
        assert ("[the episode's wall time of 0.01 s is used up]", 0.0, False, True) == (
            text,
            reward,
            terminated,
            truncated,
        )
        assert ("wall_budget", True, 1, []) == (info["truncation"], info["valid"], info["steps"], ran)
        await env.areset()
        await env.aclose()


async def test_steps_that_are_used_up_are_told_as_such() -> None:
    """The third of the reasons; until then there is none."""
    env = make(FakeLauncher(play), max_episode_steps=2, wall_budget_s=1000.0)
    _, info = await env.areset()
    assert "" == info["truncation"]
    assert ["", "max_episode_steps"] == [(await env.astep("ls"))[4]["truncation"] for _ in range(2)]
    await env.aclose()


@pytest.mark.parametrize("shell", ["fresh", "persistent"])
async def test_a_command_is_killed_where_the_budget_ends(shell: str) -> None:
    """In a real sandbox, long before the command's own limit; what it printed before is kept."""
    env = make_local(shell=shell, wall_budget_s=0.5)
    await env.areset()
    text, *_, truncated, info = await env.astep("echo before; sleep 60")
    assert text.startswith("before\n")
    assert "[killed: it ran longer than 0." in text
    assert (True, True, "wall_budget") == (truncated, info["timed_out"], info["truncation"])
    await env.aclose()
    env = make_local(shell=shell, cpu_budget_s=0.3)
    await env.areset()
    *_, truncated, info = await env.astep("true")
    assert (False, "") == (truncated, info["truncation"])
    text, *_, truncated, info = await env.astep("echo before; while :; do :; done")
    assert text.startswith("before\n")
    assert text.endswith("\n[killed: it used up the CPU time that the episode had left]")
    assert (True, False, "cpu_budget", True) == (truncated, info["timed_out"], info["truncation"], info["cpu_s"] > 0.1)
    await env.aclose()


async def test_in_a_batch_each_episode_has_its_own_budget() -> None:
    """One is cut off and says why; the next episode starts with a whole one."""
    env = vector(FakeLauncher(play), 2, wall_budget_s=1000.0, max_episode_steps=1, autoreset_mode="SameStep")
    await env.areset()
    *_, truncations, info = await env.astep(("ls", "submit"))
    assert ([True, False], ["max_episode_steps", ""]) == (
        truncations.tolist(),
        info["final_info"]["truncation"].tolist(),
    )
    await env.aclose()


@pytest.mark.parametrize("name", ["wall_budget_s", "cpu_budget_s"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
async def test_a_budget_is_a_time_over_zero(name: str, value: float) -> None:
    """Anything else is an error when the environment is made."""
    with pytest.raises(ValueError, match=f"{name} is .*; it must be a time in seconds over 0, or None for no limit"):
        make(FakeLauncher(play), **{name: value})
