"""A model plays: over a real server on loopback, in environments with fake sandboxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecraft_async.agents import AgentFailed, CodeCraftDialect, ModelAgent, run_episode
from codecraft_async.agents.dialects import fenced_blocks, json_objects
from codecraft_async.agents.errors import MalformedAnswer
from codecraft_async.agents.history import History, shortened
from codecraft_async.llm import DiskCache, Message, ToolCall
from codecraft_async.pool import FakeLauncher
from tests.agents.chats import client_of, sh, told
from tests.envs.code_envs import make, play
from tests.llm.openai_server import OpenAIServer, calls, completion, fails, says, sends

pytestmark = pytest.mark.anyio


async def test_a_model_plays_with_fenced_blocks() -> None:
    """It gets the instruction and what each command printed, and its submission is graded."""
    async with OpenAIServer(says(sh("ls")), says(sh("write 42")), says(sh("submit"))) as server:
        async with client_of(server) as client:
            env = make(FakeLauncher(play))
            result = await run_episode(env, ModelAgent(client))
            await env.aclose()
    assert (1.0, "terminated", True) == (result.reward, result.end, result.counts)
    assert ["ls", "write 42", "submit"] == [step.action for step in result.steps]
    system, instruction, answer, output, _, nothing = told(server)
    assert "system" == system[0] and "exactly one fenced code block" in system[1]
    assert "user" == instruction[0] and "Write 42 into answer." in instruction[1]
    assert [("assistant", sh("ls")), ("user", "hint\n"), ("user", "(no output)")] == [answer, output, nothing]
    assert "tools" not in server.asked[0]


async def test_a_model_plays_with_function_calling() -> None:
    """Several calls in one answer are done one after the other, and each is answered under its id."""
    script = (calls(("run", {"command": "ls"}), ("run", {"command": "write 42"})), calls(("submit", {})))
    async with OpenAIServer(*script) as server, client_of(server) as client:
        env = make(FakeLauncher(play))
        agent = ModelAgent(client, use_tools=True)
        result = await run_episode(env, agent)
        await env.aclose()
    assert (1.0, ["ls", "write 42", "submit"]) == (result.reward, [step.action for step in result.steps])
    assert ["run", "write_file", "submit"] == [tool["function"]["name"] for tool in server.asked[0]["tools"]]
    answers = [message for message in server.asked[1]["messages"] if message["role"] == "tool"]
    assert [("call-0", "hint\n"), ("call-1", "")] == [(each["tool_call_id"], each["content"]) for each in answers]
    assert 30 == agent.usage.total_tokens


NO_ACTIONS = {
    "ls": "Your answer has no code blocks; nothing was run.",
    f"{sh('ls')}\n{sh('submit')}": "Your answer has 2 code blocks",
    sh(" "): "Your answer has an empty code block",
    "```sh\nls": "Your answer has no code blocks",
    "": "Your answer has no code blocks",
}


async def test_an_answer_without_an_action_is_returned_with_what_is_wrong() -> None:
    """The environment is not touched meanwhile; the next answer that has one is the action."""
    script = [says(answer) for answer in NO_ACTIONS]
    async with OpenAIServer(*script, says(sh("ls"))) as server, client_of(server) as client:
        agent = ModelAgent(client, max_malformed=9)
        agent.begin("Do it.")
        assert "ls" == await agent.act("Do it.", {})
    for (role, text), said in zip(told(server)[3::2], NO_ACTIONS.values(), strict=True):
        assert "user" == role and text.startswith(said) and "exactly one fenced code block" in text


WRONG_CALLS: list[tuple[tuple[str, object], str]] = [
    (("fly", {}), "There is no tool 'fly'; nothing was done. The tools: run, write_file, submit."),
    (("run", "{"), "Nothing was done: the arguments of 'run' are not valid JSON"),
    (("run", {}), "Nothing was done: 'command' is missing, of the wrong type or unknown"),
    (("run", {"command": 3}), "Nothing was done: 'command' is missing, of the wrong type or unknown"),
    (("submit", {"now": True}), "Nothing was done: 'now' is missing, of the wrong type or unknown"),
    (("write_file", {"path": "a/", "content": ""}), "'a/' is no path of a file"),
]


async def test_calls_that_cannot_be_done_are_answered_with_what_is_wrong() -> None:
    """Others of the same answer are done."""
    wrong = [wanted for wanted, _ in WRONG_CALLS]
    async with OpenAIServer(calls(*wrong), calls(*wrong, ("run", {"command": "ls"}))) as server:
        async with client_of(server) as client:
            agent = ModelAgent(client, use_tools=True)
            agent.begin("Do it.")
            assert "ls" == await agent.act("Do it.", {})
            server.script.append(calls(("submit", {})))
            assert "submit" == await agent.act("listed", {})
    answers = [text for role, text in told(server) if role == "tool"]
    for text, (_, said) in zip(answers, [*WRONG_CALLS, *WRONG_CALLS, ((), "listed")], strict=True):
        assert text.startswith(said)


async def test_an_answer_that_was_cut_off_is_told_so() -> None:
    """To write it anew is of no use; to write less is."""
    cut = sends(completion({"role": "assistant", "content": "```sh\ncat > long"}, finish_reason="length"))
    async with OpenAIServer(cut, says(sh("ls"))) as server, client_of(server) as client:
        agent = ModelAgent(client)
        agent.begin("Do it.")
        await agent.act("Do it.", {})
    assert "Your answer was cut off at its limit of tokens" in told(server)[-1][1]


@pytest.mark.parametrize("use_tools", [False, True])
async def test_a_model_that_never_answers_well_fails(use_tools: bool) -> None:
    """After the retries the episode ends, and it counts for nothing."""
    async with OpenAIServer(otherwise=says("I refuse.")) as server, client_of(server) as client:
        env = make(FakeLauncher(play))
        result = await run_episode(env, ModelAgent(client, use_tools=use_tools, max_malformed=2))
        await env.aclose()
    assert ("agent_failed", False, 3) == (result.end, result.counts, len(server.asked))
    assert "AgentFailed: 3 answers of the model in a row held no action; the last: 'I refuse.'" == result.error


async def test_an_endpoint_that_fails_ends_the_episode() -> None:
    """What it said is in the result; the environment goes on with the next episode."""
    async with OpenAIServer(fails(401), says(sh("submit"))) as server, client_of(server) as client:
        env = make(FakeLauncher(play))
        first, second = [await run_episode(env, ModelAgent(client)) for _ in range(2)]
        await env.aclose()
    assert "agent_failed" == first.end and first.error.startswith("KeyRejected: model 'test-model' at http://127.0.0.1")
    assert ("terminated", 0.0) == (second.end, second.reward)


async def test_the_conversation_is_cut_to_its_budget() -> None:
    """Old turns go, the instruction stays, and no tool's answer is without its call: the server would refuse it."""
    async with OpenAIServer(otherwise=calls(("run", {"command": "x" * 300}))) as server, client_of(server) as client:
        agent = ModelAgent(client, use_tools=True, max_history_tokens=1500)
        agent.begin("Do it.")
        observation = "Do it."
        for _ in range(20):
            await agent.act(observation, {})
            observation = "o" * 600
    assert 20 == len(server.asked)
    messages = told(server)
    left_out = 19 - (len(messages) - 2) // 2
    assert len(messages) < 15
    assert f"Do it.\n\n[{left_out} earlier turns of this conversation are left out]" == messages[1][1]
    assert 41 == len(agent.messages)


