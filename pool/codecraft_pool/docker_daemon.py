"""The connection to a container daemon: one client, what the daemon is, and lanes that bound what is asked at once.

    async with await connect_daemon() as daemon:
        await daemon.call("create", lambda: daemon.client.containers.create(config), what="create a sandbox")

aiodocker's own connector stops at 100 connections and then waits for ever, and every sandbox holds one; the connector
here has no limit, and the lanes bound the work instead. Errors leave as this package's types, in one line that says
what was being done and what the daemon said.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import aiodocker
import aiohttp

from codecraft_pool.errors import CallRefused, DaemonHung, DaemonUnavailable, LaunchError, PoolError
from codecraft_pool.lanes import AdaptiveLane, Bounds, LaneStats

T = TypeVar("T")
Lane = Literal["create", "start", "copy", "remove", "pull"]

# A daemon makes 5 to 12 containers a second on two cores, whatever one asks; more in flight only makes each slower. How
# many are best differs from machine to machine, and these lanes find out. What copies and pulls take says nothing of
# the daemon, so theirs are fixed; a pull already fetches three layers at a time.
LANE_BOUNDS: Mapping[Lane, Bounds] = {
    "create": Bounds(2, 6, 32),
    "start": Bounds(2, 6, 32),
    "copy": Bounds(4, 4, 4),
    "remove": Bounds(2, 8, 32),
    "pull": Bounds(2, 2, 2),
}

CONNECT_LIMIT_S = 10.0  # a daemon that starts containers for others may take seconds to say its version
INFO_LIMIT_S = 15.0  # /info walks the storage driver: slow on a busy daemon
CALL_LIMIT_S = 60.0
LANE_WAIT_LIMIT_S = 900.0  # several hundred containers, at the rate above, with room
OLDEST_API = (1, 41)  # Engine 20.10
MAX_MESSAGE_BYTES = 1 << 20
UPLOAD_CHUNK_BYTES = 1 << 16
_SERVER_ERROR = 500

_HOW_TO_GO_ON = "start Docker, point DOCKER_HOST at a daemon, or use the local backend"


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """What a daemon says of itself when the connection is made."""

    address: str
    version: str
    api_version: str
    os_type: str
    arch: str
    storage_driver: str
    cgroup_version: int
    cpus: int
    memory_bytes: int
    root_dir: str
    is_local: bool
    """Reached through a unix socket, and on this kernel: not in the virtual machine of a desktop product."""
    maps_users: bool = False
    """Users of its containers are other users outside (userns-remap, rootless), of which there are 65 536."""


def one_line(text: str) -> str:
    """The text with line ends and runs of blanks made single spaces."""
    return " ".join(text.split())


def daemon_addresses(environ: Mapping[str, str]) -> list[str]:
    """The addresses to try, best first: DOCKER_HOST alone where it is set, else the usual sockets."""
    if host := environ.get("DOCKER_HOST"):
        return [host]
    sockets = ["/var/run/docker.sock"]
    if runtime_dir := environ.get("XDG_RUNTIME_DIR"):
        sockets.append(f"{runtime_dir}/docker.sock")
    if home := environ.get("HOME"):
        sockets.append(f"{home}/.docker/run/docker.sock")
    return [f"unix://{path}" for path in sockets]


class DockerDaemon:
    """One connection to one daemon; made by `connect_daemon`, closed by leaving `async with`."""

    def __init__(
        self,
        client: aiodocker.Docker,
        connector: aiohttp.BaseConnector | None,
        info: DaemonInfo,
        *,
        call_limit_s: float = CALL_LIMIT_S,
    ) -> None:
        self.client = client
        self.info = info
        self.call_limit_s = call_limit_s
        self._connector = connector
        self._lanes = {name: AdaptiveLane(bounds) for name, bounds in LANE_BOUNDS.items()}

    def __repr__(self) -> str:
        return f"<DockerDaemon {self.info.address} engine {self.info.version} API {self.info.api_version}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Every connection is closed; a second call does nothing."""
        await _close(self.client, self._connector)

    @asynccontextmanager
    async def lane(self, name: Lane) -> AsyncGenerator[None]:
        """A place in one lane of the daemon, for as long as the block lasts.

        Raises:
            LaunchError: no place became free in time.
        """
        lane = self._lanes[name]
        try:
            async with asyncio.timeout(LANE_WAIT_LIMIT_S):
                busy = await lane.enter()
        except TimeoutError:
            raise LaunchError(
                f"waited {LANE_WAIT_LIMIT_S:g} s for one of {lane.width} places to {name} at the container "
                f"daemon {self.info.address}: it is overloaded or stuck; ask for fewer sandboxes or restart it"
            ) from None
        began = time.monotonic()
        took_s, failed = None, False
        try:
            yield
            took_s = time.monotonic() - began
        except DaemonUnavailable:
            failed = True
            raise
        except CallRefused as error:
            failed = error.status >= _SERVER_ERROR
            raise
        finally:
            lane.leave(busy, took_s, failed=failed)

    def lane_stats(self) -> dict[str, LaneStats]:
        """Return the state of every lane."""
        return {name: lane.stats() for name, lane in self._lanes.items()}

    async def call(
        self, lane: Lane | None, make: Callable[[], Awaitable[T]], *, what: str, limit_s: float | None = None
    ) -> T:
        """What the awaitable that `make` returns gives, in a lane (None: in no lane), within `limit_s` (by default
        `call_limit_s`) from its start.

        Raises:
            CallRefused: the daemon said no.
            DaemonUnavailable: the daemon did not answer, or not in time.
        """
        limit_s = self.call_limit_s if limit_s is None else limit_s
        async with self.lane(lane) if lane is not None else nullcontext():
            with self.explained(what, limit_s=limit_s):
                async with asyncio.timeout(limit_s):
                    return await make()

    async def get_json(self, path: str) -> Any:
        """What the daemon answers to one GET, for `call`."""
        return await _get_json(self.client, f"{self.client.api_version}/{path}")

    async def get_bytes(self, path: str, max_bytes: int) -> bytes | None:
        """What the daemon answers to one GET, for `call`; None if that is more than `max_bytes`."""
        async with self.client.session.get(f"{self._url}/{path}") as response:
            if response.status >= 400:
                raise aiodocker.DockerError(response.status, _error_text(await response.read()))
            data = bytearray()
            async for part in response.content.iter_any():
                data += part
                if len(data) > max_bytes:
                    return None
            return bytes(data)

    @property
    def _url(self) -> str:
        return f"{self.client.docker_host}/{self.client.api_version}"

    @contextmanager
    def explained(self, what: str, *, limit_s: float) -> Generator[None]:
        """Errors of the client and of the network leave the block as our own, which say what was being done."""
        try:
            yield
        except PoolError:
            raise
        except TimeoutError as error:
            raise DaemonHung(
                f"cannot {what}: the container daemon {self.info.address} did not answer within {limit_s:g} s; "
                "it is overloaded or stuck"
            ) from error
        except aiodocker.DockerError as error:
            if error.status == 900:  # aiodocker's number for "cannot connect"
                raise self._gone(what, error) from error
            # aiodocker reads the reason out of the JSON only where the content type has no parameters.
            raise CallRefused(what, error.status, _error_text(error.message.encode())) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._gone(what, error) from error

    def _gone(self, what: str, error: BaseException) -> DaemonUnavailable:
        reason = one_line(str(error)) or type(error).__name__
        return DaemonUnavailable(
            f"cannot {what}: the connection to the container daemon {self.info.address} failed ({reason}); "
            "is it running?"
        )

    @asynccontextmanager
    async def messages(
        self,
        path: str,
        *,
        what: str,
        params: Sequence[tuple[str, str]],
        method: str = "POST",
        data: AsyncIterable[bytes] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        stall_limit_s: float | None = None,
    ) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        """The JSON messages with which the daemon tells how a long call goes on.

        Leaving the block closes the connection, upon which the daemon gives up what it was doing. aiodocker's own
        stream takes a broken connection for the end of the work, and leaves the response open when it is cancelled.

        Raises:
            CallRefused: the daemon said no, at once or in the middle.
            DaemonUnavailable: the connection broke, or nothing came for `stall_limit_s`.
        """
        url = f"{self._url}/{path}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S, sock_read=stall_limit_s)
        data = _chunks(data) if isinstance(data, bytes) else data
        with self.explained(what, limit_s=stall_limit_s or CONNECT_LIMIT_S):
            response = await self.client.session.request(
                method, url, params=list(params), data=data, headers=dict(headers or {}), timeout=timeout
            )
            try:
                if response.status >= 400:
                    raise CallRefused(what, response.status, _error_text(await response.read()))
                async with aclosing(_read_messages(response, what)) as messages:
                    yield messages
            finally:
                response.close()


