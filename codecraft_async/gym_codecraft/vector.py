"""`CodeCraftVectorEnv`: many students of gym-codecraft at once, each in a sandbox of its own, from one pool."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode

from codecraft_async._loop import LoopThread
from codecraft_async.gym_codecraft.env import CodeCraftEnv, open_tasks, tasks_to_prepare
from codecraft_async.gym_codecraft.interface import InterfaceName
from codecraft_async.gym_codecraft.progress import PullLines
from codecraft_async.gym_codecraft.tasks import DEFAULT
from codecraft_async.runtime import PROVE_EVERY, Runtime
from codecraft_async.vector import AsyncioVectorEnv
from codecraft_curriculum import Curriculum, Grader
from codecraft_pool import ImageProgress, Launcher

__all__ = ["CodeCraftVectorEnv"]


class CodeCraftVectorEnv(AsyncioVectorEnv[dict[str, tuple[str, ...]], tuple[str, ...]]):
    """`num_envs` `CodeCraftEnv`s that run concurrently over one pool of as many sandboxes.

    Observations are ``{"obs": (text, ...)}``, actions a tuple of JSON texts. All other arguments are those of
    `CodeCraftEnv`; `autoreset_mode`, `loop`, `prove_every`, `background_resets` and `batch_size` those of
    `CodeVectorEnv`. An environment whose reset can have no sandbox says so in its info, as in `CodeVectorEnv`.

    Raises:
        ValueError, TaskFileError, UnknownTask: An argument is wrong; says which and what is allowed.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        curriculum: str | Path | Curriculum = DEFAULT,
        interface: InterfaceName = "new",
        graders: Mapping[str, Grader] | None = None,
        backend: str | Launcher = "auto",
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        progress: ImageProgress | None = None,
        loop: LoopThread | None = None,
        prove_every: int = PROVE_EVERY,
        background_resets: bool | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        tasks = open_tasks(curriculum, graders=graders, interface=interface)
        self.runtime = Runtime(
            backend,
            tasks_to_prepare(tasks),
            max_sandboxes=num_envs,
            progress=progress or PullLines(),
            prove_every=prove_every,
        )
        make = partial(
            CodeCraftEnv,
            curriculum=tasks,
            interface=interface,
            render_mode=render_mode,
            runtime=self.runtime,
            reset_faults="info",
            **options,
        )
        super().__init__(
            [make] * num_envs,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
            loop=loop,
            background_resets=background_resets,
            batch_size=batch_size,
        )

    async def _close_all(self) -> None:
        try:
            await super()._close_all()
        finally:
            await self.runtime.aclose()
