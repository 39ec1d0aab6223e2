"""The few things that are asked of a daemon about containers, each with its lane, its deadline and its words for
errors."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Any, Final

from codecraft_pool._aio import finish
from codecraft_pool.docker_daemon import CALL_LIMIT_S, DockerDaemon
from codecraft_pool.errors import CallRefused

OWNER_LABEL: Final = "io.codecraft.owner"
ROLE_LABEL: Final = "io.codecraft.role"


class Containers:
    """Containers of one daemon, by name. All methods raise `LaunchError` kinds: refused, or not answered in time."""

    def __init__(self, daemon: DockerDaemon) -> None:
        self._call = daemon.call
        # aiodocker's signatures are typed in part only; what goes in and comes out of here is typed in full.
        self._client: Any = daemon.client

    async def create(self, name: str, config: Mapping[str, Any]) -> None:
        """Create a container; it is not started.

        Cancellation is delivered after the daemon's answer: it would create the container all the same, and later than
        whoever then removes it.
        """
        await self._call(
            "create",
            lambda: finish(asyncio.wait_for(self._client.containers.create(config, name=name), CALL_LIMIT_S)),
            what=f"create container {name}",
        )

    async def start(self, name: str) -> None:
        """Start a created container."""
        await self._call("start", self._client.containers.container(name).start, what=f"start container {name}")

    async def volume_folder(self, name: str) -> str:
        """Return where, on the daemon's machine, the one volume of a container is."""
        container = self._client.containers.container(name)
        facts: Mapping[str, Any] = await self._call(None, container.show, what=f"inspect container {name}")
        return str(facts["Mounts"][0]["Source"])

    async def put_archive(self, name: str, folder: str, archive: bytes) -> None:
        """Unpack a tar archive in a folder of a container, running or not."""
        container = self._client.containers.container(name)
        await self._call(
            "create",
            # As a file it is sent piece by piece, as bytes in one go, for which the event loop would stand still.
            lambda: container.put_archive(folder, io.BytesIO(archive)),
            what=f"put files into container {name}",
        )

    async def remove(self, name: str) -> None:
        """End a container and remove it with its anonymous volumes; one that is gone, or going, is fine."""
        container = self._client.containers.container(name)
        try:
            await self._call("remove", lambda: container.delete(force=True, v=True), what=f"remove container {name}")
        except CallRefused as exc:
            if exc.status not in (404, 409):
                raise

    async def owned(self, owner: str | None = None) -> dict[str, str]:
        """Return the containers of one owner, or of all of this project: name to owner, running or not."""
        label = OWNER_LABEL if owner is None else f"{OWNER_LABEL}={owner}"
        found: list[Any] = await self._call(
            None,
            lambda: self._client.containers.list(all=True, filters={"label": [label]}),
            what="list this project's containers",
        )
        # A container on its way out has lost its names already.
        names = (str((each["Names"] or [each["Id"]])[0]).lstrip("/") for each in found)
        return {name: str(each["Labels"][OWNER_LABEL]) for name, each in zip(names, found, strict=True)}
