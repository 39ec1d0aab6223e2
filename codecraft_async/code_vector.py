"""`CodeVectorEnv`: many coding tasks at once, each in a sandbox of its own, from one pool."""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

from gymnasium.vector import AutoresetMode

from codecraft_async._choice import choose_tasks, make_sampler
from codecraft_async._loop import LoopThread
from codecraft_async._rules import RuleOptions, Rules
from codecraft_async._shaping import grading_sandboxes
from codecraft_async._vector_batch import Seeds
from codecraft_async.env import RESET_LIMIT_S, CodeEnv
from codecraft_async.runtime import PROVE_EVERY, Runtime
from codecraft_async.vector import AsyncioVectorEnv
from codecraft_curriculum import Curriculum, Sampler
from codecraft_pool import ImageProgress, Launcher


class CodeVectorEnv(AsyncioVectorEnv[tuple[str, ...], tuple[str, ...]]):
    """`num_envs` `CodeEnv`s over one pool of as many sandboxes, started together at the first reset.

    Observations are a tuple of `num_envs` strings, actions likewise; rewards float64, terminations and truncations
    bool, each of shape (num_envs,). `info` holds arrays of that length, by the keys of `CodeEnv`. With the "sequential"
    sampler, environment i gives the tasks i, i + num_envs, ... of the curriculum, round and round.

    Where one environment can have no sandbox at a reset, the others' episodes go on: its observation is empty, `info`
    has the fault and ``valid`` False, and its next step ends the episode, truncated. Only where no sandbox can be had
    from the beginning, that is an error.

    Args:
        num_envs: How many environments, and sandboxes.
        task, curriculum, backend, sampler, render_mode, reset_limit_s: As `CodeEnv`; so are all options of it that are
            not listed here.
        autoreset_mode: What happens to ended episodes; a `gymnasium.vector.AutoresetMode` or its value.
        progress: Told how an image is pulled or built.
        loop: The thread for `reset` and `step`; by default one of its own.
        prove_every: Every so many episodes, a restored sandbox is compared with a new one, and replaced if it differs;
            0: never. `env.runtime` has the pool, whose `stats()` count the proofs.

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
        progress: ImageProgress | None = None,
        loop: LoopThread | None = None,
        prove_every: int = PROVE_EVERY,
        reset_limit_s: float = RESET_LIMIT_S,
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
            **rules,
        )
        samplers = [make_sampler(sampler, tasks, offset=index, stride=num_envs) for index in range(num_envs)]
        super().__init__(
            [partial(make, sampler=each) for each in samplers],
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
            loop=loop,
        )
        self._warm = False

    async def areset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """As `AsyncioVectorEnv.areset`; the first one starts the sandboxes.

        Raises:
            LaunchError: They cannot be started; says why and what to do.
        """
        if not self._warm:
            self._check_open()
            try:
                await self.runtime.prewarm()
            except Exception:
                self._check_open()  # closed meanwhile: that is what the caller is to be told
                raise
            self._warm = True
        return await super().areset(seed=seed, options=options)

    async def _close_all(self) -> None:
        try:
            await super()._close_all()
        finally:
            await self.runtime.aclose()


__all__ = ["CodeVectorEnv"]
