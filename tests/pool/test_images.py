"""How images are had: here, pulled or built; once, however many ask."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from codecraft_pool import images as images_module
from codecraft_pool.docker_daemon import DockerDaemon, connect_daemon
from codecraft_pool.errors import CallRefused, ImageUnavailable
from codecraft_pool.images import ImageProgress, Images, full_reference
from tests.pool.fake_engine import FakeEngine, Recorder
from tests.pool.guest_harness import missing

pytestmark = pytest.mark.anyio
LAYER_BYTES = 3_000_000


@dataclass
class StubRecipe:
    """Builds by putting an image into a fake engine, when it is let to."""

    engine: FakeEngine
    name: str = "codecraft/stub"
    go: asyncio.Event = field(default_factory=asyncio.Event)
    started: int = 0
    cancelled: int = 0

    def digest(self) -> str:
        """See `Recipe.digest`."""
        return "0123456789ab"

    async def build(self, daemon: DockerDaemon, *, progress: ImageProgress) -> None:
        """See `Recipe.build`."""
        self.started += 1
        progress.line("building")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.engine.images[f"{self.name}:{self.digest()}"] = "sha256:built"


@asynccontextmanager
async def stub(directory: Path, name: str = "codecraft/stub") -> AsyncGenerator[tuple[Images, StubRecipe]]:
    """Images of a fake engine with one recipe."""
    engine = FakeEngine()
    recipe = StubRecipe(engine, name)
    async with engine.daemon(directory) as daemon:
        yield Images(daemon, recipes={name: recipe}), recipe


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between attempts to pull take no time."""
    monkeypatch.setattr(images_module, "PULL_PAUSES_S", (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("debian", "debian:latest"),
        ("python:3.12-alpine", "python:3.12-alpine"),
        ("registry.local:5000/a/b", "registry.local:5000/a/b:latest"),
        ("a/b@sha256:" + "0" * 64, "a/b@sha256:" + "0" * 64),
        ("a/b:t@sha256:" + "0" * 64, "a/b:t@sha256:" + "0" * 64),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
    ],
)
def test_full_reference(reference: str, full: str) -> None:
    """A reference gets `:latest` where it has neither tag nor digest."""
    assert full == full_reference(reference)


@pytest.mark.parametrize(
    "reference", ["", "Upper", "a b", "../containers/json", "a?x=1", "a#b", "a:", "a\nb", "/a", "a//b", "a" * 600, "é"]
)
def test_no_reference(reference: str) -> None:
    """What is no image reference is refused in one line before it gets into a URL."""
    with pytest.raises(ImageUnavailable, match="is not an image reference") as caught:
        full_reference(reference)
    assert "\n" not in str(caught.value)


async def test_an_image_that_is_here_is_used(tmp_path: Path) -> None:
    """An image that is here is neither pulled nor built."""
    async with stub(tmp_path) as (images, recipe):
        recipe.engine.images["codecraft/stub:latest"] = "sha256:here"
        assert "sha256:here" == await images.ensure("codecraft/stub")
        assert 0 == recipe.started
        assert 0 == recipe.engine.count("POST /v1.41/images/create")


async def test_an_alias_is_used_instead(tmp_path: Path) -> None:
    """An aliased reference stands for its target, with or without the tag `latest`."""
    engine = FakeEngine()
    engine.images["registry.local/python:3"] = "sha256:mirror"
    async with engine.daemon(tmp_path) as daemon:
        images = Images(daemon, aliases={"python": "registry.local/python:3"})
        assert "sha256:mirror" == await images.ensure("python")
        assert "sha256:mirror" == await images.ensure("python:latest")


async def test_a_recipe_is_built_once_however_many_ask(tmp_path: Path) -> None:
    """Ten callers share one build, each hears of it, and the image has both its names."""
    async with stub(tmp_path) as (images, recipe):
        recorders = [Recorder() for _ in range(10)]
        asking = [asyncio.create_task(images.ensure("codecraft/stub", progress=recorder)) for recorder in recorders]
        await recorders[0].told.wait()
        recipe.go.set()
        assert ["sha256:built"] * 10 == await asyncio.gather(*asking)
        assert 1 == recipe.started
        assert [["building"]] * 10 == [recorder.lines for recorder in recorders]
        assert {"codecraft/stub:latest", "codecraft/stub:0123456789ab"} == set(recipe.engine.images)


