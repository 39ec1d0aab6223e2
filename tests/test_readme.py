"""The README's examples run as they stand, and its two commands are there."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import codecraft_async
from codecraft_async import CodeEnv, CodeVectorEnv
from codecraft_async._rules import RuleOptions
from tests.llm.openai_server import KEY, OpenAIServer, says

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


def test_there_are_four_examples() -> None:
    """A new one wants a test here."""
    assert 4 == len(EXAMPLES)


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


def test_the_example_with_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address and the key come from the environment; a model that writes the file earns 1."""
    answers = (
        says("```sh\necho 'print(\"Hello, World!\")' > hello.py\n```"),
        says("```sh\nsubmit\n```"),
    )

    async def main() -> object:
        async with OpenAIServer(*answers) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
            return await run_example(3)["solve"]("hello-world")

    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    assert 1.0 == asyncio.run(asyncio.wait_for(main(), 60))


def options_of_the_table(only_for: str = "") -> set[str]:
    """The options that the README lists, or those of the row of what only one environment has, or only many."""
    table = re.search(r"^\| option \|.*\n(?:\|.*\n)+", README, re.MULTILINE)
    assert table is not None
    lines = [line.split("|") for line in table[0].splitlines()]
    return {name for _, names, told, _ in lines if only_for in told for name in re.findall(r"`(\w+)`", names)}


def test_the_table_of_options_is_complete() -> None:
    """Every option of the two environments, none that is not there, and which only one of the two has."""
    one, many = (set(inspect.signature(kind).parameters) - {"rules"} for kind in (CodeEnv, CodeVectorEnv))
    assert one | many | set(RuleOptions.__annotations__) == options_of_the_table()
    assert one - many == options_of_the_table("only for one")
    assert many - one == options_of_the_table("only for many")


def test_the_registered_ids_are_listed_with_their_options() -> None:
    """In the README, and in the docstring of the package, which has every option of the table."""
    ours = [name for name, spec in gymnasium.registry.items() if "codecraft_async" in str(spec.entry_point)]
    assert "codecraft/Code-v0" in ours
    docstring = codecraft_async.__doc__ or ""
    for name in ours:
        assert f"| `{name}` |" in README
        assert f"``{name}``" in docstring
    assert set() == options_of_the_table() - set(re.findall(r"\w+", docstring))


def test_the_two_commands_are_those_of_the_makefile() -> None:
    """`make demo` and `make test`."""
    assert "\nmake demo " in README
    assert "\nmake test " in README
