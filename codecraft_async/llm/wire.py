"""The OpenAI chat protocol as bytes: a request's body, and what a response's status, headers and body mean. No I/O."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from codecraft_async.llm.errors import (
    ContextTooLong,
    EndpointError,
    KeyRejected,
    MalformedReply,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
)
from codecraft_async.llm.messages import (
    ChatReply,
    Message,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
    estimate_usage,
)

_SHOWN_CHARS: Final = 300
_MAX_TOKENS_COUNTED: Final = 1 << 40
_MAX_CALLS: Final = 128
_TOO_LONG: Final = ("context_length_exceeded", "string_above_max_length")
_TOO_LONG_TEXTS: Final = ("maximum context length", "context window", "context length", "prompt is too long")


def request_fields(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    *,
    model: str,
    sampling: Sampling,
    tool_choice: ToolChoice,
    max_tokens_field: str = "max_tokens",
) -> dict[str, Any]:
    """Return the fields of a request."""
    fields: dict[str, Any] = {"model": model, "messages": [_message_fields(message) for message in messages]}
    if tools:
        fields["tools"] = [tool_fields(tool) for tool in tools]
        fields["tool_choice"] = tool_choice
    fields[max_tokens_field] = sampling.max_tokens
    for name in ("temperature", "top_p", "seed"):
        if (value := getattr(sampling, name)) is not None:
            fields[name] = value
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    return fields | dict(sampling.extra)


def tool_fields(tool: Tool) -> dict[str, Any]:
    """Return a tool as a request has it."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _message_fields(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": _encodable(message.content)}
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _encodable(call.arguments)},
            }
            for call in message.tool_calls
        ]
        fields["content"] = fields["content"] or None
    if message.role == "tool":
        fields["tool_call_id"] = message.tool_call_id
    return fields


def _encodable(text: str) -> str:
    """Return *text* without halves of surrogate pairs, which JSON cannot carry."""
    return text.encode("utf-8", "replace").decode()


def read_reply(body: bytes, *, content_type: str, messages: Sequence[Message], tools: Sequence[Tool]) -> ChatReply:
    """Return what a successful response's body says.

    Raises:
        MalformedReply: It is no chat completion, or one without an answer in it.
    """
    if "json" not in content_type.lower():
        raise MalformedReply(
            f"it sent {content_type or 'no content type'!r} where JSON was due: {shown(body)}", status=200
        )
    try:
        fields: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedReply(f"it sent what is not valid JSON ({error}): {shown(body)}", status=200) from None
    if not isinstance(fields, dict):
        raise MalformedReply(f"it sent JSON that is no object: {shown(body)}", status=200)
    if "choices" not in fields and isinstance(fields.get("error"), dict | str):
        # Some gateways report the failure of the server behind them in a response that says success.
        raise MalformedReply(f"it sent an error as a success: {_error_text(fields)}", status=200)
    choice = _first(fields, "choices")
    message = choice.get("message")
    if not isinstance(message, dict):
        raise MalformedReply("its first choice has no message", status=200)
    text = _text_of(message)
    calls = _calls_of(message)
    finish_reason = choice.get("finish_reason")
    return ChatReply(
        text=text,
        tool_calls=calls,
        usage=_usage_of(fields.get("usage"), messages, tools, text, calls),
        finish_reason=finish_reason if isinstance(finish_reason, str) else "",
        model=fields["model"] if isinstance(fields.get("model"), str) else "",
    )