async def test_the_conversation_is_cut_to_a_number_of_messages() -> None:
    """The beginning stays, and of the rest the last whole turns, one at least."""
    async with OpenAIServer(otherwise=says(sh("ls"))) as server, client_of(server) as client:
        for most, left in ((5, 2), (1, 1)):
            agent = ModelAgent(client, max_history_messages=most)
            agent.begin("Do it.")
            for number in range(5):
                await agent.act(f"o{number}", {})
            messages = told(server)
            assert f"Do it.\n\n[{4 - left} earlier turns of this conversation are left out]" == messages[1][1]
            assert [f"o{number}" for number in range(5 - left, 5)] == [text for _, text in messages[3::2]]


async def test_a_context_that_is_smaller_than_thought() -> None:
    """The conversation is cut further until it fits, for the rest of the episode."""
    too_long = fails(400, code="context_length_exceeded")
    script = (*[says(sh("ls"))] * 9, too_long, too_long, says(sh("submit")))
    async with OpenAIServer(*script) as server, client_of(server) as client:
        agent = ModelAgent(client, max_history_tokens=3000)
        agent.begin("Do it.")
        for _ in range(9):
            await agent.act("o" * 700, {})
        assert "submit" == await agent.act("o" * 700, {})
    lengths = [len(str(asked["messages"])) for asked in server.asked[-3:]]
    assert lengths[0] > lengths[1] > lengths[2]


async def test_an_episode_that_is_repeated_gets_what_it_got(tmp_path: Path) -> None:
    """A run that was ended goes on from the cache; another episode of the same task gets answers of its own."""
    async with OpenAIServer(otherwise=says(sh("ls"))) as server, client_of(server, cache=DiskCache(tmp_path)) as client:
        for episode in ("a", "a", "b"):
            agent = ModelAgent(client, episode=episode)
            agent.begin("Do it.")
            for observation in ("Do it.", "hint"):
                await agent.act(observation, {})
    assert (4, 2) == (len(server.asked), client.stats().from_cache)


