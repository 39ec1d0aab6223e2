"""`ModelAgent`: a language model plays, with function calling or without."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

from codecraft_async.agents.dialects import Dialect, ShellDialect
from codecraft_async.agents.errors import AgentFailed, MalformedAnswer
from codecraft_async.agents.history import History
from codecraft_async.llm import ChatModel, ChatReply, ContextTooLong, Message, Sampling, ToolCall, Usage

_MAX_HALVINGS: Final = 3
_LOGGED_CHARS: Final = 500
_logger = logging.getLogger(__name__)
_CUT_OFF: Final = "Your answer was cut off at its limit of tokens; nothing was done. Answer more briefly."
_NO_CALL: Final = "Your answer calls no tool; nothing was done. Call one of the tools."


class ModelAgent:
    """Asks a model for each action, and tells it what came of that.

    With *use_tools* the actions are functions that the model calls; several calls in one answer are done one after the
    other. Otherwise the model writes an action as the dialect says. An answer without one is returned to the model with
    what is wrong, *max_malformed* times in a row at most. The conversation is cut to *max_history_tokens*, and further
    if the endpoint says that it is still too long; with *max_history_messages*, to so many besides those at its start.

    *episode* names the episode for the client: its calls take turns with those of other episodes, and with a cache an
    episode of the same name that is played again gets the same answers, as far as it observes the same.

    Raises:
        AgentFailed: By `act`: the model's answers stayed malformed.
        LlmError: By `act`: the endpoint, or the limits of the client.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        dialect: Dialect | None = None,
        use_tools: bool = False,
        max_history_tokens: int = 24_000,
        max_history_messages: int | None = None,
        max_malformed: int = 3,
        sampling: Sampling | None = None,
        episode: str = "",
    ) -> None:
        if max_history_tokens < 1000:
            raise ValueError(f"max_history_tokens is {max_history_tokens}; it must be at least 1000")
        if max_malformed < 0:
            raise ValueError(f"max_malformed is {max_malformed}; it must be at least 0")
        self._model = model
        self._dialect = dialect or ShellDialect()
        self._use_tools = use_tools
        self._max_history_tokens = max_history_tokens
        self._max_history_messages = max_history_messages
        self._max_malformed = max_malformed
        self._sampling = sampling
        self._episode = episode
        self._window_tokens = max_history_tokens
        self._history = History(())
        self._waiting: deque[tuple[ToolCall, str]] = deque()
        self._running: ToolCall | None = None
        self._asked = 0
        self.usage = Usage()
        """What the episode's answers used, those from a cache included."""

    @property
    def messages(self) -> list[Message]:
        """The whole conversation of the episode, nothing left out."""
        return [*self._history.beginning, *(message for turn in self._history.turns for message in turn)]

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        form = "" if self._use_tools else f"\n\n{self._dialect.text_form}"
        self._history = History(
            (Message("system", self._dialect.system + form), Message("user", instruction or "(empty)"))
        )
        self._window_tokens = self._max_history_tokens
        self._waiting.clear()
        self._running = None
        self._asked = 0
        self.usage = Usage()

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`."""
        del info
        if not self._history.beginning:
            raise RuntimeError("no episode has begun: call begin() before act()")
        self._take_in(observation)
        if self._waiting:
            return self._run_next()
        last = ""
        for _ in range(self._max_malformed + 1):
            reply = await self._ask()
            last = reply.text.strip()
            self._history.answer(reply.as_message())
            try:
                return self._action_of(reply)
            except MalformedAnswer as error:
                self._history.add(Message("user", str(error)))
        raise AgentFailed(
            f"{self._max_malformed + 1} answers of the model in a row held no action; the last: {last[:200]!r}"
        )

    def _take_in(self, observation: str) -> None:
        """Tell the model what came of its action. The first observation is the instruction, which it has."""
        if self._running is not None:
            self._history.add(Message("tool", observation, tool_call_id=self._running.id))
            self._running = None
        elif self._history.turns:
            self._history.add(Message("user", observation or "(no output)"))

    async def _ask(self) -> ChatReply:
        self._asked += 1
        for _ in range(_MAX_HALVINGS):
            try:
                return await self._ask_within(self._window_tokens)
            except ContextTooLong:
                self._window_tokens //= 2
        return await self._ask_within(self._window_tokens)

    async def _ask_within(self, max_tokens: int) -> ChatReply:
        reply = await self._model.chat(
            self._history.window(max_tokens, self._max_history_messages),
            self._dialect.tools if self._use_tools else None,
            sampling=self._sampling,
            salt=f"{self._episode}/{self._asked}",
            fair_key=self._episode,
        )
        self.usage += reply.usage
        _logger.debug("%s: answer %d: %r", self._episode or "episode", self._asked, reply.text[:_LOGGED_CHARS])
        return reply

    def _action_of(self, reply: ChatReply) -> str:
        is_cut_off = reply.finish_reason == "length"
        if not self._use_tools:
            try:
                return self._dialect.from_text(reply.text)
            except MalformedAnswer:
                if is_cut_off:
                    raise MalformedAnswer(_CUT_OFF) from None
                raise
        if not reply.tool_calls:
            raise MalformedAnswer(_CUT_OFF if is_cut_off else _NO_CALL)
        for call in reply.tool_calls:
            try:
                self._waiting.append((call, self._dialect.from_call(call)))
            except MalformedAnswer as error:
                self._history.add(Message("tool", str(error), tool_call_id=call.id))
        if not self._waiting:
            raise MalformedAnswer(_CUT_OFF if is_cut_off else "None of your calls could be done: see above.")
        return self._run_next()

    def _run_next(self) -> str:
        self._running, action = self._waiting.popleft()
        return action


__all__ = ["ModelAgent"]