def _first(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    values = fields.get(name)
    if not isinstance(values, list) or not values:
        raise MalformedReply(f"it sent no {name}", status=200)
    if not isinstance(values[0], dict):
        raise MalformedReply(f"the first of its {name} is no object", status=200)
    return values[0]


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or ""
    if isinstance(content, list):  # in parts, as some endpoints send it
        content = "".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if not isinstance(content, str):
        raise MalformedReply("the content of its message is no text", status=200)
    return content


def _calls_of(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, list | tuple):
        raise MalformedReply("the tool calls of its message are no list", status=200)
    if len(calls) > _MAX_CALLS:
        raise MalformedReply(f"it sent {len(calls)} tool calls in one message, more than {_MAX_CALLS}", status=200)
    return tuple(_call_of(call, number) for number, call in enumerate(calls))


def _call_of(call: object, number: int) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise MalformedReply(f"its tool call {number} has no function with a name", status=200)
    arguments = function.get("arguments")
    if isinstance(arguments, dict):  # some servers send them parsed
        arguments = orjson.dumps(arguments).decode()
    if arguments is not None and not isinstance(arguments, str):
        raise MalformedReply(f"the arguments of its tool call {number} are no text", status=200)
    call_id = call.get("id")
    return ToolCall(
        id=call_id if isinstance(call_id, str) and call_id else f"call_{number}",
        name=function["name"],
        arguments=arguments or "",
    )


def _usage_of(
    usage: object, messages: Sequence[Message], tools: Sequence[Tool], text: str, calls: Sequence[ToolCall]
) -> Usage:
    if isinstance(usage, dict):
        prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        if prompt and completion is not None:  # no prompt takes 0 tokens: a server that says so does not count
            return Usage(prompt, completion)
    return estimate_usage(messages, tools, text, calls)


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _MAX_TOKENS_COUNTED else None


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> EndpointError:
    """Return the error that a response which is no success stands for."""
    try:
        fields: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = None
    said = _error_text(fields) if isinstance(fields, dict) else shown(body)
    code = _error_code(fields)
    kind = _kind_of(status, code, said)
    hint = ""
    if kind is KeyRejected:
        hint = "; check the key (OPENAI_API_KEY in the environment or in .env) and what it may use"
    elif kind is QuotaExhausted:
        hint = "; the account needs credit"
    elif 300 <= status < 400:
        hint = f"; it redirects to {shown(headers.get('Location', '?').encode())}: give that as the base URL"
    elif status == 404:
        hint = "; check the base URL (it usually ends in /v1) and the name of the model"
    return kind(f"it answered {status}: {said or 'nothing more'}{hint}", status=status, retry_after_s=wait_of(headers))


def _kind_of(status: int, code: str, said: str) -> type[EndpointError]:
    if code == "insufficient_quota":
        return QuotaExhausted
    if status == 429:
        return RateLimited
    if status >= 500 or status == 408:
        return ServerFailed
    if status in (401, 403):
        return KeyRejected
    if status == 402:
        return QuotaExhausted
    is_too_long = code in _TOO_LONG or any(text in said.lower() for text in _TOO_LONG_TEXTS)
    return ContextTooLong if status in (400, 413) and is_too_long else RequestRejected


def _error_code(fields: object) -> str:
    error = fields.get("error") if isinstance(fields, dict) else None
    if not isinstance(error, dict):
        return ""
    return next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), "")


def _error_text(fields: Mapping[str, Any]) -> str:
    error = fields.get("error", fields.get("message", fields.get("detail", fields)))
    text = error.get("message") if isinstance(error, dict) else error
    return shown((text if isinstance(text, str) else str(error)).encode("utf-8", "replace"))


def wait_of(headers: Mapping[str, str], *, now: Callable[[], float] = time.time) -> float | None:
    """Return how many seconds the headers ask to wait, if they do: in milliseconds, in seconds, or as a date."""
    for name, unit_s in (("Retry-After-Ms", 1e-3), ("Retry-After", 1.0)):
        if (text := headers.get(name)) is None:
            continue
        try:
            wait_s = float(text) * unit_s
        except ValueError:
            try:
                wait_s = parsedate_to_datetime(text).timestamp() - now()
            except (ValueError, OverflowError):
                continue
        if math.isfinite(wait_s):
            return max(0.0, wait_s)
    return None


def shown(data: bytes) -> str:
    """Return a printable piece of *data* on one line."""
    text = data[: 4 * _SHOWN_CHARS].decode("utf-8", "replace")
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 3]}..."


__all__ = ["read_error", "read_reply", "request_fields", "shown", "tool_fields", "wait_of"]
