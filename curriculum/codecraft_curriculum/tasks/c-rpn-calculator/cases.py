"""Sums in reverse Polish notation, and what a calculator of 64 bits says to each."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

_LOW, _HIGH = -(1 << 63), (1 << 63) - 1
_Token = str | int


def sums(rng: random.Random, /) -> Sequence[Case]:
    """Return sums that all have a result."""
    return [_case([_sum(rng, rng.randint(1, 7)) for _ in range(15)])]


def mistakes(rng: random.Random, /) -> Sequence[Case]:
    """Return lines that are no sums, between some that are."""
    number = rng.randint(2, 99)
    lines: list[Sequence[_Token]] = [[number, "+"], [], ["-"], [number, number], [number, 0, "/"], [number, 0, "%"]]
    lines += [[number, "x", "+"], ["1.5"], ["--2"], [f"{number}a"], ["+", number, 2], [number, 1, "+", "*"], ["-+2"]]
    lines += [_sum(rng, 3) for _ in range(4)]
    rng.shuffle(lines)
    return [_case(lines)]


def limits(rng: random.Random, /) -> Sequence[Case]:
    """Return sums near the ends of the range of 64 bits, inside and outside of it."""
    small = rng.randint(1, 9)
    lines: list[list[_Token]] = [
        [_HIGH, small, "+"],
        [_HIGH - small, small, "+"],
        [_LOW, small, "-"],
        [_LOW, -1, "*"],
        [_LOW, -1, "/"],
        [_LOW, -1, "%"],
        [_HIGH, -1, "*"],
        [_LOW + small, small, "-"],
        [1 << 32, 1 << 31, "*"],
        [1 << 31, 1 << 31, "*", small, "+"],
        [_HIGH + small],
        [f"{_LOW}0"],
        [_HIGH, 2, "/", small, "-"],
    ]
    rng.shuffle(lines)
    return [_case(lines)]


def _sum(rng: random.Random, operators: int) -> list[_Token]:
    if not operators:
        return [rng.randint(-99, 999)]
    left = rng.randint(0, operators - 1)
    operator = rng.choice("+-*+-/%")
    second: list[_Token] = [rng.choice([-7, -2, 3, 10])] if operator in "/%" else _sum(rng, operators - 1 - left)
    return [*_sum(rng, left), *second, operator]


def _case(lines: Sequence[Sequence[_Token]]) -> Case:
    given = "".join(" ".join(map(str, line)) + "\n" for line in lines)
    return Case(Match("\n".join(map(_answer, lines))), stdin=given.encode())


def _answer(tokens: Sequence[_Token]) -> str:
    stack: list[int] = []
    for token in map(str, tokens):
        digits = token.removeprefix("-")
        if digits.isdecimal():
            stack.append(int(token))
            if not _LOW <= stack[-1] <= _HIGH:
                return "overflow"
            continue
        if token not in "+-*/%" or len(token) != 1 or len(stack) < 2:
            return "error"
        second, first = stack.pop(), stack.pop()
        if token in "/%" and second == 0:
            return "division by zero"
        stack.append(_computed(token, first, second))
        if not _LOW <= stack[-1] <= _HIGH:
            return "overflow"
    return str(stack[0]) if len(stack) == 1 else "error"


def _computed(operator: str, first: int, second: int) -> int:
    if operator == "+":
        return first + second
    if operator == "-":
        return first - second
    if operator == "*":
        return first * second
    quotient = abs(first) // abs(second) * (1 if (first < 0) == (second < 0) else -1)
    return quotient if operator == "/" else first - second * quotient
