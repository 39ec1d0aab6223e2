"""Where InterCode's data are for the tests that need them: CODECRAFT_DATA, or beside the clone; never in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

_BESIDE: Final = Path(__file__).parents[2].parent / "shared" / "data"


def intercode_data(name: str) -> Path:
    """The path of a file of InterCode's data; the test is skipped where they are not."""
    root = Path(os.environ.get("CODECRAFT_DATA") or _BESIDE)
    path = root / "intercode" / name
    if not path.exists():
        pytest.skip(f"no InterCode data in {root}: set CODECRAFT_DATA to the directory that holds intercode/")
    return path
