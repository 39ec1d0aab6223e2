"""Lines that are versions, and lines that nearly are."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_WORDS = ("alpha", "rc", "x-y", "-", "--", "0a", "00a", "B", "7b-", "0", "10", "9")


def numbers(rng: random.Random, /) -> Sequence[Case]:
    """Return versions without anything behind them."""
    right = [_core(rng) for _ in range(8)] + ["0.0.0", "10.20.30"]
    core = _core(rng)
    wrong = [f"0{core}", f"{core}.{rng.randint(0, 9)}", "1.2", "1..3", f"v{core}", f"{core} ", f" {core}", "1,2,3", ""]
    wrong += [f"1.{rng.randint(0, 9):02}.3", f"1.2.{rng.randint(0, 9):02}", "1.2.x", f"{core}\t", "1.2.-3", f"{core}."]
    return [_case(rng, right, wrong)]


def builds(rng: random.Random, /) -> Sequence[Case]:
    """Return versions with a build."""
    right = [f"{_core(rng)}+{'.'.join(_build(rng) for _ in range(rng.randint(1, 3)))}" for _ in range(8)]
    core = _core(rng)
    wrong = [
        f"{core}+",
        f"{core}+a..b",
        f"{core}+a+b",
        f"{core}+a_b",
        f"{core}+.a",
        f"{core}+a.",
        f"{core}++a",
        f"0{core}+a",
    ]
    return [_case(rng, right, wrong)]


def pre_releases(rng: random.Random, /) -> Sequence[Case]:
    """Return versions with a pre-release, some with a build as well."""
    right = [f"{_core(rng)}-{'.'.join(rng.choices(_WORDS, k=rng.randint(1, 4)))}" for _ in range(10)]
    right += [f"{_core(rng)}-{rng.choice(_WORDS)}+{_build(rng)}" for _ in range(3)] + [f"{_core(rng)}-0.00a"]
    core = _core(rng)
    wrong = [
        f"{core}-",
        f"{core}-a..b",
        f"{core}-{rng.randint(0, 9):02}",
        f"{core}-a.{rng.randint(0, 9):03}",
        f"{core}-00",
    ]
    wrong += [f"{core}-a_b", f"{core}-.a", f"{core}-a.", f"{core}-01+a", f"{core}-a+", f"{core}-a b"]
    return [_case(rng, right, wrong)]


def _case(rng: random.Random, right: list[str], wrong: list[str]) -> Case:
    lines = [*right, *wrong]
    rng.shuffle(lines)
    said = "".join(f"{line}\n" for line in lines if line in right)
    return Case(Match(said, "exact"), stdin="".join(f"{line}\n" for line in lines).encode())


def _core(rng: random.Random) -> str:
    return ".".join(str(rng.choice([0, rng.randint(1, 9), rng.randint(10, 2000)])) for _ in range(3))


def _build(rng: random.Random) -> str:
    return rng.choice([*_WORDS, f"{rng.randint(0, 99):04}", f"sha-{rng.randint(0, 1 << 20):x}"])
