"""Values as JSON that says their types: plain data only, so that reading them runs nobody's code."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from typing import Any, cast

_DEPTH_MAX = 100
_COLLECTIONS: dict[str, Callable[[Any], object]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SIMPLE: dict[str, Callable[..., object]] = {
    "str": str,
    "int": lambda text: int(text, 16),
    "float": float,
    "complex": lambda real, imaginary: complex(float(real), float(imaginary)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": range,
}


class Other:
    """A value that is no plain data, and was left where it was: it equals nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<a value of type {self.kind}>"


def encode(value: Any, depth: int = 0) -> object:
    """Return *value* as JSON; a value of a subclass becomes one of the plain type.

    Raises:
        ValueError: It is nested too deeply.
    """
    if depth > _DEPTH_MAX:
        raise ValueError(f"the value is nested more than {_DEPTH_MAX} levels deep")
    if value is None or value is True or value is False:
        return cast(object, value)
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [encode(item, depth + 1) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in dict.items(value)]]
    if isinstance(value, deque):
        return ["deque", value.maxlen, [encode(item, depth + 1) for item in value]]
    if isinstance(value, array):
        return ["array", value.typecode, [encode(item, depth + 1) for item in value]]
    return _encode_scalar(value)


def _encode_scalar(value: Any) -> object:
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    if isinstance(value, int):
        return ["int", hex(int.__index__(value))]  # which has no limit of digits
    if isinstance(value, float):
        return ["float", float.__repr__(value)]
    if isinstance(value, complex):
        return ["complex", float.__repr__(value.real), float.__repr__(value.imag)]
    if isinstance(value, bytes | bytearray):
        return ["bytes" if isinstance(value, bytes) else "bytearray", value.hex()]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    return ["other", type(value).__name__]


def decode(data: Any) -> object:
    """Return the value that `encode` made *data* of; any exception says that it is not of that form."""
    if data is None or isinstance(data, bool):
        return data
    kind, *arguments = data
    if kind in _SIMPLE:
        return _SIMPLE[kind](*arguments)
    if kind == "other":
        return Other(str(arguments[0]))
    if kind == "dict":
        return {decode(key): decode(item) for key, item in arguments[0]}
    if kind == "deque":
        return deque((decode(item) for item in arguments[1]), arguments[0])
    if kind == "array":
        return array(arguments[0], [cast(Any, decode(item)) for item in arguments[1]])  # pyright: ignore[reportDeprecated]
    return _COLLECTIONS[kind](decode(item) for item in arguments[0])
