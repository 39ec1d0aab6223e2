"""Action parsers: what models write becomes an action or a complaint that helps, for every text and in linear time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecraft_async.actions import (
    Action,
    ActionParser,
    Command,
    FencedActions,
    JsonActions,
    Malformed,
    Reset,
    ShellActions,
    Submit,
    ToolCallActions,
    WriteFile,
    action_parser,
    form_of,
    read_action,
    tool_schema,
)

PARSERS: list[ActionParser] = [
    ShellActions(allow_reset=True),
    JsonActions(allow_reset=True),
    FencedActions(allow_reset=True),
    FencedActions(which="last"),
    ToolCallActions(allow_reset=True),
]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("ls -l", Command("ls -l")),
        (" submit\n", Submit()),
        ("reset", Command("reset")),
        ("", Command("")),
        ("submit now", Command("submit now")),
    ],
)
def test_shell_text_is_the_command_itself(text: str, action: Action) -> None:
    """Only the word submit is more than that; reset as well, where it is allowed."""
    assert action == ShellActions().parse(text)
    assert Reset() == ShellActions(allow_reset=True).parse("reset\n")


@pytest.mark.parametrize(
    ("value", "action"),
    [
        ({"action": "run", "command": "ls\n\u00e9"}, Command("ls\n\u00e9")),
        ({"action": "write_file", "path": "a/b", "content": "x\u00e9"}, WriteFile("a/b", "x\u00e9".encode())),
        ({"action": "write_file", "path": "b", "content": "AP8=\n", "encoding": "base64"}, WriteFile("b", b"\0\xff")),
        ({"action": "submit"}, Submit()),
        ({"action": "reset"}, Reset()),
    ],
)
def test_json_actions(value: dict[str, str], action: Action) -> None:
    """One object; the name of the action and its arguments."""
    assert action == JsonActions(allow_reset=True).parse(json.dumps(value))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is no valid JSON: it is empty"),
        ("ls", "it is no valid JSON: "),  # and then what the decoder says
        ("[]", "the action must be a JSON object, not a list"),
        ("{}", 'the JSON object has no "action"'),
        ('{"action": "rm"}', "there is no action 'rm'; there are run, write_file, submit"),
        ('{"action": "reset"}', "there is no action 'reset'; there are run, write_file, submit"),
        ('{"action": null}', "there is no action null; there are run, write_file, submit"),
        ('{"action": "run"}', "run lacks its argument 'command'"),
        ('{"action": "run", "command": 3}', "the argument 'command' of run must be text, not a number"),
        ('{"action": "run", "cmd": "ls"}', "run has no argument 'cmd'; it takes command"),
        ('{"action": "submit", "x": 1}', "submit has no argument 'x'; it takes nothing"),
        ('{"action": "write_file", "path": "", "content": ""}', "the argument 'path' of write_file is empty"),
        (
            '{"action": "write_file", "path": "a", "content": "", "encoding": "latin"}',
            "the argument 'encoding' of write_file is 'latin'; it must be utf-8 or base64",
        ),
    ],
)
def test_what_is_wrong_with_json_is_said(text: str, problem: str) -> None:
    """The complaint names what is wrong and what is allowed."""
    found = JsonActions().parse(text)
    assert isinstance(found, Malformed)
    assert found.problem.startswith(problem)


def test_base64_that_is_none_is_named() -> None:
    """The decoder's own words are in the complaint."""
    text = '{"action": "write_file", "path": "a", "content": "*", "encoding": "base64"}'
    found = JsonActions().parse(text)
    assert isinstance(found, Malformed)
    assert found.problem.startswith("the argument 'content' of write_file is no base64: ")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("I look.\n```bash\nls -l\n```\nDone.", Command("ls -l")),
        ("```\na\nb\n```", Command("a\nb")),
        ("~~~sh\r\nls\r\n~~~", Command("ls")),
        ("```BASH title=x\nls\n```", Command("ls")),
        ("````sh\ncat <<E\n```\nE\n````", Command("cat <<E\n```\nE")),
        ("```python\nprint()\n```\n```sh\nls\n```", Command("ls")),
        ("   ```sh\n   ls\n  ```", Command("   ls")),
        ("```sh\n submit \n```", Submit()),
        ("```sh\necho '``` not a fence'\n~~~\n```", Command("echo '``` not a fence'\n~~~")),
        ("inline ```ls``` then\n```sh\npwd\n```", Command("pwd")),
    ],
)
def test_the_fenced_block_of_an_answer_is_the_command(text: str, action: Action) -> None:
    """Text around it and blocks of other languages are comment; fences nest as in Markdown."""
    assert action == FencedActions().parse(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ls", "the answer must hold a fenced code block with a shell command: there is none"),
        ("    ```\nls", "the answer must hold a fenced code block with a shell command: there is none"),
        (
            "```python\nx\n```",
            "the answer must hold a fenced code block with a shell command: there is one in 'python'",
        ),
        ("```sh\na\n```\n```sh\nb\n```", "the answer must hold one fenced code block of shell, not 2"),
        ("```sh\nrm -rf /tmp/x", "the last fenced code block is not closed"),
        ("```sh\nls\n``` x", "the last fenced code block is not closed"),
        ("```sh\n \n```", "the fenced code block is empty"),
    ],
)
def test_no_block_several_and_half_ones_are_malformed(text: str, problem: str) -> None:
    """An answer that was cut off runs nothing."""
    assert Malformed(problem) == FencedActions().parse(text)


