"""The names under which gymnasium has InterCode's environments."""

from __future__ import annotations

import gymnasium
from gymnasium.utils.env_checker import check_env

from codecraft_async.intercode import PythonEnv, PythonVectorEnv
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
