"""Agents that ask a language model: try again, ReAct, plan and solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from codecraft_async.agents import ModelAgent
from codecraft_async.agents.errors import MalformedAnswer
from codecraft_async.evaluation.languages import Language, handicap_of
from codecraft_async.evaluation.moves import END, Move
from codecraft_async.evaluation.parsers import cut, plan_steps, read_react
from codecraft_async.evaluation.prompts import PLAN, REACT, TEMPLATES, Template, demonstrations
from codecraft_async.evaluation.records import EpisodeLog
from codecraft_async.evaluation.seats import WORTH
from codecraft_async.evaluation.tasks import EvalTask
from codecraft_async.llm import ChatModel, Sampling, Tool, ToolCall, Usage

__all__ = ["ChatRules", "PlanSolveAgent", "ReActAgent", "TryAgainAgent"]

_STOP: Final = ("\nObservation",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRules:
    """How models are asked, whichever part they play.

    `dialogue_limit` keeps the first two messages and as many of the last (None: as many as `max_history_tokens` take).
    """

    template: str = "v2"
    handicap: bool = False
    """Tell of the tables and columns of the task's database."""
    dialogue_limit: int | None = None
    max_observation_chars: int = 1000
    max_observation_rows: int = 50
    max_history_tokens: int = 24_000
    refine_turns: int = 0
    """Plan and solve: how many turns more there are when the plan is done."""
    demonstrations: Sequence[EpisodeLog] = ()
    """ReAct: solved episodes that models are shown; never one of the task that is played."""
    most_demonstrations: int = 2
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=512, temperature=0.0))

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise ValueError(f"template is {self.template!r}; it must be one of {', '.join(TEMPLATES)}")
        for name, least in (("max_observation_chars", 50), ("max_observation_rows", 1), ("refine_turns", 0)):
            value: int = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if self.dialogue_limit is not None and self.dialogue_limit < 1:
            raise ValueError(f"dialogue_limit is {self.dialogue_limit}; it must be at least 1")


class _Form:
    """The dialect of a part: it reads answers, and one without an action is a turn that is not run."""

    tools: tuple[Tool, ...] = ()

    def __init__(self, language: Language, template: Template, *, demonstrations: str = "") -> None:
        self.language = language
        self.template = template
        self.system = template.fill(template.system, language, demonstrations=demonstrations)
        self.text_form = template.fill(template.form, language)
        self.is_plan = False

    def from_text(self, text: str) -> str:
        """See `Dialect.from_text`; a plan is read by whoever asked for it."""
        if self.is_plan:
            return Move(text)
        move = self.read(text)
        return self.unread(text) if move is None else move

    def read(self, text: str) -> Move | None:
        """Return the action in an answer; None if there is none."""
        action = self.language.parse(text)
        return None if action is None else Move(action)

    def unread(self, text: str) -> Move:
        """Return the turn that an answer without an action is."""
        return Move(text.strip(), answer=self.template.fill(self.template.retry, self.language))

    def from_call(self, call: ToolCall) -> str:
        """See `Dialect.from_call`; there are no tools."""
        raise MalformedAnswer(f"There is no tool {call.name!r}; nothing was done. {self.text_form}")


class _ReActForm(_Form):
    def read(self, text: str) -> Move | None:
        return read_react(text, self.language.parse)


class _ChatAgent:
    """What the parts have in common: one model, what is said to it, and what it used."""

    def __init__(self, model: ChatModel, task: EvalTask, language: Language, rules: ChatRules, form: _Form) -> None:
        self._task = task
        self._language = language
        self._rules = rules
        self._form = form
        self._used_before = Usage()
        self._last: Move | None = None
        sampling = replace(rules.sampling, stop=_STOP) if isinstance(form, _ReActForm) else rules.sampling
        self._model = ModelAgent(
            model,
            dialect=form,
            max_history_tokens=rules.max_history_tokens,
            max_history_messages=rules.dialogue_limit,
            sampling=sampling,
            episode=task.name,
        )

    @property
    def usage(self) -> Usage:
        """What the episode's answers used."""
        return self._used_before + self._model.usage

    def _begin(self, message: str) -> None:
        self._used_before, self._last = Usage(), None
        self._model.begin(message)

    def _begin_again(self, message: str) -> None:
        """Begin another conversation of the same episode; what the one before used is not forgotten."""
        self._used_before = self.usage
        self._model.begin(message)

    async def _ask(self, message: str, info: dict[str, Any]) -> Move:
        """Say *message*, which is ignored at the beginning of a conversation, and return the answer."""
        answer = await self._model.act(message, info)
        self._last = answer if isinstance(answer, Move) else Move(answer)
        return self._last

    def _fill(self, text: str, **fields: str) -> str:
        return self._form.template.fill(text, self._language, **fields)

    def _handicap(self) -> str:
        tables = handicap_of(self._task.extras) if self._rules.handicap else ""
        return f"\n\n{tables}" if tables else ""

    def _cut(self, observation: str) -> str:
        rules = self._rules
        shown = cut(observation, max_chars=rules.max_observation_chars, max_rows=rules.max_observation_rows)
        return shown.strip("\n") or "(no output)"


