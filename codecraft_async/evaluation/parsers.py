"""How a model's answer becomes an action, for each language; and how long outputs become short ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from codecraft_async._observation import clip
from codecraft_async.agents.dialects import fenced_blocks
from codecraft_async.evaluation.moves import Move

__all__ = ["PARSERS", "Parser", "cut", "defined_function", "plan_steps", "read_react"]

Parser = Callable[[str], str | None]
"""Returns the action in an answer; None if there is none."""

_WORDS: Final = ("submit", "skip")
_LABEL: Final = re.compile(r"\s*(?:[$>#]|(?:bash|sh|shell|command|cmd|python|code|action)\s*:)[ \t]*", re.I)
_SQL_LABEL: Final = re.compile(r"\bSQL\s*:\s*", re.I)
_SQL_START: Final = re.compile(
    r"\b(?:SELECT|SHOW|DESCRIBE|DESC|EXPLAIN|WITH|INSERT|UPDATE|DELETE|REPLACE|CREATE|ALTER|DROP|PRAGMA|USE)\b", re.I
)
# A quoted text, with doubled or escaped quotes in it; a comment; the end of the statement. What is not closed reaches
# to the end: else it would be tried again from each of its characters, which takes quadratic time.
_SQL_PART: Final = re.compile(
    r"""'(?:[^'\\]|\\.|'')*+'?|"(?:[^"\\]|\\.|"")*+"?|`[^`]*+`?|--[^\n]*+|/\*(?:.*?\*/|.*)|(?P<end>;)""", re.S
)
_FLATTENED: Final = re.compile(r" {5,}")
_ITEM: Final = re.compile(r"\s*(?:step\s*)?\d{1,3}[.):]\s+(\S.*)", re.I)
_REACT: Final = re.compile(r"^[ \t*]*Action(?:[ \t]*\d+)?[ \t]*:[* \t]*", re.M)
_REACT_THOUGHT: Final = re.compile(r"^[ \t*]*Thought(?:[ \t]*\d+)?[ \t]*:[* \t]*", re.M)
_REACT_OBSERVED: Final = re.compile(r"^[ \t*]*Observation(?:[ \t]*\d+)?[ \t]*:", re.M)
_FUNCTION: Final = re.compile(r"^(?:async[ \t]+)?def[ \t]+([^\W\d]\w*)[ \t]*\(", re.M)


def read_bash(text: str) -> str | None:
    """Return the first fenced block, else the whole answer without a label such as ``command:``."""
    blocks = fenced_blocks(text)
    command = blocks[0] if blocks else _unlabelled(text)
    return command.strip() or None


def read_sql(text: str) -> str | None:
    """Return the first statement: of the first fenced block, else from ``SQL:`` or from the first word that begins one.

    It ends before the first semicolon that is outside of quotes and comments. ``\\_``, as Markdown has it, is ``_``.
    """
    word = _word(text)
    if word is not None:
        return word
    blocks = fenced_blocks(text)
    rest = (blocks[0] if blocks else _SQL_LABEL.split(text, maxsplit=1)[-1]).replace("\\_", "_")
    start = _SQL_START.search(rest)
    if start is None:
        return None
    statement = rest[start.start() :]
    end = next((match for match in _SQL_PART.finditer(statement) if match["end"]), None)
    return (statement if end is None else statement[: end.start()]).strip()


def read_python(text: str) -> str | None:
    """Return the first fenced block, else the whole answer; a function on one line gets its lines back."""
    blocks = fenced_blocks(text)
    source = blocks[0].strip("\n") if blocks else _unlabelled(text).strip()
    if source.startswith("def ") and "\n" not in source:
        source = _FLATTENED.sub(lambda run: "\n" + run[0][: len(run[0]) // 4 * 4], source)
    return source.rstrip() or None


def read_ctf(text: str) -> str | None:
    """Return what stands in the first fenced block, else behind ``Action:``, else the whole answer."""
    blocks = fenced_blocks(text)
    if blocks:
        return blocks[0].strip() or None
    found = _REACT.search(text)
    return (text[found.end() :] if found else _unlabelled(text)).strip() or None


PARSERS: Final[dict[str, Parser]] = {
    "bash": read_bash,
    "sql": read_sql,
    "python": read_python,
    "ctf": read_ctf,
    "swe": read_bash,
}


def read_react(text: str, parse: Parser) -> Move | None:
    """Return the action of an answer of the form ``Thought: ...``, ``Action: execute[...]``, with its thought.

    Only the first action counts, and nothing after an ``Observation``, which a model may make up. What is in the
    brackets goes through the language's own parser.
    """
    text = text[: found.start()] if (found := _REACT_OBSERVED.search(text)) else text
    found = _REACT.search(text)
    if found is None:
        return None
    thought = " ".join(_REACT_THOUGHT.sub("", text[: found.start()], count=1).split())
    rest = text[found.end() :]
    rest = rest[: following.start()] if (following := _REACT_THOUGHT.search(rest) or _REACT.search(rest)) else rest
    rest = rest.strip()
    name, opened, inside = rest.partition("[")
    if opened and name.strip().lower() == "execute":
        end = inside.rfind("]")
        action = parse(inside if end < 0 else inside[:end])
        return None if action is None else Move(action, thought=thought)
    word = name.strip()
    if word.split(" ", 1)[0].lower() not in _WORDS:
        return None
    argument = inside[: inside.rfind("]")].strip() if opened and "]" in inside else ""
    return Move(f"{word} {argument}".strip(), thought=thought)


def plan_steps(text: str) -> list[str]:
    """Return the numbered items of a plan, one line each."""
    matches = (_ITEM.match(line) for line in text.splitlines())
    return [match[1].strip() for match in matches if match is not None]


def defined_function(source: str) -> str:
    """Return the name of the last function that *source* defines at its outermost level; empty if it defines none."""
    names = _FUNCTION.findall(source)
    return names[-1] if names else ""


def cut(observation: str, *, max_chars: int, max_rows: int) -> str:
    """Return an observation with the first rows of a list only, and then in at most so many characters."""
    return clip(_first_rows(observation, max_rows), max_chars)


def _first_rows(text: str, most: int) -> str:
    """Return a list of tuples, as Python writes it, with its first rows; any other text as it is."""
    if not text.startswith("[("):
        return text
    rows = depth = 0
    quote = ""
    escaped = False
    for place, char in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            rows += depth == 0
            if rows == most and text[place + 1 : place + 2] == ",":
                return f"{text[: place + 1]}] [only the first {most} rows]"
    return text


def _unlabelled(text: str) -> str:
    label = _LABEL.match(text)
    return text if label is None else text[label.end() :]


def _word(text: str) -> str | None:
    word = text.strip().strip("`").strip().lower()
    return word if word in _WORDS else None