async def test_gym_codecrafts_actions() -> None:
    """As JSON in a text or as calls of tools, they become one JSON object; write_file has its path."""
    script = (
        says('Then {"action": "command", "command": "ls"} it is.'),
        calls(("write_file", {"path": "a", "content": "é"})),
    )
    async with OpenAIServer(*script) as server, client_of(server) as client:
        for use_tools, expected in (
            (False, {"action": "command", "command": "ls"}),
            (True, {"action": "write_file", "path": "a", "content": "é"}),
        ):
            agent = ModelAgent(client, dialect=CodeCraftDialect(), use_tools=use_tools)
            agent.begin("Welcome.")
            assert expected == json.loads(await agent.act("Welcome.", {}))
    with pytest.raises(MalformedAnswer, match="Your answer has 2 actions"):
        CodeCraftDialect().from_text('{"action": "exit"} {"action": "exit"}')


async def test_acting_before_an_episode_is_an_error() -> None:
    """It says what to call."""
    async with OpenAIServer() as server, client_of(server) as client:
        with pytest.raises(RuntimeError, match=r"call begin\(\) before act\(\)"):
            await ModelAgent(client).act("", {})
    with pytest.raises(ValueError, match="max_history_tokens is 10"):
        ModelAgent(client, max_history_tokens=10)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("```\na\n```", ["a"]),
        ("~~~sh\na\n~~~", ["a"]),
        ("````md\n```\nb\n```\n````", ["```\nb\n```"]),
        ("```sh\na\n```sh\nb\n```", ["a\n```sh\nb"]),
        ("```sh\r\na\r\n```\r\n", ["a\r"]),
        ("``` sh `x`\na\n```", []),
        ("a ```b``` c", []),
    ],
)
def test_fences(text: str, blocks: list[str]) -> None:
    """As CommonMark has them; one that is not closed is none."""
    assert blocks == fenced_blocks(text)


@pytest.mark.parametrize("line", ["```" + " " * 10_000_000 + "`", "~" * 10_000_000 + "`", " " * 10_000_000 + "`"])
def test_a_long_line_that_is_no_fence(line: str) -> None:
    """It takes no time worth speaking of: with quadratic time it would be days."""
    assert [] == fenced_blocks(line)


def test_json_in_a_text() -> None:
    """Only the outermost objects; a text of braces takes no time."""
    assert [{"a": {"b": 1}}, {}] == json_objects('x {"a": {"b": 1}} y {z {} "')
    assert [] == json_objects("{" * 100_000)
    assert [] == json_objects('{"a":' * 100_000)
    assert [{"a": 1}] == json_objects(f'{{"a": {"1" * 5000}}} {{"a": 1}}')


def test_a_long_message_keeps_head_and_tail() -> None:
    """The middle goes, and that is said; a call of a tool is never cut."""
    short = shortened(Message("user", "head" + "x" * 10_000 + "tail"), 100)
    assert short.content.startswith("head") and short.content.endswith("tail") and "[... cut here" in short.content
    assert 130 > short.tokens
    for said in ("", "I run it."):
        call = Message("assistant", said, (ToolCall("1", "run", "x" * 10_000),))
        assert call == shortened(call, 100)


@pytest.mark.parametrize("char", ["é", "語", "🦀"])
def test_a_long_message_of_many_bytes_is_cut_as_short(char: str) -> None:
    """Tokens go by bytes; no character is cut in two."""
    short = shortened(Message("user", char * 10_000), 100)
    assert 110 > short.tokens and {char} == set(
        short.content.replace("[... cut here to fit ...]", "").replace("\n", "")
    )


def test_the_last_turn_is_always_there() -> None:
    """Though it is too long by itself."""
    history = History((Message("system", "s"), Message("user", "u")))
    for number in range(3):
        history.answer(Message("assistant", f"answer {number}"))
        history.add(Message("user", "o" * 30_000))
    window = history.window(1000)
    assert ["s", "answer 2"] == [window[0].content, window[2].content]
    assert "u\n\n[2 earlier turns of this conversation are left out]" == window[1].content
    assert 1100 > sum(message.tokens for message in window)


async def test_agent_failed_is_told_apart_from_bad_answers() -> None:
    """The retries are per action, not per episode."""
    script = (says("?"), says(sh("ls")), says("?"), says(sh("ls")), says("?"))
    async with OpenAIServer(*script, otherwise=says("?")) as server, client_of(server) as client:
        agent = ModelAgent(client, max_malformed=1)
        agent.begin("Do it.")
        assert ["ls", "ls"] == [await agent.act(text, {}) for text in ("Do it.", "seen")]
        with pytest.raises(AgentFailed, match="2 answers of the model in a row"):
            await agent.act("seen", {})
