"""The README's examples run as they stand, and its two commands are there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_example(number: int) -> dict[str, Any]:
    """Run one example, on the local backend where it leaves the choice, and return its names."""
    source = (
        EXAMPLES[number].replace('"auto"', '"local"').replace("CodeVectorEnv(64", 'CodeVectorEnv(4, backend="local"')
    )
    names: dict[str, Any] = {}
    exec(compile(source, f"README example {number}", "exec"), names)
    return names


def test_there_are_three_examples() -> None:
    """A new one wants a test here."""
    assert 3 == len(EXAMPLES)


def test_the_synchronous_example() -> None:
    """It ends with every environment graded."""
    names = run_example(0)
    assert [True] * 16 == names["terminations"].tolist()
    assert names["envs"].closed


def test_the_asynchronous_example() -> None:
    """It returns one reward for each environment."""

    async def policy(observations: tuple[str, ...]) -> list[str]:
        return ["sort -n input.txt > output.txt" if "score" not in each else "true" for each in observations]

    rollout: Callable[[Any], Awaitable[Any]] = run_example(1)["rollout"]
    returns = asyncio.run(asyncio.wait_for(rollout(policy), 60))
    assert 4 == len(returns)


def test_the_pool_example(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what the program printed, its exit status and its time."""
    asyncio.run(run_example(2)["main"]())
    assert capsys.readouterr().out.startswith("b'hello\\n' 0 0.")


def test_the_two_commands_are_those_of_the_makefile() -> None:
    """`make demo` and `make test`."""
    assert "\nmake demo " in README
    assert "\nmake test " in README
