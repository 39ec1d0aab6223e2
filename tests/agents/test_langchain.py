"""LangChain's models play, and a client is a model of LangChain's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")

from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool

from codecraft_async.agents import AgentFailed, run_episode
from codecraft_async.agents.langchain import (
    ClientChatModel,
    LangChainAgent,
    LangChainChat,
    from_langchain,
    reply_of,
    to_langchain,
)
from codecraft_async.llm import (
    Budget,
    BudgetExceeded,
    DeadlineExceeded,
    DiskCache,
    KeyRejected,
    Message,
    Sampling,
    ToolCall,
    Usage,
)
from codecraft_async.pool import FakeLauncher
from tests.agents.chats import client_of, sh, told
from tests.envs.code_envs import make, play
from tests.llm.openai_server import OpenAIServer, calls, fails, says

pytestmark = pytest.mark.anyio


class Fake(FakeMessagesListChatModel):
    """LangChain's fake model, which can be given tools and remembers them and what it was told."""

    tools: list[Any] = []  # noqa: RUF012  # pydantic copies it
    told: list[Any] = []  # noqa: RUF012

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Remember them."""
        self.tools.extend(tools)
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.told.append(messages)
        return super()._generate(messages, *args, **kwargs)


def wish(name: str, **arguments: Any) -> AIMessage:
    """An answer with a call."""
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call {name}", "type": "tool_call"}])


async def test_a_model_of_langchains_plays_with_function_calling() -> None:
    """It is given the actions as tools, and what each command printed as that tool's message."""
    model = Fake(responses=[wish("run", command="write 42"), wish("submit")])
    env = make(FakeLauncher(play))
    result = await run_episode(env, LangChainAgent(model))
    await env.aclose()
    assert (1.0, ["write 42", "submit"]) == (result.reward, [step.action for step in result.steps])
    assert ["run", "write_file", "submit"] == [each["function"]["name"] for each in model.tools[:3]]
    assert [SystemMessage, HumanMessage, AIMessage, ToolMessage] == [type(message) for message in model.told[1]]
    assert "call run" == model.told[1][3].tool_call_id


async def test_a_model_of_langchains_plays_with_text() -> None:
    """Where it can call nothing; malformed answers are retried as with any model."""
    model = Fake(responses=[AIMessage("hm"), AIMessage(sh("write 42")), AIMessage(sh("submit"))])
    env = make(FakeLauncher(play))
    result = await run_episode(env, LangChainAgent(model, use_tools=False))
    await env.aclose()
    assert (1.0, []) == (result.reward, model.tools)


async def test_a_client_is_a_model_of_langchains() -> None:
    """A whole episode over a real server: LangChain's messages and tools become the protocol's, and back."""
    script = (calls(("run", {"command": "write 42"})), calls(("run", "{")), calls(("submit", {})))
    async with OpenAIServer(*script) as server, client_of(server) as client:
        env = make(FakeLauncher(play))
        agent = LangChainAgent(ClientChatModel(client=client))
        result = await run_episode(env, agent)
        await env.aclose()
    assert (1.0, 2) == (result.reward, len(result.steps))
    assert Usage(30, 15) == agent.usage
    assert ["run", "write_file", "submit"] == [each["function"]["name"] for each in server.asked[0]["tools"]]
    assert [("tool", ""), ("assistant", "")] == told(server)[3:5]
    assert "Nothing was done: the arguments of 'run' are not valid JSON" in told(server)[5][1]


async def test_tools_and_calls_of_a_chain() -> None:
    """A function of LangChain's is offered to the model, and its call comes back as LangChain has it."""

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    async with OpenAIServer(calls(("add", {"a": 1, "b": 2})), says("3")) as server, client_of(server) as client:
        model = ClientChatModel(client=client)
        answer = await model.bind_tools([add], tool_choice="any").ainvoke("Add 1 and 2.")
        assert isinstance(answer, AIMessage) and {"a": 1, "b": 2} == answer.tool_calls[0]["args"]
        assert "3" == (await model.ainvoke("So?", stop=["END"])).text
        with pytest.raises(ValueError, match="tool_choice is 'add'"):
            model.bind_tools([add], tool_choice="add")
        with pytest.raises(NotImplementedError, match="use ainvoke"):
            model.invoke("So?")
    assert ("required", ["END"]) == (server.asked[0]["tool_choice"], server.asked[1]["stop"])
    assert {"a", "b"} == set(server.asked[0]["tools"][0]["function"]["parameters"]["properties"])


async def test_errors_of_a_client_below_langchain_stay_what_they_are() -> None:
    """So a used-up budget ends a run, and a rejected key an episode."""
    async with OpenAIServer(fails(401)) as server:
        async with client_of(server) as client:
            with pytest.raises(KeyRejected):
                await LangChainChat(ClientChatModel(client=client)).chat([Message("user", "x")])
        async with client_of(server, budget=Budget(max_tokens=1)) as client:
            with pytest.raises(BudgetExceeded):
                await LangChainChat(ClientChatModel(client=client)).chat([Message("user", "x")])


async def test_errors_of_langchain_end_the_episode() -> None:
    """Whatever a provider's package raises; a model that does not answer has a limit."""

    class Broken(Fake):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise ZeroDivisionError("in a provider")

    with pytest.raises(AgentFailed, match="LangChain's Broken failed: ZeroDivisionError"):
        await LangChainChat(Broken(responses=[])).chat([Message("user", "x")])
    async with OpenAIServer() as server:
        server.otherwise = server.hangs()
        async with client_of(server) as client:
            with pytest.raises(DeadlineExceeded, match=r"ClientChatModel gave no answer within 0\.05 s"):
                await LangChainChat(ClientChatModel(client=client)).chat([Message("user", "x")], limit_s=0.05)


async def test_episodes_over_a_client_keep_their_own_answers(tmp_path: Path) -> None:
    """Salt and sampling reach the client through LangChain: only a repeated episode is answered by the cache."""
    async with OpenAIServer(otherwise=calls(("submit", {}))) as server:
        async with client_of(server, cache=DiskCache(tmp_path)) as client:
            for episode in ("a", "b", "a"):
                model = ClientChatModel(client=client)
                agent = LangChainAgent(model, episode=episode, sampling=Sampling(temperature=0.5))
                agent.begin("Do it.")
                assert "submit" == await agent.act("Do it.", {})
            assert 1 == client.stats().from_cache
    assert [0.5, 0.5] == [asked["temperature"] for asked in server.asked]


@pytest.mark.parametrize(
    "message",
    [
        Message("system", "s"),
        Message("user", "u"),
        Message("assistant", "a", (ToolCall("1", "run", '{"command":"ls"}'), ToolCall("2", "run", "{"))),
        Message("tool", "t", tool_call_id="1"),
    ],
)
def test_messages_there_and_back(message: Message) -> None:
    """Nothing is lost, malformed calls included."""
    assert message == from_langchain(to_langchain(message))


def test_arguments_that_are_no_ordinary_numbers() -> None:
    """Whatever a provider's package makes of what the model wrote is passed on, for the agent to refuse."""
    (call,) = reply_of(wish("run", command=10**40, more=float("nan")), [], ()).tool_calls
    assert f'{{"command":{10**40},"more":NaN}}' == call.arguments


def test_tokens_that_nobody_counted_are_estimated() -> None:
    """And the usage says so."""
    usage = reply_of(AIMessage("Hello."), [Message("user", "Say hello.")], ()).usage
    assert (True, 2) == (usage.is_estimate, usage.completion_tokens)
