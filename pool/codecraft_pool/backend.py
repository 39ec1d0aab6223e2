"""Which launcher to use on this machine, and why."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, get_args

from codecraft_pool.docker_daemon import connect_daemon
from codecraft_pool.docker_launcher import DockerLauncher
from codecraft_pool.errors import BackendUnavailable, ImageUnavailable, LaunchError
from codecraft_pool.images import ImageProgress, Images
from codecraft_pool.launcher import Launcher
from codecraft_pool.local_launcher import LocalLauncher
from codecraft_pool.reaper import reap
from codecraft_pool.recipes import Recipe
from codecraft_pool.spec import SandboxSpec

_log = logging.getLogger(__name__)

Backend = Literal["auto", "docker", "local"]
BACKENDS: Final[tuple[str, ...]] = get_args(Backend)
_ASKED_FOR: Final = "it was asked for"


@dataclass(frozen=True, slots=True)
class Choice:
    """A launcher that is ready for the specs asked for, and the reason it was taken, in one line."""

    launcher: Launcher
    reason: str


@asynccontextmanager
async def open_launcher(
    backend: str | Launcher = "auto",
    specs: Sequence[SandboxSpec] = (),
    *,
    progress: ImageProgress | None = None,
    aliases: Mapping[str, str] | None = None,
    recipes: Sequence[Recipe] = (),
) -> AsyncGenerator[Choice]:
    """Open a launcher that can start all of *specs*, after removing what dead processes left.

    A launcher that is given as *backend* is used as it is, and stays open. *aliases* says what is used instead of an
    image, as for `Images`; *recipes* say how further images are made, besides those of this package.

    "auto" takes Docker where a daemon answers and every image is here or can be had, else the local launcher; then it
    logs why, once. An image that is not of this project (``codecraft/...``) and cannot be had is an error: what such a
    task is meant to find is not on this machine's own /usr.

    Raises:
        ValueError: *backend* is no known one.
        LaunchError: What was asked for does not work here; says why and what to do.
    """
    if not isinstance(backend, str):
        for spec in specs:
            await backend.prepare(spec)
        yield Choice(backend, "it was given")
        return
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; it must be one of {', '.join(map(repr, BACKENDS))}")
    async with AsyncExitStack() as stack:
        if backend != "local":
            try:
                choice = await _open_docker(stack, specs, progress, aliases, recipes)
            except LaunchError as exc:
                await stack.aclose()
                if backend == "docker" or (isinstance(exc, ImageUnavailable) and not _only_own_images(specs)):
                    raise
                why = str(exc)
                _log.warning("sandboxes are local, over this machine's /usr: %s", why)
            else:
                yield choice
                return
        else:
            why = _ASKED_FOR
        yield await _open_local(stack, specs, why)


def _only_own_images(specs: Sequence[SandboxSpec]) -> bool:
    return all(spec.image.startswith("codecraft/") for spec in specs)


async def _open_docker(
    stack: AsyncExitStack,
    specs: Sequence[SandboxSpec],
    progress: ImageProgress | None,
    aliases: Mapping[str, str] | None,
    recipes: Sequence[Recipe],
) -> Choice:
    daemon = await stack.enter_async_context(await connect_daemon())
    await reap(daemon)
    images = Images(daemon, aliases=aliases, more_recipes=recipes)
    launcher = await stack.enter_async_context(DockerLauncher(daemon, images=images, progress=progress))
    for spec in specs:
        await launcher.prepare(spec)
    return Choice(launcher, "a daemon answers and the images are there")


async def _open_local(stack: AsyncExitStack, specs: Sequence[SandboxSpec], why: str) -> Choice:
    try:
        launcher = await stack.enter_async_context(LocalLauncher())
        await reap(None)
        for spec in specs:
            await launcher.prepare(spec)
    except BackendUnavailable as exc:
        if why == _ASKED_FOR:
            raise
        raise BackendUnavailable(f"{exc} (Docker is not used: {why})") from exc
    return Choice(launcher, why)