class TryAgainAgent(_ChatAgent):
    """Sees after each action what it printed and what the state is worth, and tries again until that is 1."""

    def __init__(self, model: ChatModel, task: EvalTask, language: Language, rules: ChatRules | None = None) -> None:
        rules = rules or ChatRules()
        self._template = TEMPLATES[rules.template]
        super().__init__(model, task, language, rules, _Form(language, self._template))
        self._tries = self._instruction = ""

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        self._tries, self._instruction = "", instruction
        self._begin(self._query())

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`."""
        if self._last is None:  # the first observation is the instruction
            return await self._ask("", info)
        told = self._told(self._last, observation, info)
        if not self._template.repeats:
            return await self._ask(told, info)
        self._tries += f"\n\nAction: {self._last}\n{told}"
        self._begin_again(self._query())
        return await self._ask("", info)

    def _query(self) -> str:
        fields = {"query": self._instruction, "handicap": self._handicap(), "tries": self._tries}
        return self._fill(self._template.query, **fields)

    def _told(self, last: Move, observation: str, info: dict[str, Any]) -> str:
        if last.answer is not None:
            return observation
        return self._fill(self._template.observation, output=self._cut(observation), reward=_reward(info)).rstrip()


class ReActAgent(_ChatAgent):
    """Writes a thought and an action in each turn, and submits when it is done; it sees no rewards."""

    def __init__(self, model: ChatModel, task: EvalTask, language: Language, rules: ChatRules | None = None) -> None:
        rules = rules or ChatRules()
        examples = demonstrations(rules.demonstrations, task.query, rules.most_demonstrations)
        super().__init__(model, task, language, rules, _ReActForm(language, REACT, demonstrations=examples))
        self._turns = 0

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        self._turns = 0
        self._begin(self._fill(REACT.query, query=instruction, handicap=self._handicap()))

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`."""
        if self._last is None:
            return await self._ask("", info)
        self._turns += 1
        if self._last.answer is not None:
            return await self._ask(observation, info)
        told = self._fill(REACT.observation, number=str(self._turns), output=self._cut(observation))
        return await self._ask(told, info)


class PlanSolveAgent(_ChatAgent):
    """Writes a plan, then an action for each of its steps, and then, with `refine_turns`, what is still missing."""

    def __init__(self, model: ChatModel, task: EvalTask, language: Language, rules: ChatRules | None = None) -> None:
        rules = rules or ChatRules()
        super().__init__(model, task, language, rules, _Form(language, TEMPLATES["v4"]))
        self._instruction = ""
        self._steps: list[str] = []
        self._done = self._refined = 0

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        self._instruction, self._steps, self._done, self._refined = instruction, [], 0, 0
        self._form.is_plan = True
        self._begin(self._fill(PLAN.ask, query=instruction, handicap=self._handicap()))

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`."""
        if not self._steps:
            self._steps = plan_steps(await self._ask("", info)) or [self._instruction]
            self._form.is_plan = False
            return await self._step("", info)
        assert self._last is not None
        if self._last.answer is not None:
            return await self._step(f"{observation}\n\n", info)  # the same one again
        self._done += 1
        outcome = PLAN.outcome.format(output=self._cut(observation))
        if self._done < len(self._steps):
            return await self._step(outcome, info)
        self._refined += 1
        if self._refined > self._rules.refine_turns:
            return END
        return await self._ask(outcome + self._fill(PLAN.refine, reward=_reward(info)), info)

    async def _step(self, before: str, info: dict[str, Any]) -> Move:
        if self._done >= len(self._steps):  # a refinement without an action
            return await self._ask(before, info)
        step = self._steps[self._done]
        message = self._fill(PLAN.step, number=str(self._done + 1), step=step)
        move = await self._ask(before + message, info)
        return Move(move, answer=move.answer, thought=move.thought, step=step)


def _reward(info: Mapping[str, Any]) -> str:
    """Return the sentence that tells what the last action was worth; empty where nobody knows yet."""
    worth = info.get(WORTH)
    return "" if worth is None else f"Reward: {worth:.2f}\n"
