"""Sandboxes from Docker containers, spoken to over one attach stream each.

One more container, the depot, owns an anonymous volume with the guest and the snapshots; every sandbox mounts that
volume read-only from it. All of them end when their stream closes and are removed by the daemon, the volume with the
last of them: nothing of this needs the process that started it to be alive.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, Final

from codecraft_pool._aio import finish
from codecraft_pool.attach import attach
from codecraft_pool.channel import Channel
from codecraft_pool.containers import OWNER_LABEL, ROLE_LABEL, Containers
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import LaunchError, SandboxLost
from codecraft_pool.guest_binary import guest_path
from codecraft_pool.images import ImageProgress, Images
from codecraft_pool.owner import Owner
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Snapshot
from codecraft_pool.spec import HOSTS, STORE, SandboxSpec, writable_trees

_AGENT_ID: Final = 1000
_HELLO_LIMIT_S: Final = 30.0
_GONE_LIMIT_S: Final = 10.0
_POLL_S: Final = 0.05
_NUMBERS: Final = count()  # for all launchers of this process, whose containers must not have the same names
# What the guest needs: become another user, own and open files whatever their mode, kill, and give the rest away.
_CAPABILITIES: Final = ("SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETPCAP")


class DockerLauncher:
    """Starts sandboxes as containers of one daemon. Use it as ``async with DockerLauncher(daemon) as launcher``.

    Args:
        daemon: The connection; owned by the caller.
        images: Where images come from; by default what is present, can be pulled, or has a recipe.
        progress: Told how an image is pulled or built.
    """

    name = "docker"

    def __init__(
        self, daemon: DockerDaemon, *, images: Images | None = None, progress: ImageProgress | None = None
    ) -> None:
        self._daemon = daemon
        self._containers = Containers(daemon)
        self._images = images or Images(daemon)
        self._progress = progress
        self._owner = Owner.current()
        self._starting: dict[str, asyncio.Future[None]] = {}
        self._channels: dict[str, Channel] = {}
        self._dying: dict[str, float] = {}
        self._burial: asyncio.Task[None] | None = None
        self._image_ids: dict[str, str] = {}
        self._depot: _Depot | None = None
        self._depot_lock = asyncio.Lock()
        self._closed = False

    @property
    def description(self) -> str:
        """In one line: what the sandboxes run on."""
        info = self._daemon.info
        return f"Docker Engine {info.version} at {info.address}, storage driver {info.storage_driver}"

    async def __aenter__(self) -> DockerLauncher:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def prepare(self, spec: SandboxSpec) -> None:
        """Have the image of *spec*, pulled or built where it is not present.

        Raises:
            ImageUnavailable: It cannot be had.
        """
        if spec.image not in self._image_ids:
            self._image_ids[spec.image] = await self._images.ensure(spec.image, progress=self._progress)

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Return a new sandbox.

        Raises:
            LaunchError: The daemon or the guest failed; says at what.
        """
        await self.prepare(spec)
        depot = await self._ready_depot(spec)
        config = _config(self._image_ids[spec.image], self._labels("sandbox"), spec)
        config["HostConfig"]["VolumesFrom"] = [f"{depot.name}:ro"]
        config["HostConfig"]["Binds"] = [f"{depot.folder}/hosts:/etc/hosts:ro"]
        async with self._new_container(spec.image) as name:
            sandbox = Sandbox(name, spec, await self._launch(name, config), depot)
            await sandbox.restore()
        return sandbox

    async def aclose(self) -> None:
        """End every container and wait until the daemon has removed them. Idempotent."""
        self._closed = True
        self._depot = None
        for name, channel in list(self._channels.items()):
            channel.close()
            self._ends(name)
        await finish(self._wait_until_gone())

    # --- containers ---

    @asynccontextmanager
    async def _new_container(self, image: str) -> AsyncGenerator[str]:
        """A name for a container to be started in the block; when that fails, the container is removed."""
        self._check_open()
        name = f"codecraft-{self._owner}-{next(_NUMBERS)}"
        ended = self._starting[name] = asyncio.get_running_loop().create_future()
        try:
            yield name
        except BaseException as exc:
            await finish(self._remove(name))
            if isinstance(exc, OSError) and not isinstance(exc, LaunchError):  # what the guest refuses, or its death
                raise LaunchError(f"a container of {image} could not become a sandbox: {exc}") from exc
            raise
        finally:
            del self._starting[name]
            ended.set_result(None)

    def _check_open(self) -> None:
        if self._closed:
            raise LaunchError("the Docker launcher is closed")

    def _labels(self, role: str) -> dict[str, str]:
        return {OWNER_LABEL: str(self._owner), ROLE_LABEL: role}

    async def _launch(self, name: str, config: dict[str, Any], files: bytes = b"") -> Channel:
        """Create a container, fill its volume, attach to it, start it, and return the channel to its guest."""
        await self._containers.create(name, config)
        if files:
            await self._containers.put_archive(name, STORE, files)
        self._check_open()
        channel = self._channels[name] = await attach(self._daemon, name, lambda: self._ends(name))
        self._check_open()
        await self._containers.start(name)
        await channel.hello(limit_s=_HELLO_LIMIT_S)
        return channel

    # --- the end of containers: each goes by itself when its channel ends, and by force if it does not ---

    async def _remove(self, name: str) -> None:
        channel = self._channels.get(name)
        if channel is not None:
            channel.close()
        await self._containers.remove(name)
        self._ends(name)

    def _ends(self, name: str) -> None:
        """The channel of a container has ended: see to it that the container is gone soon."""
        self._channels.pop(name, None)
        loop = asyncio.get_running_loop()
        self._dying.setdefault(name, loop.time() + _GONE_LIMIT_S)
        if self._burial is None or self._burial.done():
            self._burial = loop.create_task(self._bury())

    async def _bury(self) -> None:
        with suppress(LaunchError):  # what is left is tried again when the next one ends, and in the end
            await self._bury_all()

    async def _bury_all(self) -> None:
        """Return when every dying container is gone."""
        now = asyncio.get_running_loop().time
        while self._dying:
            await asyncio.sleep(_POLL_S)
            here = await self._containers.owned(str(self._owner))
            for name, deadline in list(self._dying.items()):
                if name in here and now() > deadline:
                    await self._containers.remove(name)
                if name not in here or now() > deadline:
                    self._dying.pop(name, None)

    async def _wait_until_gone(self) -> None:
        """Every guest has been told to end; wait for the daemon to follow, and for starts to notice."""
        if self._starting:
            await asyncio.wait(self._starting.values(), timeout=_GONE_LIMIT_S)
        if self._burial is not None:
            await self._burial
        await self._bury_all()

    async def _ready_depot(self, spec: SandboxSpec) -> _Depot:
        async with self._depot_lock:
            if self._depot is None or self._depot.channel.error is not None:
                self._depot = await self._start_depot(spec)
            return self._depot

    async def _start_depot(self, spec: SandboxSpec) -> _Depot:
        config = _config(self._image_ids[spec.image], self._labels("depot"), spec)
        config["Volumes"] = {STORE: {}}
        guest = await asyncio.to_thread(guest_path(self._daemon.info.arch).read_bytes)
        async with self._new_container(spec.image) as name:
            channel = await self._launch(name, config, _store_archive(guest))
            return _Depot(self._containers, name, channel, await self._containers.volume_folder(name))


