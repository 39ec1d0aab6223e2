"""How images are had: here, pulled or built; once, however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from codecraft_pool import _pull
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import ImageUnavailable
from codecraft_pool.images import ImageProgress, Images
from tests.pool.fake_engine import FakeEngine, Recorder

pytestmark = pytest.mark.anyio


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
    monkeypatch.setattr(_pull, "PULL_PAUSES_S", (0.0, 0.0, 0.0))


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


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"Os": "linux", "Architecture": "arm64"},
            "is for linux/arm64, and the container daemon's machine is linux/amd64",
        ),
        ({"Os": "windows", "Architecture": "amd64"}, "is for windows/amd64"),
    ],
)
async def test_an_image_for_another_machine(tmp_path: Path, facts: dict[str, str], said: str) -> None:
    """An image whose programs cannot run here is refused before a container is made of it, with what to do."""
    engine = FakeEngine()
    engine.images["team/tool:1"] = "sha256:foreign"
    engine.facts["team/tool:1"] = facts
    async with engine.daemon(tmp_path) as daemon:
        with pytest.raises(ImageUnavailable, match=said) as caught:
            await Images(daemon, recipes={}).ensure("team/tool:1")
    assert "alias" in str(caught.value)


async def test_the_aliases_of_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment hold for everybody; those given in the program go before them."""
    monkeypatch.setenv("CODECRAFT_IMAGE_ALIASES", "python=site.local/python:3, node=site.local/node")
    async with FakeEngine().daemon(tmp_path) as daemon:
        images = Images(daemon, aliases={"node": "mine.local/node:20"})
        assert ["site.local/python:3", "mine.local/node:20", "debian:latest"] == [
            await images.resolve(name) for name in ("python", "node", "debian")
        ]


async def test_aliases_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are an error that names them when an image is first asked for, not an image from somewhere else."""
    monkeypatch.setenv("CODECRAFT_IMAGE_ALIASES", "python")
    async with FakeEngine().daemon(tmp_path) as daemon:
        with pytest.raises(ImageUnavailable, match="image alias 'python': expected NAME=TARGET"):
            await Images(daemon).ensure("python")