async def _chunks(data: bytes) -> AsyncGenerator[bytes]:
    # aiohttp writes bytes in one go, during which the event loop stands still.
    for start in range(0, len(data), UPLOAD_CHUNK_BYTES):
        yield data[start : start + UPLOAD_CHUNK_BYTES]


async def _read_messages(response: aiohttp.ClientResponse, what: str) -> AsyncGenerator[dict[str, Any]]:
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_MESSAGE_BYTES:
            raise CallRefused(what, 0, f"it sent a message of more than {MAX_MESSAGE_BYTES} bytes")
        for line in lines:
            if line.strip():
                yield _message(line, what)
    if rest.strip():
        yield _message(rest, what)


def _message(line: bytes, what: str) -> dict[str, Any]:
    try:
        message: dict[str, Any] = json.loads(line)
    except ValueError:
        raise CallRefused(what, 0, f"it sent no JSON: {line[:100]!r}") from None
    if "error" in message or "errorDetail" in message:
        detail: dict[str, Any] = message.get("errorDetail") or {}
        raise CallRefused(what, 0, str(detail.get("message") or message.get("error") or "unknown error"))
    return message


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:500].decode("utf-8", "replace") or "no reason given"


async def connect_daemon(
    *, address: str | None = None, limit_s: float = CONNECT_LIMIT_S, call_limit_s: float = CALL_LIMIT_S
) -> DockerDaemon:
    """A connection to the daemon at `address`, by default at DOCKER_HOST or the first usual socket that answers.

    Its answers are waited for `limit_s` seconds now, and `call_limit_s` seconds in each call later.

    Raises:
        DaemonUnavailable: none answers within `limit_s`, or none that can be used; the message says what was tried.
    """
    failures: list[str] = []
    for candidate in [address] if address else daemon_addresses(os.environ):
        try:
            return await _connect(candidate, limit_s, call_limit_s)
        except DaemonUnavailable as error:
            failures.append(str(error))
    raise DaemonUnavailable(f"no container daemon answers: {'; '.join(failures)}; {_HOW_TO_GO_ON}")


