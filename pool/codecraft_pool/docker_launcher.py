"""Sandboxes from Docker containers, spoken to over one unix socket or one attach stream each.

One more container, the depot, owns an anonymous volume with the guest and the snapshots; every sandbox mounts that
volume read-only from it. The depot also finds out, once, which of the two ways there is. All containers end when their
stream closes and are removed by the daemon, the volume with the last of them: nothing of this needs the process that
started it to be alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final, Literal

from codecraft_pool._aio import finish, first_of
from codecraft_pool.agent_users import Accounts, uid_of
from codecraft_pool.attach import attach
from codecraft_pool.channel import Channel
from codecraft_pool.container_config import connect_to, container_config, detached, mount
from codecraft_pool.container_lives import ContainerLives, Life
from codecraft_pool.containers import OWNER_LABEL, ROLE_LABEL, Containers
from codecraft_pool.depot import Depot, store_archive
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused, LaunchError
from codecraft_pool.fates import Fates
from codecraft_pool.guest_binary import guest_path
from codecraft_pool.image_roots import ImageRoots, RootsChoice
from codecraft_pool.image_volumes import check_volumes
from codecraft_pool.images import ImageProgress, Images
from codecraft_pool.launcher import LauncherStats
from codecraft_pool.leftovers import origin_labels
from codecraft_pool.owner import Owner
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.socket_transport import CHANNEL_FOLDER, CHANNEL_SOCKET, Doorway, RunDirectory, socket_channel
from codecraft_pool.spec import STORE, SandboxSpec

Transport = Literal["auto", "unix", "attach"]

_HELLO_LIMIT_S: Final = 30.0
_COPY_LIMIT_S: Final = 300.0
_MAX_ACCOUNTS_BYTES: Final = 1 << 20


class DockerLauncher:
    """Starts sandboxes as containers of one daemon. Use it as ``async with DockerLauncher(daemon) as launcher``.

    Args:
        daemon: The connection; owned by the caller.
        images: Where images come from; by default what is present, can be pulled, or has a recipe.
        aliases: What is used instead of an image, as for `Images`; not with *images*, which has its own.
        progress: Told how an image is pulled or built.
        transport: How guests are spoken to. "unix": over a socket in a directory that is shared with the container,
            quickest, for a daemon on this machine. "attach": through the daemon. "auto": the first that works.
        roots: Where sandboxes' root file systems are read from: the image, or a copy of it in a volume; "auto" copies
            where the storage driver is slow (see `image_roots`).
        apparmor: The AppArmor profile of sandboxes whose guest mounts a root of its own (`reset="overlay"`, copied
            roots), where the daemon's default profile forbids that: one that allows it, or "unconfined".
    """

    name = "docker"

    def __init__(
        self,
        daemon: DockerDaemon,
        *,
        images: Images | None = None,
        aliases: Mapping[str, str] | None = None,
        progress: ImageProgress | None = None,
        transport: Transport = "auto",
        roots: RootsChoice = "auto",
        apparmor: str = "",
    ) -> None:
        if transport not in ("auto", "unix", "attach"):
            raise ValueError(f"transport is {transport!r}; it must be 'auto', 'unix' or 'attach'")
        self._daemon = daemon
        self._containers = Containers(daemon)
        self._images = images or Images(daemon, aliases=aliases)
        self._progress = progress
        self._owner = Owner.current()
        self._directory = RunDirectory(self._owner)
        fates = Fates(daemon, str(self._owner))
        self._lives = ContainerLives(self._containers, self._owner, fates, on_gone=self._directory.forget)
        self._image_ids: dict[str, str] = {}
        self._images_with_volumes: set[str] = set()
        self._accounts: dict[str, Accounts] = {}
        self._depots: dict[str, Depot] = {}
        self._depot_lock = asyncio.Lock()
        self._roots = ImageRoots(roots, daemon, self._copy_root)
        self._apparmor = apparmor
        self._wanted: Transport = transport
        self._transport = ""
        self._reason = ""
        self._has_volumes = False

    @property
    def description(self) -> str:
        """In one line: what the sandboxes run on."""
        info = self._daemon.info
        text = f"Docker Engine {info.version} at {info.address}, storage driver {info.storage_driver}"
        text += f", {self._roots.description}"
        if self._transport:
            text += f", transport {self._transport}"
        return f"{text} ({self._reason})" if self._reason else text

    def stats(self) -> LauncherStats:
        """Return how it reaches its sandboxes, the lanes to its daemon, and where root file systems are read from."""
        return LauncherStats(self._transport, self._reason, self._daemon.lane_stats(), self._roots.state)

    async def __aenter__(self) -> DockerLauncher:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def image_id(self, image: str) -> str:
        """Return the id of the image that *image* was found to be; empty if nobody has needed it yet."""
        return self._image_ids.get(image, "")

    async def prepare(self, spec: SandboxSpec) -> None:
        """Have the image of *spec*, pulled or built where it is not present.

        Raises:
            ImageUnavailable: It cannot be had.
        """
        if spec.image not in self._image_ids:
            image_id = await self._images.ensure(spec.image, progress=self._progress)
            volumes = await self._images.volumes(image_id)
            check_volumes(spec.image, volumes)
            if volumes:
                self._images_with_volumes.add(spec.image)
            self._image_ids[spec.image] = image_id

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Return a new sandbox.

        Raises:
            LaunchError: The daemon or the guest failed; says at what.
        """
        await self.prepare(spec)
        depot = await self._ready_depot(spec)
        async with self._lives.begin(spec.image) as life:
            options = await self._root_options(depot, spec)
            config = self._config(life, spec, "sandbox", options)
            config["HostConfig"]["VolumesFrom"] = [f"{depot.name}:ro"]
            mount(config, f"{depot.folder}/hosts", "/etc/hosts")
            accounts = await self._accounts_folder(depot, life, spec)
            mount(config, f"{accounts}/passwd", "/etc/passwd")
            mount(config, f"{accounts}/group", "/etc/group")
            launch = self._launch_connected if self._transport == "unix" else self._launch_attached
            channel = await launch(life, config)
            await channel.hello(limit_s=_HELLO_LIMIT_S)
            sandbox = Sandbox(life.name, spec, channel, depot)
            await sandbox.restore()
        return sandbox

    async def aclose(self) -> None:
        """End every container and wait until the daemon has removed them. Idempotent."""
        try:
            await finish(self._end_all())
        finally:
            self._directory.remove()

    async def _end_all(self) -> None:
        depots, self._depots = list(self._depots.values()), {}
        try:
            await self._lives.aclose()
        finally:
            await asyncio.gather(self._roots.settle(), *(depot.settle() for depot in depots))
        if self._has_volumes:
            self._has_volumes = False
            with suppress(LaunchError):  # the next start removes what stays
                await self._containers.remove_unused_volumes(str(self._owner))

    # --- sandboxes ---

    def _config(self, life: Life, spec: SandboxSpec, role: str, options: Sequence[str] = ()) -> dict[str, Any]:
        image_id, labels, uid = self._image_ids[spec.image], self._labels(role), self._first_uid + life.user
        return container_config(image_id, labels, spec, uid, options=options, apparmor=self._apparmor)

    async def _root_options(self, depot: Depot, spec: SandboxSpec) -> list[str]:
        # What an image declares as volumes is mounted over its root, and would be missing in a copy.
        if spec.image in self._images_with_volumes:
            return []
        return await self._roots.options(spec, self._image_ids[spec.image], depot.name)

    def _labels(self, role: str) -> dict[str, str]:
        return {OWNER_LABEL: str(self._owner), ROLE_LABEL: role, **origin_labels()}

    @property
    def _first_uid(self) -> int:
        return uid_of(0, self._owner, is_mapped=self._daemon.info.maps_users)

    async def _accounts_folder(self, depot: Depot, life: Life, spec: SandboxSpec) -> str:
        """Return where the sandbox's /etc/passwd and /etc/group are; they are the image's, and its agent."""
        image = self._image_ids[spec.image]

        async def read() -> Accounts:
            if image not in self._accounts:
                self._accounts[image] = await self._read_accounts(depot, image, spec)
            return self._accounts[image]

        return await depot.accounts(image, life.user, self._first_uid, read)

    async def _read_accounts(self, depot: Depot, image: str, spec: SandboxSpec) -> Accounts:
        if image == depot.image:
            return await self._containers_accounts(depot.name)
        async with self._lives.begin(spec.image) as life:  # never started: only to be looked into
            await self._containers.create(life.name, self._config(life, spec, "reader"))
            try:
                return await self._containers_accounts(life.name)
            finally:
                await finish(self._lives.remove(life.name))

    async def _containers_accounts(self, container: str) -> Accounts:
        limit = _MAX_ACCOUNTS_BYTES
        passwd = await self._containers.read_file(container, "/etc/passwd", max_bytes=limit)
        group = await self._containers.read_file(container, "/etc/group", max_bytes=limit)
        return Accounts(passwd or b"", group or b"")

    async def _launch_attached(self, life: Life, config: dict[str, Any]) -> Channel:
        await self._containers.create(life.name, config)
        self._lives.check_open()
        channel = await self._attach(life)
        self._lives.check_open()
        await self._containers.start(life.name)
        return channel

    async def _attach(self, life: Life) -> Channel:
        ended = self._lives.stream_ended
        life.channel = await attach(self._daemon, life.name, lambda channel: ended(life, channel))
        return life.channel

    async def _launch_connected(self, life: Life, config: dict[str, Any]) -> Channel:
        doorway = self._directory.doorway(life.name)
        try:
            connect_to(config, str(doorway.folder), CHANNEL_FOLDER, CHANNEL_SOCKET)
            detached(config)
            container = await self._containers.create(life.name, config)
            self._lives.check_open()
            await self._containers.start(life.name)
            ends = life.record.ended.wait(), self._lives.closing.wait()
            await first_of(doorway.answer(container), *ends, limit_s=_HELLO_LIMIT_S)
            self._lives.check_open()
            channel = await self._connected(life, doorway)
        finally:
            doorway.close()
        if channel is None:
            why = (
                life.record.fate().why
                if life.record.ended.is_set()
                else f"its guest is silent for {_HELLO_LIMIT_S:g} s"
            )
            raise LaunchError(f"sandbox {life.name} did not connect to its socket: {why}")
        return channel

    async def _connected(self, life: Life, doorway: Doorway) -> Channel | None:
        """Return the channel to the guest that came to the doorway, if one did."""
        connection = doorway.take()
        if connection is None:
            return None
        ended = self._lives.stream_ended
        life.channel = await socket_channel(connection, life.name, lambda channel: ended(life, channel))
        return life.channel

    # --- the depot, which finds out how sandboxes are reached ---

    async def _ready_depot(self, spec: SandboxSpec) -> Depot:
        # All images share one, but those with volumes: what a depot's image declares is mounted with its volume.
        key = spec.image if spec.image in self._images_with_volumes else ""
        async with self._depot_lock:
            depot = self._depots.get(key)
            if depot is None or depot.channel.error is not None:
                depot = self._depots[key] = await self._start_depot(spec)
            return depot

    async def _start_depot(self, spec: SandboxSpec) -> Depot:
        if options := self._roots.depot_options:
            try:
                return await self._new_depot(spec, options)
            except LaunchError as exc:
                self._lives.check_open()
                self._roots.give_up(exc)
        return await self._new_depot(spec)

    async def _new_depot(self, spec: SandboxSpec, options: Sequence[str] = ()) -> Depot:
        guest = await asyncio.to_thread(guest_path(self._daemon.info.arch).read_bytes)
        async with self._lives.begin(spec.image) as life:
            config = self._config(life, replace(spec, user="agent", reset="restore"), "depot", options)
            # Without a name it goes with the last container that mounts it; the labels tell whose it is if it does not.
            volume = {"NoCopy": True, "Labels": self._labels("depot")}
            config["HostConfig"]["Mounts"] = [{"Type": "volume", "Target": STORE, "VolumeOptions": volume}]
            doorway = self._open_doorway(life)
            self._has_volumes = True
            try:
                container = await self._create_depot(life, config, doorway)
                await self._containers.put_archive(life.name, STORE, store_archive(guest))
                self._lives.check_open()
                channel = await self._contact(life, container, doorway)
            finally:
                if doorway is not None:
                    doorway.close()
            await channel.hello(limit_s=_HELLO_LIMIT_S)
            folder = await self._containers.volume_folder(life.name, STORE)
            return Depot(self._containers, life.name, self._image_ids[spec.image], channel, folder)

    def _open_doorway(self, life: Life) -> Doorway | None:
        """Return a socket for the depot's guest to try, where that can work."""
        self._transport, self._reason = "attach", ""
        if self._wanted == "attach":
            return None
        if not self._daemon.info.is_local:
            self._without_socket("the daemon is not on this machine")
            return None
        try:
            return self._directory.doorway(life.name)
        except OSError as exc:
            self._without_socket(f"no socket can be made here: {exc}")
            return None

    def _without_socket(self, reason: str) -> None:
        if self._wanted == "unix":
            raise LaunchError(f"{reason}; transport='auto' would go through the daemon")
        self._reason = f"no unix socket: {reason}"

    async def _create_depot(self, life: Life, config: dict[str, Any], doorway: Doorway | None) -> str:
        if doorway is not None:
            offered = deepcopy(config)
            connect_to(offered, str(doorway.folder), CHANNEL_FOLDER, CHANNEL_SOCKET)
            try:
                return await self._containers.create(life.name, offered)
            except CallRefused as exc:  # it sees another file system: in a container of its own, or a machine
                doorway.close()
                self._without_socket(f"the daemon cannot share a directory of this machine: {exc.reason}")
        return await self._containers.create(life.name, config)

    async def _contact(self, life: Life, container: str, doorway: Doorway | None) -> Channel:
        """Start the depot's guest, and see whether it comes to the doorway or speaks through the daemon."""
        attached = await self._attach(life)
        await self._containers.start(life.name)
        if doorway is None or doorway.is_closed:
            return attached
        greeting = attached.hello(limit_s=_HELLO_LIMIT_S)
        await first_of(doorway.answer(container), greeting, self._lives.closing.wait(), limit_s=_HELLO_LIMIT_S)
        self._lives.check_open()
        channel = await self._connected(life, doorway)
        if channel is None:
            if attached.error is None:
                self._without_socket("the guest could not connect to a socket of this machine")
            return attached
        attached.close()
        self._transport = "unix"
        return channel

    async def _copy_root(self, image_id: str, depot: str, path: str) -> None:
        """Have a short-lived container copy the root file system of its image into the depot's volume."""
        async with self._lives.begin(image_id) as life:
            uid = self._first_uid + life.user
            config = container_config(
                *(image_id, self._labels("copier"), SandboxSpec(), uid),
                options=["--copy-root", path],
                apparmor=self._apparmor,
            )
            config["HostConfig"]["VolumesFrom"] = [depot]
            channel = await self._launch_attached(life, config)
            await channel.hello(limit_s=_COPY_LIMIT_S)
            channel.close()