def test_the_last_of_several_blocks_can_be_taken() -> None:
    """By option, and the form that is shown says so."""
    parser = FencedActions(which="last")
    assert Command("b") == parser.parse("```sh\na\n```\n```sh\nb\n```")
    assert "the last of which counts" in parser.form
    with pytest.raises(ValueError, match="which is 'first'; it must be 'only' or 'last'"):
        FencedActions(which="first")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


RUN_LS = {"name": "run", "arguments": {"command": "ls"}}
TEXT_LS = {"name": "run", "arguments": '{"command": "ls"}'}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": TEXT_LS}]},
        {"role": "assistant", "content": "hm", "tool_calls": [{"id": "1", "type": "function", "function": RUN_LS}]},
        [{"id": "1", "type": "function", "function": TEXT_LS}],
        {"role": "assistant", "content": None, "function_call": TEXT_LS},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t", "name": "run", "input": {"command": "ls"}},
            ],
        },
        [{"type": "tool_use", "id": "t", "name": "run", "input": {"command": "ls"}}],
        [{"type": "reasoning", "summary": []}, {"type": "function_call", "call_id": "c", **TEXT_LS}],
        RUN_LS,
        {"role": "assistant", "content": f"<tool_call>{json.dumps(RUN_LS)}</tool_call>"},
    ],
)
def test_tool_calls_of_every_style_are_the_same_command(message: Any) -> None:
    """OpenAI's chat messages and items, Anthropic's content blocks, and bare calls."""
    assert Command("ls") == ToolCallActions().parse(json.dumps(message))


def test_marked_tool_calls_are_found_in_text() -> None:
    """As Hermes and Qwen models write them, whatever is around."""
    text = f"I look {{around}}.\n<tool_call>\n{json.dumps(RUN_LS)}\n</tool_call> and wait"
    assert Command("ls") == ToolCallActions().parse(text)
    assert Submit() == ToolCallActions().parse('<tool_call>{"name": "submit"}</tool_call>')
    assert Submit() == ToolCallActions().parse('{"name": "submit", "arguments": ""}')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("I am done.", "the message holds no tool call; it must hold one"),
        ('{"role": "assistant", "content": "done"}', "the message holds no tool call; it must hold one"),
        ("3", "the message holds no tool call; it must hold one"),
        ('{"tool_calls": [', "it is no valid JSON: "),
        (json.dumps([RUN_LS, RUN_LS]), "the message holds 2 tool calls; it must hold one"),
        ("<tool_call>{}", "a <tool_call> is not closed by </tool_call>"),
        ("<tool_call>3</tool_call>", "a tool call must be a JSON object, not a number"),
        ("<tool_call>ls</tool_call>", "the tool call: it is no valid JSON: "),
        ('[{"function": "run"}]', 'a tool call\'s "function" must be an object, not text'),
        ('[{"name": "run", "arguments": "ls"}]', "the arguments of the tool call: it is no valid JSON: "),
        ('[{"name": "run", "arguments": ["ls"]}]', "the arguments of the tool call must be an object, not a list"),
        ('[{"name": "bash", "arguments": {}}]', "there is no action 'bash'; there are run, write_file, submit"),
    ],
)
def test_what_is_wrong_with_a_tool_call_is_said(text: str, problem: str) -> None:
    """None, several, half a one, or one with wrong arguments."""
    found = ToolCallActions().parse(text)
    assert isinstance(found, Malformed)
    assert found.problem.startswith(problem)


@pytest.mark.parametrize("allow_reset", [False, True])
def test_the_tools_are_told_to_both_kinds_of_endpoints(allow_reset: bool) -> None:
    """The same names and arguments in both forms, and a call by the schema is understood."""
    names = ["run", "write_file", "submit", *(["reset"] if allow_reset else [])]
    openai = tool_schema("openai", allow_reset=allow_reset)
    anthropic = tool_schema("anthropic", allow_reset=allow_reset)
    assert names == [tool["function"]["name"] for tool in openai] == [tool["name"] for tool in anthropic]
    assert [t["function"]["parameters"] for t in openai] == [t["input_schema"] for t in anthropic]
    assert {"function"} == {tool["type"] for tool in openai}
    parser = ToolCallActions(allow_reset=allow_reset)
    for tool in anthropic:
        arguments = dict.fromkeys(tool["input_schema"]["required"], "x")
        found = parser.parse(json.dumps({"name": tool["name"], "arguments": arguments}))
        assert not isinstance(found, Malformed)
    with pytest.raises(ValueError, match="style is 'gemini'; it must be 'openai' or 'anthropic'"):
        tool_schema("gemini")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("parser", [JsonActions(), ToolCallActions()], ids=["json", "tool_calls"])
