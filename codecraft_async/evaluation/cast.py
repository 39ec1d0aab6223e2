"""Who plays: the agents of a run, made from its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Unpack, cast

import orjson

from codecraft_async.agents import Agent, ExpertAgent
from codecraft_async.evaluation.chat_agents import ChatRules, PlanSolveAgent, ReActAgent, TryAgainAgent
from codecraft_async.evaluation.errors import SettingsError
from codecraft_async.evaluation.moves import GoldAgent, MovesAgent, ReplayAgent, gold_actions
from codecraft_async.evaluation.opening import EnvKind
from codecraft_async.evaluation.options import EvalOptions
from codecraft_async.evaluation.playing import EvalRules
from codecraft_async.evaluation.reading import read_log, read_whole
from codecraft_async.evaluation.records import SUCCESS
from codecraft_async.evaluation.tasks import EvalTask
from codecraft_async.llm import ChatClient, ChatModel, ChatOptions, ChatReply, Message, Sampling, Tool
from codecraft_curriculum import Curriculum, Dataset

__all__ = ["Cast", "CountedModel", "cast_of"]

_MAX_TURNS: Final = 10
_PARTS: Final[Mapping[str, Callable[..., Agent]]] = {
    "try-again": TryAgainAgent,
    "react": ReActAgent,
    "plan-solve": PlanSolveAgent,
}
Cast = tuple[Callable[[EvalTask], Agent], EvalRules]
"""What makes the agent of a task, and how it plays."""


def cast_of(
    options: EvalOptions,
    kind: EnvKind,
    source: Dataset | Curriculum,
    tasks: Sequence[EvalTask],
    model: ChatModel | None,
) -> Cast:
    """Return who plays *tasks* of *source* (blocking: it reads logs and scripts).

    Raises:
        SettingsError: A task has no gold, no script or no recording.
        LogError, OSError: A log cannot be read.
    """
    if options.uses_model:
        assert model is not None
        make, longest = _player(options, kind, model), _MAX_TURNS
    else:
        make, longest = _known_moves(options, kind, source, tasks)
    rules = EvalRules(
        max_turns=options.max_turns or longest,
        stop_at=None if options.agent == "replay" else SUCCESS,
        hidden_submissions=options.hides_submissions(kind),
        limit_s=options.limit_s,
    )
    return make, rules


def _player(options: EvalOptions, kind: EnvKind, model: ChatModel) -> Callable[[EvalTask], Agent]:
    shown = () if options.demonstrations is None else tuple(read_log(options.demonstrations).values())
    rules = ChatRules(
        template=options.template,
        handicap=options.handicap,
        dialogue_limit=options.dialogue_limit,
        max_observation_chars=options.max_observation_chars,
        max_observation_rows=options.max_observation_rows,
        refine_turns=options.refine_turns,
        demonstrations=shown,
        most_demonstrations=options.num_demonstrations,
        sampling=Sampling(max_tokens=options.max_answer_tokens, temperature=options.temperature),
    )
    part = _PARTS[options.agent]
    return lambda task: part(model, task, kind.language, rules)


def _known_moves(
    options: EvalOptions, kind: EnvKind, source: Dataset | Curriculum, tasks: Sequence[EvalTask]
) -> tuple[Callable[[EvalTask], Agent], int]:
    """Return what makes an agent whose actions are known, and the most turns of one."""
    if options.agent == "nothing":
        return (lambda task: MovesAgent(())), 1
    if options.agent == "replay":
        assert options.log is not None
        log = read_log(options.log)
        _must_have(tasks, {each.task_id for each in log.values()}, f"no recording in {options.log}")
        recorded = {(each.task_id, each.sample): each for each in log.values()}
        others = {each.task_id: each for each in reversed(log.values())}  # the first of each task
        longest = max(len(each.turns) for each in log.values()) or 1
        return (lambda task: ReplayAgent(recorded.get((task.id, task.sample)) or others[task.id])), longest
    if options.agent == "scripted":
        scripts = _scripts(options, tasks)
        return (lambda task: MovesAgent(scripts[task.id])), max(map(len, scripts.values())) or 1
    if isinstance(source, Curriculum):
        _must_have(tasks, {each.id for each in source.values() if each.expert}, "no expert")
        return (lambda task: ExpertAgent(source)), 1 + max(len(source[str(each.id)].expert) for each in tasks)
    _must_have(tasks, {each.index for each in source if each.gold not in ("", None)}, "no gold")
    longest = max(len(gold_actions(task, kind.name)) for task in tasks)
    return (lambda task: GoldAgent(task, kind.name)), longest


def _scripts(options: EvalOptions, tasks: Sequence[EvalTask]) -> dict[int | str, list[str]]:
    """Return the actions of each task: the same for all, or those that stand under its number or id."""
    assert options.actions is not None
    try:
        content: Any = orjson.loads(read_whole(options.actions))
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"{options.actions}: not valid JSON: {error}") from None
    by_task = content if isinstance(content, dict) else {str(task.id): content for task in tasks}
    for name, actions in cast("dict[str, Any]", by_task).items():
        if not (isinstance(actions, list) and all(isinstance(each, str) for each in actions)):
            raise SettingsError(f"{options.actions}: task {name!r}: expected a list of actions, which are texts")
    _must_have(tasks, {task.id for task in tasks if str(task.id) in by_task}, f"no script in {options.actions}")
    return {task.id: by_task[str(task.id)] for task in tasks}


def _must_have(tasks: Sequence[EvalTask], have: set[Any], what: str) -> None:
    if missing := [str(task.id) for task in tasks if task.id not in have]:
        named = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise SettingsError(f"there is {what} for task {named}: leave it out by --tasks")


class CountedModel:
    """Counts for a client's budget what a killed run has paid for: answers from the cache, of episodes that no log has
    counted."""

    def __init__(self, client: ChatClient, counted: set[str]) -> None:
        self._client = client
        self._counted = counted
        self._known: set[str] = set()

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """See `ChatClient.chat`."""
        reply = await self._client.chat(messages, tools, **options)
        salt = options.get("salt", "")
        if reply.is_cached and salt not in self._known and options.get("fair_key", "") not in self._counted:
            self._client.budget.spent += reply.usage
        self._known.add(salt)
        return reply
