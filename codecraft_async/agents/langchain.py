"""LangChain's chat models as agents, and a `ChatClient` as a chat model of LangChain's. Needs the extra ``langchain``.

`LangChainAgent` plays with any chat model of LangChain's. `ClientChatModel` is one whose answers come through a
`ChatClient`: chains and agents of LangChain's then keep the client's limits, budget and cache.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Unpack

from codecraft_async.agents.errors import AgentFailed
from codecraft_async.agents.model import ModelAgent
from codecraft_async.llm import (
    ChatClient,
    ChatOptions,
    ChatReply,
    DeadlineExceeded,
    LlmConfigurationError,
    LlmError,
    Message,
    Sampling,
    Tool,
    ToolCall,
    Usage,
)
from codecraft_async.llm.messages import ToolChoice, estimate_usage
from codecraft_async.llm.wire import tool_fields

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from pydantic import ConfigDict
except ImportError as error:
    raise LlmConfigurationError(
        f"LangChain is not installed ({error.name} is missing): pip install 'codecraft-async[langchain]'"
    ) from error

_LIMIT_S = 600.0


class LangChainChat:
    """A chat model of LangChain's, as `codecraft_async.llm.ChatModel`. How answers are drawn is set on that model."""

    def __init__(self, model: BaseChatModel) -> None:
        self._model = model

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the model's answer; see `ChatModel.chat`. Salt, fair key and the rest of the sampling mean something
        to a `ClientChatModel` only.

        Raises:
            DeadlineExceeded: It did not come in time.
            AgentFailed: LangChain or the model failed; an error of a `ChatClient` below comes as it is.
        """
        runnable: Runnable[Any, AIMessage] = self._model
        if tools:
            choice = options.get("tool_choice", "auto")
            runnable = self._model.bind_tools([tool_fields(tool) for tool in tools], tool_choice=choice)
        sampling, limit_s = options.get("sampling"), options.get("limit_s") or _LIMIT_S
        drawn: dict[str, Any] = {"stop": list(sampling.stop)} if sampling is not None and sampling.stop else {}
        if isinstance(self._model, ClientChatModel):
            drawn = {name: options.get(name) for name in ("sampling", "salt", "fair_key") if name in options}
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                answer = await runnable.ainvoke([to_langchain(message) for message in messages], **drawn)
        except LlmError:
            raise
        except Exception as error:  # whatever a provider's package raises
            if limit.expired():
                raise DeadlineExceeded(
                    f"LangChain's {type(self._model).__name__} gave no answer within {limit_s:g} s"
                ) from None
            raise AgentFailed(f"LangChain's {type(self._model).__name__} failed: {type(error).__name__}") from error
        return reply_of(answer, messages, tools or ())


class LangChainAgent(ModelAgent):
    """A chat model of LangChain's plays; *options* are those of `ModelAgent`, with function calling by default."""

    def __init__(self, model: BaseChatModel, *, use_tools: bool = True, **options: Any) -> None:
        super().__init__(LangChainChat(model), use_tools=use_tools, **options)


class ClientChatModel(BaseChatModel):
    """A chat model of LangChain's whose answers come through a `ChatClient`; only its asynchronous methods work."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    client: ChatClient

    @property
    def _llm_type(self) -> str:
        return "codecraft"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("the client is asynchronous: use ainvoke, astream or abatch")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice = "auto",
        sampling: Sampling | None = None,
        salt: str = "",
        fair_key: str = "",
        **kwargs: Any,
    ) -> ChatResult:
        if stop and sampling is None:
            sampling = Sampling(stop=tuple(stop))
        reply = await self.client.chat(
            [from_langchain(message) for message in messages],
            tools,
            tool_choice=tool_choice,
            sampling=sampling,
            salt=salt,
            fair_key=fair_key,
        )
        return ChatResult(generations=[ChatGeneration(message=_answer_of(reply))])

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """Return a model that may call *tools*, given in any form that LangChain knows."""
        bound = [_tool_of(convert_to_openai_tool(each)["function"]) for each in tools]
        choice = "required" if tool_choice == "any" else tool_choice or "auto"
        if choice not in ("auto", "required", "none"):
            raise ValueError(f"tool_choice is {tool_choice!r}; it must be 'auto', 'required', 'any' or 'none'")
        return self.bind(tools=bound, tool_choice=choice, **kwargs)


def to_langchain(message: Message) -> BaseMessage:
    """Return *message* as LangChain has it."""
    if message.role == "system":
        return SystemMessage(message.content)
    if message.role == "user":
        return HumanMessage(message.content)
    if message.role == "tool":
        return ToolMessage(message.content, tool_call_id=message.tool_call_id)
    return _answer_of(ChatReply(message.content, message.tool_calls))


def from_langchain(message: BaseMessage) -> Message:
    """Return a message of LangChain's; what is no text in it is left out."""
    text = message.text
    if isinstance(message, ToolMessage):
        return Message("tool", text, tool_call_id=message.tool_call_id)
    if isinstance(message, AIMessage):
        return Message("assistant", text, _calls_of(message))
    return Message("system" if isinstance(message, SystemMessage) else "user", text)


def reply_of(answer: AIMessage, messages: Sequence[Message], tools: Sequence[Tool]) -> ChatReply:
    """Return an answer of LangChain's as a reply; tokens that nobody counted are estimated."""
    text, calls = answer.text, _calls_of(answer)
    counted = answer.usage_metadata
    if counted is not None:
        usage = Usage(counted["input_tokens"], counted["output_tokens"])
    else:
        usage = estimate_usage(messages, tools, text, calls)
    metadata = answer.response_metadata
    return ChatReply(
        text=text,
        tool_calls=calls,
        usage=usage,
        finish_reason=str(metadata.get("finish_reason") or ""),
        model=str(metadata.get("model_name") or ""),
    )


def _calls_of(answer: AIMessage) -> tuple[ToolCall, ...]:
    calls = [
        ToolCall(call["id"] or f"call_{number}", call["name"], _as_json(call["args"]))
        for number, call in enumerate(answer.tool_calls)
    ]
    calls += [
        ToolCall(call["id"] or f"invalid_{number}", call["name"] or "", call["args"] or "{")
        for number, call in enumerate(answer.invalid_tool_calls)
    ]
    return tuple(calls)


def _as_json(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, default=str, ensure_ascii=False, separators=(",", ":"))


def _answer_of(reply: ChatReply) -> AIMessage:
    valid: list[dict[str, Any]] = []
    invalid: list[dict[str, Any]] = []
    for call in reply.tool_calls:
        try:
            valid.append({"id": call.id, "name": call.name, "args": call.parsed(), "type": "tool_call"})
        except ValueError as error:
            told = {"id": call.id, "name": call.name, "args": call.arguments, "type": "invalid_tool_call"}
            invalid.append(told | {"error": str(error)})
    usage = UsageMetadata(
        input_tokens=reply.usage.prompt_tokens,
        output_tokens=reply.usage.completion_tokens,
        total_tokens=reply.usage.total_tokens,
    )
    return AIMessage(
        content=reply.text,
        tool_calls=valid,
        invalid_tool_calls=invalid,
        usage_metadata=usage,
        response_metadata={"finish_reason": reply.finish_reason, "model_name": reply.model},
    )


def _tool_of(function: dict[str, Any]) -> Tool:
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return Tool(function["name"], function.get("description", ""), parameters)


__all__ = ["ClientChatModel", "LangChainAgent", "LangChainChat", "from_langchain", "reply_of", "to_langchain"]