def test_the_form_that_is_shown_is_right(parser: JsonActions | ToolCallActions) -> None:
    """What an agent is told to write is understood."""
    for line in parser.form.splitlines()[1:]:
        example, end = line.partition("} " if "action" in line else "</tool_call>")[:2]
        assert not isinstance(parser.parse(example + end.rstrip()), Malformed)
    block = FencedActions()
    assert Command("ls -l") == block.parse(block.form)


class Shouts:
    """A parser of a user's."""

    def parse(self, text: str) -> Action | Malformed:
        return Command(text.lower())


def test_a_parser_of_ones_own_needs_only_parse() -> None:
    """Names are looked up, objects taken as they are, and what is neither is refused."""
    mine = Shouts()
    assert mine is action_parser(mine)
    assert "" == form_of(mine)
    assert Command("ls") == read_action(mine, "LS")
    with pytest.raises(ValueError, match="actions is 'xml'; it must be 'shell', 'json', 'fenced', 'tool_calls' or an"):
        action_parser("xml")
    with pytest.raises(TypeError, match="has no method 'parse'"):
        action_parser(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_parser_that_returns_something_else_is_told_so() -> None:
    """That is an error of its author's, not of the agent's."""

    class Wrong:
        def parse(self, text: str) -> Any:
            return text

    with pytest.raises(TypeError, match=r"a parser must return an action or Malformed, .* returned 'ls'"):
        read_action(Wrong(), "ls")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"action": "run", "command": "a\\u0000b"}', "an action cannot hold a NUL character"),
        ('{"action": "write_file", "path": "a\\u0000", "content": ""}', "an action cannot hold a NUL character"),
        ("x" * 100_001, "an action cannot be longer than 100000 characters"),
    ],
)
def test_what_no_sandbox_can_be_given_is_malformed(text: str, problem: str) -> None:
    """Also what comes out of an escape in JSON."""
    assert Malformed(problem) == read_action(JsonActions(), text)


FRAGMENTS = st.sampled_from(
    [
        *"``` ~~~ ````bash { } [ ] : , \\ action run command ls submit <tool_call> </tool_call> tool_calls".split(),
        *"content function name arguments 1 null \\ud800 \ud800 \0 \u2028".split(" "),
        *("\n", " ", '"', "\r\n", "9" * 400, '{"name": "run", "arguments": {"command": "\\ud800"}}'),
    ]
)
TEXTS = st.one_of(st.text(), st.text(st.characters(codec=None)), st.lists(FRAGMENTS, max_size=40).map("".join))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | FRAGMENTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FRAGMENTS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS | JSON.map(json.dumps))
def test_every_text_is_an_action_or_malformed(text: str) -> None:
    """No text of an agent's makes a parser raise; what goes on to a sandbox can be encoded."""
    for parser in PARSERS:
        found = read_action(parser, text)
        assert isinstance(found, Command | WriteFile | Submit | Reset | Malformed)
        if isinstance(found, Command):
            assert b"\0" not in found.text.encode()
        if isinstance(found, WriteFile):
            assert b"\0" not in found.path.encode()


HOSTILE: list[Callable[[int], str]] = [
    lambda n: "`" * n,
    lambda n: "```\n" * (n // 4),
    lambda n: "~```" * (n // 4),
    lambda n: "`\n" * (n // 2),
    lambda n: " " * n,
    lambda n: "[" * n,
    lambda n: '{"a":' * (n // 5),
    lambda n: "9" * n,
    lambda n: f'{{"action": {"9" * n}}}',
    lambda n: "<tool_call>" * (n // 11),
    lambda n: '<tool_call>{"name": "run"}</tool_call>' * (n // 38),
    lambda n: json.dumps([RUN_LS] * (n // 48)),
    lambda n: '{"action": "run", "command": "' + "\\u0041" * (n // 6) + '"}',
    lambda n: '{"action": "write_file", "path": "a", "encoding": "base64", "content": "' + "A" * n + '"}',
    lambda n: '{"action": "' + "x" * n + '"}',
    lambda n: "```" + "x" * n + "\nls\n```",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_take_linear_time(hostile: Callable[[int], str]) -> None:
    """A megabyte is read within the limit of a test, where quadratic work would take hours; complaints stay short."""
    for parser in PARSERS[1:]:
        found = parser.parse(hostile(1_000_000))
        assert not isinstance(found, Malformed) or len(found.problem) < 300
