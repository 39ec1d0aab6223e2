"""The connection to a container daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from codecraft_pool.docker_daemon import LANE_BOUNDS, connect_daemon, daemon_addresses
from codecraft_pool.errors import CallRefused, DaemonUnavailable
from tests.pool.fake_engine import VERSION, FakeEngine

pytestmark = pytest.mark.anyio


def test_docker_host_is_the_only_address() -> None:
    """Where DOCKER_HOST is set nothing else is tried."""
    environ = {"DOCKER_HOST": "tcp://engine:2375", "HOME": "/home/me"}
    assert ["tcp://engine:2375"] == daemon_addresses(environ)


def test_usual_sockets() -> None:
    """Without DOCKER_HOST the system's, the user's and the desktop's socket are tried in this order."""
    expected = ["unix:///var/run/docker.sock", "unix:///run/user/7/docker.sock", "unix:///h/.docker/run/docker.sock"]
    assert expected == daemon_addresses({"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/h"})


@pytest.mark.docker
async def test_a_real_daemon_says_what_it_is() -> None:
    """The facts of a real daemon are there, and its API version is pinned."""
    async with await connect_daemon() as daemon:
        assert "linux" == daemon.info.os_type
        assert daemon.info.cpus > 0
        assert daemon.info.memory_bytes > 0
        assert f"v{daemon.info.api_version}" == daemon.client.api_version
        await daemon.close()


@pytest.mark.docker
async def test_more_connections_than_the_clients_own_limit() -> None:
    """150 requests are open at once, where aiodocker's own connector stops at 100 and waits for ever."""
    async with await connect_daemon() as daemon:
        url = f"{daemon.client.docker_host}/events"
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            streams = [group.create_task(daemon.client.session.get(url)) for _ in range(150)]
        for stream in streams:
            stream.result().close()
        assert {200} == {stream.result().status for stream in streams}


async def test_no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a daemon there is one line that says what was tried and what to do."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(DaemonUnavailable) as caught:
        await connect_daemon()
    expected = (
        "no container daemon answers: unix:///nonexistent/docker.sock (no such socket); "
        "start Docker, point DOCKER_HOST at a daemon, or use the local backend"
    )
    assert expected == str(caught.value)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "ssh://127.0.0.1:1", "http://"])
async def test_bad_address(address: str) -> None:
    """An address where nothing listens, or that is none, is named in one line."""
    with pytest.raises(DaemonUnavailable) as caught:
        await connect_daemon(address=address)
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_silent_daemon_has_a_deadline(tmp_path: Path) -> None:
    """A socket that takes connections and never answers is given up after the limit."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    path = str(tmp_path / "silent.sock")
    server = await asyncio.start_unix_server(say_nothing, path)
    try:
        with pytest.raises(DaemonUnavailable, match=r"no answer within 0\.2 s"):
            await connect_daemon(address=f"unix://{path}", limit_s=0.2)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("facts", "reason"), [({"ApiVersion": "1.30"}, "older than 1.41"), ({"Os": "windows"}, "windows containers")]
)
async def test_unusable_daemon(tmp_path: Path, facts: dict[str, str], reason: str) -> None:
    """A daemon that is too old, or runs no Linux containers, is refused when connecting."""
    async with FakeEngine(version={**VERSION, **facts}).serve(tmp_path) as address:
        with pytest.raises(DaemonUnavailable, match=reason):
            await connect_daemon(address=address)


async def test_lanes_bound_what_is_asked_at_once(tmp_path: Path) -> None:
    """Of twenty callers no more than the lane's width are inside together."""
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    async with FakeEngine().daemon(tmp_path) as daemon, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(daemon.call("copy", work, what="work"))
    assert LANE_BOUNDS["copy"].highest == most


async def test_a_cancelled_caller_leaves_its_place(tmp_path: Path) -> None:
    """Callers cancelled inside a lane, and while they wait for it, do not take places with them."""
    async with FakeEngine().daemon(tmp_path) as daemon:
        callers = [
            asyncio.create_task(daemon.call("pull", asyncio.Event().wait, what="wait"))
            for _ in range(LANE_BOUNDS["pull"].highest + 2)
        ]
        await asyncio.sleep(0.01)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert "done" == await daemon.call("pull", lambda: asyncio.sleep(0, "done"), what="work", limit_s=1)


async def test_a_call_has_a_deadline(tmp_path: Path) -> None:
    """A call that is not answered in time says what was being done."""
    async with FakeEngine().daemon(tmp_path) as daemon:
        with pytest.raises(DaemonUnavailable, match=r"cannot start sandbox 7: .* did not answer within 0\.05 s"):
            await daemon.call("start", asyncio.Event().wait, what="start sandbox 7", limit_s=0.05)


async def test_a_refusal_keeps_its_status(tmp_path: Path) -> None:
    """What the daemon refuses comes with its status and its own words."""
    async with FakeEngine().daemon(tmp_path) as daemon:
        with pytest.raises(CallRefused, match="cannot look: the container daemon says: No such image: x:1") as caught:
            await daemon.call(None, lambda: daemon.client.images.inspect("x:1"), what="look")
        assert 404 == caught.value.status


async def test_a_daemon_that_went_away(tmp_path: Path) -> None:
    """Once the daemon is gone a call says so, and closing still works."""
    async with FakeEngine().serve(tmp_path) as address:
        daemon = await connect_daemon(address=address)
    async with daemon:
        with pytest.raises(DaemonUnavailable, match="cannot look: the connection to the container daemon"):
            await daemon.call(None, lambda: daemon.client.images.inspect("x:1"), what="look")


def _streamed(*parts: bytes, cut: bool = False) -> FakeEngine:
    async def create(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return FakeEngine(create)


async def _messages(engine: FakeEngine, directory: Path) -> list[object]:
    async with (
        engine.daemon(directory) as daemon,
        daemon.messages("images/create", what="pull image x", params=[], stall_limit_s=5) as messages,
    ):
        return [message["status"] async for message in messages]


async def test_messages_in_any_chunks(tmp_path: Path) -> None:
    """Messages are whole whatever pieces they come in, the last one without a line end too."""
    engine = _streamed(b'{"status": "a"}\r\n{"sta', b'tus": "b"}\n\n{"status"', b': "c"}')
    assert ["a", "b", "c"] == await _messages(engine, tmp_path)


async def test_an_error_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    """An error that comes after the status 200 is an error."""
    engine = _streamed(b'{"status": "a"}\n{"error": "x", "errorDetail": {"message": "disk\\nfull"}}\n')
    with pytest.raises(CallRefused, match="cannot pull image x: the container daemon says: disk full"):
        await _messages(engine, tmp_path)


async def test_a_broken_stream_is_not_the_end_of_the_work(tmp_path: Path) -> None:
    """A connection that breaks in the middle is an error, not success."""
    with pytest.raises(DaemonUnavailable, match="cannot pull image x"):
        await _messages(_streamed(b'{"status": "a"}\n', cut=True), tmp_path)


async def test_rubbish_in_a_stream(tmp_path: Path) -> None:
    """What is no JSON is refused with what was sent."""
    with pytest.raises(CallRefused, match="it sent no JSON: b'<html>'"):
        await _messages(_streamed(b"<html>\n"), tmp_path)


async def test_a_message_without_end(tmp_path: Path) -> None:
    """A message that grows without end is given up, not collected."""
    with pytest.raises(CallRefused, match="more than 1048576 bytes"):
        await _messages(_streamed(*[b"x" * 65536] * 20), tmp_path)
