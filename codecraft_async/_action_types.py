"""The kinds of actions, and the tools that stand for them in models' answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

SUBMIT: Final = "submit"
RESET: Final = "reset"
RUN: Final = "run"
WRITE_FILE: Final = "write_file"
MAX_ACTION_CHARS: Final = 100_000


@dataclass(slots=True)
class Command:
    """Run *text* in the task's shell."""

    text: str


@dataclass(slots=True)
class WriteFile:
    """Make *data* the content of the file at *path*, relative to the workspace; missing directories are made."""

    path: str
    data: bytes


@dataclass(slots=True)
class Submit:
    """End the episode and have the work graded."""


@dataclass(slots=True)
class Reset:
    """Bring the workspace back to what it was at the beginning, within the episode."""


@dataclass(slots=True)
class Malformed:
    """The text is no action; *problem* says to the agent what is wrong with it."""

    problem: str


Action: TypeAlias = Command | WriteFile | Submit | Reset


class ActionParser(Protocol):
    """Reads actions."""

    def parse(self, text: str) -> Action | Malformed:
        """Return the action that *text* is, or what is wrong with it. An exception is an error of the parser's."""
        ...


_TOOLS: Final[dict[str, tuple[str, dict[str, str], tuple[str, ...]]]] = {
    RUN: ("Run a shell command in the sandbox and return what it prints.", {"command": "The command."}, ("command",)),
    WRITE_FILE: (
        "Write a whole file, replacing what is there; missing directories are made.",
        {
            "path": "The file, relative to /workspace.",
            "content": "All of its content.",
            "encoding": "How content is written: utf-8 (the default) or base64.",
        },
        ("path", "content"),
    ),
    SUBMIT: ("End the episode and have the work graded.", {}, ()),
    RESET: ("Bring the workspace back to what it was at the beginning.", {}, ()),
}
"""Each tool by its name: what it does, its arguments (all text), and those it cannot do without."""


def tool_names(*, allow_reset: bool) -> tuple[str, ...]:
    """Return the names of the tools."""
    return tuple(name for name in _TOOLS if allow_reset or name != RESET)


def tool_arguments(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of all arguments of a tool, and of those it cannot do without."""
    _, arguments, required = _TOOLS[name]
    return tuple(arguments), required


def tool_schema(style: Literal["openai", "anthropic"] = "openai", *, allow_reset: bool = False) -> list[dict[str, Any]]:
    """Return the tools as the argument ``tools`` of an OpenAI-compatible or an Anthropic endpoint.

    Raises:
        ValueError: The style is unknown.
    """
    if style not in ("openai", "anthropic"):
        raise ValueError(f"style is {style!r}; it must be 'openai' or 'anthropic'")
    tools: list[dict[str, Any]] = []
    for name in tool_names(allow_reset=allow_reset):
        description, arguments, required = _TOOLS[name]
        properties: dict[str, Any] = {key: {"type": "string", "description": text} for key, text in arguments.items()}
        if "encoding" in properties:
            properties["encoding"]["enum"] = ["utf-8", "base64"]
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        }
        if style == "anthropic":
            tools.append({"name": name, "description": description, "input_schema": schema})
        else:
            function = {"name": name, "description": description, "parameters": schema}
            tools.append({"type": "function", "function": function})
    return tools
