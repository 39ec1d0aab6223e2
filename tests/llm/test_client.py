"""`ChatClient` against a real server on loopback: what it asks, what it makes of answers, and of their lack."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any

import pytest

from codecraft_async.llm import (
    Budget,
    BudgetExceeded,
    ChatClient,
    ChatReply,
    ContextTooLong,
    DeadlineExceeded,
    Endpoint,
    EndpointError,
    EndpointSilent,
    EndpointUnreachable,
    KeyRejected,
    LlmError,
    MalformedArguments,
    MalformedReply,
    Message,
    Prices,
    QuotaExhausted,
    RateLimited,
    RateLimits,
    RequestRejected,
    RetryPolicy,
    Sampling,
    Secret,
    ServerFailed,
    Tool,
    ToolCall,
    Usage,
)
from codecraft_async.llm import (
    client as client_module,
)
from tests.llm.openai_server import (
    KEY,
    MODEL,
    Behaviour,
    OpenAIServer,
    calls,
    completion,
    cuts,
    echoes_the_key,
    fails,
    hangs_up,
    says,
    sends,
    sends_text,
    slowly,
    until,
)

pytestmark = pytest.mark.anyio

HELLO = [Message("system", "Be brief."), Message("user", "Say hello.")]
TOOL = Tool("run", "Run a command.", {"type": "object", "properties": {"command": {"type": "string"}}})
AT_ONCE = RetryPolicy(first_wait_s=0.0, max_wait_s=0.0, max_attempts=4)


def client_of(server: OpenAIServer, **options: Any) -> ChatClient:
    """A client that tries again at once."""
    endpoint = Endpoint(MODEL, server.base_url, Secret(KEY))
    defaults: dict[str, Any] = {"retry": AT_ONCE, "seed": 1}
    return ChatClient(endpoint, **(defaults | options))


async def test_a_question_and_its_answer() -> None:
    """The request is what the protocol wants, with the key in its header; the reply says what was used."""
    async with OpenAIServer(says("Hello.")) as server, client_of(server) as client:
        reply = await client.chat(HELLO, sampling=Sampling(max_tokens=7, temperature=0.5, stop=("END",)))
    assert ChatReply("Hello.", (), Usage(10, 5), "stop", f"{MODEL}-2026") == reply
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
    expected = {"model": MODEL, "messages": messages, "max_tokens": 7, "temperature": 0.5, "stop": ["END"]}
    assert [expected] == server.asked
    assert f"Bearer {KEY}" == server.headers[0]["Authorization"]
    assert "application/json" == server.headers[0]["Content-Type"]


async def test_tools_are_offered_called_and_answered() -> None:
    """A call goes back to the model with the tool's answer, under the same id."""
    async with (
        OpenAIServer(calls(("run", {"command": "ls"})), says("One file.")) as server,
        client_of(server) as client,
    ):
        reply = await client.chat(HELLO, [TOOL], tool_choice="required")
        assert (ToolCall("call-0", "run", '{"command": "ls"}'),) == reply.tool_calls
        assert {"command": "ls"} == reply.tool_calls[0].parsed()
        answer = Message("tool", "a.txt", tool_call_id="call-0")
        assert "One file." == (await client.chat([*HELLO, reply.as_message(), answer], [TOOL])).text
    function = {"name": "run", "description": "Run a command.", "parameters": dict(TOOL.parameters)}
    assert ([{"type": "function", "function": function}], "required") == (
        server.asked[0]["tools"],
        server.asked[0]["tool_choice"],
    )


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", '"text"', "\x00"])
def test_arguments_that_are_no_object(arguments: str) -> None:
    """What a model made of its arguments is an error of its own kind, which says what is wrong."""
    with pytest.raises(MalformedArguments, match="the arguments of 'run'"):
        ToolCall("1", "run", arguments).parsed()


