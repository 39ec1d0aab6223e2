"""How a model's answers become actions: text with an action in it, or calls of tools; one for each environment."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from codecraft_async.agents.agent import SUBMIT
from codecraft_async.agents.errors import MalformedAnswer
from codecraft_async.llm import MalformedArguments, Tool, ToolCall

# What is matched is not given back: else a long line of spaces or tildes would take quadratic time.
_FENCE: Final = re.compile(r" {0,3}(`{3,}+|~{3,}+)[ \t]*+([^`\n]*+)")


class Dialect(Protocol):
    """What a model is told of the form of its answers, and how those are read."""

    @property
    def system(self) -> str:
        """Where the model is, for its system message."""
        ...

    @property
    def text_form(self) -> str:
        """How to write an action as text."""
        ...

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The actions as functions to call."""
        ...

    def from_text(self, text: str) -> str:
        """Return the action in an answer; raises `MalformedAnswer`."""
        ...

    def from_call(self, call: ToolCall) -> str:
        """Return the action that a call stands for; raises `MalformedAnswer`."""
        ...


def tool(name: str, description: str, **fields: str) -> Tool:
    """Return a tool whose arguments are texts, all required: names and descriptions."""
    properties = {field: {"type": "string", "description": text} for field, text in fields.items()}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(fields),
        "additionalProperties": False,
    }
    return Tool(name, description, parameters)


_RUN = tool("run", "Run a shell command in the workspace and see what it prints.", command="The command.")
_WRITE = tool(
    "write_file",
    "Write a whole file, making missing directories.",
    path="Where, relative to the workspace.",
    content="All of its text.",
)
_SUBMIT = tool("submit", "Say that the work is done, and have it graded. This ends the task.")


@dataclass(frozen=True, slots=True)
class ShellDialect:
    """For `CodeEnv`, whose actions are shell commands: one fenced code block, or the tools run, write_file, submit."""

    system: str = (
        "You solve a task in a Linux sandbox by running shell commands. There is no network, no terminal and nobody to "
        "ask: programs that wait for input get none. You see what each command prints. Look before you change things, "
        "check your work, and submit when it is done."
    )
    text_form: str = (
        "Answer with exactly one fenced code block that holds the next shell command, such as\n```sh\nls -l\n```\n"
        "A short thought before it is welcome. When the work is done, the block holds the one word submit."
    )
    tools: tuple[Tool, ...] = (_RUN, _WRITE, _SUBMIT)

    def from_text(self, text: str) -> str:
        """Return what is in the one fenced block."""
        blocks = fenced_blocks(text)
        if len(blocks) != 1 or not blocks[0].strip():
            found = "an empty code block" if len(blocks) == 1 else f"{len(blocks) or 'no'} code blocks"
            raise MalformedAnswer(f"Your answer has {found}; nothing was run. {self.text_form}")
        return blocks[0].strip("\n")

    def from_call(self, call: ToolCall) -> str:
        """Return the command."""
        fields = arguments_of(call, self.tools)
        if call.name == _SUBMIT.name:
            return SUBMIT
        if call.name == _WRITE.name:
            return _writing(fields["path"], fields["content"])
        return str(fields["command"])


def _writing(path: str, content: str) -> str:
    """Return the command that writes a file. The content goes through the shell's own printf, byte for byte."""
    if not path or path.endswith("/"):
        raise MalformedAnswer(f"{path!r} is no path of a file; nothing was written.")
    path = path if path.startswith("/") else f"./{path}"
    folder = posixpath.dirname(path)
    return f"mkdir -p {shlex.quote(folder)} && printf %s {shlex.quote(content)} > {shlex.quote(path)}"


@dataclass(frozen=True, slots=True)
class CodeCraftDialect:
    """For gym-codecraft's environment, whose actions are JSON objects."""

    system: str = (
        "You solve programming tasks in an environment that takes actions and answers with observations. When you have "
        "submitted the task that you were given, exit."
    )
    text_form: str = (
        "Answer with exactly one JSON object, which is the next action, such as\n"
        '{"action": "command", "command": "ls -l"}\nA short thought before it is welcome.'
    )
    tools: tuple[Tool, ...] = (
        tool("command", "Run a shell command in the workspace and see what it prints.", command="The command."),
        _WRITE,
        tool("start", "Start a task.", task_id="Which one."),
        _SUBMIT,
        tool("close", "Close the task without submitting it."),
        tool("exit", "Leave the environment."),
    )

    def from_text(self, text: str) -> str:
        """Return the one JSON object that has an action."""
        found = [value for value in json_objects(text) if isinstance(value.get("action"), str)]
        if len(found) != 1:
            raise MalformedAnswer(f"Your answer has {len(found) or 'no'} actions; nothing was done. {self.text_form}")
        return json.dumps(found[0])

    def from_call(self, call: ToolCall) -> str:
        """Return the action of the tool's name."""
        return json.dumps({"action": call.name, **arguments_of(call, self.tools)})


def arguments_of(call: ToolCall, tools: tuple[Tool, ...]) -> dict[str, Any]:
    """Return the arguments of a call of one of *tools*, all of which are texts.

    Raises:
        MalformedAnswer: There is no such tool, or the arguments are not what it takes.
    """
    known = {each.name: each for each in tools}
    if call.name not in known:
        raise MalformedAnswer(f"There is no tool {call.name!r}; nothing was done. The tools: {', '.join(known)}.")
    try:
        fields = call.parsed()
    except MalformedArguments as error:
        raise MalformedAnswer(f"Nothing was done: {error}.") from None
    properties: Mapping[str, Mapping[str, str]] = known[call.name].parameters["properties"]
    wrong = [name for name in fields if name not in properties]
    wrong += [name for name, form in properties.items() if not _FORMS[form["type"]](fields.get(name))]
    if wrong:
        wanted = ", ".join(f"{name} ({form['type']})" for name, form in properties.items()) or "none"
        raise MalformedAnswer(
            f"Nothing was done: {', '.join(map(repr, wrong))} is missing, of the wrong type or unknown. The arguments "
            f"of {call.name!r}: {wanted}."
        )
    return fields


_FORMS: Final[Mapping[str, Callable[[object], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def fenced_blocks(text: str) -> list[str]:
    """Return what is in the fenced code blocks of a Markdown text; one that is not closed is none."""
    blocks: list[str] = []
    fence = ""
    lines: list[str] = []
    for line in text.split("\n"):
        match = _FENCE.fullmatch(line.rstrip())
        if not fence:
            if match is not None:
                fence, lines = match[1], []
        elif match is not None and match[1].startswith(fence) and not match[2]:
            blocks.append("\n".join(lines))
            fence = ""
        else:
            lines.append(line)
    return blocks


def json_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text, the outermost ones, in order."""
    found: list[dict[str, Any]] = []
    decoder = json.JSONDecoder()
    start = text.find("{")
    tries = 0
    while start >= 0 and tries < _MAX_TRIES:
        tries += 1
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # a number may have more digits than Python reads
            start += 1
        else:
            found.append(value)
        start = text.find("{", start)
    return found


_MAX_TRIES: Final = 200  # so that a text of nothing but braces takes no quadratic time

__all__ = ["CodeCraftDialect", "Dialect", "ShellDialect", "arguments_of", "fenced_blocks", "json_objects", "tool"]
