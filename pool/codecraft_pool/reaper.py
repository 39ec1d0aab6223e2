"""Removes what dead processes left: containers, volumes, run directories and cgroups; images only when asked to.

Normally there is nothing: sandboxes end with the process that owns them. What can stay is a container that was created
and not yet started when its process was killed, a directory of snapshots, and an empty cgroup.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

import aiodocker

from codecraft_pool._host_leftovers import find_on_host, remove_on_host
from codecraft_pool.containers import OWNER_LABEL, Containers
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused, DaemonUnavailable
from codecraft_pool.leftovers import (
    Finding,
    Kind,
    Leftover,
    is_before_boot,
    judge,
    lifetime_of,
    owner_in,
)
from codecraft_pool.owner import Owner
from codecraft_pool.recipes import RECIPE_LABEL

CONTAINER_PREFIX: Final = "codecraft-"
# Every start waits for this, so a daemon that hangs in a removal must not hold it up for long.
REMOVE_LIMIT_S: Final = 30.0
_ALIVE_STATES: Final = ("running", "paused", "restarting")

Remove = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Reaped:
    """What was found, in the order in which it was dealt with, and what became of it."""

    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def containers(self) -> list[str]:
        """The names of the containers that were removed."""
        return self.removed("container")

    @property
    def directories(self) -> list[str]:
        """The paths of the directories that were removed."""
        return self.removed("directory")

    @property
    def kept(self) -> list[str]:
        """The names of all that stays: its owner lives, cannot be judged from here, or it could not be removed."""
        return [each.name for each in self.findings if each.action == "kept"]

    def removed(self, kind: Kind) -> list[str]:
        """The names of what was removed of one kind; nothing in a dry run."""
        return [each.name for each in self.findings if each.kind == kind and each.action == "removed"]


async def reap(daemon: DockerDaemon | None, *, images: bool = False, dry_run: bool = False) -> Reaped:
    """Remove what belongs to the dead, and nothing else; without *daemon* only what is on this machine.

    *images* removes those that recipes made as well, unless a container uses them; they can be made again. *dry_run*
    only says what would be removed, and why. A container of another machine's process (a remote daemon) is kept while
    it runs, until its lifetime is over: whether its owner lives cannot be told from here.

    What cannot be removed within 30 seconds is kept, and named. Cancellation leaves what is not yet removed.

    Raises:
        LaunchError: The daemon does not say what it has.
    """
    reaped = Reaped()
    work: list[tuple[Leftover, Remove]] = [
        (found, _removing_here(found)) for found in await asyncio.to_thread(find_on_host)
    ]
    if daemon is not None:
        work += [(found, _removing_container(daemon, found)) for found in await _containers(daemon)]
    await _settle(work, judge, reaped, dry_run)
    if daemon is not None:  # volumes and images are in use until the containers are gone
        await _settle([(v, _removing(daemon, v)) for v in await _volumes(daemon)], judge, reaped, dry_run)
    if daemon is not None and images:
        await _settle([(i, _removing(daemon, i)) for i in await _images(daemon)], _judge_image, reaped, dry_run)
    return reaped


async def _settle(
    work: list[tuple[Leftover, Remove]], decide: Callable[[Leftover], tuple[bool, str]], reaped: Reaped, dry_run: bool
) -> None:
    deadline = asyncio.get_running_loop().time() + REMOVE_LIMIT_S

    async def settle(found: Leftover, remove: Remove) -> Finding:
        goes, why = await asyncio.to_thread(decide, found)
        if not goes or dry_run:
            return Finding(found.kind, found.name, "would remove" if goes else "kept", why)
        try:
            async with asyncio.timeout_at(deadline):
                problem = await remove()
        except TimeoutError:
            problem = f"it was not gone within {REMOVE_LIMIT_S:g} s"
        except (CallRefused, DaemonUnavailable) as error:  # one stubborn leftover keeps nobody from starting others
            problem = str(error)
        return Finding(
            found.kind, found.name, "kept" if problem else "removed", f"{why}; {problem}" if problem else why
        )

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(settle(found, remove)) for found, remove in work]
    reaped.findings.extend(task.result() for task in tasks)


def _judge_image(found: Leftover) -> tuple[bool, str]:
    del found
    return True, "a recipe made it, and can make it again"


def _removing_here(found: Leftover) -> Remove:
    return lambda: asyncio.to_thread(remove_on_host, found)


def _removing_container(daemon: DockerDaemon, found: Leftover) -> Remove:
    async def remove() -> None:
        await Containers(daemon).remove(found.name)

    return remove


def _removing(daemon: DockerDaemon, found: Leftover) -> Remove:
    """Remove a volume or an image; never by force, so the daemon refuses while a container has it."""
    path = f"{found.kind}s/{quote(found.name, safe='')}"

    async def remove() -> str | None:
        try:
            await daemon.call("remove", lambda: _delete(daemon, path), what=f"remove {found.kind} {found.name}")
        except CallRefused as error:
            if error.status == 409:
                return f"it is in use ({error.reason})"
            if error.status != 404:
                raise
        return None

    return remove


async def _delete(daemon: DockerDaemon, path: str) -> None:
    client = daemon.client
    async with client.session.delete(f"{client.docker_host}/{client.api_version}/{path}") as response:
        text = await response.text()
    if response.status >= 400:
        raise aiodocker.DockerError(response.status, text)  # `call` puts it into words


# --- what the daemon has ----------------------------------------------------------------------------------------------


async def _list(daemon: DockerDaemon, path: str, **filters: str) -> Any:
    query = quote(json.dumps({name: [value] for name, value in filters.items()}))
    return await daemon.call(None, lambda: daemon.get_json(f"{path}filters={query}"), what=f"list {path.split('?')[0]}")


async def _daemon_time_s(daemon: DockerDaemon) -> float:
    """The daemon's clock: ages are told by the clock that gave the times of creation."""

    async def ask() -> str:
        async with daemon.client.session.get(f"{daemon.client.docker_host}/{daemon.client.api_version}/_ping") as reply:
            return reply.headers.get("Date", "")

    date = await daemon.call(None, ask, what="ask for the time")
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return 0.0  # then nothing is old


