"""Pulling one image: attempts with growing pauses, an end to all of it, and words for what went wrong."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass
from typing import Final

from codecraft_pool._image_progress import ImageProgress, relay
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused, DaemonHung, DaemonUnavailable, ImageUnavailable
from codecraft_pool.image_names import registry_of
from codecraft_pool.registry_login import login_header

PULL_PAUSES_S: tuple[float, ...] = (0.5, 2.0, 5.0)  # between attempts; a registry that restarts is back by then
PULL_LIMIT_S = 3600.0  # for all attempts at one image together
STALL_LIMIT_S = 180.0  # the daemon says something every 100 ms while bytes come; extracting a huge layer can be silent
_SPREAD: Final = 0.25  # of each pause: a registry that comes back is not met by everybody in the same moment

# What the answer of a registry, or of the daemon, means for whoever wants the image. Another attempt would not change
# these; the first that fits is told.
_FINAL: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), advice)
    for pattern, advice in (
        (
            r"basic auth|unauthorized|authentication required|access .{0,80}denied|\bdenied:|'docker login'",
            "check its name, and log in with `docker login {registry}` (the login of this user is used)",
        ),
        (r"no matching manifest|does not match the specified platform", "it is not made for this daemon's {arch}"),
        (r"manifest unknown|name unknown|not found|does not exist", "check its name and tag"),
        (r"no space left", "make room where the daemon keeps its images"),
        (
            r"HTTP response to HTTPS client|x509:|tls:",
            "give the daemon the registry's certificate, or name {registry} among its insecure-registries",
        ),
        (r"no such host", "check the registry's name, as the daemon's machine sees it"),
        (r"invalid reference|not supported", "check its name"),
    )
)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why one attempt failed, and what to do about it; `final`: another attempt would not change it."""

    reason: str
    advice: str
    final: bool


async def pull(daemon: DockerDaemon, name: str, progress: ImageProgress, *, asked: str | None = None) -> None:
    """The image is at the daemon. *name* is a full reference; *asked* what the caller called it, where that differs.

    Raises:
        ImageUnavailable: it cannot be had; says from where, how often it was tried, what was answered and what to do.
    """
    attempts = len(PULL_PAUSES_S) + 1
    failure = _Failure("no answer", "", final=True)
    deadline = asyncio.get_running_loop().time() + PULL_LIMIT_S
    for attempt in range(1, attempts + 1):
        try:
            await _pull_once(daemon, name, progress, deadline)
        except (CallRefused, DaemonUnavailable, TimeoutError) as error:
            failure = _explain(daemon, name, error)
            over = failure.final or attempt == attempts or asyncio.get_running_loop().time() >= deadline
            if over:
                raise _unavailable(name, asked, attempt, failure) from error
        else:
            return
        pause_s = PULL_PAUSES_S[attempt - 1] * random.uniform(1 - _SPREAD, 1 + _SPREAD)
        progress.line(f"pulling {name} failed ({failure.reason}); again in {pause_s:.1f} s")
        await asyncio.sleep(pause_s)


async def _pull_once(daemon: DockerDaemon, name: str, progress: ImageProgress, deadline: float) -> None:
    what = f"pull image {name}"
    repository, _, tag = name.rpartition(":")
    # A digest stays in the name; a tag goes apart, since without one the daemon pulls every tag there is.
    params = [("fromImage", name)] if "@" in name else [("fromImage", repository), ("tag", tag)]
    async with daemon.lane("pull"):
        headers = await login_header(registry_of(name))
        async with (
            asyncio.timeout_at(deadline),
            daemon.messages(
                "images/create", what=what, params=params, headers=headers, stall_limit_s=STALL_LIMIT_S
            ) as messages,
        ):
            async for message in messages:
                relay(message, progress)


def _explain(daemon: DockerDaemon, name: str, error: Exception) -> _Failure:
    registry = registry_of(name)
    unreachable = f"check that the daemon's machine reaches {registry}"
    if isinstance(error, DaemonHung):
        return _Failure(f"nothing came for {STALL_LIMIT_S:g} s", unreachable, final=False)
    if isinstance(error, TimeoutError):
        return _Failure(f"it was not complete within {PULL_LIMIT_S:g} s", unreachable, final=True)
    if not isinstance(error, CallRefused):
        return _Failure(str(error), unreachable, final=False)
    for pattern, advice in _FINAL:
        if pattern.search(error.reason):
            return _Failure(error.reason, advice.format(registry=registry, arch=daemon.info.arch), final=True)
    final = 400 <= error.status < 500 and error.status != 429
    return _Failure(error.reason, "check its name" if final else unreachable, final=final)


def _unavailable(name: str, asked: str | None, attempts: int, failure: _Failure) -> ImageUnavailable:
    times = "one attempt" if attempts == 1 else f"{attempts} attempts"
    alias = f", the alias of {asked}," if asked and asked != name else ""
    return ImageUnavailable(
        f"image {name}{alias} is not here and cannot be pulled from {registry_of(name)} ({times}; {failure.reason}): "
        f"{failure.advice}; or bring it with `docker load`, give an alias for it (CODECRAFT_IMAGE_ALIASES), or use "
        "an image that can be made here (`codecraft images list` shows them)"
    )


__all__ = ["PULL_LIMIT_S", "PULL_PAUSES_S", "STALL_LIMIT_S", "pull"]