@pytest.mark.parametrize(
    ("behaviour", "kind", "said"),
    [
        pytest.param(fails(500, "overloaded"), ServerFailed, "it answered 500: overloaded", id="500"),
        pytest.param(sends_text("<h1>Bad gateway", "text/html", status=502), ServerFailed, "<h1>Bad", id="502"),
        pytest.param(fails(429, "slow down"), RateLimited, "it answered 429: slow down", id="429"),
        pytest.param(cuts(), EndpointUnreachable, "cut in the middle of its answer", id="cut"),
        pytest.param(hangs_up(), EndpointUnreachable, "closed the connection without an answer", id="hung-up"),
        pytest.param(sends_text("{not json"), MalformedReply, "not valid JSON .*{not json", id="garbage"),
        pytest.param(sends_text("[]"), MalformedReply, "JSON that is no object", id="array"),
        pytest.param(sends_text("<html>", "text/html"), MalformedReply, "it sent 'text/html.*' where JSON", id="html"),
        pytest.param(sends(completion({}) | {"choices": []}), MalformedReply, "it sent no choices", id="no-choices"),
        pytest.param(sends({"choices": [{}]}), MalformedReply, "has no message", id="no-message"),
        pytest.param(sends({"choices": [7]}), MalformedReply, "choices is no object", id="odd-choice"),
        pytest.param(sends(completion({"content": 3})), MalformedReply, "is no text", id="odd-content"),
        pytest.param(sends(completion({"tool_calls": [{}]})), MalformedReply, "tool call 0 has no", id="odd-call"),
        pytest.param(
            sends(completion({"tool_calls": [{"function": {"name": "run"}}] * 129})),
            MalformedReply,
            "it sent 129 tool calls in one message, more than 128",
            id="calls-without-end",
        ),
        pytest.param(sends({"error": {"message": "upstream"}}), MalformedReply, "as a success: upstream", id="error"),
    ],
)
async def test_what_may_go_better_is_tried_again(behaviour: Behaviour, kind: type[EndpointError], said: str) -> None:
    """Another attempt follows such an answer; when all have failed, the last error says what, where and how often."""
    async with OpenAIServer(behaviour, says("Hello.")) as server, client_of(server) as client:
        assert "Hello." == (await client.chat(HELLO)).text
        assert (2, 1) == (len(server.asked), client.stats().answered)
        server.otherwise = behaviour
        with pytest.raises(kind, match=said) as caught:
            await client.chat(HELLO)
    assert f"model 'test-model' at {server.base_url}: " in str(caught.value)
    assert str(caught.value).endswith("(attempt 4 of 4)")
    assert 6 == len(server.asked)


@pytest.mark.parametrize(
    ("behaviour", "kind", "said"),
    [
        (fails(400, "no such field"), RequestRejected, "it answered 400: no such field"),
        (fails(400, "too much", code="context_length_exceeded"), ContextTooLong, "it answered 400: too much"),
        (fails(403, "not yours"), KeyRejected, "check the key"),
        (fails(404, "no such model"), RequestRejected, "check the base URL .* and the name of the model"),
        (fails(429, "pay", code="insufficient_quota"), QuotaExhausted, "the account needs credit"),
        (fails(302, Location="http://127.0.0.1:1/"), RequestRejected, "redirects to http://127.0.0.1:1/"),
    ],
)
async def test_what_cannot_go_better_is_told_at_once(
    behaviour: Behaviour, kind: type[EndpointError], said: str
) -> None:
    """One attempt, and an error that says what to do."""
    async with OpenAIServer(otherwise=behaviour) as server, client_of(server) as client:
        with pytest.raises(kind, match=said):
            await client.chat(HELLO)
    assert 1 == len(server.asked)


