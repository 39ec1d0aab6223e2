"""Actions as text: a shell command, or as language models write them: JSON, a fenced code block, tool calls.

orjson reads the JSON: it takes time linear in the text, and refuses what is nested too deeply and what is no Unicode.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any, Final, Literal, cast

import orjson

from codecraft_async._action_types import (
    RESET,
    RUN,
    SUBMIT,
    WRITE_FILE,
    Action,
    Command,
    Malformed,
    Reset,
    Submit,
    WriteFile,
    tool_arguments,
    tool_names,
)

_SHELL_LANGUAGES: Final = frozenset({"", "bash", "sh", "shell", "zsh", "console"})
_QUOTED_CHARS: Final = 60
_KINDS: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FORMS: Final = {
    RUN: ('"command": "ls -l"', "runs a shell command"),
    WRITE_FILE: ('"path": "notes.txt", "content": "..."', "writes a whole file"),
    SUBMIT: ("", "ends the episode and has the work graded"),
    RESET: ("", "brings the workspace back to what it was at the beginning"),
}


class ShellActions:
    """The whole text is a command, but ``submit`` (and ``reset``, where that is allowed), whatever space is around."""

    form = ""

    def __init__(self, *, allow_reset: bool = False) -> None:
        self._words = _words(allow_reset=allow_reset)

    def parse(self, text: str) -> Action:
        """See `ActionParser`; never `Malformed`."""
        return self._words.get(text.strip()) or Command(text)


class JsonActions:
    """One JSON object, whose "action" is the name of a tool of `tool_schema` and whose other keys are its arguments.

    A file's "content" may be anything: with ``"encoding": "base64"`` it is decoded.
    """

    def __init__(self, *, allow_reset: bool = False) -> None:
        self._tools = tool_names(allow_reset=allow_reset)
        shown = [f'{{"action": "{name}"{_comma(_FORMS[name][0])}}} {_FORMS[name][1]}' for name in self._tools]
        self.form = "Answer with one JSON object and nothing else:\n" + ";\n".join(shown) + "."

    def parse(self, text: str) -> Action | Malformed:
        """See `ActionParser`."""
        found = _json(text)
        if isinstance(found, Malformed):
            return found
        if not isinstance(found, dict):
            return Malformed(f"the action must be a JSON object, not {_kind(found)}")
        arguments = dict(cast("dict[str, Any]", found))
        if "action" not in arguments:
            return Malformed('the JSON object has no "action"')
        return _make(arguments.pop("action"), arguments, self._tools)


class FencedActions:
    """The fenced code block of shell in a model's answer; all around it, and blocks in other languages, are comment.

    Fences are Markdown's (CommonMark 0.31, section 4.5): three or more backticks or tildes, closed by as many or more
    of the same, so that a command that holds fences itself goes into a longer one. The language is bash, sh, shell,
    zsh, console or none. *which* block counts where there are several: "only" takes none of them, "last" the last. A
    block that is not closed, such as that of an answer that was cut off, is malformed. A block that holds only the
    word ``submit`` submits.
    """

    def __init__(self, *, which: Literal["only", "last"] = "only", allow_reset: bool = False) -> None:
        if which not in ("only", "last"):
            raise ValueError(f"which is {which!r}; it must be 'only' or 'last'")
        self._which = which
        self._words = _words(allow_reset=allow_reset)
        blocks = "one fenced code block" if which == "only" else "a fenced code block, the last of which counts,"
        words = "; ".join(f"a block with only the word {word} {_FORMS[word][1]}" for word in self._words)
        self.form = (
            f"Answer with {blocks} that holds a shell command:\n```bash\nls -l\n```\nInstead of a command, {words}."
        )

    def parse(self, text: str) -> Action | Malformed:
        """See `ActionParser`."""
        other = ""
        blocks: list[str] = []
        for language, body in _fenced_blocks(text):
            if body is None:
                return Malformed("the last fenced code block is not closed")
            if language.lower() in _SHELL_LANGUAGES:
                blocks.append(body)
            else:
                other = language
        if not blocks:
            why = f"there is one in {_quoted(other)}" if other else "there is none"
            return Malformed(f"the answer must hold a fenced code block with a shell command: {why}")
        if len(blocks) > 1 and self._which == "only":
            return Malformed(f"the answer must hold one fenced code block of shell, not {len(blocks)}")
        if not blocks[-1].strip():
            return Malformed("the fenced code block is empty")
        return self._words.get(blocks[-1].strip()) or Command(blocks[-1])


class ToolCallActions:
    """The one tool call of a message, as JSON text.

    Taken are: a message with "tool_calls" (or "function_call") or the list of calls itself, as OpenAI-compatible
    endpoints give it; a message whose "content" has blocks of type "tool_use", or the list of blocks, as Anthropic's
    give it; items of type "function_call"; and ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>`` anywhere
    in a text, as Hermes and Qwen models write it. The tools are those of `tool_schema`.
    """

    def __init__(self, *, allow_reset: bool = False) -> None:
        self._tools = tool_names(allow_reset=allow_reset)
        shown = ", ".join(f"{name} ({_FORMS[name][1]})" for name in self._tools)
        call = '{"name": "run", "arguments": {"command": "ls -l"}}'
        self.form = f"Call one of the tools {shown}; written out, a call is:\n{_OPEN}{call}{_CLOSE}"

    def parse(self, text: str) -> Action | Malformed:
        """See `ActionParser`."""
        calls = _calls_of(text)
        if isinstance(calls, Malformed):
            return calls
        if len(calls) != 1:
            many = f"holds {len(calls)} tool calls" if calls else "holds no tool call"
            return Malformed(f"the message {many}; it must hold one")
        call = calls[0].get("function", calls[0])
        if not isinstance(call, dict):
            return Malformed(f'a tool call\'s "function" must be an object, not {_kind(call)}')
        named = cast("dict[str, Any]", call)
        arguments = named.get("arguments", named.get("input", {}))
        if isinstance(arguments, str):
            arguments = _json(arguments) if arguments.strip() else {}
            if isinstance(arguments, Malformed):
                return Malformed(f"the arguments of the tool call: {arguments.problem}")
        if not isinstance(arguments, dict):
            return Malformed(f"the arguments of the tool call must be an object, not {_kind(arguments)}")
        return _make(named.get("name"), cast("dict[str, Any]", arguments), self._tools)


def _words(*, allow_reset: bool) -> dict[str, Action]:
    """Return the actions that are one word."""
    words: dict[str, Action] = {SUBMIT: Submit()}
    return words | {RESET: Reset()} if allow_reset else words


def _make(name: object, arguments: dict[str, Any], tools: tuple[str, ...]) -> Action | Malformed:
    """Return the action of a tool's name and its arguments."""
    if not isinstance(name, str) or name not in tools:
        return Malformed(f"there is no action {_quoted(name)}; there are {', '.join(tools)}")
    known, required = tool_arguments(name)
    for key in arguments:
        if key not in known:
            allowed = f"it takes {', '.join(known)}" if known else "it takes nothing"
            return Malformed(f"{name} has no argument {_quoted(key)}; {allowed}")
    for key in required:
        if key not in arguments:
            return Malformed(f"{name} lacks its argument {key!r}")
    for key, value in arguments.items():
        if not isinstance(value, str):
            return Malformed(f"the argument {key!r} of {name} must be text, not {_kind(value)}")
    if name == RUN:
        return Command(arguments["command"])
    if name == WRITE_FILE:
        return _write_file(**arguments)
    return Submit() if name == SUBMIT else Reset()


