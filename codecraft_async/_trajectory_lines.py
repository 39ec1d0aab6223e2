"""The lines of a recorded trajectory, as values and as bytes: the schema.

A file is UTF-8 text, one JSON object per line, each with ``schema`` (1) and ``kind``:

``reset``: an `EpisodeStart`, which has everything that is needed to play the episode again.
``step``: an `EpisodeStep`, which belongs to the start with the same ``episode``.
``torn``: no fields; the line before it was cut off when its writer was killed.

The lines of an episode are in order; those of several episodes may be mixed. A reader ignores fields and kinds that it
does not know, and refuses a schema that is newer than its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any, Final, TypeVar, cast

import numpy as np
import orjson

SCHEMA: Final = 1
TORN_LINE: Final = b'{"schema":1,"kind":"torn"}\n'
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
_STEERING: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
LineT = TypeVar("LineT", "EpisodeStart", "EpisodeStep", "Branch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Where an episode that did not start at the beginning came from."""

    episode: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeStart:
    """A reset. `env` tells the environments of a recording apart; an environment plays one episode after another.

    `time` is seconds since 1970, when the line was written; `took_s` is how long the call took. `task_digest` depends
    on all of the task that an episode depends on; `task_index` is its place in the curriculum (-1: it is not there).
    `curriculum_source` is what names or holds the curriculum, empty if it was made by a program. `options` are those of
    the reset, `env_options` those of the environment; `spec` is the kind of sandbox, `image_id` what its image's name
    stood for, where there was one. With a `branch`, `observation` and `info` are those of the other episode then.
    """

    schema: int = SCHEMA
    kind: str = "reset"
    episode: str
    env: str
    time: float
    took_s: float
    package: str
    task: str
    task_index: int
    task_digest: str
    instruction: str
    max_steps: int
    curriculum: str
    curriculum_source: str
    seed: int | None
    options: dict[str, Any]
    env_options: dict[str, Any]
    launcher: str
    sandbox: str
    spec: dict[str, Any]
    image_id: str
    limits: dict[str, Any]
    observation: str
    info: dict[str, Any]
    branch: Branch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeStep:
    """A step; `step` counts from 1 (in a branch from where it began), `action` is what the agent said, verbatim."""

    schema: int = SCHEMA
    kind: str = "step"
    episode: str
    step: int
    time: float
    took_s: float
    action: str
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


Line = EpisodeStart | EpisodeStep


class LineError(ValueError):
    """A line is no line of a trajectory; says why."""


def encode_line(line: Line) -> bytes:
    """Return a line's bytes, the new line at its end included. Values that JSON has not become their `repr`."""
    try:
        return escaped(orjson.dumps(line, default=_plain, option=_OPTIONS))
    except TypeError:  # half of a surrogate pair, a number over 64 bits, a key that is no text: slower, but it can
        return escaped((json.dumps(_textual(asdict(line)), default=_plain) + "\n").encode())


def escaped(data: bytes) -> bytes:
    """Return JSON that says the same, and that steers no terminal and is one line to every reader.

    What an agent printed is in it: JSON's writers escape control characters below 32 only, while terminals act on those
    from 127 on, and on marks of direction as well; and some readers take U+0085 and U+2028 for the end of a line.
    """
    if data.isascii() and b"\x7f" not in data:
        return data
    return _STEERING.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), data)


def decode_line(data: bytes) -> Line | None:
    """Return the line of *data*; None if it is of a kind that holds nothing or is not known.

    Raises:
        LineError: It is garbled, or of a newer schema.
    """
    table = _parse(data)
    schema, kind = table.get("schema"), table.get("kind")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise LineError(f"field 'schema' is {schema!r}; it must be {SCHEMA}")
    if schema > SCHEMA:
        raise LineError(f"it is of schema {schema}, and this version reads up to {SCHEMA}: use a newer codecraft_async")
    if not isinstance(kind, str):
        raise LineError(f"field 'kind' is {kind!r}; it must be 'reset', 'step' or another text")
    if kind == "reset":
        return _made(EpisodeStart, table)
    return _made(EpisodeStep, table) if kind == "step" else None


def _parse(data: bytes) -> dict[str, Any]:
    try:
        try:
            table = orjson.loads(data)
        except orjson.JSONDecodeError:  # what only the slower way could write
            table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LineError(f"it is no JSON: {error}") from None
    if not isinstance(table, dict):
        raise LineError(f"it holds {type(table).__name__} where an object must be")
    return table


_NUMBER: Final = (int, float, NoneType)  # JSON has no NaN: it is written as null
# By the annotation; that of every field above is here.
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": _NUMBER,
    "bool": (bool,),
    "int | None": (int, NoneType),
    "dict[str, Any]": (dict,),
    "Branch | None": (dict, NoneType),
}


def _made(kind: type[LineT], table: dict[str, Any]) -> LineT:
    values: dict[str, Any] = {}
    for field in fields(kind):
        name, annotation = field.name, str(field.type)
        if name not in table and name != "branch":
            raise LineError(f"field {name!r} is missing")
        value: Any = table.get(name)
        if not isinstance(value, _KINDS[annotation]) or (isinstance(value, bool) and annotation != "bool"):
            raise LineError(f"field {name!r} is {repr(value)[:80]}; it must be of type {annotation}")
        if annotation == "float":
            values[name] = float("nan") if value is None else float(cast("float", value))
        elif annotation == "Branch | None" and isinstance(value, dict):
            values[name] = _made(Branch, cast("dict[str, Any]", value))
        else:
            values[name] = value
    return kind(**values)


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return repr(value)


def _textual(value: Any) -> Any:
    """Return *value* with keys that are text, as JSON wants them."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _textual(each) for key, each in value.items()}
    return [_textual(each) for each in value] if isinstance(value, list | tuple) else value


__all__ = [
    "SCHEMA",
    "TORN_LINE",
    "Branch",
    "EpisodeStart",
    "EpisodeStep",
    "Line",
    "LineError",
    "decode_line",
    "encode_line",
    "escaped",
]
