"""What an agent can do, and how the text it sends is read.

An environment takes text. A parser turns it into an `Action`: a `Command` for the shell, a `WriteFile`, a `Submit` or a
`Reset`; or it says what is wrong with the text (`Malformed`), which the agent gets to read. Four parsers are chosen by
name, `CodeEnv(actions=...)`:

``"shell"``
    `ShellActions`: the text is a command; ``submit`` submits.
``"json"``
    `JsonActions`: one JSON object, ``{"action": "run", "command": "ls"}``.
``"fenced"``
    `FencedActions`: a model's answer in Markdown with one fenced code block of shell.
``"tool_calls"``
    `ToolCallActions`: a message with a tool call as OpenAI, Anthropic or Hermes models write it; `tool_schema` is what
    to give such a model.

Any object with a method ``parse(text) -> Action | Malformed`` is a parser as well; one with an attribute ``form``, a
text that says how actions are written, has it shown in instructions and after malformed actions. The parsers here give
an action or `Malformed` for every text, in time linear in its length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from codecraft_async._action_formats import FencedActions, JsonActions, ShellActions, ToolCallActions
from codecraft_async._action_types import (
    MAX_ACTION_CHARS,
    RESET,
    RUN,
    SUBMIT,
    WRITE_FILE,
    Action,
    ActionParser,
    Command,
    Malformed,
    Reset,
    Submit,
    WriteFile,
    tool_schema,
)

_PARSERS: Final[Mapping[str, Callable[..., ActionParser]]] = {
    "shell": ShellActions,
    "json": JsonActions,
    "fenced": FencedActions,
    "tool_calls": ToolCallActions,
}


def action_parser(actions: str | ActionParser, *, allow_reset: bool = False) -> ActionParser:
    """Return the parser that *actions* names, or *actions* itself if it is one.

    Raises:
        ValueError: There is no parser of that name.
        TypeError: It is neither a name nor a parser.
    """
    if not isinstance(actions, str):
        if not callable(getattr(actions, "parse", None)):
            raise TypeError(f"actions is {actions!r}, which has no method 'parse': see codecraft_async.actions")
        return actions
    make = _PARSERS.get(actions)
    if make is None:
        raise ValueError(f"actions is {actions!r}; it must be {', '.join(map(repr, _PARSERS))} or an ActionParser")
    return make(allow_reset=allow_reset)


def form_of(parser: ActionParser) -> str:
    """Return what *parser* says of how actions are written; empty if it says nothing."""
    return str(getattr(parser, "form", ""))


def problem_of(text: str) -> str | None:
    """Return why no program can be given *text*, or None; it is the agent's doing, and for the agent to read."""
    if "\0" in text:
        return "an action cannot hold a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "an action cannot hold half of a surrogate pair"
    return None


def read_action(parser: ActionParser, text: str) -> Action | Malformed:
    """Return what *parser* makes of *text*, checked for what no sandbox can be given.

    Raises:
        TypeError: The parser returned something else.
    """
    if len(text) > MAX_ACTION_CHARS:
        return Malformed(f"an action cannot be longer than {MAX_ACTION_CHARS} characters")
    action = parser.parse(text)
    if type(action) is Command:  # nearly always
        problem = problem_of(action.text)
    elif isinstance(action, Command | WriteFile):
        problem = problem_of(action.text if isinstance(action, Command) else action.path)
    elif isinstance(action, Submit | Reset | Malformed):  # pyright: ignore[reportUnnecessaryIsInstance]
        return action
    else:
        raise TypeError(f"a parser must return an action or Malformed, {parser!r} returned {action!r}")
    return action if problem is None else Malformed(problem)


__all__ = [
    "MAX_ACTION_CHARS",
    "RESET",
    "RUN",
    "SUBMIT",
    "WRITE_FILE",
    "Action",
    "ActionParser",
    "Command",
    "FencedActions",
    "JsonActions",
    "Malformed",
    "Reset",
    "ShellActions",
    "Submit",
    "ToolCallActions",
    "WriteFile",
    "action_parser",
    "form_of",
    "problem_of",
    "read_action",
    "tool_schema",
]