async def _connect(address: str, limit_s: float, call_limit_s: float) -> DockerDaemon:
    if address.startswith("unix://") and not await asyncio.to_thread(Path(address.removeprefix("unix://")).exists):
        raise DaemonUnavailable(f"{address} (no such socket)")
    try:
        client, connector = await _open(address)
    except (ValueError, OSError, ImportError, aiodocker.DockerError) as error:
        raise DaemonUnavailable(f"{address} ({one_line(str(error))})") from error
    try:
        async with asyncio.timeout(limit_s):
            version = await _get_json(client, "version")
        client.api_version = f"v{_usable_api(address, version)}"
        async with asyncio.timeout(INFO_LIMIT_S):
            facts = await _get_json(client, f"{client.api_version}/info")
    except BaseException as error:
        await _close(client, connector)
        raise _connect_failure(address, limit_s, error) from error
    return DockerDaemon(client, connector, _daemon_info(address, version, facts), call_limit_s=call_limit_s)


async def _get_json(client: aiodocker.Docker, path: str) -> Any:
    # By itself aiodocker asks for the version before each of the first calls, so many times at once, with no deadline.
    async with client.session.get(f"{client.docker_host}/{path}") as response:
        if response.status >= 400:
            raise aiodocker.DockerError(response.status, _error_text(await response.read()))
        return await response.json()


