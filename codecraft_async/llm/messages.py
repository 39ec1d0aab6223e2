"""The values of a chat: messages, tools, calls of tools, replies, and what they use. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict, Unpack

import orjson

Role = Literal["system", "user", "assistant", "tool"]
ToolChoice = Literal["auto", "required", "none"]

# English and code come to about four characters a token; three is on the safe side of most texts. Used where nobody has
# counted yet: for limits ahead of a request, and for a server that does not say.
_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 8


class MalformedArguments(ValueError):
    """What a model gave as the arguments of a tool is no JSON object; the message is fit for the model to read."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool run. `arguments` is what the model wrote: JSON if all is well."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any]:
        """Return the arguments.

        Raises:
            MalformedArguments: They are no JSON object.
        """
        try:
            value: object = orjson.loads(self.arguments or "{}")
        except orjson.JSONDecodeError as error:
            raise MalformedArguments(f"the arguments of {self.name!r} are not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise MalformedArguments(f"the arguments of {self.name!r} must be a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat. `tool_calls` are an assistant's; `tool_call_id` names the call that a tool answers."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def tokens(self) -> int:
        """About how many tokens it takes."""
        called = sum(estimate_tokens(call.name) + estimate_tokens(call.arguments) for call in self.tool_calls)
        return _TOKENS_PER_MESSAGE + estimate_tokens(self.content) + called


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call; `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class Usage:
    """How many tokens were used; `is_estimate` where the endpoint did not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimate: bool = False

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.is_estimate or other.is_estimate,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.is_estimate,
        )


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A model's answer: text, calls of tools, or both."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    finish_reason: str = ""
    """"stop", "length" (cut at its limit of tokens), "tool_calls", or what else the endpoint said."""
    model: str = ""
    """The model that answered, as the endpoint names it."""
    is_cached: bool = False
    """Whether it came from the cache; its `usage` was paid for before."""

    def as_message(self) -> Message:
        """Return it as the assistant's message in a further request."""
        return Message("assistant", self.text, self.tool_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn; what is None is left to the endpoint.

    `max_tokens` bounds every answer, so that a budget can be kept. `extra` goes into the request as it is, for what
    only some endpoints know.
    """

    max_tokens: int = 2048
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")


class ChatOptions(TypedDict, total=False):
    """The keyword arguments of `ChatModel.chat`; each may be left out."""

    tool_choice: ToolChoice
    """Whether the model may, must or must not call a tool ("auto")."""
    sampling: Sampling | None
    """How the answer is drawn; by default as the model was set up."""
    salt: str
    """Part of what an answer is kept under in a cache: questions with another salt get answers of their own."""
    fair_key: str
    """Calls of one key take turns with those of others."""
    limit_s: float | None
    """How long the call may take in all, in seconds; by default as the model was set up."""


class ChatModel(Protocol):
    """Whatever answers a chat: a `ChatClient`, LangChain's models behind an adapter, or a test's function."""

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the model's answer; see `ChatClient.chat`."""
        ...


def estimate_tokens(text: str) -> int:
    """Return about how many tokens *text* takes, rather too many than too few."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def estimate_prompt(messages: Sequence[Message], tools: Sequence[Tool]) -> int:
    """Return about how many tokens a request's messages and tools take."""
    described = sum(
        estimate_tokens(tool.name + tool.description) + estimate_tokens(str(tool.parameters)) for tool in tools
    )
    return described + sum(message.tokens for message in messages)


def estimate_usage(messages: Sequence[Message], tools: Sequence[Tool], text: str, calls: Sequence[ToolCall]) -> Usage:
    """Return about what a request and its answer used, where nobody has counted."""
    said = estimate_tokens(text) + sum(estimate_tokens(call.name + call.arguments) for call in calls)
    return Usage(estimate_prompt(messages, tools), said, is_estimate=True)


__all__ = [
    "ChatModel",
    "ChatOptions",
    "ChatReply",
    "MalformedArguments",
    "Message",
    "Role",
    "Sampling",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "Usage",
    "estimate_prompt",
    "estimate_tokens",
    "estimate_usage",
]
