"""Files of what an agent did, one for each episode that was submitted, in the form that InterCode writes."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

__all__ = ["save_trajectory"]

_numbers = itertools.count()


def save_trajectory(folder: str | Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write *content* to ``{folder}/logs_{name}/log_{time}_{process}_{number}.json`` and return the path. Blocking.

    No file is ever written over, whatever runs beside: process and number are in its name.

    Raises:
        OSError: It cannot be written.
    """
    directory = Path(folder) / f"logs_{re.sub(r'[^A-Za-z0-9._-]', '_', name)}"
    directory.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d%H%M%S")
    path = directory / f"log_{stamp}_{os.getpid()}_{next(_numbers)}.json"
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2
    data = orjson.dumps(_plain(content), option=options, default=str)
    with path.open("xb") as file:
        file.write(data)
    return path


def _plain(value: Any) -> Any:
    """Return *value* with only such text as UTF-8 can hold; a sandbox may have printed anything."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return value
