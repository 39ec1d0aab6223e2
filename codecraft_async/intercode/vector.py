"""`InterCodeVectorEnv`: many InterCode environments of one kind at once, over one pool of sandboxes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from gymnasium.vector import AutoresetMode

from codecraft_async._loop import LoopThread
from codecraft_async._pooled_vector import PooledVectorEnv
from codecraft_async.intercode.base import InterCodeEnv, open_dataset
from codecraft_async.runtime import PROVE_EVERY, Runtime
from codecraft_async.sampling import make_samplers
from codecraft_curriculum import Dataset, Sampler, TaskLimits
from codecraft_pool import ImageProgress, Launcher, Recipe

__all__ = ["InterCodeVectorEnv"]

_ENVS_PER_EVALUATOR = 4


class InterCodeVectorEnv(PooledVectorEnv):
    """`num_envs` environments of the class *env* that run concurrently; data, sandboxes and golds are shared.

    Observations and actions are tuples of texts. All other arguments are those of the class; `autoreset_mode`, `loop`,
    `prove_every`, `background_resets` and `batch_size` those of `CodeVectorEnv`. With the "sequential" sampler,
    environment i gives the rows i, i + num_envs, ..., round and round. An environment whose reset can have no sandbox
    says so in its info, as in `CodeVectorEnv`.

    Raises:
        ValueError, TaskFileError: An argument is wrong; says which and what is allowed.
    """

    env_class: ClassVar[type[InterCodeEnv] | None] = None
    """What a subclass is of, which is then not given as *env*."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        env: type[InterCodeEnv] | None = None,
        image_name: str | Recipe | None = None,
        data_path: str | Path | Dataset | None = None,
        sampler: str | Sampler = "uniform",
        trust_pickle: bool = False,
        backend: str | Launcher = "auto",
        limits: TaskLimits | None = None,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        progress: ImageProgress | None = None,
        loop: LoopThread | None = None,
        prove_every: int = PROVE_EVERY,
        background_resets: bool | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        kind = env or self.env_class
        if kind is None:
            raise ValueError("env is missing; give a subclass of InterCodeEnv")
        dataset = open_dataset(data_path, trust_pickle=trust_pickle, names=kind.field_names)
        # While all environments hold a sandbox each, there is one left for golds: nobody waits for ever.
        evaluators = 1 + num_envs // _ENVS_PER_EVALUATOR if kind.evaluates else 0
        self.runtime = Runtime(
            backend,
            [kind.sandbox_task(image_name, limits)],
            max_sandboxes=num_envs + evaluators,
            progress=progress,
            prove_every=prove_every,
            recipes=kind.recipes(image_name),
        )
        make = partial(
            kind,
            image_name,
            data_path=dataset,
            limits=limits,
            render_mode=render_mode,
            runtime=self.runtime,
            reset_faults="info",
            **kind.shared_options(),
            **options,
        )
        samplers: list[str | Sampler] = ["uniform"] * num_envs
        if dataset is not None and sampler != "uniform":
            samplers = list(make_samplers(sampler, dataset.curriculum(), num_envs))
        super().__init__(
            [partial(make, sampler=each) for each in samplers],
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
            loop=loop,
            background_resets=background_resets,
            batch_size=batch_size,
        )
