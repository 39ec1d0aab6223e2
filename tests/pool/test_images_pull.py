"""Pulling from a real registry with a real daemon: once, slowly, interrupted, refused, in vain."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from codecraft_pool import Images, ImageUnavailable, _pull, connect_daemon
from codecraft_pool.docker_daemon import DockerDaemon
from tests.pool.fake_engine import Recorder
from tests.pool.registry import (
    LAYER_BYTES,
    PASSWORD,
    USER,
    Proxy,
    Registry,
    forget,
    free_port,
    publish,
    run_proxy,
    run_registry,
)

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
SLOW_BYTES_PER_S = 3_000_000.0


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module", name="registry")
def _registry(folder: Path) -> Generator[Registry]:
    with run_registry(folder) as registry:
        yield registry


@pytest.fixture(name="daemon")
async def _daemon() -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon() as daemon:
        yield daemon


@pytest.fixture(name="proxy")
async def _proxy(registry: Registry) -> AsyncGenerator[Proxy]:
    async with run_proxy(registry.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between attempts to pull take little time."""
    monkeypatch.setattr(_pull, "PULL_PAUSES_S", (0.1, 0.1, 0.1))


@asynccontextmanager
async def published(daemon: DockerDaemon, registry: Registry, proxy: Proxy | None = None) -> AsyncGenerator[str]:
    """The name, by way of the proxy if there is one, of an image that only the registry has; afterwards too."""
    name = f"team/tiny:{os.urandom(4).hex()}"
    await publish(daemon, f"{registry.host}/{name}")
    image = f"{registry.host if proxy is None else proxy.host}/{name}"
    try:
        yield image
    finally:
        await forget(daemon, image)


async def until(condition: Callable[[], bool], *, limit_s: float = 30.0) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # the daemon and the registry tell nobody
            await asyncio.sleep(0.02)


async def test_pulled_once_for_ten(daemon: DockerDaemon, registry: Registry, proxy: Proxy) -> None:
    """Ten callers get the id of an image that was pulled once, and hear of its layers and bytes."""
    images = Images(daemon)
    recorders = [Recorder() for _ in range(10)]
    async with published(daemon, registry, proxy) as image:
        assert await images.find(image) is None
        ids = await asyncio.gather(*(images.ensure(image, progress=each) for each in recorders))
        assert {await images.find(image)} == set(ids)
        assert image in [each.reference for each in await images.list()]
    assert LAYER_BYTES < proxy.passed < 1.5 * LAYER_BYTES
    pulled = recorders[0]
    assert [pulled.layers] * 10 == [recorder.layers for recorder in recorders]
    assert 1 == [status for _, status, _, _ in pulled.layers].count("Pull complete")
    totals = [total for _, status, _, total in pulled.layers if status == "Downloading"]
    assert totals
    assert all(total is not None and total >= LAYER_BYTES for total in totals)


async def test_a_slow_registry(daemon: DockerDaemon, registry: Registry, proxy: Proxy) -> None:
    """While bytes come slowly, progress tells how many have come, and never goes back."""
    proxy.bytes_per_s = SLOW_BYTES_PER_S
    recorder = Recorder()
    async with published(daemon, registry, proxy) as image:
        await Images(daemon).ensure(image, progress=recorder)
    done = [current for _, status, current, _ in recorder.layers if status == "Downloading" and current is not None]
    assert 4 < len(done)
    assert done == sorted(done)
    assert [] == recorder.lines[:-2]  # nothing was tried again; the daemon ends with digest and status


async def test_the_last_cancelled_asker_ends_the_pull(daemon: DockerDaemon, registry: Registry, proxy: Proxy) -> None:
    """One of two leaves and the pull goes on; the second leaves, and the daemon asks the registry for nothing more."""
    proxy.bytes_per_s = SLOW_BYTES_PER_S / 10
    images = Images(daemon)
    async with published(daemon, registry, proxy) as image:
        recorders = [Recorder(), Recorder()]
        asking = [asyncio.create_task(images.ensure(image, progress=each)) for each in recorders]
        await until(lambda: proxy.passed > 100_000)
        asking[0].cancel()
        await asyncio.wait(asking[:1])
        before = proxy.passed
        await until(lambda: proxy.passed > before + 100_000)
        asking[1].cancel()
        await asyncio.wait(asking[1:])
        await until(lambda: proxy.open == 0)
        assert [True, True] == [task.cancelled() for task in asking]
        assert await images.find(image) is None
        proxy.bytes_per_s = None
        assert await images.ensure(image) == await images.find(image)