async def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of it is bounded."""
    monkeypatch.setattr(client_module, "_MAX_REPLY_BYTES", 100_000)
    async with OpenAIServer(otherwise=sends_text("x" * 300_000)) as server, client_of(server) as client:
        with pytest.raises(MalformedReply, match="it sent more than 100000 bytes"):
            await client.chat(HELLO)


async def test_an_endpoint_that_is_nowhere() -> None:
    """Nothing listens: that is said after all attempts, and costs nothing."""
    async with OpenAIServer() as server:
        url = server.base_url
    async with ChatClient(Endpoint(MODEL, url), retry=AT_ONCE) as client:
        with pytest.raises(EndpointUnreachable, match="it cannot be reached"):
            await client.chat(HELLO)
        assert Usage() == client.stats().usage
        assert 4 == client.stats().attempts


@pytest.mark.parametrize("kind", ["hangs", "hangs_midway"])
async def test_an_endpoint_that_hangs(kind: str) -> None:
    """An attempt ends at its limit and another is made; what hung is counted as the prompt, which may be billed."""
    async with OpenAIServer(otherwise=says("Hello.")) as server:
        server.script.append(getattr(server, kind)())
        async with client_of(server, attempt_limit_s=0.1) as client:
            assert "Hello." == (await client.chat(HELLO)).text
            assert client.stats().usage.is_estimate
            assert 10 < client.stats().usage.prompt_tokens
            server.otherwise = server.hangs()
            with pytest.raises(EndpointSilent, match=r"no whole answer within 0\.1 s \(attempt 4 of 4\)"):
                await client.chat(HELLO)


async def test_a_call_has_a_limit_over_all_attempts() -> None:
    """It holds while the endpoint hangs, and tells of the attempt before."""
    async with OpenAIServer(fails(500, "first")) as server:
        server.otherwise = server.hangs()
        async with client_of(server) as client:
            with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s.*the last attempt: .*500: first"):
                await client.chat(HELLO, limit_s=0.3)


async def test_a_wait_beyond_the_limit_is_not_begun() -> None:
    """An endpoint that asks for an hour is told of at once."""
    async with OpenAIServer(otherwise=fails(429, "later", Retry_After="3600")) as server, client_of(server) as client:
        with pytest.raises(RateLimited, match="later") as caught:
            await client.chat(HELLO, limit_s=60.0)
    assert (3600.0, 429) == (caught.value.retry_after_s, caught.value.status)


async def test_an_endpoint_that_asks_to_wait_is_obeyed() -> None:
    """The call goes on when the time is over."""
    async with OpenAIServer(fails(429, Retry_After_Ms="20")) as server, client_of(server) as client:
        assert "ok" == (await client.chat(HELLO)).text
        assert 1 == client.limiter.stats().held_off
    assert 2 == len(server.asked)


async def test_an_endpoint_that_asks_to_wait_holds_everybody_off() -> None:
    """Calls that were not refused themselves wait as well: they would be refused next."""
    async with OpenAIServer(fails(429, Retry_After="3600")) as server, client_of(server) as client:
        with pytest.raises(RateLimited):
            await client.chat(HELLO)
        with pytest.raises(
            DeadlineExceeded, match=r"included; the endpoint has asked all calls to wait for another 3\d\d\d s$"
        ):
            await client.chat(HELLO, limit_s=0.05)
    assert 1 == len(server.asked)


async def test_no_more_calls_at_once_than_allowed() -> None:
    """Fifty questions, three under way at any time."""
    limits = RateLimits(max_concurrency=3)
    async with OpenAIServer(otherwise=slowly(says("ok"))) as server, client_of(server, limiter=limits) as client:
        replies = await asyncio.gather(*(client.chat(HELLO) for _ in range(50)))
    assert {"ok"} == {reply.text for reply in replies}
    assert (50, 3) == (len(server.asked), server.most_at_once)


async def test_a_cancelled_call_leaves_its_places() -> None:
    """The request is ended, its reservation and its place are free, and its prompt is counted as spent."""
    async with OpenAIServer() as server:
        server.script.append(server.hangs())
        async with client_of(server, limiter=RateLimits(max_concurrency=1)) as client:
            call = asyncio.create_task(client.chat(HELLO))
            await until(lambda: server.under_way)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (0, 0) == (client.limiter.stats().under_way, client.stats().under_way)
            assert Usage() == client.budget.stats().reserved
            assert 0 < client.budget.spent.prompt_tokens
            assert "ok" == (await client.chat(HELLO)).text


async def test_a_budget_ends_calls_with_a_clear_error() -> None:
    """What the answers used is counted at the prices, and no call is begun that may cost more than is left."""
    budget = Budget(max_cost=0.001, prices=Prices(prompt_per_million=10.0, completion_per_million=100.0))
    async with OpenAIServer() as server, client_of(server, budget=budget, sampling=Sampling(max_tokens=3)) as client:
        await client.chat(HELLO)
        assert Usage(10, 5) == budget.spent
        assert pytest.approx(0.0006) == budget.cost
        with pytest.raises(BudgetExceeded, match=r"0\.0006 of 0\.001 is spent, and this call may cost 0\.000"):
            await client.chat(HELLO)
    assert 1 == len(server.asked)


@pytest.mark.parametrize(
    "counted",
    [
        None,
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": -10, "completion_tokens": 5},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": 1 << 62},
    ],
)
async def test_a_server_that_does_not_count(counted: object) -> None:
    """The tokens are estimated, and the usage says so: no budget is kept with numbers that cannot be."""
    counts = completion({"role": "assistant", "content": "Hello."}, usage=counted)
    async with OpenAIServer(sends(counts)) as server, client_of(server) as client:
        usage = (await client.chat(HELLO)).usage
    assert (True, 2) == (usage.is_estimate, usage.completion_tokens)


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]},
        {"content": None, "refusal": "Hello."},
        {"content": "Hello.", "tool_calls": None},
    ],
)
async def test_shapes_that_servers_differ_in(message: dict[str, Any]) -> None:
    """Content in parts, a refusal, and null where a list is due are understood."""
    async with OpenAIServer(sends(completion(message))) as server, client_of(server) as client:
        assert ("Hello.", ()) == ((reply := await client.chat(HELLO)).text, reply.tool_calls)


async def test_the_key_shows_itself_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Not in the repr, logs, errors or their tracebacks, though the server quotes it and the connection fails."""
    caplog.set_level(logging.DEBUG)
    script = (echoes_the_key(500), echoes_the_key(429), cuts(), hangs_up(), sends_text(KEY), echoes_the_key(401))
    async with OpenAIServer(*script) as server:
        async with client_of(server, retry=RetryPolicy(first_wait_s=0.0, max_attempts=9)) as client:
            with pytest.raises(KeyRejected) as caught:
                await client.chat(HELLO)
    assert 6 == len(server.asked)
    assert "another attempt" in caplog.text
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    told += repr(client) + repr(client.endpoint) + repr(client.stats())
    assert KEY not in told and KEY[:-4] not in told
    assert caught.value.__cause__ is None