async def _open(address: str) -> tuple[aiodocker.Docker, aiohttp.BaseConnector | None]:
    """A client, and its connector where that is ours to close."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S)
    connector: aiohttp.BaseConnector
    if address.startswith("unix://"):
        connector = aiohttp.UnixConnector(address.removeprefix("unix://"), limit=0)
        url = "http://docker"
    elif address.startswith(("tcp://", "http://", "https://")):
        tls = await asyncio.to_thread(_tls_context, os.environ)
        connector = aiohttp.TCPConnector(limit=0) if tls is None else aiohttp.TCPConnector(limit=0, ssl=tls)
        scheme = "http" if tls is None and not address.startswith("https://") else "https"
        url = f"{scheme}://{address.partition('://')[2]}"
    else:
        return aiodocker.Docker(url=address, timeout=timeout), None
    return aiodocker.Docker(url=url, connector=connector, timeout=timeout), connector


def _tls_context(environ: Mapping[str, str]) -> ssl.SSLContext | None:
    if not environ.get("DOCKER_TLS_VERIFY"):
        return None
    certificates = Path(environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    return context


async def _close(client: aiodocker.Docker, connector: aiohttp.BaseConnector | None) -> None:
    try:
        await client.close()
    finally:
        if connector is not None:
            await connector.close()


def _usable_api(address: str, version: Mapping[str, Any]) -> str:
    api = str(version.get("ApiVersion", "0"))
    numbers = tuple(int(part) for part in api.split(".") if part.isdigit())
    if numbers < OLDEST_API:
        oldest = ".".join(map(str, OLDEST_API))
        raise DaemonUnavailable(f"{address} (its API {api} is older than {oldest}, that of Docker Engine 20.10)")
    if version.get("Os") != "linux":
        raise DaemonUnavailable(f"{address} (it runs {version.get('Os')} containers; Linux containers are needed)")
    return api


def _connect_failure(address: str, limit_s: float, error: BaseException) -> BaseException:
    if isinstance(error, TimeoutError):
        return DaemonUnavailable(f"{address} (no answer within {limit_s:g} s)")
    if isinstance(error, PoolError) or not isinstance(error, Exception):
        return error
    reason = error.message if isinstance(error, aiodocker.DockerError) else str(error)
    if "Permission denied" in reason:
        return DaemonUnavailable(f"{address} (permission denied: run as root or as a member of the socket's group)")
    return DaemonUnavailable(f"{address} ({one_line(reason) or type(error).__name__})")


def _daemon_info(address: str, version: Mapping[str, Any], facts: Mapping[str, Any]) -> DaemonInfo:
    same_kernel = version.get("KernelVersion") == os.uname().release
    return DaemonInfo(
        address=address,
        version=str(version.get("Version", "?")),
        api_version=str(version["ApiVersion"]),
        os_type=str(version["Os"]),
        arch=str(version.get("Arch", "?")),
        storage_driver=str(facts.get("Driver", "?")),
        cgroup_version=int(facts.get("CgroupVersion") or 1),
        cpus=int(facts.get("NCPU") or 0),
        memory_bytes=int(facts.get("MemTotal") or 0),
        root_dir=str(facts.get("DockerRootDir") or ""),
        is_local=address.startswith("unix://") and same_kernel,
        maps_users=any(option in ("name=userns", "name=rootless") for option in facts.get("SecurityOptions") or ()),
    )


__all__ = [
    "DaemonInfo",
    "DockerDaemon",
    "Lane",
    "connect_daemon",
    "daemon_addresses",
    "one_line",
]
