"""Configurations in layers, and what they are together."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

from codecraft_curriculum import Case, Match

_NAMES = ("host", "port", "limits", "log", "users", "paths", "retry", "caf\u00e9")


def two(rng: random.Random, /) -> Sequence[Case]:
    """Return a configuration and one that adds and replaces plain values at the top."""
    base = {name: rng.randint(1, 99) for name in rng.sample(_NAMES, 5)}
    over = {name: rng.choice([True, "text", 1.5, [1, 2]]) for name in rng.sample(_NAMES, 4)}
    return [_case([base, over])]


def nested(rng: random.Random, /) -> Sequence[Case]:
    """Return configurations with objects in objects, which are merged, and lists, which are not."""
    base = {"log": {"file": {"path": "a", "size": rng.randint(1, 9)}, "level": "info"}, "users": ["ann", {"id": 1}]}
    over = {"log": {"file": {"size": rng.randint(10, 99)}, "level": {"all": "debug"}}, "users": ["bo"]}
    return [_case([base, over]), _case([_tree(rng, 4), _tree(rng, 4), _tree(rng, 4)])]


def removed(rng: random.Random, /) -> Sequence[Case]:
    """Return configurations with null, which removes a value, at several depths and in several places."""
    base = {"host": {"name": "x", "port": rng.randint(1, 99)}, "log": 1, "list": [None, 2]}
    layers: list[Mapping[str, object]] = [
        base,
        {"host": {"port": None}, "log": None, "gone": None},
        {"log": {"a": None, "b": {"c": None}}},
    ]
    return [_case(layers), _case([*layers, {"host": None, "more": [None, {"d": None}]}])]


def _tree(rng: random.Random, depth: int) -> dict[str, object]:
    return {
        name: _tree(rng, depth - 1) if depth and rng.random() < 0.6 else rng.choice([rng.randint(1, 99), "t", [1], {}])
        for name in rng.sample(_NAMES, 4)
    }


def _case(layers: Sequence[Mapping[str, object]]) -> Case:
    merged: object = {}
    for layer in layers:
        merged = _merge(merged, layer)
    files = {f"{number}.json": json.dumps(layer) for number, layer in enumerate(layers)}
    text = json.dumps(merged, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return Case(Match(text, "exact"), arguments=tuple(files), files=files)


def _merge(target: object, patch: object) -> object:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged
