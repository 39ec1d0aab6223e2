"""The few things that are asked of a daemon about containers, each with its lane, its deadline and its words for
errors."""

from __future__ import annotations

import asyncio
import io
import json
import posixpath
import tarfile
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from aiodocker.volumes import DockerVolume

from codecraft_pool._aio import finish
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused

OWNER_LABEL: Final = "io.codecraft.owner"
ROLE_LABEL: Final = "io.codecraft.role"
_MAX_LINKS: Final = 8
_volume: Any = DockerVolume  # typed in part only, as the client is
_ARCHIVE_FRAME_BYTES: Final = 16_384  # tar's own blocks around one file, long names included


class Containers:
    """Containers of one daemon, by name. All methods raise `LaunchError` kinds: refused, or not answered in time."""

    def __init__(self, daemon: DockerDaemon) -> None:
        self._daemon = daemon
        self._call = daemon.call
        # aiodocker's signatures are typed in part only; what goes in and comes out of here is typed in full.
        self._client: Any = daemon.client

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container and return its id; it is not started.

        Cancellation is delivered after the daemon's answer: it would create the container all the same, and later than
        whoever then removes it.
        """
        container: Any = await self._call(
            "create",
            lambda: finish(
                asyncio.wait_for(self._client.containers.create(config, name=name), self._daemon.call_limit_s)
            ),
            what=f"create container {name}",
        )
        return str(container.id)

    async def start(self, name: str) -> None:
        """Start a created container."""
        await self._call("start", self._client.containers.container(name).start, what=f"start container {name}")

    async def volume_folder(self, name: str, target: str) -> str:
        """Return where, on the daemon's machine, the volume is that a container has at *target*."""
        container = self._client.containers.container(name)
        facts: Mapping[str, Any] = await self._call(None, container.show, what=f"inspect container {name}")
        return next(str(each["Source"]) for each in facts["Mounts"] if each["Destination"] == target)

    async def put_archive(self, name: str, folder: str, archive: bytes) -> None:
        """Unpack a tar archive in a folder of a container, running or not."""
        container = self._client.containers.container(name)
        await self._call(
            "copy",
            # As a file it is sent piece by piece, as bytes in one go, for which the event loop would stand still.
            lambda: container.put_archive(folder, io.BytesIO(archive)),
            what=f"put files into container {name}",
        )

    async def read_file(self, name: str, path: str, *, max_bytes: int) -> bytes | None:
        """Return a file of a container, running or not; None if there is none, or none of that size."""
        for _ in range(_MAX_LINKS):
            archive = await self._read_archive(name, path, max_bytes)
            entry = None if archive is None else archive.next()
            if archive is None or entry is None:
                return None
            if not entry.issym():
                content = archive.extractfile(entry) if entry.isreg() else None
                return None if content is None else content.read()
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), entry.linkname))
        return None

    async def _read_archive(self, name: str, path: str, max_bytes: int) -> tarfile.TarFile | None:
        what = f"read {path} of container {name}"
        query = urlencode({"path": path})
        limit = max_bytes + _ARCHIVE_FRAME_BYTES
        try:
            data = await self._call(
                "copy", lambda: self._daemon.get_bytes(f"containers/{name}/archive?{query}", limit), what=what
            )
            return None if data is None else tarfile.open(fileobj=io.BytesIO(data))
        except CallRefused as exc:
            if exc.status != 404:
                raise
        except tarfile.TarError:  # the daemon's, of a file that is no file
            pass
        return None

    async def remove(self, name: str) -> None:
        """End a container and remove it with its anonymous volumes; one that is gone, or going, is fine."""
        container = self._client.containers.container(name)
        try:
            await self._call("remove", lambda: container.delete(force=True, v=True), what=f"remove container {name}")
        except CallRefused as exc:
            if exc.status not in (404, 409):
                raise

    async def remove_unused_volumes(self, owner: str) -> None:
        """Remove the volumes of one owner that no container has.

        A volume without a name goes with its last container, but stays where that container's creation was overtaken
        by the end of the one that it was to have the volume from (seen with Engine 20.10).
        """
        filters = json.dumps({"label": [f"{OWNER_LABEL}={owner}"], "dangling": ["true"]})
        query = urlencode({"filters": filters})
        what = "list this process's volumes"
        answer = await self._call(None, lambda: self._daemon.get_json(f"volumes?{query}"), what=what)
        for each in answer["Volumes"] or []:
            volume: Any = _volume(self._client, each["Name"])
            try:
                await self._call("remove", volume.delete, what=f"remove volume {each['Name']}")
            except CallRefused as exc:
                if exc.status not in (404, 409):  # gone, or taken by another launcher's container
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
