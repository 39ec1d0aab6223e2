"""APIs with pages, as data for a server, and what there is to be read."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

from codecraft_curriculum import Case, Match

_Answer = dict[str, object]
_Pages = dict[str, list[_Answer]]


def pages(rng: random.Random, /) -> Sequence[Case]:
    """Return an API with several pages that share items, and one with an empty page."""
    return [_read(rng, _paths(rng, rng.randint(3, 5))), _read(rng, ["/items"], size=0)]


def addresses(rng: random.Random, /) -> Sequence[Case]:
    """Return an API whose addresses of pages are relative in several ways, with queries that want to be left alone."""
    word = _word(rng)
    paths = ["/api/v1/list", f"/api/v1/{word}?q=a%20b&c=%2F", f"/api/v1/{word}?q=a+b&x=1", f"/api/{word}/z", f"/{word}"]
    links = [f"{word}?q=a%20b&c=%2F", "?q=a+b&x=1", f"../{word}/z", f"/{word}"]
    return [_read(rng, paths, links=links)]


def busy(rng: random.Random, /) -> Sequence[Case]:
    """Return an API that is busy now and then, and one that sometimes closes the connection."""
    wait: _Answer = {"status": 503, "retry": "0.4"}
    at_once: _Answer = {"status": 503}
    cut: _Answer = {"cut": True}
    first = _read(rng, _paths(rng, 3), before={1: [wait, at_once]}, most=3)
    return [first, _read(rng, _paths(rng, 3), before={0: [cut], 2: [cut, at_once, at_once, cut]}, most=5)]


def errors(rng: random.Random, /) -> Sequence[Case]:
    """Return APIs that fail for good, one that goes round in circles, and one that is well."""
    busy_for_ever: _Answer = {"status": 503}
    gone = rng.choice([404, 410, 500, 403])
    paths = _paths(rng, 3)
    circle = _api(rng, paths, [*paths[1:], paths[1]], 2, {})[0]
    return [
        _read(rng, _paths(rng, 2)),
        _failed(_api(rng, paths, [*paths[1:], None], 2, {2: [busy_for_ever] * 5})[0], paths[0], 5),
        _failed(_api(rng, paths, [*paths[1:], None], 2, {1: [{"status": gone}]})[0], paths[0], 1),
        _failed(circle, paths[0], 1),
    ]


def _read(
    rng: random.Random,
    paths: Sequence[str],
    *,
    links: Sequence[str] | None = None,
    size: int = 4,
    before: Mapping[int, Sequence[_Answer]] | None = None,
    most: int = 1,
) -> Case:
    served, amounts = _api(rng, paths, [*(links or paths[1:]), None], size, before or {})
    said = json.dumps({"items": len(amounts), "total": sum(amounts.values())}, sort_keys=True)
    return Case(Match(f"0 {said} silent patient {most}"), stdin=_job(served, paths[0]))


def _failed(served: _Pages, start: str, most: int) -> Case:
    return Case(Match(f"1  told patient {most}"), stdin=_job(served, start))


def _api(
    rng: random.Random,
    paths: Sequence[str],
    links: Sequence[str | None],
    size: int,
    before: Mapping[int, Sequence[_Answer]],
) -> tuple[_Pages, dict[str, int]]:
    """Return the answers for each path, in order, and the amounts of all items."""
    served: _Pages = {}
    amounts: dict[str, int] = {}
    for number, (path, link) in enumerate(zip(paths, links, strict=True)):
        items: list[dict[str, str | int]] = []
        if number:  # the last item of the page before has moved here, and has changed
            items += [{"id": name, "amount": 1_000_000} for name in list(amounts)[-1:]]
        for _ in range(size):
            name, amount = f"{_word(rng)}-{rng.randint(0, 99)}", rng.randint(-50, 500)
            amounts.setdefault(name, amount)
            items.append({"id": name, "amount": amounts[name]})
        page: _Answer = {"status": 200, "page": {"items": items, "next": link}}
        served[path] = [*before.get(number, ()), page]
    return served, amounts


def _job(served: _Pages, start: str) -> bytes:
    return json.dumps({"pages": served, "start": start}).encode()


def _paths(rng: random.Random, number: int) -> list[str]:
    return ["/items", *(f"/items?cursor={_word(rng)}" for _ in range(number - 1))]


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7))