async def _containers(daemon: DockerDaemon) -> list[Leftover]:
    found: list[dict[str, Any]] = await _list(daemon, "containers/json?all=1&", label=OWNER_LABEL)
    now_s = await _daemon_time_s(daemon) if found else 0.0
    leftovers: list[Leftover] = []
    for each in found:
        labels: Mapping[str, str] = each["Labels"]
        names: list[str] = each["Names"] or []  # one that is on its way out has lost its names already
        leftovers.extend(
            Leftover(
                "container",
                name,
                _owner_of(name, labels[OWNER_LABEL]),
                before_boot=is_before_boot(labels),
                in_use=each["State"] in _ALIVE_STATES,
                age_s=now_s - float(each["Created"]),
                lifetime_s=lifetime_of(labels),
            )
            for name in (text.lstrip("/") for text in names[:1])
        )
    return leftovers


def _owner_of(name: str, label: str) -> Owner | None:
    """The owner that both the name and the label tell.

    An image that was committed from a sandbox has its labels, and so has every container that its user makes of it.
    """
    owner = Owner.parse(label)
    return owner if owner is not None and owner == owner_in(name, CONTAINER_PREFIX) else None


async def _volumes(daemon: DockerDaemon) -> list[Leftover]:
    answer = await _list(daemon, "volumes?", label=OWNER_LABEL, dangling="true")
    found: list[dict[str, Any]] = answer["Volumes"] or []
    now_s = await _daemon_time_s(daemon) if found else 0.0
    leftovers: list[Leftover] = []
    for each in found:
        labels: Mapping[str, str] = each["Labels"]
        owner = Owner.parse(labels[OWNER_LABEL])
        age_s = now_s - datetime.fromisoformat(each["CreatedAt"]).timestamp()
        old = is_before_boot(labels)
        leftovers.append(Leftover("volume", str(each["Name"]), owner, before_boot=old, age_s=age_s))
    return leftovers


async def _images(daemon: DockerDaemon) -> list[Leftover]:
    found: list[dict[str, Any]] = await _list(daemon, "images/json?", label=RECIPE_LABEL)
    # By name where it has names: removing by id is refused where there are several.
    return [
        Leftover("image", name, None)
        for each in found
        for name in ([tag for tag in each["RepoTags"] or [] if tag != "<none>:<none>"] or [str(each["Id"])])
    ]


__all__ = ["Finding", "Reaped", "reap"]
