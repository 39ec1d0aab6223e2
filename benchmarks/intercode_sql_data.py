"""InterCode's SQL data over this project's databases: golds that must score, recorded actions that must score again.

    python -m benchmarks.intercode_sql_data                              golds under both rewards, and the replay
    python -m benchmarks.intercode_sql_data --prove                      are all tables as loaded before each episode?
    python -m benchmarks.intercode_sql_data --envs 4 --data FOLDER       FOLDER holds sql/; by default CODECRAFT_DATA's

The exit status is 1 if a gold that is valid SQL pays less than 1, if fewer steps than InterCode's own code reaches have
the recorded reward, if a miss has no explanation, or if an episode began with a table that was not as loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from benchmarks.recordings import Miss, data_folder
from codecraft_async.evaluation import EpisodeLog, EvalRules, GoldAgent, ReplayAgent, evaluate, read_log, tasks_of
from codecraft_async.evaluation.comparing import TOLERANCE
from codecraft_async.intercode import InterCodeEnv, SqlEnv, SqlVectorEnv
from codecraft_curriculum import Dataset, load_dataset

__all__ = ["GoldsMeasured", "Miss", "ProvedEnv", "ReplayMeasured", "measure_golds", "measure_replay"]

Form = Literal["strict", "intercode"]

INVALID_GOLDS: Final = (164, 178, 225)
"""Rows from 0 to 516 whose golds are syntax errors in MySQL and MariaDB: FROM SHOW, derived tables without alias."""
EQUAL_AT_LEAST: Final = 2880
"""Of the steps of the replay: what InterCode's own code reaches on the same server."""
_NOT_RUN: Final = "Format your SQL command as follows:"
_ROW: Final = re.compile(r"\((?:[^()'\"]|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\([^()]*\))*\)")
_BESIDE_AGGREGATE: Final = re.compile(r"^\s*SELECT\s+(?:MIN|MAX)\s*\([^()]*\)[^,()]*,(?!.*GROUP BY)", re.I | re.S)


@dataclass(frozen=True, slots=True)
class GoldsMeasured:
    """What golds were paid that did what they say: how many were 1, and the others by row, with why."""

    form: Form
    rows: int
    right: int
    others: Mapping[int, str]

    @property
    def is_good(self) -> bool:
        """Whether all are right but those that are no SQL."""
        return set(self.others) <= set(INVALID_GOLDS)


class ProvedEnv(SqlEnv):
    """Compares all tables with those of the first episode of all, whenever one begins."""

    loaded: ClassVar[Mapping[str, str]] = {}
    proofs: ClassVar[int] = 0
    unclean: ClassVar[list[str]] = []

    async def reset_container(self) -> None:
        """See `SqlEnv.reset_container`."""
        await super().reset_container()
        state = await self.engine.state()
        ProvedEnv.loaded = ProvedEnv.loaded or state
        ProvedEnv.proofs += 1
        ProvedEnv.unclean += sorted(name for name, _ in state.items() ^ ProvedEnv.loaded.items())


class ProvedVectorEnv(SqlVectorEnv):
    """Many `ProvedEnv`s."""

    env_class: ClassVar[type[InterCodeEnv] | None] = ProvedEnv


@dataclass(frozen=True, slots=True)
class ReplayMeasured:
    """How many recorded steps were executed again, and which of them were worth something else."""

    steps: int
    misses: Sequence[Miss]

    @property
    def equal(self) -> int:
        """How many have the recorded reward, within 0.005."""
        return self.steps - len(self.misses)

    @property
    def is_good(self) -> bool:
        """Whether that is as many as InterCode's own code reaches, and the others are explained."""
        return self.equal >= EQUAL_AT_LEAST and all(miss.why for miss in self.misses)


async def measure_golds(folder: Path, *, form: Form, envs: int = 8, prove: bool = False) -> GoldsMeasured:
    """Run each gold as an action in an episode of its own, and submit; with *prove*, see `ProvedEnv`."""
    dataset = load_dataset(folder / "sql" / "spider_dev_0_516.json")
    env = _open(folder, dataset, envs, prove=prove, reward=form)
    try:
        done = await evaluate(
            env, lambda task: GoldAgent(task, "ic_sql"), tasks_of(dataset), rules=EvalRules(stop_at=None)
        )
    finally:
        await env.aclose()
    others = {
        int(key): f"{episode.turns[-1].reward if episode.turns else 0}: {_reason(episode)}"
        for key, episode in done.episodes.items()
        if episode.end == "fault" or not episode.turns or episode.turns[-1].reward != 1
    }
    return GoldsMeasured(form, len(dataset), len(dataset) - len(others), others)