async def test_a_cancelled_asker_leaves_the_others_alone(tmp_path: Path) -> None:
    """One of two callers is cancelled: the build goes on for the other."""
    async with stub(tmp_path) as (images, recipe):
        recorder = Recorder()
        first = asyncio.create_task(images.ensure("codecraft/stub", progress=recorder))
        second = asyncio.create_task(images.ensure("codecraft/stub"))
        await recorder.told.wait()
        first.cancel()
        await asyncio.wait([first])
        recipe.go.set()
        assert "sha256:built" == await second
        assert (True, 0) == (first.cancelled(), recipe.cancelled)


async def test_the_last_cancelled_asker_ends_the_work(tmp_path: Path) -> None:
    """When every caller is cancelled the build is too, and has ended; who asks later starts afresh."""
    async with stub(tmp_path) as (images, recipe):
        recorder = Recorder()
        asking = [asyncio.create_task(images.ensure("codecraft/stub", progress=recorder)) for _ in range(2)]
        await recorder.told.wait()
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        assert [True, True] == [task.cancelled() for task in asking]
        assert (1, 1) == (recipe.started, recipe.cancelled)
        recipe.go.set()
        assert "sha256:built" == await images.ensure("codecraft/stub")
        assert 2 == recipe.started


async def test_our_names_are_never_pulled(tmp_path: Path) -> None:
    """A name of ours without a recipe is an error, not a stranger's image from a registry."""
    async with stub(tmp_path) as (images, recipe):
        with pytest.raises(ImageUnavailable, match=r"no recipe makes it \(recipes: codecraft/stub\)"):
            await images.ensure("codecraft/other")
        assert 0 == recipe.engine.count("POST /v1.41/images/create")


async def test_an_unknown_recipe(tmp_path: Path) -> None:
    """Building what there is no recipe for names the recipes that there are."""
    async with stub(tmp_path) as (images, _):
        with pytest.raises(ImageUnavailable, match=r"no recipe for image 'nix'; recipes: codecraft/stub"):
            await images.build("nix")


async def test_pulled_before_built(tmp_path: Path) -> None:
    """A recipe under a public name is built only when the image cannot be pulled."""
    async with stub(tmp_path, "team/tool") as (images, recipe):
        recorder = Recorder()
        recipe.go.set()
        assert "sha256:built" == await images.ensure("team/tool", progress=recorder)
        assert 1 == recipe.engine.count("POST /v1.41/images/create")
        assert "building" == recorder.lines[-1]


@pytest.mark.usefixtures("quick_retries")
async def test_a_pull_is_tried_again(tmp_path: Path) -> None:
    """Two failures that may pass are followed by success; the listener hears of both."""
    engine = FakeEngine()
    answers = iter(["toomanyrequests", "unexpected EOF", ""])

    async def create(request: web.Request) -> web.StreamResponse:
        assert {"fromImage": "team/tool", "tag": "1"} == dict(request.query)
        if error := next(answers):
            return web.json_response({"error": error})
        engine.images["team/tool:1"] = "sha256:pulled"
        return web.json_response({"status": "Downloading", "id": "aa", "progressDetail": {"current": 3, "total": 9}})

    engine.create = create
    async with engine.daemon(tmp_path) as daemon:
        recorder = Recorder()
        assert "sha256:pulled" == await Images(daemon, recipes={}).ensure("team/tool:1", progress=recorder)
    assert [("aa", "Downloading", 3, 9)] == recorder.layers
    assert ["toomanyrequests", "unexpected EOF"] == [line.split("(")[1].split(")")[0] for line in recorder.lines]


