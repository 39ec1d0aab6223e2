"""InterCode's recorded bash actions: how fast they are played again, beside docker-py, as InterCode does."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.docker_cli import labelled
from benchmarks.peer import Peer, environment, open_peer
from benchmarks.recordings import BASH, Recording, bash_recording, data_folder
from benchmarks.results import BenchmarkError, Figure, RowSpec, Target, medians, ratio_figure
from benchmarks.stepping import wait_for_roots
from codecraft_async.intercode import BashEnv, BashVectorEnv

_DOCKER_PY: Final = "docker==7.2.0"
_ENVS: Final[dict[str, int]] = dict(zip(BASH, (12, 4), strict=True))  # as the actions are shared out: 392 and 131
_ROUNDS: Final = 2  # in which docker-py takes half a minute each
_SCORED_SHARE: Final = 3  # of the episodes, every third: docker-py takes half a second for an action and its reward
_AT_ONCE: Final = 10  # episodes for one answer of docker-py's side
_LIMIT_S: Final = 300.0

REPLAY: Final = RowSpec(
    "bash_replay",
    "all recorded bash actions over 16 environments against `docker exec` by docker-py, one by one",
    "times",
    Target(">=", 40),
    "GPT-4's actions on file systems 1 and 4 but the 9 that never end; ours with resets, docker-py's without",
)
SCORED: Final = RowSpec(
    "bash_replay_scored",
    "every third episode of these as it was recorded: after each action its reward",
    "times",
    None,
    "BashEnv.ascore against git reset, the gold in another container, git status and sums by exec, as InterCode",
)
ROWS: Final = (REPLAY, SCORED)

Episode = tuple[str, int]
"""The number of a file system, and a row of its tasks."""


@dataclass(slots=True)
class Played:
    """A replay of ours: seconds in all, CPU time of this process and of the commands, and what ran without an error."""

    wall_s: float = 0.0
    own_cpu_s: float = 0.0
    command_cpu_s: float = 0.0
    ran: dict[Episode, list[bool]] = field(default_factory=dict[Episode, list[bool]])
    took_s: dict[Episode, float] = field(default_factory=dict[Episode, float])

    @property
    def actions(self) -> int:
        """How many there were."""
        return sum(map(len, self.ran.values()))


def measure(bench: Bench) -> dict[str, Figure]:
    """Play them again and again, ours and docker-py's in turn."""
    bench.need_docker("InterCode's bash environment")
    recordings = [bash_recording(number, data_folder()) for number in BASH]
    bench.tell("installing docker-py in an environment of its own")
    python = environment(_DOCKER_PY.replace("==", "-"), sys.executable, (_DOCKER_PY,))
    with labelled(f"codecraft-bench-{os.getpid()}") as label:
        return bench.run(_measure(bench, python, label, recordings))


async def _measure(bench: Bench, python: Path, label: str, recordings: Sequence[Recording]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    async with AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(_stage(each)) for each in recordings]
        every = [(stage.recording.number, row) for stage in stages for row in stage.actions]
        took_s = (await _replay(stages, every, scored=False)).took_s
        peer = await stack.enter_async_context(
            open_peer("docker-py", python, "intercode_side.py", label, *(stage.image for stage in stages))
        )
        for spec, some, rounds in (
            (REPLAY, every, min(_ROUNDS, bench.options.rounds)),
            (SCORED, every[::_SCORED_SHARE], 1),
        ):
            if not bench.wants(spec.name):
                continue
            scored = spec is SCORED
            bench.tell(f"recorded bash actions{', scored' if scored else ''}: docker-py, then ours")
            order = sorted(some, key=lambda key: -took_s[key])  # so that none is left alone at the end
            pairs = [
                (await _replay_by_exec(peer, stages, some, scored=scored), await _replay(stages, order, scored=scored))
                for _ in range(rounds)
            ]
            figures[spec.name] = _figure(pairs)
    return figures


def _figure(pairs: Sequence[tuple[Played, Played]]) -> Figure:
    theirs, ours = pairs[-1]
    actions = ours.actions
    unlike = sum(
        one != other for episode, ran in ours.ran.items() for one, other in zip(ran, theirs.ran[episode], strict=True)
    )
    command_cpu_ms = ours.command_cpu_s * 1e3 / actions
    details = {
        "actions": actions,
        "other_status_than_docker_py": unlike,
        "cores": len(os.sched_getaffinity(0)),
        # However little the rest takes, there are no more: each action's programs take this much of the cores.
        "commands_cpu_ms_per_action": round(command_cpu_ms, 2),
        "own_cpu_ms_per_action": round(ours.own_cpu_s * 1e3 / actions, 2),
        "actions_per_s_if_commands_were_all": round(len(os.sched_getaffinity(0)) * 1e3 / command_cpu_ms, 1),
        **medians(
            ours_per_s=[each.actions / each.wall_s for _, each in pairs],
            docker_py_per_s=[each.actions / each.wall_s for each, _ in pairs],
        ),
    }
    return ratio_figure([(each.wall_s, mine.wall_s) for each, mine in pairs], on="docker", details=details)


@dataclass(frozen=True, slots=True)
class _Stage:
    """The environments of one file system."""

    recording: Recording
    actions: dict[int, list[str]]
    env: BashVectorEnv
    image: str

    def rows(self, episodes: Sequence[Episode]) -> list[int]:
        """Return those of *episodes* that are of this file system."""
        return [row for number, row in episodes if number == self.recording.number]


@asynccontextmanager
async def _stage(recording: Recording) -> AsyncGenerator[_Stage]:
    tree = recording.tree(compat=True)
    env = BashVectorEnv(
        _ENVS[recording.number],
        image_name=tree,
        data_path=recording.tasks,
        backend="docker",
        autoreset_mode="Disabled",
        compat=True,
        reward="intercode",
    )
    try:
        await env.areset()
        choice = env.runtime.choice
        assert choice is not None  # there was a reset
        await asyncio.to_thread(wait_for_roots, choice.launcher)
        yield _Stage(recording, recording.ended_actions(), env, tree.name)
    finally:
        await env.aclose()


async def _replay(stages: Sequence[_Stage], order: Sequence[Episode], *, scored: bool) -> Played:
    """Play the episodes of *order* in it, as many at once as there are environments.

    Raises:
        BenchmarkError: A step ended in a fault, or it took too long.
    """
    played = Played()
    began, cpu_before = time.perf_counter(), time.process_time()
    try:
        async with asyncio.timeout(_LIMIT_S), asyncio.TaskGroup() as group:
            for stage in stages:
                waiting = deque(stage.rows(order))
                for seat in stage.env.envs:
                    group.create_task(_play(stage, seat, waiting, played, scored=scored))
    except TimeoutError:
        raise BenchmarkError(f"the recorded actions did not come to their end within {_LIMIT_S:g} s") from None
    played.wall_s, played.own_cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
    return played


async def _play(stage: _Stage, seat: Any, waiting: deque[int], played: Played, *, scored: bool) -> None:
    env = seat.unwrapped
    assert isinstance(env, BashEnv)
    while waiting:
        row = waiting.popleft()
        began, key = time.perf_counter(), (stage.recording.number, row)
        _check(key, (await seat.areset(options={"index": row}))[1])
        ran = played.ran[key] = []
        for action in stage.actions[row]:
            info = (await seat.astep(action))[4]
            _check(key, info)
            ran.append(bool(info["action_executed"]))
            played.command_cpu_s += float(info["cpu_s"])
            if scored:
                await env.ascore()
        played.took_s[key] = time.perf_counter() - began


def _check(key: Episode, info: dict[str, Any]) -> None:
    if "fault" in info:
        raise BenchmarkError(f"row {key[1]} of file system {key[0]}: {info['fault']['message']}")


async def _replay_by_exec(peer: Peer, stages: Sequence[_Stage], some: Sequence[Episode], *, scored: bool) -> Played:
    played = Played()
    for stage in stages:
        rows = stage.rows(some)
        golds = {row: str(stage.recording.tasks[row].gold) for row in rows}
        for first in range(0, len(rows), _AT_ONCE):
            few = rows[first : first + _AT_ONCE]
            episodes = [{"gold": golds[row], "actions": stage.actions[row]} for row in few]
            answer = await peer.ask("replay", image=stage.image, episodes=episodes, scored=scored)
            played.wall_s += answer["seconds"]
            played.ran |= {(stage.recording.number, row): ran for row, ran in zip(few, answer["ran"], strict=True)}
    return played