async def measure_replay(folder: Path, *, envs: int = 8, prove: bool = False) -> ReplayMeasured:
    """Do again what GPT-4 did, with the reward after every action; with *prove*, see `ProvedEnv`."""
    dataset = load_dataset(folder / "sql" / "spider_dev_0_516.json")
    recorded = read_log(folder / "sql" / "gpt4_0_516.json")
    env = _open(folder, dataset, envs, prove=prove, reward="intercode", score_steps=True)
    try:
        tasks = tasks_of(dataset, [int(key) for key in recorded])
        rules = EvalRules(max_turns=20, stop_at=None)
        done = await evaluate(env, lambda task: ReplayAgent(recorded[task.name]), tasks, rules=rules)
    finally:
        await env.aclose()
    steps, misses = 0, list[Miss]()
    for key, episode in recorded.items():
        ours = done.episodes[key]
        for number, turn in enumerate(episode.turns):
            if (turn.observation or "").startswith(_NOT_RUN):
                continue
            steps += 1
            again = ours.turns[number] if number < len(ours.turns) else None
            if again is None or abs(again.reward - turn.reward) > TOLERANCE:
                reward = float("nan") if again is None else again.reward
                seen = (turn.observation or "", "" if again is None else again.observation or "")
                why = _explanation(turn.action, str(dataset[int(key)].gold), *seen)
                misses.append(Miss(int(key), number, turn.action, turn.reward, reward, why))
    return ReplayMeasured(steps, misses)


def _open(folder: Path, dataset: Dataset, envs: int, *, prove: bool, **options: Any) -> SqlVectorEnv:
    kind = ProvedVectorEnv if prove else SqlVectorEnv
    return kind(
        envs, dump=folder / "sql" / "ic_spider_dbs.sql", data_path=dataset, autoreset_mode="Disabled", **options
    )


def _reason(episode: EpisodeLog) -> str:
    return str(episode.error or episode.info.get("reason") or (episode.turns[-1].observation or "")[:200])


def _explanation(action: str, gold: str, recorded: str, ours: str) -> str:
    """Return of which class the difference is between a recorded observation and ours, "" if of none that is known."""
    then, now = _ROW.findall(recorded), _ROW.findall(ours)
    if "STR_TO_DATE" in action.upper():
        return "STR_TO_DATE reads dates otherwise"
    if any(_BESIDE_AGGREGATE.search(each) for each in (action, gold)):
        return "a column beside an aggregate, which is that of any row"
    if "LIMIT" in gold.upper() or ("LIMIT" in action.upper() and Counter(then) != Counter(now)):
        return "ties under LIMIT"
    if Counter(then) == Counter(now):
        return "rows that have no order, or equal keys"
    return ""


async def _main(folder: Path, envs: int, *, prove: bool) -> bool:
    good = True
    for form in ("intercode", "strict"):
        golds = await measure_golds(folder, form=form, envs=envs, prove=prove)
        good = good and golds.is_good
        _say(f"golds, reward {form}: {golds.right} of {golds.rows} pay 1.0")
        for row, why in golds.others.items():
            _say(f"  {row}: {why}")
    replay = await measure_replay(folder, envs=envs, prove=prove)
    _say(f"replay: {replay.equal} of {replay.steps} executed steps have the recorded reward")
    for miss in replay.misses:
        _say(f"  {miss.row}.{miss.step}: {miss.recorded} then, {miss.ours} now; {miss.why or '?'}: {miss.action[:100]}")
    for why, count in Counter(miss.why or "?" for miss in replay.misses).most_common():
        _say(f"  {count:3} {why}")
    if prove:
        _say(f"{ProvedEnv.proofs} episodes began, {len(ProvedEnv.unclean)} tables were not as loaded then")
        for name in sorted(set(ProvedEnv.unclean)):
            _say(f"  {name}")
    return good and replay.is_good and not ProvedEnv.unclean


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Measure, and say what came of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.intercode_sql_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="the folder of InterCode's data")
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--prove", action="store_true", help="look at all tables before each episode")
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(_main(data_folder(given.data), given.envs, prove=given.prove)) else 1)


if __name__ == "__main__":
    main()
