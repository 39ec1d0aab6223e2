"""Vectorized sandboxes for coding agents, as gymnasium environments.

Importing this registers the environments:

``codecraft/Code-v0``
    `CodeEnv`; with ``gymnasium.make_vec`` the native `CodeVectorEnv`.
``gym_codecraft/CodeCraft-v0``
    gym-codecraft's environment, `gym_codecraft.CodeCraftEnv`; with ``gymnasium.make_vec`` many of them over one pool.
"""

from __future__ import annotations

import gymnasium

from codecraft_async._episode import EpisodeError
from codecraft_async.code_vector import CodeVectorEnv
from codecraft_async.env import CodeEnv
from codecraft_async.spaces import Unicode
from codecraft_async.vector import AsyncioVectorEnv

__version__ = "0.1.0"

gymnasium.register(
    "codecraft/Code-v0",
    entry_point="codecraft_async.env:CodeEnv",
    vector_entry_point="codecraft_async.code_vector:CodeVectorEnv",
    nondeterministic=True,  # times and process ids differ from run to run
    disable_env_checker=True,  # it would start sandboxes behind the user's back; the tests run it
)
gymnasium.register(
    "gym_codecraft/CodeCraft-v0",
    entry_point="codecraft_async.gym_codecraft.env:CodeCraftEnv",
    vector_entry_point="codecraft_async.gym_codecraft.vector:CodeCraftVectorEnv",
    nondeterministic=True,
    disable_env_checker=True,
)

__all__ = ["AsyncioVectorEnv", "CodeEnv", "CodeVectorEnv", "EpisodeError", "Unicode"]
