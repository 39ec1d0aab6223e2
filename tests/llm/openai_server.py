"""A real HTTP server on loopback that speaks the OpenAI chat protocol, and fails in every way that a test asks for.

It checks what it is asked as strictly as OpenAI's does: an answer of a tool that follows no call of it is refused.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from aiohttp import web

KEY = "sk-loopback-0123456789"
MODEL = "test-model"

Asked = dict[str, Any]
Behaviour = Callable[[web.Request, Asked], Awaitable[web.StreamResponse]]


def says(text: str, **more: Any) -> Behaviour:
    """Answer with *text*; *more* are fields of the completion that are different."""
    return sends(completion({"role": "assistant", "content": text}, **more))


def calls(*wanted: tuple[str, object], text: str | None = None) -> Behaviour:
    """Answer with calls of tools: names and arguments, which may be text that is no JSON."""
    tool_calls = [
        {
            "id": f"call-{number}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
            },
        }
        for number, (name, arguments) in enumerate(wanted)
    ]
    message = {"role": "assistant", "content": text, "tool_calls": tool_calls}
    return sends(completion(message, finish_reason="tool_calls"))


def completion(message: Mapping[str, Any], *, finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    """A completion as OpenAI sends it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": f"{MODEL}-2026",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    } | more


def sends(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answer with *content* as JSON."""

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        return web.json_response(content, status=status, headers=headers)

    return answer


def sends_text(text: str, content_type: str = "application/json", *, status: int = 200) -> Behaviour:
    """Answer with *text*, whatever it is."""

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type, status=status)

    return answer


def fails(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Behaviour:
    """Answer with an error as OpenAI sends it; the names of *headers* have `_` for `-`."""
    error = {"error": {"message": message, "type": "some_error", "code": code}}
    return sends(error, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def echoes_the_key(status: int) -> Behaviour:
    """Answer with an error that quotes the key, as some servers do."""

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        text = "x" * 280 + request.headers["Authorization"]
        return web.json_response({"error": {"message": f"{text} {text}"}}, status=status)

    return answer


def cuts(body: bytes = b'{"choices": [{"mess') -> Behaviour:
    """Announce more than *body*, send that, and cut the connection."""

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "9999"})
        await response.prepare(request)
        await response.write(body)
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def hangs_up() -> Behaviour:
    """Close the connection without a word."""

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    return answer


def slowly(behaviour: Behaviour, delay_s: float = 0.01) -> Behaviour:
    """Behave so after a while."""

    async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(delay_s)
        return await behaviour(request, asked)

    return answer


async def until(happened: Callable[[], object]) -> None:
    """Return as soon as *happened* says so."""
    async with asyncio.timeout(10.0):
        while not happened():  # noqa: ASYNC110  # what it looks at has no event
            await asyncio.sleep(0.001)


class OpenAIServer:
    """Plays *script*, one behaviour for each request, then *otherwise* for all others.

    `asked` holds the fields of all requests, `headers` their headers; `under_way` and `most_at_once` count.
    """

    def __init__(self, *script: Behaviour, otherwise: Behaviour | None = None, key: str = KEY) -> None:
        self.script = deque(script)
        self.otherwise = otherwise or says("ok")
        self.asked: list[Asked] = []
        self.headers: list[Mapping[str, str]] = []
        self.under_way = 0
        self.most_at_once = 0
        self.base_url = ""
        self.closing = asyncio.Event()
        self._key = key
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.closing.set()
        assert self._runner is not None
        await self._runner.cleanup()

    def hangs(self) -> Behaviour:
        """Answer nothing until the server is closed."""

        async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
            await self.closing.wait()
            return web.Response()

        return answer

    def hangs_midway(self) -> Behaviour:
        """Send the beginning of an answer, and no more."""

        async def answer(request: web.Request, asked: Asked) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(b'{"choices": [')
            await self.closing.wait()
            return response

        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            asked: Asked = await request.json()
            self.asked.append(asked)
            self.headers.append(request.headers)
            if request.headers.get("Authorization", "") != (f"Bearer {self._key}" if self._key else ""):
                return await fails(401, "Incorrect API key provided.", code="invalid_api_key")(request, asked)
            if problem := problem_of(asked):
                return await fails(400, problem, code="invalid_request_error")(request, asked)
            behaviour = self.script.popleft() if self.script else self.otherwise
            return await behaviour(request, asked)
        finally:
            self.under_way -= 1


def problem_of(asked: Asked) -> str:
    """What OpenAI's server would refuse in this request; empty if nothing."""
    if not isinstance(asked.get("model"), str) or not asked.get("messages"):
        return "you must provide a model parameter and messages"
    open_calls: list[str] = []
    for message in asked["messages"]:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                return "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            return f"an assistant message with 'tool_calls' must be followed by tool messages: {open_calls}"
        if message["role"] not in ("system", "user", "assistant"):
            return f"unknown role {message['role']!r}"
        if message.get("content") is None and not message.get("tool_calls"):
            return "content may only be null if there are tool calls"
        open_calls = [call["id"] for call in message.get("tool_calls", ())]
        for call in message.get("tool_calls", ()):
            if call["type"] != "function" or not isinstance(call["function"]["arguments"], str):
                return "a tool call is a function with arguments as text"
    return f"unanswered tool calls: {open_calls}" if open_calls else ""
