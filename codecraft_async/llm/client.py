"""`ChatClient`: asks an OpenAI-compatible endpoint, within limits, a budget and deadlines, as often as it takes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Final, Self, Unpack

import aiohttp
import orjson

from codecraft_async.llm.budget import Account, Budget
from codecraft_async.llm.cache import DiskCache, cache_key, reply_from_json, reply_to_json
from codecraft_async.llm.endpoint import Endpoint
from codecraft_async.llm.errors import (
    DeadlineExceeded,
    EndpointError,
    EndpointSilent,
    EndpointUnreachable,
    MalformedReply,
    RateLimited,
)
from codecraft_async.llm.limiter import Limiter, RateLimits
from codecraft_async.llm.messages import ChatOptions, ChatReply, Message, Sampling, Tool, Usage, estimate_prompt
from codecraft_async.llm.retrying import RetryPolicy
from codecraft_async.llm.wire import read_error, read_reply, request_fields

_MAX_REPLY_BYTES: Final = 16 << 20
_CHUNK_BYTES: Final = 1 << 16
_CLOSED: Final = "the client is closed: make a new one"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClientStats:
    """What a client has done."""

    answered: int
    from_cache: int
    attempts: int
    failed: int
    """How many calls ended with an error."""
    under_way: int
    usage: Usage
    """What all answers from the endpoint used; not those from the cache."""


@dataclass(slots=True)
class _Question:
    """One call on its way through its attempts."""

    body: bytes
    messages: Sequence[Message]
    tools: Sequence[Tool]
    prompt_tokens: int
    max_tokens: int
    fair_key: str
    last_error: EndpointError | None = None


class ChatClient:
    """Asks one model. Use it with ``async with``, on one event loop; any number of calls may be under way.

    Args:
        endpoint: Which model, where, and with which key; see `Endpoint.find`.
        limiter: Shared by all clients of the endpoint, or the limits of one of the client's own.
        budget: Shared by all that is paid from it; by default nothing is limited.
        cache: Where answers are kept; by default none is. Equal questions get equal answers then; `salt` tells apart
            those that are to be drawn anew.
        retry: When another attempt is made.
        limit_s: How long a call may take in all, with waiting and all attempts.
        attempt_limit_s: How long one attempt may take.
        sampling: How answers are drawn where a call does not say.
        max_tokens_field: The name of the bound of an answer; some models want "max_completion_tokens".
        seed: Fixes the waits between attempts, for tests.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        limiter: Limiter | RateLimits | None = None,
        budget: Budget | None = None,
        cache: DiskCache | None = None,
        retry: RetryPolicy | None = None,
        limit_s: float = 600.0,
        attempt_limit_s: float = 120.0,
        sampling: Sampling | None = None,
        max_tokens_field: str = "max_tokens",
        seed: int | None = None,
    ) -> None:
        for name, value in (("limit_s", limit_s), ("attempt_limit_s", attempt_limit_s)):
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        self.endpoint = endpoint
        self.limiter = limiter if isinstance(limiter, Limiter) else Limiter(limiter)
        self.budget = budget or Budget()
        self.cache = cache
        self._retry = retry or RetryPolicy()
        self._limit_s = limit_s
        self._attempt_limit_s = attempt_limit_s
        self._sampling = sampling or Sampling()
        self._max_tokens_field = max_tokens_field
        self._rng = random.Random(seed)
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False
        self._answered = self._from_cache = self._attempts = self._failed = self._under_way = 0
        self._usage = Usage()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; calls under way fail. Idempotent."""
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def stats(self) -> ClientStats:
        """Return what was done so far."""
        return ClientStats(self._answered, self._from_cache, self._attempts, self._failed, self._under_way, self._usage)

    def __repr__(self) -> str:
        return (
            f"<ChatClient {self.endpoint.model} at {self.endpoint.base_url}: {self._answered} answered, "
            f"{self._under_way} under way>"
        )

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the model's answer to *messages*; `ChatOptions` tells of the keyword arguments.

        With a cache and a *salt* for each episode and turn, a run that is repeated gets what it got, and no two
        episodes share an answer.

        Cancellation ends the request and gives up its places; an endpoint may bill it all the same, and the budget
        counts its prompt.

        Raises:
            BudgetExceeded, QueueFull, DeadlineExceeded: The caller's own limits.
            EndpointError: The endpoint did not answer, as often as was tried; the kind says why.
        """
        if unknown := options.keys() - ChatOptions.__annotations__.keys():
            known = ", ".join(ChatOptions.__annotations__)
            raise TypeError(
                f"unknown argument {sorted(unknown)[0]!r}; known: {known} (temperature and such are fields of Sampling)"
            )
        tools = tools or ()
        sampling = options.get("sampling") or self._sampling
        limit_s = options.get("limit_s")
        fields = request_fields(
            messages,
            tools,
            model=self.endpoint.model,
            sampling=sampling,
            tool_choice=options.get("tool_choice", "auto"),
            max_tokens_field=self._max_tokens_field,
        )
        question = _Question(
            body=orjson.dumps(fields),
            messages=messages,
            tools=tools,
            prompt_tokens=estimate_prompt(messages, tools),
            max_tokens=sampling.max_tokens,
            fair_key=options.get("fair_key", ""),
        )
        self._under_way += 1
        try:
            key = (
                ""
                if self.cache is None
                else cache_key(url=self.endpoint.url, request=fields, salt=options.get("salt", ""))
            )
            reply = await self._within(self._limit_s if limit_s is None else limit_s, question, key)
        except Exception:
            self._failed += 1
            raise
        finally:
            self._under_way -= 1
        self._answered += 1
        return reply

    async def _within(self, limit_s: float, question: _Question, key: str) -> ChatReply:
        deadline = asyncio.get_running_loop().time() + limit_s
        try:
            async with asyncio.timeout_at(deadline):
                if self.cache is None:
                    return await self._ask(question, deadline)
                return await self._ask_once(self.cache, key, question, deadline)
        except EndpointError:
            raise  # one of its kinds is a TimeoutError as well
        except TimeoutError:
            so_far = f"; the last attempt: {question.last_error}" if question.last_error is not None else ""
            if self.limiter.held_s:
                so_far += f"; the endpoint has asked all calls to wait for another {self.limiter.held_s:.0f} s"
            raise DeadlineExceeded(
                f"{self._name()}: no answer within {limit_s:g} s, waiting for its turn included{so_far}"
            ) from None

    async def _ask_once(self, cache: DiskCache, key: str, question: _Question, deadline: float) -> ChatReply:
        async with cache.one_at_a_time(key):
            kept = await cache.get(key)
            reply = None if kept is None else reply_from_json(kept)
            if reply is not None:
                self._from_cache += 1
                return reply
            reply = await self._ask(question, deadline)
            await cache.put(key, reply_to_json(reply))
            return reply

    async def _ask(self, question: _Question, deadline: float) -> ChatReply:
        async with self.budget.reserve(Usage(question.prompt_tokens, question.max_tokens)) as account:
            return await self._try(question, account, deadline)

    async def _try(self, question: _Question, account: Account, deadline: float) -> ChatReply:
        loop = asyncio.get_running_loop()
        tokens = question.prompt_tokens + question.max_tokens
        for attempt in count(1):
            async with self.limiter.slot(tokens, fair_key=question.fair_key):
                try:
                    return await self._attempt(question, account)
                except EndpointError as error:
                    failed = self._named(error, attempt)
                if isinstance(failed, RateLimited) and failed.retry_after_s is not None:
                    self.limiter.hold_off(failed.retry_after_s)  # before anybody else is let in
            question.last_error = failed
            wait_s = self._retry.wait_s(attempt, failed, self._rng)
            if wait_s is None or loop.time() + wait_s >= deadline:
                raise failed
            _logger.info("%s; another attempt in %.2f s", failed, wait_s)
            await asyncio.sleep(wait_s)
        raise AssertionError("attempts do not run out by themselves")

    async def _attempt(self, question: _Question, account: Account) -> ChatReply:
        """Make one attempt, and count what it used: what the endpoint says, or, where it may have billed what it did
        not deliver, the prompt."""
        self._attempts += 1
        used = Usage(question.prompt_tokens, 0, is_estimate=True)
        try:
            status, headers, body = await self._post(question.body)
            if status != 200:
                used = Usage()
                raise read_error(status, headers, body)
            reply = read_reply(
                body, content_type=headers.get("Content-Type", ""), messages=question.messages, tools=question.tools
            )
            used = reply.usage
        except EndpointUnreachable as error:
            if error.status == 0:  # nothing was answered
                used = Usage()
            raise
        finally:
            account.spend(used)
            self._usage += used
            self.limiter.correct(question.prompt_tokens + question.max_tokens, used.total_tokens)
        return reply

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        session = self._open()
        status = 0
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(asyncio.timeout(self._attempt_limit_s))
                response = await stack.enter_async_context(
                    session.post(self.endpoint.url, data=body, allow_redirects=False)
                )
                status = response.status
                data = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    data += chunk
                    if len(data) > _MAX_REPLY_BYTES:
                        raise MalformedReply(f"it sent more than {_MAX_REPLY_BYTES} bytes", status=status)
                redact = self.endpoint.key.redact
                headers = {name.title(): redact(text) for name, text in response.headers.items()}
                return status, headers, redact(bytes(data))
        # What aiohttp raises refers to the request and its headers: nothing of it may be chained to what is raised.
        except TimeoutError:
            raise EndpointSilent(f"no whole answer within {self._attempt_limit_s:g} s", status=status) from None
        except (aiohttp.ClientError, OSError) as error:
            if self._is_closed:
                raise RuntimeError(_CLOSED) from None
            raise EndpointUnreachable(_told(error, status), status=status) from None

    def _open(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise RuntimeError(_CLOSED)
        if self._session is None:
            headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
            if self.endpoint.key:
                headers["Authorization"] = f"Bearer {self.endpoint.key.reveal()}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),  # the limits are ours
                connector=aiohttp.TCPConnector(limit=0),  # and the limiter counts the calls
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _named(self, error: EndpointError, attempt: int) -> EndpointError:
        """Return the error with what it is about, and without the key should the endpoint have sent that back."""
        after = f" (attempt {attempt} of {self._retry.max_attempts})" if error.is_retried else ""
        text = self.endpoint.key.redact(f"{self._name()}: {error}{after}")
        return type(error)(text, status=error.status, retry_after_s=error.retry_after_s)

    def _name(self) -> str:
        return f"model {self.endpoint.model!r} at {self.endpoint.base_url}"


def _told(error: Exception, status: int) -> str:
    if status:
        return f"the connection was cut in the middle of its answer ({type(error).__name__})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"it cannot be reached: {error.strerror or type(error.os_error).__name__}"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "it closed the connection without an answer"
    return f"the request failed: {type(error).__name__}"


__all__ = ["ChatClient", "ClientStats"]
