"""Evaluation: agents play hundreds of tasks at once, and what they did becomes logs, reports and comparisons.

    env = BashVectorEnv(16, image_name=tree, data_path=data, score_steps=True)
    result = await evaluate(env, lambda task: GoldAgent(task, "ic_bash"), tasks_of(data))

The program ``codecraft eval`` does this with files, budgets and progress; see ``README.md`` beside this file.
"""

from __future__ import annotations

from codecraft_async.evaluation.chat_agents import ChatRules, PlanSolveAgent, ReActAgent, TryAgainAgent
from codecraft_async.evaluation.comparing import Comparison, Difference, different_rewards
from codecraft_async.evaluation.errors import EvalError, LogError, ModelRefused, RunBusy, RunChanged, SettingsError
from codecraft_async.evaluation.languages import language_of
from codecraft_async.evaluation.moves import END, GoldAgent, Move, MovesAgent, ReplayAgent, gold_actions
from codecraft_async.evaluation.playing import EvalRules, Evaluation, evaluate
from codecraft_async.evaluation.reading import read_log
from codecraft_async.evaluation.records import EpisodeLog, Turn, as_log
from codecraft_async.evaluation.report import Report
from codecraft_async.evaluation.run_files import RunFiles
from codecraft_async.evaluation.tasks import EvalTask, tasks_of

__all__ = [
    "END",
    "ChatRules",
    "Comparison",
    "Difference",
    "EpisodeLog",
    "EvalError",
    "EvalRules",
    "EvalTask",
    "Evaluation",
    "GoldAgent",
    "LogError",
    "ModelRefused",
    "Move",
    "MovesAgent",
    "PlanSolveAgent",
    "ReActAgent",
    "ReplayAgent",
    "Report",
    "RunBusy",
    "RunChanged",
    "RunFiles",
    "SettingsError",
    "TryAgainAgent",
    "Turn",
    "as_log",
    "different_rewards",
    "evaluate",
    "gold_actions",
    "language_of",
    "read_log",
    "tasks_of",
]
