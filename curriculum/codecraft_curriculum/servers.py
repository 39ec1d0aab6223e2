"""Grading a server: it is started in the sandbox, asked over loopback, and its answers are compared on the host.

The client that asks runs beside the server, as the same user, and is no more trusted than it: what it prints is data.
The requests hold words that are drawn for each grading, so that answers cannot be known before.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from codecraft_curriculum._frozen import FrozenMapping
from codecraft_curriculum.documents import parse_json
from codecraft_curriculum.grade import Grade, excerpt
from codecraft_curriculum.graders import CommandSpec
from codecraft_curriculum.matching import Match
from codecraft_curriculum.sandbox import GradingSandbox
from codecraft_curriculum.server_client import CLIENT

__all__ = ["Exchange", "ServerGrader"]

_WORD = re.compile(r"@WORD([1-9])@")
_START_S = 5.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question to a server and the answer that is due.

    With a `method` it is an HTTP request for `path`, and `status`, `headers` and `expected` (the body) are compared
    where given. Without one, `send` goes over a plain TCP connection, whose end for writing is closed then (unless
    `keep_open`: the server must answer first), and what comes back until the server closes is compared with `expected`.
    ``@WORD1@`` to ``@WORD9@`` stand in all texts for lower-case words that are drawn anew for each grading.
    """

    expected: Match | None = None
    method: str = ""
    path: str = "/"
    send: str = ""
    request_headers: Mapping[str, str] = field(default_factory=FrozenMapping[str, str])
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=FrozenMapping[str, str])
    keep_open: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "request_headers", FrozenMapping(self.request_headers))
        object.__setattr__(self, "headers", FrozenMapping(self.headers))
        if not self.method and (self.status is not None or self.headers or self.request_headers):
            raise ValueError("status and headers are those of HTTP: give a method too")
        if self.expected is None and self.status is None and not self.headers:
            raise ValueError("nothing is expected: give expected, status or headers")


@dataclass(frozen=True, slots=True)
class ServerGrader:
    """Passes if a server answers every exchange, in order, on 127.0.0.1.

    The server is the command, in whose words ``@PORT@`` stands for a port that is free (with `port` 0; any other is one
    that the task has fixed, and that a server of before may hold for a minute). It is given 5 s to accept the first
    connection, `limit_s` of the command is for everything, and it is killed afterwards. `idle` connections that say
    nothing are open all the while: a server that waits for one client after the other does not get past them. With
    `partial` the score is the share of right answers; else nothing is asked after the first that does not come.
    """

    command: CommandSpec
    exchanges: tuple[Exchange, ...]
    port: int = 0
    idle: int = 0
    partial: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}: give 1 to 65535, or 0 for one that is free")
        if not self.port and "@PORT@" not in str(self.command.command):
            raise ValueError("the command does not say @PORT@: write it where the port goes, or give a fixed port")
        if not self.exchanges:
            raise ValueError("exchanges is empty: give at least one")
        if not 0 <= self.idle <= 64:
            raise ValueError(f"idle is {self.idle}: give 0 to 64 connections")

    @property
    def runs_agent_code(self) -> bool:
        """That is its purpose."""
        return True

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        """Start the server, ask everything, and compare."""
        exchanges = _with_words(self.exchanges, random.SystemRandom())
        answers = await self._ask(sandbox, exchanges)
        if isinstance(answers, Grade):
            return answers
        problems = [
            f"exchange {number} of {len(exchanges)}: {problem}"
            for number, (exchange, answer) in enumerate(zip(exchanges, answers, strict=True), 1)
            if (problem := _problem(exchange, answer)) is not None
        ]
        if not problems:
            return Grade.success(f"all {len(exchanges)} answers are right")
        return Grade(1 - len(problems) / len(exchanges) if self.partial else 0.0, reason=problems[0])

    async def _ask(self, sandbox: GradingSandbox, exchanges: tuple[Exchange, ...]) -> list[dict[str, object]] | Grade:
        words = ["sh", "-c", self.command.command] if isinstance(self.command.command, str) else [*self.command.command]
        job = {
            "command": words,
            "port": self.port,
            "idle": self.idle,
            "stop": not self.partial,
            "start_s": min(_START_S, self.command.limit_s / 2),
            "answer_s": max(0.5, (self.command.limit_s - _START_S) / len(exchanges) / 2),
            "exchanges": [_as_job(exchange) for exchange in exchanges],
        }
        client = replace(
            self.command, command=("python3", "-I", "-S", "-B", "-c", CLIENT), stdin=json.dumps(job).encode()
        )
        outcome = await client.run(sandbox)
        if isinstance(outcome, Grade):
            return Grade.failure(f"{self.command} did not answer within its limits of time and output")
        try:
            answers = parse_json(outcome.stdout.decode())
        except ValueError:
            return Grade.failure(f"{self.command}: the exchanges were broken off: {excerpt(outcome.stderr[-200:])}")
        if not isinstance(answers, list) or len(cast(list[object], answers)) != len(exchanges):
            return Grade.failure(f"{self.command}: there are not as many answers as questions")
        items = cast(list[object], answers)
        said = outcome.stderr[-200:].strip()
        return [{"stderr": said} | (cast(dict[str, object], item) if isinstance(item, dict) else {}) for item in items]


def _as_job(exchange: Exchange) -> dict[str, object]:
    return {
        "method": exchange.method,
        "path": exchange.path,
        "send": exchange.send,
        "headers": dict(exchange.request_headers),
        "keep_open": exchange.keep_open,
    }


def _with_words(exchanges: tuple[Exchange, ...], chance: random.Random) -> tuple[Exchange, ...]:
    """Return the exchanges with a fresh word for each ``@WORD1@``."""
    words = {str(number): "".join(chance.choices(string.ascii_lowercase, k=9)) for number in range(1, 10)}

    def fill(text: str) -> str:
        return _WORD.sub(lambda found: words[found[1]], text)

    return tuple(
        replace(
            exchange,
            expected=None
            if exchange.expected is None
            else replace(exchange.expected, expected=fill(exchange.expected.expected)),
            path=fill(exchange.path),
            send=fill(exchange.send),
            request_headers={name: fill(value) for name, value in exchange.request_headers.items()},
            headers={name: fill(value) for name, value in exchange.headers.items()},
        )
        for exchange in exchanges
    )


def _problem(exchange: Exchange, answer: Mapping[str, object]) -> str | None:
    """Return what is wrong with an answer, which anybody may have written, or None."""
    error, body, headers, stderr = (answer.get(name) for name in ("error", "body", "headers", "stderr"))
    asked = f"{exchange.method} {exchange.path}".strip() if exchange.method else excerpt(exchange.send, 40)
    if not isinstance(body, str) or error is not None:
        said = f", standard error ends in {excerpt(stderr)}" if isinstance(stderr, bytes) and stderr else ""
        return f"{asked}: no answer: {excerpt(str(error))}{said}"
    if exchange.status is not None and answer.get("status") != exchange.status:
        return f"{asked}: expected status {exchange.status}, got {excerpt(str(answer.get('status')), 40)}"
    given = cast(dict[str, object], headers) if isinstance(headers, dict) else {}
    for name, value in exchange.headers.items():
        if given.get(name.lower()) != value:
            return f"{asked}: expected the header {name}: {value}, got {excerpt(str(given.get(name.lower())), 60)}"
    if exchange.expected is None:
        return None
    try:
        problem = exchange.expected.mismatch(base64.b64decode(body, validate=True))
    except ValueError:
        return f"{asked}: no answer"
    return None if problem is None else f"{asked}: {problem}"
