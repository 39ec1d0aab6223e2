"""Logs of a web server, and what is to be reported of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from codecraft_curriculum import Case, Match

_PATHS = ("/", "/a", "/b", "/cart", "/cart/items", "/img/logo.png", "/api/v1/orders", "/search", "/~ann/x.html", "/B")
_STATUSES = (200, 200, 200, 201, 304, 404, 403, 500, 502, 503)


@dataclass(frozen=True, slots=True)
class _Request:
    hour: int
    path: str
    query: str
    status: int
    size: int | None

    def line(self, rng: random.Random) -> str:
        day = f"{rng.randint(1, 28):02}/{rng.choice(['Jan', 'May', 'Oct'])}/2024"
        time = f"{day}:{self.hour:02}:{rng.randint(0, 59):02}:{rng.randint(10, 59)}"
        request = f"{rng.choice(['GET', 'POST', 'HEAD'])} {self.path}{self.query} HTTP/{rng.choice(['1.0', '1.1'])}"
        size = "-" if self.size is None else self.size
        address = f"10.0.{rng.randint(0, 9)}.{rng.randint(1, 254)}"
        return f'{address} - - [{time} +0000] "{request}" {self.status} {size}'


def totals(rng: random.Random, /) -> Sequence[Case]:
    """Return two logs and their totals."""
    return [_totals(rng, odd=()) for _ in range(2)]


def odd_lines(rng: random.Random, /) -> Sequence[Case]:
    """Return a log with lines that are none, and one with nothing else."""
    odd = (
        "",
        '10.0.0.1 - - [04/May/2024:10:00:01 +0000] "\\x16\\x03" 400 150',
        '10.0.0.1 - - [04/May/2024:10:00:01 +0000] "GET /two words HTTP/1.1" 500 150',
        f"worker {rng.randint(1, 9)}: restarted",
        '10.0.0.1 - - [04/May/2024:10:00:01 +0000] "-" 408 0',
    )
    nothing = "\n".join(odd) + "\n"
    empty = Case(Match("requests 0\nerrors 0\nbytes 0"), ("log",), files={"log": nothing})
    return [_totals(rng, odd=odd), empty]


def top(rng: random.Random, /) -> Sequence[Case]:
    """Return two logs and their most requested paths; some are requested equally often."""
    cases: list[Case] = []
    for _ in range(2):
        requests = _requests(rng, 60)
        tied = rng.sample([f"/t{number}" for number in range(10)], 4)
        requests += [_request(rng, path) for path in tied for _ in range(20)]
        counts = Counter(request.path for request in requests)
        number = rng.randint(5, 7)
        best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]
        lines = "".join(f"{count} {path}\n" for path, count in best)
        cases.append(Case(Match(lines), (str(number), "the log"), files={"the log": _text(rng, requests)}))
    return cases


def hours(rng: random.Random, /) -> Sequence[Case]:
    """Return two logs and their requests by the hour."""
    cases: list[Case] = []
    for _ in range(2):
        requests = _requests(rng, 50)
        counts = Counter(request.hour for request in requests)
        lines = "".join(f"{hour:02} {counts[hour]}\n" for hour in sorted(counts))
        cases.append(Case(Match(lines), ("log",), files={"log": _text(rng, requests)}))
    return cases


def _totals(rng: random.Random, odd: Sequence[str]) -> Case:
    requests = _requests(rng, 80)
    errors = sum(500 <= request.status <= 599 for request in requests)
    size = sum(request.size or 0 for request in requests)
    lines = [*_text(rng, requests).splitlines(), *odd]
    rng.shuffle(lines)
    said = f"requests {len(requests)}\nerrors {errors}\nbytes {size}\n"
    return Case(Match(said), ("log",), files={"log": "\n".join(lines) + "\n"})


def _requests(rng: random.Random, number: int) -> list[_Request]:
    return [_request(rng, rng.choice(_PATHS)) for _ in range(number)]


def _request(rng: random.Random, path: str) -> _Request:
    query = rng.choice(["", "", f"?q={rng.randint(1, 99)}", "?a=b?c=/d"])
    size = None if rng.random() < 0.2 else rng.randint(0, 99_999)
    return _Request(rng.randint(0, 23), path, query, rng.choice(_STATUSES), size)


def _text(rng: random.Random, requests: list[_Request]) -> str:
    rng.shuffle(requests)
    return "".join(f"{request.line(rng)}\n" for request in requests)