def escaped(key: str) -> str:
    """The key as JSON may spell it."""
    return "".join(f"\\u{ord(char):04X}" if char == "-" else char for char in key)


@pytest.mark.parametrize("times", [1, 2], ids=["in a text", "in a text within a text"])
async def test_the_key_does_not_come_back_in_an_answer(times: int) -> None:
    """Though the server spells it with escapes, in the text and in the arguments of a call."""
    spelt = escaped(KEY).replace("\\", "\\" * times)
    function = f'{{"name": "run", "arguments": "{spelt}"}}'
    message = f'{{"role": "assistant", "content": "so: {spelt}.", "tool_calls": [{{"function": {function}}}]}}'
    script = (sends_text(f'{{"error": {{"message": "{spelt}"}}}}', status=500),)
    async with OpenAIServer(*script, otherwise=sends_text(f'{{"choices": [{{"message": {message}}}]}}')) as server:
        async with client_of(server, retry=RetryPolicy(first_wait_s=0.0)) as client:
            reply = await client.chat(HELLO)
    assert ("so: <key>.", "<key>") == (reply.text, reply.tool_calls[0].arguments)


async def test_a_redirection_is_not_followed_and_shows_no_piece_of_the_key() -> None:
    """Where it leads is told; the key is in it, where the text is cut."""
    leads = sends({}, status=307, headers={"location": f"http://127.0.0.1:9/{'x' * 265}{KEY}"})
    async with OpenAIServer(leads) as server, client_of(server) as client:
        with pytest.raises(RequestRejected, match=r"redirects to http://127\.0\.0\.1:9/x+<key>: give") as caught:
            await client.chat(HELLO)
    assert KEY[:4] not in str(caught.value)


async def test_a_wrong_key() -> None:
    """The error names the variable to set."""
    async with OpenAIServer() as server, ChatClient(Endpoint(MODEL, server.base_url, Secret("other"))) as client:
        with pytest.raises(KeyRejected, match=r"check the key \(OPENAI_API_KEY in the environment or in \.env\)"):
            await client.chat(HELLO)


async def test_a_closed_client_says_so() -> None:
    """Calls afterwards are errors, those under way end, and closing twice is nothing."""
    async with OpenAIServer() as server:
        server.otherwise = server.hangs()
        client = client_of(server)
        call = asyncio.create_task(client.chat(HELLO))
        await until(lambda: server.under_way)
        await client.aclose()
        await client.aclose()
        with pytest.raises((RuntimeError, LlmError)):
            await call
        with pytest.raises(RuntimeError, match="the client is closed: make a new one"):
            await client.chat(HELLO)


async def test_half_of_a_surrogate_pair_can_be_asked() -> None:
    """An agent's text may hold what JSON cannot; it is replaced."""
    async with OpenAIServer() as server, client_of(server) as client:
        await client.chat([Message("user", "a\ud800b")])
    assert "a?b" == server.asked[0]["messages"][0]["content"]


async def test_an_argument_that_is_none_is_not_ignored() -> None:
    """The error says where it belongs."""
    with pytest.raises(TypeError, match=r"unknown argument 'temperature'; known: tool_choice, .* of Sampling"):
        await ChatClient(Endpoint(MODEL)).chat(HELLO, temperature=0.0)  # type: ignore[call-arg]


@pytest.mark.parametrize("options", [{"limit_s": 0.0}, {"attempt_limit_s": -1.0}])
def test_limits_that_make_no_sense(options: dict[str, float]) -> None:
    """They are refused when the client is made."""
    with pytest.raises(ValueError, match="it must be above 0"):
        ChatClient(Endpoint(MODEL), **options)  # type: ignore[arg-type]
