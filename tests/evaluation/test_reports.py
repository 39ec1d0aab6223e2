"""What logs come to, counted by hand, and against published figures."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from codecraft_async.evaluation import Comparison, EpisodeLog, LogError, Report, Turn, different_rewards, read_log
from codecraft_async.evaluation.report_text import as_markdown, comparison_markdown, show
from codecraft_async.evaluation.statistics import mcnemar_exact, wilson
from codecraft_async.llm import Prices, Usage
from tests.intercode.data import intercode_data


def episode(task: int, *rewards: float, invalid: int = 0, **more: Any) -> EpisodeLog:
    """An episode with these rewards, the first *invalid* of whose actions failed."""
    turns = tuple(Turn(f"a{number}", "", reward, number >= invalid) for number, reward in enumerate(rewards))
    return EpisodeLog("ic_bash", more.pop("dataset", "data/fs_1.json"), task, f"q{task}", turns, 10, **more)


EPISODES = (
    episode(0, 0.5, 1.0, hardness="easy", usage=Usage(100, 10)),
    episode(1, 1.0, hardness="hard", usage=Usage(50, 5, True)),
    episode(2, 0.2, 0.4, 0.3, invalid=2, hardness="easy"),
    episode(3, 0.0, hardness="easy", dataset="fs_4.json"),
    episode(4, hardness="easy", end="fault", error="lost"),
    episode(5, 1.0, hardness="odd", corrupt_gold=True),
    episode(0, 0.0, hardness="easy", sample=1),
)


def by_key(*episodes: EpisodeLog) -> dict[str, EpisodeLog]:
    """A log."""
    return {each.key: each for each in episodes}


def test_a_report_counted_by_hand() -> None:
    """Faults and golds that fail are told and not counted; everything else is in its groups."""
    report = Report.of("run", EPISODES, prices=Prices(prompt_per_million=10_000, completion_per_million=100_000))
    total = report.total
    assert (5, 2, 0.4, 2) == (total.episodes, total.successes, total.success_rate, total.not_counted)
    assert pytest.approx((1 + 1 + 0.4 + 0 + 0) / 5) == total.mean_reward
    assert (8, 2, 0.25, 1.6) == (total.turns, total.invalid_actions, total.error_rate, total.mean_turns)
    assert [("easy", 4, 1), ("hard", 1, 1), ("odd", 0, 0)] == [
        (group.name, group.episodes, group.successes) for group in report.by_difficulty
    ]
    assert [("fs_1", 4), ("fs_4", 1)] == [(group.name, group.episodes) for group in report.by_dataset]
    assert ({1: 1, 2: 1}, {"corrupt_gold": 1, "fault": 1, "terminated": 5}) == (report.turns_to_success, report.ends)
    assert (Usage(150, 15, True), 3.0, 6, 2) == (report.usage, report.cost, report.tasks, report.solved_tasks)
    assert 0.4 == json.loads(json.dumps(report.as_json()))["total"]["success_rate"]


def test_reports_of_nothing() -> None:
    """An empty log has no rates, and can be shown."""
    report = Report.of("none", ())
    assert (None, None, None) == (report.total.success_rate, report.total.mean_reward, report.total.error_rate)
    assert "| all | 0 | 0 | - | - | - | - | - | 0 |" in as_markdown(report)


def test_reports_as_tables() -> None:
    """The figures of both tables are those of the report, and no text of a log is mark-up."""
    report = Report.of("a|b [red]*x*\x1b[2J", EPISODES)
    markdown = as_markdown(report)
    assert "# a\\|b \\[red\\]\\*x\\* \\[2J" == markdown.splitlines()[0]
    assert "| all | 5 | 2 | 40.0 % | 11.8-76.9 | 0.480 | 1.6 | 25.0 % | 2 |" in markdown
    assert "solved by turn (turn: episodes): 1: 1, 2: 1" in markdown
    console = Console(file=io.StringIO(), width=120)
    show(report, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "40.0 %" in shown and "[red]" in shown and "\x1b[2J" not in shown
    assert "tokens: 150 of prompts, 15 of answers (estimated where the endpoint did not say)" in shown


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # The first two as R's prop.test(..., correct = FALSE) and binom's wilson give them; the ends by the formula.
    [(2, 5, 0.1176, 0.7693), (81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilsons_interval(successes: int, trials: int, low: float, high: float) -> None:
    """Known values, with bounds that are exact where a rate is 0 or 1."""
    assert pytest.approx((low, high), abs=5e-5) == wilson(successes, trials)


@pytest.mark.parametrize(
    ("lost", "won", "p"), [(0, 0, 1.0), (1, 0, 1.0), (0, 6, 2 / 64), (5, 1, 14 / 64), (3, 3, 1.0), (6000, 6000, 1.0)]
)
def test_mcnemars_test(lost: int, won: int, p: float) -> None:
    """Tails of the binomial distribution, counted by hand; twice one of them, and never more than 1."""
    assert pytest.approx(p) == mcnemar_exact(lost, won)


def test_numbers_that_are_none() -> None:
    """More successes than trials, or fewer pairs than none, are refused."""
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="-1"):
        mcnemar_exact(-1, 2)


def test_a_comparison_counted_by_hand() -> None:
    """Only tasks that both runs have, and that count in both, are pairs."""
    first = by_key(episode(0, 1.0), episode(1, 1.0), episode(2, 0.5), episode(3, 1.0), episode(4, 0.0, end="fault"))
    second = by_key(episode(0, 1.0), episode(1, 0.25), episode(2, 1.0), episode(4, 1.0), episode(5, 1.0))
    compared = Comparison.of(first, second)
    assert (3, 2, 2, 1, ("1",), ("2",)) == (
        compared.pairs,
        compared.only_first,
        compared.only_second,
        compared.solved_by_both,
        compared.lost,
        compared.won,
    )
    assert (2 / 3, 2 / 3, 1.0) == (compared.first_rate, compared.second_rate, compared.p_value)
    assert pytest.approx((0 - 0.75 + 0.5) / 3) == compared.mean_reward_difference
    text = comparison_markdown(compared, ("a", "b"))
    assert "solved only by the first (1): 1" in text and "p = 1: " in text


def test_logs_that_cannot_be_compared() -> None:
    """Without a task in common, or with other tasks under the same numbers."""
    with pytest.raises(LogError, match="no task in common"):
        Comparison.of(by_key(episode(0, 1.0)), by_key(episode(1, 1.0)))
    other = EpisodeLog("ic_bash", "d", 0, "something else", (Turn("a", "", 1.0),))
    with pytest.raises(LogError, match="under '0' they have different queries"):
        Comparison.of(by_key(episode(0, 1.0)), by_key(other))


def test_rewards_that_differ() -> None:
    """Turn by turn, beyond a tolerance; missing turns differ, missing episodes are another matter."""
    first = by_key(episode(0, 0.5, 0.67, 1.0), episode(1, 1.0))
    second = by_key(episode(0, 0.504, 0.5))
    assert [(1, "a1", 0.67, 0.5), (2, "a2", 1.0, None)] == [
        (each.turn, each.action, each.first, each.second) for each in different_rewards(first, second)
    ]


@pytest.mark.parametrize(
    ("name", "percent"), [("nl2bash/gpt4_fs_1", 41.7), ("nl2bash/gpt4_fs_4", 59.3), ("sql/gpt4_0_516", 74.7)]
)
def test_known_figures(name: str, percent: float) -> None:
    """GPT-4's success rates in the recordings; difficulties are those of the tasks."""
    log = read_log(intercode_data(f"{name}.json"))
    report = Report.of(name, log.values())
    assert report.total.success_rate is not None
    assert percent == round(100 * report.total.success_rate, 1)
    assert ["easy", "medium", "hard", "extra"] * name.startswith("sql") == [each.name for each in report.by_difficulty]
