"""A registered environment over fake sandboxes, for runs of the program."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium

from codecraft_async.intercode import InterCodeEnv, InterCodeVectorEnv
from codecraft_async.pool import FakeLauncher
from tests.intercode.fakes import Sayings, answer

ENV = "tests.evaluation.sayings:tests/Sayings-v0"


class SayingsVectorEnv(InterCodeVectorEnv):
    """Sandboxes are fake ones, whatever the command line says."""

    env_class: ClassVar[type[InterCodeEnv] | None] = Sayings

    def __init__(self, num_envs: int = 1, *, backend: str = "auto", **options: Any) -> None:
        del backend
        super().__init__(num_envs, backend=FakeLauncher(answer), **options)


gymnasium.register(
    "tests/Sayings-v0",
    entry_point="tests.intercode.fakes:Sayings",
    vector_entry_point="tests.evaluation.sayings:SayingsVectorEnv",
    nondeterministic=True,
    disable_env_checker=True,
)
