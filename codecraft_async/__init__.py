"""Vectorized sandboxes for coding agents, as gymnasium environments.

Importing this registers the environments:

``codecraft/Code-v0``
    `CodeEnv`; with ``gymnasium.make_vec`` the native `CodeVectorEnv`. All options of the two are keywords of
    ``gymnasium.make`` and ``gymnasium.make_vec``: tasks (`task`, `curriculum`, `sampler`), sandboxes (`backend`,
    `shell`, `reset_limit_s`), how actions are written (`actions`, `malformed_reward`, `malformed_retries`,
    `allow_reset`), what an agent reads (`max_observation_chars`, `ansi`), when an episode is cut off
    (`max_episode_steps`, `wall_budget_s`, `cpu_budget_s`), what is paid (`reward`, `gamma`), what is kept of it
    (`record`), whether an episode outlives its sandbox (`recover`), and `render_mode`. Only ``make`` has `runtime` and
    `reset_faults`; only ``make_vec`` has `num_envs`, `autoreset_mode`, `max_concurrency`, `batch_size` (of first-ready
    batches), `background_resets`, `prove_every`, `progress` and `loop`::

        import gymnasium

        env = gymnasium.make_vec(
            "codecraft_async:codecraft/Code-v0", num_envs=64, task="sort-numbers", actions="fenced", reward="dense"
        )

    The part before the colon imports this module; after ``import codecraft_async`` it can be left out. One name is
    gymnasium's own: `max_episode_steps` given to ``gymnasium.make`` (not to ``make_vec``) becomes its `TimeLimit`
    wrapper, which truncates without a word in ``info["truncation"]``; ``CodeEnv(max_episode_steps=...)`` says it.
    ``gymnasium.make`` also wraps the environment: `areset`, `astep` and `aclose` are those of ``env.unwrapped``.
``gym_codecraft/CodeCraft-v0``
    gym-codecraft's environment, `gym_codecraft.CodeCraftEnv`; with ``gymnasium.make_vec`` many of them over one pool,
    as a `CodeCraftVectorEnv`. Its options: `curriculum`, `interface` ("new" or "old"), `teacher`, `graders`,
    `max_score`, `command_limit_s`, `grade_limit_s`, `max_observation_chars`, `keep_workspaces`, and of the above
    `backend`, `runtime`, `max_episode_steps`, `reset_faults`, `progress` and `render_mode`.
``intercode/Bash-v0``
    InterCode's bash environment over queries and golds, `intercode.BashEnv`; with ``gymnasium.make_vec`` likewise.
``intercode/Python-v0``
    InterCode's Python environment over MBPP-style tasks, `intercode.PythonEnv`; with ``gymnasium.make_vec`` likewise.
``intercode/Sql-v0``
    InterCode's SQL environment over databases, `intercode.SqlEnv`; with ``gymnasium.make_vec`` likewise.
"""

from __future__ import annotations

import gymnasium

from codecraft_async._episode import EpisodeError
from codecraft_async._outcome import Outcome
from codecraft_async._recovery import Recovery
from codecraft_async.code_vector import CodeVectorEnv
from codecraft_async.env import CodeEnv
from codecraft_async.recorder import Recorder
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
gymnasium.register(
    "intercode/Bash-v0",
    entry_point="codecraft_async.intercode.bash:BashEnv",
    vector_entry_point="codecraft_async.intercode.bash:BashVectorEnv",
    nondeterministic=True,
    disable_env_checker=True,
)
gymnasium.register(
    "intercode/Python-v0",
    entry_point="codecraft_async.intercode.python:PythonEnv",
    vector_entry_point="codecraft_async.intercode.python:PythonVectorEnv",
    nondeterministic=True,
    disable_env_checker=True,
)
gymnasium.register(
    "intercode/Sql-v0",
    entry_point="codecraft_async.intercode.sql:SqlEnv",
    vector_entry_point="codecraft_async.intercode.sql:SqlVectorEnv",
    nondeterministic=True,
    disable_env_checker=True,
)

__all__ = ["AsyncioVectorEnv", "CodeEnv", "CodeVectorEnv", "EpisodeError", "Outcome", "Recorder", "Recovery", "Unicode"]
