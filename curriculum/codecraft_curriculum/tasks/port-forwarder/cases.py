"""What a server behind a forwarder says to its clients, and what they must hear."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_CLIENTS = 16
_TIMES = 20_000


def both_ways(rng: random.Random, /) -> Sequence[Case]:
    """Return greetings that two clients hear while nobody has ended anything."""
    hello, stdin = _job(rng)
    return [Case(Match(f"{hello[0]} {hello[1]}"), stdin=stdin)]


def ends(rng: random.Random, /) -> Sequence[Case]:
    """Return a long text, whose end the server waits for, and an answer that comes after it."""
    hello, stdin = _job(rng)
    reply = hashlib.sha256((json.loads(stdin)["reply"][2] * _TIMES).encode()).hexdigest()[:16]
    return [Case(Match(f"{hello[2]} True {reply}"), stdin=stdin)]


def at_once(rng: random.Random, /) -> Sequence[Case]:
    """Return many clients at once, beside silent ones, of which one is closed before the others."""
    hello, stdin = _job(rng)
    return [Case(Match(" ".join([*hello, hello[0]])), stdin=stdin)]


def later(rng: random.Random, /) -> Sequence[Case]:
    """Return a client that comes before there is a server, and one that comes after."""
    hello, stdin = _job(rng)
    return [Case(Match(hello[0]), stdin=stdin)]


def _job(rng: random.Random) -> tuple[list[str], bytes]:
    """Return the greetings by client, and all that the server and the clients say."""
    hello = [_word(rng) for _ in range(_CLIENTS)]
    reply = [_word(rng) for _ in range(_CLIENTS)]
    job = {"hello": hello, "reply": reply, "times": _TIMES, "data": f"{_word(rng)}{_word(rng)}"}
    return hello, json.dumps(job).encode()


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=12))
