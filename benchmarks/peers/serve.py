"""The far end of `benchmarks.peer`: runs in a peer's own virtual environment and answers one line of JSON with another.

Standard output belongs to the answers alone; whatever else is printed goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


def claim_standard_output() -> TextIO:
    """Return standard output, which from now on is standard error to everything else."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def serve(answers: TextIO, start: Callable[[], None], methods: dict[str, Callable[..., Any]]) -> None:
    """Start, say that it is done, and answer until standard input ends. What fails is answered with what went wrong."""
    if not _answer(answers, start):
        return
    for line in sys.stdin:
        request = json.loads(line)
        _answer(answers, methods[request.pop("do")], **request)


def _answer(answers: TextIO, call: Callable[..., Any], **arguments: Any) -> bool:
    """Return whether the call succeeded."""
    try:
        answer = {"answer": call(**arguments)}
    except Exception as exc:
        answer = {"error": f"{type(exc).__name__}: {exc}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return "error" not in answer