class _Depot:
    """The container that owns the volume; puts snapshots into it."""

    def __init__(self, containers: Containers, name: str, channel: Channel, folder: str) -> None:
        self.name = name
        self.channel = channel
        self.folder = folder
        self._containers = containers
        self._placing: dict[str, asyncio.Task[None]] = {}

    async def place(self, snapshot: Snapshot) -> str:
        """Put *snapshot* into the volume, once however many ask.

        Raises:
            SandboxLost: The depot has died; sandboxes that mount its volume can get no new snapshot.
        """
        if self.channel.error is not None:
            raise SandboxLost(self.name, self.channel.error.reason)
        task = self._placing.get(snapshot.id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._placing[snapshot.id] = asyncio.create_task(self._put(snapshot))
        await asyncio.shield(task)
        return f"{STORE}/snapshots/{snapshot.id}"

    async def _put(self, snapshot: Snapshot) -> None:
        archive = await asyncio.to_thread(snapshot.tar, snapshot.id)
        try:
            await self._containers.put_archive(self.name, f"{STORE}/snapshots", archive)
        except LaunchError as exc:
            raise SandboxLost(self.name, f"snapshot {snapshot.id[:12]} could not be placed: {exc}") from exc


def _store_archive(guest: bytes) -> bytes:
    """Return what the volume holds at first: the guest, a hosts file, and a folder that only root may enter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode, content in (("guest", 0o755, guest), ("hosts", 0o644, HOSTS)):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
        folder = tarfile.TarInfo("snapshots")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
    return buffer.getvalue()


def _config(image: str, labels: dict[str, str], spec: SandboxSpec) -> dict[str, Any]:
    """Return a container's configuration: nothing it does not need."""
    tmpfs = f"rw,exec,nosuid,nodev,mode=0755,size={spec.tree_bytes},nr_inodes={spec.tree_files}"
    return {
        "Image": image,
        "Entrypoint": [f"{STORE}/guest"],
        # Docker's own filter lets a command undo what keeps its orphans below it, and set limits of the guest.
        "Cmd": ["--agent", f"{_AGENT_ID}:{_AGENT_ID}", "--seccomp"],
        "User": "0:0",
        "WorkingDir": "/",
        "Hostname": "sandbox",
        "Labels": labels,
        "OpenStdin": True,
        "StdinOnce": True,  # the daemon closes standard input when our end goes, and the guest ends with it
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "Healthcheck": {"Test": ["NONE"]},
        # A network namespace with a loopback and nothing else, made by the runtime. NetworkMode "none" means the same
        # but goes through the daemon's network code, where Engine 20.10 deadlocks for good when many containers end at
        # once (libnetwork: processEndpointDelete and getSvcRecords take two locks in opposite order). The price is that
        # the daemon writes no hosts file, so the volume has one.
        "NetworkDisabled": True,
        "HostConfig": {
            "AutoRemove": True,
            "NetworkMode": "none",  # for a daemon that does not know NetworkDisabled
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": list(_CAPABILITIES),
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": spec.max_processes,
            "Memory": spec.memory_bytes,
            "MemorySwap": spec.memory_bytes,
            "NanoCpus": int(spec.cpus * 1e9),
            "Tmpfs": {tree.tree: tmpfs for tree in writable_trees()},
            "LogConfig": {"Type": "none"},
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        },
    }
