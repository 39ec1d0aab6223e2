"""Evaluation: agents play hundreds of tasks at once, and what they did becomes logs, reports and comparisons.

    env = BashVectorEnv(16, image_name=tree, data_path=data, score_steps=True)
    result = await evaluate(env, lambda task: GoldAgent(task, "ic_bash"), tasks_of(data))

The program ``codecraft eval`` does this with files, budgets and progress; see ``README.md`` beside this file.
"""

from __future__ import annotations

from codecraft_async.evaluation.moves import END, GoldAgent, Move, MovesAgent, ReplayAgent, gold_actions
from codecraft_async.evaluation.playing import EvalRules, Evaluation, evaluate
from codecraft_async.evaluation.reading import read_log
from codecraft_async.evaluation.records import EpisodeLog, LogError, Turn, as_log
from codecraft_async.evaluation.tasks import EvalTask, tasks_of

__all__ = [
    "END",
    "EpisodeLog",
    "EvalRules",
    "EvalTask",
    "Evaluation",
    "GoldAgent",
    "LogError",
    "Move",
    "MovesAgent",
    "ReplayAgent",
    "Turn",
    "as_log",
    "evaluate",
    "gold_actions",
    "read_log",
    "tasks_of",
]
