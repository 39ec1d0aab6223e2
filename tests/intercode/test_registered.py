"""The names under which gymnasium has InterCode's environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from codecraft_async.curriculum import Dataset
from codecraft_async.intercode import PythonEnv, PythonVectorEnv, SqlEnv, SqlVectorEnv
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