async def test_a_connection_that_is_cut(daemon: DockerDaemon, registry: Registry, proxy: Proxy) -> None:
    """A layer that breaks off in its middle is fetched again, and the image is whole."""
    proxy.bytes_per_s = SLOW_BYTES_PER_S
    proxy.cuts = [LAYER_BYTES // 2]
    async with published(daemon, registry, proxy) as image:
        assert (await Images(daemon).ensure(image)).startswith("sha256:")
    assert [] == proxy.cuts


async def test_a_registry_that_is_killed_and_started_again(
    daemon: DockerDaemon, registry: Registry, proxy: Proxy
) -> None:
    """A pull outlives its registry's death, if the registry comes back."""
    proxy.bytes_per_s = SLOW_BYTES_PER_S / 3
    async with published(daemon, registry, proxy) as image:
        asking = asyncio.create_task(Images(daemon).ensure(image))
        try:
            await until(lambda: proxy.passed > 300_000)
            await asyncio.to_thread(registry.kill)
        finally:
            await asyncio.to_thread(registry.start)
        proxy.bytes_per_s = None
        assert (await asking).startswith("sha256:")


async def test_a_registry_that_comes_up_late(
    daemon: DockerDaemon, registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that is not there yet is asked again, and each attempt is told."""
    monkeypatch.setattr(_pull, "PULL_PAUSES_S", (0.2, 30.0))
    recorder = Recorder()
    late = Registry(folder, port=free_port())
    async with published(daemon, registry) as image:
        late_image = f"{late.host}/{image.partition('/')[2]}"
        asking = asyncio.create_task(Images(daemon).ensure(late_image, progress=recorder))
        try:
            await until(lambda: len(recorder.lines) == 1)
            await asyncio.to_thread(late.start)
            assert (await asking).startswith("sha256:")
        finally:
            await asyncio.to_thread(late.kill)
            await forget(daemon, late_image)
    assert re.search(r"connection refused.*\); again in 0\.\d s", recorder.lines[0])


async def test_an_image_that_the_registry_lacks(daemon: DockerDaemon, registry: Registry) -> None:
    """An image that a registry does not have is an error at once."""
    with pytest.raises(ImageUnavailable, match=r"one attempt; .*\): check its name and tag; or") as caught:
        await Images(daemon).ensure(f"{registry.host}/none:2")
    assert str(caught.value).startswith(
        f"image {registry.host}/none:2 is not here and cannot be pulled from {registry.host} ("
    )


async def test_a_registry_that_is_down(daemon: DockerDaemon) -> None:
    """A registry that does not answer is tried four times, then named."""
    host = f"127.0.0.1:{free_port()}"
    recorder = Recorder()
    with pytest.raises(ImageUnavailable, match=rf"4 attempts; .*refused\): check that the daemon's .* reaches {host};"):
        await Images(daemon).ensure(f"{host}/team/tiny:1", progress=recorder)
    assert 3 == len(recorder.lines)


async def test_a_registry_that_says_nothing(
    daemon: DockerDaemon, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that takes connections and says nothing has a deadline, and the error says what was waited for."""
    proxy.silent = True
    monkeypatch.setattr(_pull, "STALL_LIMIT_S", 0.5)
    monkeypatch.setattr(_pull, "PULL_PAUSES_S", (0.1,))
    with pytest.raises(ImageUnavailable, match=rf"from {proxy.host} \(2 attempts; nothing came for 0\.5 s\)"):
        await Images(daemon).ensure(f"{proxy.host}/team/tiny:1")


async def test_all_attempts_end(daemon: DockerDaemon, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a pull may be tried, there is one limit to all of it."""
    proxy.silent = True
    monkeypatch.setattr(_pull, "PULL_LIMIT_S", 0.5)
    with pytest.raises(ImageUnavailable, match=r"one attempt; it was not complete within 0\.5 s"):
        await Images(daemon).ensure(f"{proxy.host}/team/tiny:1")


@asynccontextmanager
async def bad_registry(answer: Callable[[], Awaitable[web.Response]]) -> AsyncGenerator[str]:
    """The address of a registry that greets as it should, and answers all else in its own way."""

    async def serve(request: web.Request) -> web.Response:
        if request.path == "/v2/":
            return web.json_response({})
        return await answer()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "attempts", "said"),
    [
        (500, "oh no", 4, r"500 Internal Server Error.*: check that the daemon's machine reaches"),
        (503, "", 4, "503 Service Unavailable"),
        (401, '{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}', 1, "docker login"),
        (403, '{"errors":[{"code":"DENIED","message":"access denied"}]}', 1, "docker login"),
        (404, '{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', 1, "check its name and tag"),
        (429, '{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}', 4, "slow down|toomanyrequests"),
        (200, "<html>a captive portal</html>", 4, "check that the daemon's machine reaches"),
        (200, "", 4, "check that the daemon's machine reaches"),
    ],
)
async def test_a_registry_that_refuses(daemon: DockerDaemon, status: int, body: str, attempts: int, said: str) -> None:
    """What a registry answers is in the error, with what to do; only what may pass is tried again."""

    async def answer() -> web.Response:
        return web.Response(status=status, text=body, content_type="application/json")

    async with bad_registry(answer) as host:
        recorder = Recorder()
        with pytest.raises(ImageUnavailable, match=said) as caught:
            await Images(daemon).ensure(f"{host}/team/tiny:1", progress=recorder)
    text = str(caught.value)
    assert text.startswith(f"image {host}/team/tiny:1 is not here and cannot be pulled from {host} (")
    assert attempts - 1 == len([line for line in recorder.lines if "again in" in line])
    assert "docker load" in text
    assert "\n" not in text


# --- who may pull -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="closed_registry")
def _closed_registry(registry: Registry, folder: Path) -> Generator[Registry]:
    """A registry over the same images that wants to know who asks."""
    assert registry.port
    with run_registry(folder, needs_login=True) as closed:
        yield closed


async def test_without_a_login(
    daemon: DockerDaemon, closed_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is not logged in is told to be, and where."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(ImageUnavailable, match=f"one attempt; .*docker login {closed_registry.host}"):
        await Images(daemon).ensure(f"{closed_registry.host}/team/tiny:1")


@pytest.mark.parametrize("kind", ["stored", "helper", "store"])
async def test_with_a_login(
    kind: str,
    daemon: DockerDaemon,
    registry: Registry,
    closed_registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The login of this user is used, be it in Docker's configuration or with one of its helpers."""
    host = closed_registry.host
    stored = {"auths": {host: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}}
    config = {
        "stored": stored,
        "helper": {"credHelpers": {host: "try"}},
        "store": {"auths": {host: {}}, "credsStore": "try"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config[kind]))
    helper = tmp_path / "docker-credential-try"
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\nread host\n[ \"$1 $host\" = 'get {host}' ] && echo '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with published(daemon, registry) as image:
        closed_image = f"{host}/{image.partition('/')[2]}"
        try:
            assert (await Images(daemon).ensure(closed_image)).startswith("sha256:")
        finally:
            await forget(daemon, closed_image)


async def test_an_alias_for_a_registry(daemon: DockerDaemon, registry: Registry) -> None:
    """On a site with a registry of its own, images come from there under their usual names."""
    async with published(daemon, registry) as image:
        name, tag = image.partition("/")[2].split(":")
        images = Images(daemon, aliases={"docker.io/*": f"{registry.host}/*"})
        assert await images.ensure(f"{name}:{tag}") == await Images(daemon).find(image)
        with pytest.raises(
            ImageUnavailable, match=rf"image {registry.host}/library/nix:latest, the alias of nix:latest, is not"
        ):
            await images.ensure("nix")
