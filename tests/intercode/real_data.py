"""InterCode's own data, for tests: not part of the repository, so they are skipped where it is not at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE_THE_CLONE = Path(__file__).parents[3] / "shared" / "data"


def intercode_data(name: str) -> Path:
    """Return a file of InterCode's data, such as ``mbpp/ic_mbpp_0_486.json``, or skip the test."""
    file = Path(os.environ.get("CODECRAFT_DATA") or _BESIDE_THE_CLONE) / "intercode" / name
    if not file.exists():
        pytest.skip(f"{file} is not there; CODECRAFT_DATA names the directory of the data")
    return file
