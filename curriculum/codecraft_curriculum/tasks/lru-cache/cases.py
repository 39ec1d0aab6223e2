"""Operations on a cache, and what they return."""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from collections.abc import Sequence

from codecraft_curriculum import Case, Match


def roomy(rng: random.Random, /) -> Sequence[Case]:
    """Return one case in which nothing has to leave the cache."""
    return [_case(rng, capacity=rng.randint(40, 50), keys=20, puts=0.5)]


def crowded(rng: random.Random, /) -> Sequence[Case]:
    """Return two cases in which the cache overflows, one of them with room for one key only."""
    return [_case(rng, capacity=rng.randint(3, 6), keys=10, puts=0.4), _case(rng, capacity=1, keys=3, puts=0.5)]


def refused(rng: random.Random, /) -> Sequence[Case]:
    """Return a case with a capacity that is not allowed, and one that is."""
    refused = Case(Match("ValueError"), stdin=f"[{rng.choice([0, -1, -7])}, []]".encode())
    return [refused, _case(rng, capacity=rng.randint(5, 9), keys=5, puts=0.6)]


def _case(rng: random.Random, *, capacity: int, keys: int, puts: float) -> Case:
    cache: OrderedDict[str, int] = OrderedDict()
    operations: list[list[object]] = []
    results: list[object] = []
    for _ in range(60):
        key = f"k{rng.randrange(keys)}"
        if rng.random() < puts:
            value = rng.randrange(1000)
            operations.append(["put", key, value])
            cache[key] = value
            cache.move_to_end(key)
            if len(cache) > capacity:
                cache.popitem(last=False)
        elif rng.random() < 0.7:
            operations.append(["get", key])
            results.append(cache.get(key))
            if key in cache:
                cache.move_to_end(key)
        else:
            operations.append(["keys"])
            results.append([len(cache), *cache])
    operations.append(["keys"])
    results.append([len(cache), *cache])
    expected = "\n".join(json.dumps(result) for result in results)
    return Case(Match(expected), stdin=json.dumps([capacity, operations]).encode())
