"""InterCode's bash data: what golds, recorded actions and doing nothing are paid, each restore proved clean."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from benchmarks.proofs import EVERY, Proofs
from benchmarks.recordings import Miss, Recording
from codecraft_async.agents import Agent
from codecraft_async.evaluation import (
    EpisodeLog,
    EvalRules,
    EvalTask,
    Evaluation,
    GoldAgent,
    MovesAgent,
    ReplayAgent,
    Turn,
    evaluate,
    tasks_of,
)
from codecraft_async.evaluation.comparing import TOLERANCE
from codecraft_async.intercode import BashVectorEnv
from codecraft_async.intercode.volatile import explain

GOLD_LIMIT_S: Final = 60.0
"""How long a gold may run as an action; as the environment gives it in the sandbox of golds."""
COMPAT: Final[Mapping[str, Any]] = {"compat": True, "reward": "intercode"}
_ENVS: Final = 8
_MAX_TURNS: Final = 20
_TO_THE_END: Final = EvalRules(max_turns=_MAX_TURNS, stop_at=None)


def rows_of(recording: Recording, every: int) -> list[int]:
    """Return every *every*-th row of the tasks."""
    return list(range(0, len(recording.tasks), every))


async def golds_paid(recording: Recording, rows: Sequence[int], proofs: Proofs, **options: Any) -> dict[int, float]:
    """Return what each gold earns that is run as an action and submitted, by row."""
    tasks = tasks_of(recording.tasks, rows)
    options = {"command_limit_s": GOLD_LIMIT_S, **options}
    done = await _play(recording, tasks, lambda task: GoldAgent(task, "ic_bash"), proofs, **options)
    return {row: _last(done.episodes[str(row)]) for row in rows}


async def nothing_paid(
    recording: Recording, rows: Sequence[int], idle: Sequence[Sequence[str]], proofs: Proofs
) -> dict[str, float]:
    """Return what a submission earns after each list of actions that do nothing, by row and the number of the list."""
    tasks = tasks_of(recording.tasks, rows, samples=len(idle))
    done = await _play(recording, tasks, lambda task: MovesAgent(idle[task.sample]), proofs)
    return {task.name: _last(done.episodes[task.name]) for task in tasks}


async def _play(
    recording: Recording,
    tasks: Sequence[EvalTask],
    make_agent: Callable[[EvalTask], Agent],
    proofs: Proofs,
    **options: Any,
) -> Evaluation:
    async with proofs.of(_open(recording, min(_ENVS, len(tasks)), **options), len(tasks)) as env:
        return await evaluate(env, make_agent, tasks, rules=_TO_THE_END)


def _last(episode: EpisodeLog) -> float:
    """Return what the submission earned; NaN where a fault has ended the episode."""
    return math.nan if episode.end == "fault" or not episode.turns else episode.turns[-1].reward


def _open(recording: Recording, envs: int, **options: Any) -> BashVectorEnv:
    return BashVectorEnv(
        envs,
        image_name=recording.tree(compat=bool(options.get("compat"))),
        data_path=recording.tasks,
        backend="docker",
        autoreset_mode="Disabled",
        prove_every=EVERY,
        **options,
    )


async def replay(recordings: Sequence[Recording], every: int, proofs: Proofs) -> tuple[int, list[Miss]]:
    """Do the recorded actions again, with the reward after each; return how many there were, and the misses.

    Episodes of a file system follow one another in one environment, as they were recorded: the times of files tell
    later ones what earlier ones have changed.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_replay(each, rows_of(each, every), proofs)) for each in recordings]
    counts, misses = zip(*(task.result() for task in tasks), strict=True)
    return sum(counts), [miss for some in misses for miss in some]


async def _replay(recording: Recording, rows: Sequence[int], proofs: Proofs) -> tuple[int, list[Miss]]:
    async with proofs.of(_open(recording, 1, **COMPAT, git_times=True, score_steps=True), len(rows)) as env:
        done = await evaluate(
            env,
            lambda task: ReplayAgent(recording.episodes[int(task.id)]),
            tasks_of(recording.tasks, rows),
            rules=_TO_THE_END,
        )
    steps, misses = 0, list[Miss]()
    for row in rows:
        recorded, ours = recording.episodes[row].turns, done.episodes[str(row)].turns
        steps += len(recorded)
        misses += misses_of(row, str(recording.tasks[row].gold), recorded, ours)
    return steps, misses


def misses_of(row: int, gold: str, recorded: Sequence[Turn], ours: Sequence[Turn]) -> list[Miss]:
    """Return the steps of an episode on the task *row* that are not worth now what they were."""
    found: list[Miss] = []
    commands = [gold]
    for step, turn in enumerate(recorded):
        commands.append(turn.action)  # what an action has written stays for those after it
        again = ours[step] if step < len(ours) else Turn(turn.action, None, math.nan)
        if not abs(again.reward - turn.reward) <= TOLERANCE:
            why = explain(commands, turn.observation or "", again.observation or "")
            found.append(Miss(row, step, turn.action, turn.reward, again.reward, ",".join(why)))
    return found
