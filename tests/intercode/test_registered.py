"""The names under which gymnasium has InterCode's environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from codecraft_async.curriculum import Dataset
from codecraft_async.intercode import PythonEnv, PythonVectorEnv, SqlEnv, SqlVectorEnv, SweVectorEnv
from codecraft_curriculum.swe import SAMPLES, write_samples
from tests.intercode.test_python import DATA


def test_the_registered_names() -> None:
    """One environment, about which gymnasium has no complaints, or many."""
    one = gymnasium.make("codecraft_async:intercode/Python-v0", data_path=DATA, backend="local")
    try:
        assert isinstance(one.unwrapped, PythonEnv)
        check_env(one.unwrapped, skip_render_check=True, skip_close_check=True)
    finally:
        one.close()
    many = gymnasium.make_vec("intercode/Python-v0", num_envs=2, data_path=DATA, backend="local")
    assert isinstance(many, PythonVectorEnv)
    many.close()


def test_the_registered_names_of_sql(tmp_path: Path) -> None:
    """As above."""
    (tmp_path / "shop.sql").write_text("CREATE TABLE fruit(name)")
    options: dict[str, Any] = {"engine": "sqlite", "databases": tmp_path, "backend": "local"}
    options["data_path"] = Dataset.from_rows([{"query": "Which fruit are there?", "gold": "SELECT * FROM fruit"}])
    one = gymnasium.make("codecraft_async:intercode/Sql-v0", **options)
    try:
        assert isinstance(one.unwrapped, SqlEnv)
        check_env(one.unwrapped, skip_render_check=True, skip_close_check=True)
    finally:
        one.close()
    many = gymnasium.make_vec("intercode/Sql-v0", num_envs=2, **options)
    assert isinstance(many, SqlVectorEnv)
    many.close()


def test_repositories_with_issues(tmp_path: Path) -> None:
    """Gymnasium makes them; they play different rows at once, and what is known of a row is known to all."""
    write_samples(tmp_path)
    many = gymnasium.make_vec(
        "codecraft_async:intercode/Swe-v0",
        num_envs=2,
        data_path=tmp_path / "swe.json",
        repositories=str(tmp_path / "{repo}.git"),
        sampler="sequential",
        backend="local",
        reward="share",
    )
    assert isinstance(many, SweVectorEnv)
    try:
        observations, _ = many.reset(seed=0)
        golds = [f"git apply <<'E'\n{sample.row()['patch']}\nE" for sample in SAMPLES]
        assert [sample.problem.strip() for sample in SAMPLES[:2]] == [each.strip() for each in observations]
        many.step((golds[0], "true"))
        _, rewards, terminations, _, infos = many.step(("submit", "submit"))
        assert [[1.0, 0.0], [True, True]] == [list(rewards), list(terminations)]
        assert [True, False] == list(infos["resolved"]) and list(infos["valid"])
    finally:
        many.close()
