"""Environments by their names, options by texts, and what golds come to in each environment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from codecraft_async.evaluation import EvalTask, Language, SettingsError, gold_actions
from codecraft_async.evaluation.opening import EnvKind
from codecraft_async.evaluation.parsers import read_sql
from codecraft_async.evaluation.tasks import chosen
from tests.evaluation.sayings import ENV


def test_options_get_their_types() -> None:
    """As the environment declares them, those of the class that vectorizes it among them."""
    texts = {"command_limit_s": "2", "compat": "Yes", "reward": "intercode", "max_episode_steps": "none"}
    values = EnvKind("intercode/Bash-v0").arguments({**texts, "image_name": "a:b", "prove_every": "3"})
    assert values == {
        "command_limit_s": 2.0,
        "compat": True,
        "reward": "intercode",
        "max_episode_steps": None,
        "image_name": "a:b",
        "prove_every": 3,
    }
    code = EnvKind("codecraft/Code-v0")
    assert {"shell": "persistent", "gamma": 0.5} == code.arguments({"shell": "persistent", "gamma": "0.5"})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("compat", "perhaps", "'perhaps' is not true or false"),
        ("max_episode_steps", "1.5", "'1.5' is not none or a whole number"),
        ("backend", "docker", "has no option 'backend'; it has: "),
        ("preprocess", "x", "has no option 'preprocess'"),
    ],
)
def test_options_that_are_none(name: str, value: str, words: str) -> None:
    """What would do is said."""
    with pytest.raises(SettingsError, match=words):
        EnvKind("intercode/Bash-v0").arguments({name: value})


@pytest.mark.parametrize(
    ("env", "words"),
    [("no_such_module:a/B-v0", "cannot be imported"), ("gym_codecraft/CodeCraft-v0", "neither rows of data nor tasks")],
)
def test_environments_that_cannot_be_played(env: str, words: str) -> None:
    """A module that is not there, and an environment whose tasks nobody could choose."""
    with pytest.raises(SettingsError, match=words):
        EnvKind(env)


def test_an_environment_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that registers it is imported; it may say what it speaks."""
    kind = EnvKind(ENV)
    assert ("tests/Sayings-v0", "sayings", True, "program") == (kind.id, kind.name, kind.has_rows, kind.language.label)
    language = Language("Saying", "say", "Here.", "a saying", "It pays.", "echo 1", read_sql)
    monkeypatch.setattr(kind.single, "language", language, raising=False)
    assert language is kind.language and "SELECT 1" == language.parse("so: SELECT 1; x")


def test_which_tasks() -> None:
    """Numbers and ranges, each task once, in their order; anything else is an error."""
    assert [3, 0, 1, 2, 7] == chosen("3,0-3, 7")
    wrong = (("a", "'a' is no number"), ("5-3", "ends before it begins"), ("", "'' is no number"))
    for text, words in (*wrong, ("0-99999999", "means more than 1000000 tasks")):
        with pytest.raises(ValueError, match=words):
            chosen(text)


@pytest.mark.parametrize(
    ("environment", "gold", "extras", "actions"),
    [
        ("ic_bash", ["cd /", "ls"], {}, ["cd /;ls"]),
        ("ic_sql", "SELECT 1", {}, ["SELECT 1"]),
        ("ic_ctf", "flag{a b}", {}, ["submit flag{a b}"]),
        ("ic_python", "def f(x):\n    return x", {"tests": ["assert f(1)"]}, ["def f(x):\n    return x", "submit f"]),
        ("ic_python", "nonsense(", {"tests": ["assert f(1)"]}, ["nonsense(", "submit"]),
        ("ic_swe", "--- a\nEND_OF_PATCH\n", {}, None),
    ],
)
def test_golds_as_actions(environment: str, gold: Any, extras: dict[str, Any], actions: list[str] | None) -> None:
    """What an agent that knows the gold has to do; a patch reaches git whatever is in it."""
    found = gold_actions(EvalTask(0, "q", gold, extras=extras), environment)
    patch = "git apply --whitespace=nowarn <<'END_OF_PATCH_'\n--- a\nEND_OF_PATCH\nEND_OF_PATCH_"
    assert (actions or [patch]) == found


def test_tasks_without_golds() -> None:
    """There is nothing to be done."""
    with pytest.raises(ValueError, match="task 3 has no gold"):
        gold_actions(EvalTask(3, "q"), "ic_bash")


def test_data_are_read_as_their_environment_reads_them(tmp_path: Path) -> None:
    """Options of the vector environment do not disturb that."""
    file = tmp_path / "data.csv"
    file.write_text("query,gold\na,b\n")
    dataset = asyncio.run(EnvKind(ENV).dataset(str(file), command_limit_s=1.0, prove_every=2))
    assert ("data", "b") == (dataset.name, dataset[0].gold)