@pytest.mark.usefixtures("quick_retries")
async def test_a_pull_without_hope_is_tried_once(tmp_path: Path) -> None:
    """What the registry says no to is not asked again, and the error says what to do."""

    async def create(request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "pull access denied for team/tool"}, status=404)

    engine = FakeEngine(create)
    async with engine.daemon(tmp_path) as daemon:
        with pytest.raises(ImageUnavailable, match=r"one attempt; pull access denied .*docker load") as caught:
            await Images(daemon, recipes={}).ensure("team/tool")
    assert "\n" not in str(caught.value)
    assert 1 == engine.count("POST /v1.41/images/create")


# --- a real daemon and a real registry ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registry:
    """A registry on this machine, and an image in it that the daemon does not have."""

    host: str
    image: str


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    """Debian's docker-registry on a free loopback port, which daemons accept without TLS."""
    program = _registry_program()
    directory = tmp_path_factory.mktemp("registry")
    port = _free_port()
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait_for(port, process)
        image = f"127.0.0.1:{port}/team/tiny:1"
        asyncio.run(_publish(image))
        yield Registry(f"127.0.0.1:{port}", image)
    finally:
        process.kill()
        process.wait()


def _registry_program() -> str:
    if shutil.which("docker-registry") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", "docker-registry"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=300)
    program = shutil.which("docker-registry")
    if program is None:
        missing("docker-registry is not installed, and could not be")
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail("the registry did not come up")


async def _publish(image: str) -> None:
    repository, _, tag = image.rpartition(":")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("noise")
        member.size = LAYER_BYTES
        archive.addfile(member, io.BytesIO(os.urandom(LAYER_BYTES)))
    async with await connect_daemon() as daemon:
        params = [("fromSrc", "-"), ("repo", repository), ("tag", tag)]
        async with daemon.messages("images/create", what="import", params=params, data=buffer.getvalue()) as messages:
            assert [message async for message in messages]
        await daemon.client.images.push(repository, tag=tag)
    await _forget(image)


async def _forget(image: str) -> None:
    async with await connect_daemon() as daemon:
        with suppress(CallRefused):
            await daemon.call(None, lambda: daemon.client.images.delete(image, force=True), what="remove")


@pytest.mark.docker
async def test_pulled_once_for_ten(registry: Registry) -> None:
    """Ten callers get the id of an image that was pulled once, and hear of its layers and bytes."""
    async with await connect_daemon() as daemon:
        images = Images(daemon)
        recorders = [Recorder() for _ in range(10)]
        try:
            assert await images.find(registry.image) is None
            ids = await asyncio.gather(*(images.ensure(registry.image, progress=each) for each in recorders))
            assert {await images.find(registry.image)} == set(ids)
            assert registry.image in [image.reference for image in await images.list()]
        finally:
            await _forget(registry.image)
    pulled = recorders[0]
    assert [pulled.layers] * 10 == [recorder.layers for recorder in recorders]
    assert 1 == [status for _, status, _, _ in pulled.layers].count("Pull complete")
    totals = [total for _, status, _, total in pulled.layers if status == "Downloading"]
    assert totals
    assert all(total is not None and total >= LAYER_BYTES for total in totals)


@pytest.mark.docker
@pytest.mark.usefixtures("quick_retries")
async def test_an_image_that_the_registry_lacks(registry: Registry) -> None:
    """An image that a registry does not have is an error at once."""
    async with await connect_daemon() as daemon:
        with pytest.raises(ImageUnavailable, match=rf"image {registry.host}/none:2 is not here .*one attempt"):
            await Images(daemon).ensure(f"{registry.host}/none:2")


@pytest.mark.docker
@pytest.mark.usefixtures("quick_retries")
async def test_a_registry_that_is_down() -> None:
    """A registry that does not answer is tried four times, then named."""
    reference = f"127.0.0.1:{_free_port()}/team/tiny:1"
    recorder = Recorder()
    async with await connect_daemon() as daemon:
        with pytest.raises(ImageUnavailable, match=r"4 attempts; .*connection refused"):
            await Images(daemon).ensure(reference, progress=recorder)
    assert 3 == len(recorder.lines)