def _write_file(path: str, content: str, encoding: str = "utf-8") -> WriteFile | Malformed:
    if not path:
        return Malformed("the argument 'path' of write_file is empty")
    if encoding == "utf-8":
        return WriteFile(path, content.encode())
    if encoding != "base64":
        return Malformed(f"the argument 'encoding' of write_file is {_quoted(encoding)}; it must be utf-8 or base64")
    try:
        return WriteFile(path, base64.b64decode("".join(content.split()), validate=True))
    except (binascii.Error, ValueError) as exc:
        return Malformed(f"the argument 'content' of write_file is no base64: {exc}")


def _fenced_blocks(text: str) -> Iterator[tuple[str, str | None]]:
    """Give the language and the body of each fenced code block; the body of one that is not closed is None."""
    mark, length, language = "", 0, ""
    body: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        bare = line.lstrip(" ")
        run = len(bare) - len(bare.lstrip(bare[:1])) if bare[:1] in ("`", "~") else 0
        is_fence = run >= 3 and len(line) - len(bare) <= 3
        if not mark:
            info = bare[run:].strip()
            if is_fence and not (bare[0] == "`" and "`" in info):
                mark, length = bare[0], run
                language = info.split(maxsplit=1)[0] if info else ""
                body = []
        elif is_fence and bare[0] == mark and run >= length and not bare[run:].strip():
            yield language, "\n".join(body)
            mark = ""
        else:
            body.append(line)
    if mark:
        yield language, None


def _marked_calls(text: str) -> list[dict[str, Any]] | Malformed:
    """Return the calls between the marks of Hermes' notation."""
    calls: list[dict[str, Any]] = []
    for piece in text.split(_OPEN)[1:]:
        inner, closed, _ = piece.partition(_CLOSE)
        if not closed:
            return Malformed(f"a {_OPEN} is not closed by {_CLOSE}")
        call = _json(inner)
        if isinstance(call, Malformed):
            return Malformed(f"the tool call: {call.problem}")
        if not isinstance(call, dict):
            return Malformed(f"a tool call must be a JSON object, not {_kind(call)}")
        calls.append(cast("dict[str, Any]", call))
    return calls


def _calls_of(text: str) -> list[dict[str, Any]] | Malformed:
    """Return the calls of a message, of its content, of a list of calls or content blocks, or of a text with marks."""
    message = _json(text)
    if isinstance(message, Malformed):
        is_json = text.lstrip()[:1] in ("{", "[")  # meant to be
        return message if is_json and _OPEN not in text else _marked_calls(text)
    found: Any = message
    if isinstance(message, dict):
        fields = cast("dict[str, Any]", message)
        found = fields.get("tool_calls") or fields.get("content") or [fields.get("function_call") or fields]
    if isinstance(found, str):
        return _marked_calls(found)
    if not isinstance(found, list):
        return []
    items = [cast("dict[str, Any]", item) for item in found if isinstance(item, dict)]
    return [item for item in items if "name" in item or "function" in item]


def _json(text: str) -> Any:
    """Return the value of a JSON text, or what is wrong with the text as `Malformed`."""
    try:
        return orjson.loads(text)
    except ValueError as exc:  # orjson's own error is one, and so is that of text that is no Unicode
        return Malformed(f"it is no valid JSON: {exc}" if text.strip() else "it is no valid JSON: it is empty")


def _kind(value: object) -> str:
    """Return what a value of JSON is."""
    return _KINDS.get(type(value), "null")


def _quoted(value: object) -> str:
    if not isinstance(value, str):
        return _kind(value)
    return repr(value if len(value) <= _QUOTED_CHARS else f"{value[:_QUOTED_CHARS]}...")


def _comma(text: str) -> str:
    return f", {text}" if text else ""


__all__ = ["FencedActions", "JsonActions", "ShellActions", "ToolCallActions"]
