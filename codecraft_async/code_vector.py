"""`CodeVectorEnv`: many coding tasks at once, each in a sandbox of its own, from one pool."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Unpack

from gymnasium.vector import AutoresetMode

from codecraft_async._choice import choose_tasks
from codecraft_async._loop import LoopThread
from codecraft_async._pooled_vector import PooledVectorEnv
from codecraft_async._recovery import Recovery
from codecraft_async._rules import RuleOptions, Rules
from codecraft_async._shaping import grading_sandboxes
from codecraft_async._track import Track, curriculum_source, open_recorder
from codecraft_async.env import RESET_LIMIT_S, CodeEnv
from codecraft_async.recorder import Recorder
from codecraft_async.runtime import PROVE_EVERY, Runtime
from codecraft_async.sampling import make_samplers
from codecraft_curriculum import Curriculum, Sampler
from codecraft_pool import ImageProgress, Launcher


class CodeVectorEnv(PooledVectorEnv):
    """`num_envs` `CodeEnv`s over one pool of as many sandboxes, started together at the first reset.

    Observations are a tuple of `num_envs` strings, actions likewise; rewards float64, terminations and truncations
    bool, each of shape (num_envs,). `info` holds arrays of that length, by the keys of `CodeEnv`. With the "sequential"
    sampler, environment i gives the tasks i, i + num_envs, ... of the curriculum, round and round; all other samplers
    are shared by the environments.

    Where one environment can have no sandbox at a reset, the others' episodes go on: its observation is empty, `info`
    has the fault and ``valid`` False, and its next step ends the episode, truncated. Only before any sandbox was had is
    that an error. `reset` has all sandboxes started first; `async_reset` begins each episode as soon as it has one.

    Args:
        num_envs: How many environments, and sandboxes.
        task, curriculum, backend, sampler, render_mode, reset_limit_s: As `CodeEnv`; so are all options of it that are
            not listed here.
        autoreset_mode: What happens to ended episodes; a `gymnasium.vector.AutoresetMode` or its value.
        max_concurrency: At most so many environments reset or step at once, gradings included; None: all.
        progress: Told how an image is pulled or built.
        loop: The thread for `reset` and `step`; by default one of its own.
        prove_every: Every so many episodes, a restored sandbox is compared with a new one, and replaced if it differs;
            0: never. `env.runtime` has the pool, whose `stats()` count the proofs.
        record: As `CodeEnv`; all environments write to the same place.
        background_resets: In NEXT_STEP, whether an episode that has ended is followed by the next one's reset at once,
            so that the next step need not wait for it; None: unless there is a render mode. See `AsyncioVectorEnv`.
        batch_size: How many results `recv` delivers unless it is told otherwise; None: those of all.

    Raises:
        ValueError, UnknownTask, TaskFileError: An argument is wrong; says which and what is allowed.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str | None = None,
        curriculum: str | Curriculum = "builtin",
        backend: str | Launcher = "auto",
        sampler: str | Sampler = "sequential",
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_concurrency: int | None = None,
        progress: ImageProgress | None = None,
        loop: LoopThread | None = None,
        prove_every: int = PROVE_EVERY,
        reset_limit_s: float = RESET_LIMIT_S,
        record: str | Path | Recorder | None = None,
        recover: bool | Recovery = False,
        background_resets: bool | None = None,
        batch_size: int | None = None,
        **rules: Unpack[RuleOptions],
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        tasks = choose_tasks(curriculum, task)
        needed = num_envs + grading_sandboxes(Rules(**rules), num_envs)
        self.runtime = Runtime(
            backend, list(tasks.values()), max_sandboxes=needed, progress=progress, prove_every=prove_every
        )
        make = partial(
            CodeEnv,
            curriculum=tasks,
            render_mode=render_mode,
            runtime=self.runtime,
            reset_faults="info",
            reset_limit_s=reset_limit_s,
            recover=recover,
            **rules,
        )
        recorder, self._own_recorder = open_recorder(record)
        source = curriculum_source(curriculum)
        tracks = [recorder and Track(recorder, curriculum_source=source) for _ in range(num_envs)]
        self.samplers = make_samplers(sampler, tasks, num_envs)
        """What picks the tasks of each environment; all the same one, but for sequential ones."""
        super().__init__(
            [partial(make, sampler=each, record=track) for each, track in zip(self.samplers, tracks, strict=True)],
            autoreset_mode=autoreset_mode,
            max_concurrency=max_concurrency,
            render_mode=render_mode,
            loop=loop,
            background_resets=background_resets,
            batch_size=batch_size,
        )

    async def _close_all(self) -> None:
        try:
            await super()._close_all()
        finally:
            if self._own_recorder is not None:
                self._own_recorder.close()


__all__ = ["CodeVectorEnv"]
