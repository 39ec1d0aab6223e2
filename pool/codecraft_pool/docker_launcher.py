"""Sandboxes from Docker containers, spoken to over one attach stream each.

One more container, the depot, owns an anonymous volume with the guest and the snapshots; every sandbox mounts that
volume read-only from it. All of them end when their stream closes and are removed by the daemon, the volume with the
last of them: nothing of this needs the process that started it to be alive.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
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
from codecraft_pool.spec import STORE, SandboxSpec, writable_trees

_AGENT_ID: Final = 1000
_HELLO_LIMIT_S: Final = 30.0
_GONE_LIMIT_S: Final = 10.0
_POLL_S: Final = 0.05
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
        self._numbers = count()
        self._owned: set[str] = set()
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
        name = self._new_name()
        config = _config(self._image_ids[spec.image], self._labels("sandbox"), spec)
        config["HostConfig"]["VolumesFrom"] = [f"{depot.name}:ro"]
        try:
            channel = await self._launch(name, config)
            sandbox = Sandbox(name, spec, channel, depot)
            await sandbox.restore()
        except BaseException as exc:
            await finish(self._remove(name))
            if isinstance(exc, OSError) and not isinstance(exc, LaunchError):
                raise LaunchError(f"a container of {spec.image} could not become a sandbox: {exc}") from exc
            raise
        return sandbox

    async def aclose(self) -> None:
        """End every container and wait until the daemon has removed them. Idempotent."""
        self._closed = True
        depot, self._depot = self._depot, None
        if depot is not None:
            depot.channel.close()
        if self._owned:
            await finish(self._wait_until_gone())

    # --- containers ---

    def _new_name(self) -> str:
        """Return a fresh name, registered before the container is: whatever happens, it is ours to remove."""
        if self._closed:
            raise LaunchError("the Docker launcher is closed")
        name = f"codecraft-{self._owner}-{next(self._numbers)}"
        self._owned.add(name)
        return name

    def _labels(self, role: str) -> dict[str, str]:
        return {OWNER_LABEL: str(self._owner), ROLE_LABEL: role}

    async def _launch(self, name: str, config: dict[str, Any], files: bytes = b"") -> Channel:
        """Create a container, fill its volume, attach to it, start it, and return the channel to its guest."""
        await self._containers.create(name, config)
        if files:
            await self._containers.put_archive(name, STORE, files)
        channel = await attach(self._daemon, name)
        try:
            await self._containers.start(name)
            await channel.hello(limit_s=_HELLO_LIMIT_S)
        except BaseException:
            channel.close()
            raise
        return channel

    async def _remove(self, name: str) -> None:
        await self._containers.remove(name)
        self._owned.discard(name)

    async def _wait_until_gone(self) -> None:
        """Every guest has been told to end; wait for the daemon to follow, and remove what stays by force."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _GONE_LIMIT_S
        while left := self._owned & (await self._containers.owned(str(self._owner))).keys():
            if loop.time() > deadline:
                await asyncio.gather(*(self._containers.remove(name) for name in left))
                break
            await asyncio.sleep(_POLL_S)
        self._owned.clear()

    async def _ready_depot(self, spec: SandboxSpec) -> _Depot:
        async with self._depot_lock:
            if self._depot is None or self._depot.channel.error is not None:
                self._depot = await self._start_depot(spec)
            return self._depot

    async def _start_depot(self, spec: SandboxSpec) -> _Depot:
        name = self._new_name()
        config = _config(self._image_ids[spec.image], self._labels("depot"), spec)
        config["Volumes"] = {STORE: {}}
        guest = await asyncio.to_thread(guest_path(self._daemon.info.arch).read_bytes)
        try:
            return _Depot(self._containers, name, await self._launch(name, config, _store_archive(guest)))
        except BaseException:
            await finish(self._remove(name))
            raise


class _Depot:
    """The container that owns the volume; puts snapshots into it."""

    def __init__(self, containers: Containers, name: str, channel: Channel) -> None:
        self.name = name
        self.channel = channel
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
    """Return what the volume holds at first: the guest, and a folder that only root may enter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        program = tarfile.TarInfo("guest")
        program.size, program.mode = len(guest), 0o755
        archive.addfile(program, io.BytesIO(guest))
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
        "Cmd": ["--agent", f"{_AGENT_ID}:{_AGENT_ID}"],
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
        "HostConfig": {
            "AutoRemove": True,
            "NetworkMode": "none",
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
