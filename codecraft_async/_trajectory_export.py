"""Recorded episodes in the formats of others: InterCode's logs, and lists of chat messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, get_args

import orjson

from codecraft_async._trajectory_lines import EpisodeStep, escaped
from codecraft_async.trajectory import RecordedEpisode

ExportFormat = Literal["intercode", "chat"]
FORMATS: Final[tuple[str, ...]] = get_args(ExportFormat)
_ENVIRONMENT: Final = "codecraft"


def intercode_log(episodes: Iterable[RecordedEpisode]) -> Iterator[bytes]:
    """Yield the pieces of one JSON object: the log of InterCode's experiments, with every episode under its number.

    ``task_id`` is the task's place in its curriculum, as there it is the row in the data file; its own id and what
    the episode came to are in ``info``. ``valid_action`` tells, as there, whether the command's exit status was 0 (or,
    at the end, whether the grade could be had). Episodes without a step are left out: that format has none.
    """
    before = b"{"
    number = 0
    for episode in episodes:
        if episode.steps:
            entry = orjson.dumps({str(number): intercode_entry(episode)}, option=orjson.OPT_INDENT_2)
            yield before + escaped(entry[1:-2])  # without the braces: all entries are in one object
            before = b","
            number += 1
    yield b"\n}\n" if number else b"{}\n"


def intercode_entry(episode: RecordedEpisode) -> dict[str, Any]:
    """Return one episode as InterCode's log has it."""
    start, steps = episode.start, episode.steps
    rewards = [step.reward for step in steps]
    best = max(rewards)
    return {
        "environment": _ENVIRONMENT,
        "dataset": start.curriculum_source or start.curriculum,
        "task_id": start.task_index,
        "query": start.instruction,
        "turn_history": {
            "actions": [_text(step.action) for step in steps],
            "observations": [_text(step.observation) for step in steps],
            "rewards": rewards,
            "valid_action": [_was_valid(step) for step in steps],
        },
        "info": {**_outcome(episode), "action_executed": _was_valid(steps[-1])},
        "summary": {
            "max_reward": best,
            "max_reward_idx": rewards.index(best),
            "turns_taken": len(steps),
            "turns_max": start.max_steps,
        },
    }


def chat_lines(episodes: Iterable[RecordedEpisode]) -> Iterator[bytes]:
    """Yield a line for each episode: ``{"messages": [...], "metadata": {...}}``, with messages as OpenAI's.

    What the environment says is the user's, the actions are the assistant's, verbatim. The last message is the last
    action: what followed from it is in ``metadata``, and in ``metadata["last_observation"]``. Episodes without a step
    are left out.
    """
    for episode in episodes:
        if episode.steps:
            yield escaped(orjson.dumps(chat_entry(episode), option=orjson.OPT_APPEND_NEWLINE))


def chat_entry(episode: RecordedEpisode) -> dict[str, Any]:
    """Return one episode as a list of chat messages."""
    messages: list[dict[str, str]] = []
    said = episode.start.observation
    for step in episode.steps:
        messages += ({"role": "user", "content": _text(said)}, {"role": "assistant", "content": _text(step.action)})
        said = step.observation
    return {"messages": messages, "metadata": {**_outcome(episode), "last_observation": _text(said)}}


def _outcome(episode: RecordedEpisode) -> dict[str, Any]:
    last: Mapping[str, Any] = episode.steps[-1].info
    return {
        "episode": episode.start.episode,
        "task": episode.start.task,
        "reward": episode.reward,
        "terminated": episode.steps[-1].terminated,
        "truncated": episode.steps[-1].truncated,
        "valid": episode.is_valid,
        "reason": _text(str(last.get("reason", ""))),
    }


def _was_valid(step: EpisodeStep) -> bool:
    return bool(step.info.get("graded") or step.info.get("exit_code") == 0)


def _text(text: str) -> str:
    """Return *text* as UTF-8 can hold it: an action may be half of a surrogate pair, which no model has said."""
    return text.encode("utf-8", "replace").decode()


EXPORTERS: Final = {"intercode": intercode_log, "chat": chat_lines}

__all__ = ["EXPORTERS", "FORMATS", "ExportFormat", "chat_entry", "chat_lines", "intercode_entry", "intercode_log"]
