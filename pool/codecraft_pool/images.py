"""Images: here already, else pulled, else built from a recipe; once, however many ask.

images = Images(daemon, aliases={"python:3.12-alpine": "registry.local/python:3.12"})
image_id = await images.ensure("codecraft/base", progress=progress)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from codecraft_pool._image_progress import ImageProgress, NoProgress, relay
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused, DaemonUnavailable, ImageUnavailable
from codecraft_pool.recipes import RECIPE_LABEL, Recipe, builtin_recipes

OUR_PREFIX = "codecraft/"
PULL_PAUSES_S: tuple[float, ...] = (0.5, 1.0, 2.0)  # between attempts; a registry that restarts is back by then
PULL_LIMIT_S = 3600.0
STALL_LIMIT_S = 180.0  # the daemon says something every 100 ms while bytes come; extracting a huge layer can be silent
# Answers of a registry, or of the daemon, that another attempt would not change.
_FINAL = re.compile(
    r"manifest unknown|not found|does not exist|denied|unauthorized|no matching manifest|no space left"
    r"|invalid reference|not supported|HTTP response to HTTPS client|x509:|no such host",
    re.IGNORECASE,
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::\d+)?"
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One name of one image at the daemon."""

    reference: str
    image_id: str
    size_bytes: int
    recipe: str | None
    """Digest of the recipe that it was made by, if it was."""


@dataclass(slots=True, eq=False)
class _Flight:
    """One image being had, and those who wait for it."""

    task: asyncio.Task[str]
    listeners: list[ImageProgress] = field(default_factory=list[ImageProgress])
    askers: int = 0

    def layer(self, layer_id: str, status: str, current: int | None, total: int | None) -> None:
        for listener in self.listeners:
            listener.layer(layer_id, status, current, total)

    def line(self, text: str) -> None:
        for listener in self.listeners:
            listener.line(text)


def full_reference(reference: str) -> str:
    """The reference with `:latest` where it has neither tag nor digest.

    Raises:
        ImageUnavailable: it is no image reference at all.
    """
    if _IMAGE_ID.fullmatch(reference):
        return reference
    match = _REFERENCE.fullmatch(reference)
    if match is None or len(reference) > 512:
        raise ImageUnavailable(
            f"{reference[:100]!r} is not an image reference: expected something like 'debian:bookworm' or "
            "'registry.local:5000/team/image:tag', in lower case"
        )
    return reference if match["tag"] or match["digest"] else f"{reference}:latest"


def _named(image: Mapping[str, Any]) -> list[ImageInfo]:
    # The daemon sends null, not something empty, where there are no names or no labels.
    names: list[str] = image.get("RepoTags") or []
    labels: Mapping[str, str] = image.get("Labels") or {}
    size_bytes, recipe = int(image["Size"]), labels.get(RECIPE_LABEL)
    return [ImageInfo(name, image["Id"], size_bytes, recipe) for name in names if name != "<none>:<none>"]


class Images:
    """The images of one daemon. Owns no task beyond the calls that wait for it."""

    def __init__(
        self,
        daemon: DockerDaemon,
        *,
        aliases: Mapping[str, str] | None = None,
        recipes: Mapping[str, Recipe] | None = None,
    ) -> None:
        self._daemon = daemon
        self._aliases = {full_reference(name): full_reference(target) for name, target in (aliases or {}).items()}
        self._recipes = recipes
        self._flights: dict[str, _Flight] = {}

    def __repr__(self) -> str:
        return f"<Images of {self._daemon.info.address}, {len(self._flights)} being had>"

    async def ensure(self, reference: str, *, progress: ImageProgress | None = None) -> str:
        """The id of the image, which is at the daemon now: it was already, or it was pulled or built.

        Concurrent callers share one attempt, and each hears its progress. A cancelled caller leaves the others'
        attempt alone; when the last one is cancelled, so is the attempt.

        Raises:
            ImageUnavailable: it cannot be had; the message says what was tried and what to do.
            LaunchError: the daemon refused or went away.
        """
        name = self._resolve(reference)
        return await self._share(name, lambda listener: self._have(name, listener), progress)

    async def pull(self, reference: str, *, progress: ImageProgress | None = None) -> str:
        """The id of the image, fetched from its registry whether it is here or not. Raises: as `ensure`."""
        name = self._resolve(reference)
        return await self._share(f"pull {name}", lambda listener: self._pull(name, listener), progress)

    async def build(self, name: str, *, progress: ImageProgress | None = None) -> str:
        """The id of the image of the recipe `name`, built unless this very recipe's is here. Raises: as `ensure`."""
        recipe = (await self.recipes()).get(name.removesuffix(":latest"))
        if recipe is None:
            known = ", ".join(sorted(await self.recipes())) or "none"
            raise ImageUnavailable(f"there is no recipe for image {name[:100]!r}; recipes: {known}")
        return await self._share(f"build {recipe.name}", lambda listener: self._build(recipe, listener), progress)

    async def find(self, reference: str) -> str | None:
        """The id of the image if it is at the daemon, else None; nothing is pulled or built."""
        return await self._inspect(self._resolve(reference))

    async def list(self) -> list[ImageInfo]:
        """Every named image of the daemon, by name."""
        images: list[dict[str, Any]] = await self._daemon.call(
            None, lambda: self._daemon.get_json("images/json"), what="list images"
        )
        return sorted((info for image in images for info in _named(image)), key=lambda info: info.reference)

    async def recipes(self) -> Mapping[str, Recipe]:
        """The recipes that images can be built by, by image name."""
        if self._recipes is None:
            self._recipes = await asyncio.to_thread(builtin_recipes)
        return self._recipes

    def _resolve(self, reference: str) -> str:
        name = full_reference(reference)
        return self._aliases.get(name, name)

    async def _share(
        self, key: str, have: Callable[[ImageProgress], Awaitable[str]], progress: ImageProgress | None
    ) -> str:
        flight = self._flights.get(key) or self._take_off(key, have)
        listener = progress or NoProgress()
        flight.listeners.append(listener)
        flight.askers += 1
        try:
            await asyncio.wait([flight.task])
        finally:
            flight.askers -= 1
            flight.listeners = [other for other in flight.listeners if other is not listener]
            if flight.askers == 0 and not flight.task.done():
                self._flights.pop(key)  # at once: whoever asks from now on starts afresh
                flight.task.cancel()
                await asyncio.wait([flight.task])
        return flight.task.result()

    def _take_off(self, key: str, have: Callable[[ImageProgress], Awaitable[str]]) -> _Flight:
        async def fly() -> str:
            return await have(flight)

        def land(task: asyncio.Task[str]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not task.cancelled():
                task.exception()  # every asker was given it, or none is left to be told

        flight = _Flight(asyncio.create_task(fly(), name=f"image {key}"))
        flight.task.add_done_callback(land)
        self._flights[key] = flight
        return flight

    async def _have(self, name: str, progress: ImageProgress) -> str:
        if (image_id := await self._inspect(name)) is not None:
            return image_id
        recipe = self._recipe_for(name, await self.recipes())
        if name.startswith(OUR_PREFIX):
            # Nobody publishes these: a pull could only bring a stranger's image of that name.
            if recipe is None:
                known = ", ".join(sorted(await self.recipes())) or "none"
                raise ImageUnavailable(
                    f"image {name} is not here, and no recipe makes it (recipes: {known}); bring it with `docker load`"
                )
            return await self._build(recipe, progress)
        try:
            return await self._pull(name, progress)
        except ImageUnavailable as error:
            if recipe is None:
                raise
            progress.line(f"{error}; building it instead")
            return await self._build(recipe, progress)

    @staticmethod
    def _recipe_for(name: str, recipes: Mapping[str, Recipe]) -> Recipe | None:
        repository, _, tag = name.rpartition(":")
        recipe = recipes.get(repository)
        return recipe if recipe is not None and tag in ("latest", recipe.digest()) else None

    async def _inspect(self, name: str) -> str | None:
        try:
            image = await self._daemon.call(
                None, lambda: self._daemon.client.images.inspect(name), what=f"inspect image {name}"
            )
        except CallRefused as error:
            if error.status == 404:
                return None
            raise
        return str(image["Id"])

    async def _build(self, recipe: Recipe, progress: ImageProgress) -> str:
        built = f"{recipe.name}:{recipe.digest()}"
        image_id = await self._inspect(built)
        if image_id is None:
            await recipe.build(self._daemon, progress=progress)
            image_id = await self._inspect(built)
        if image_id is None:
            raise ImageUnavailable(f"image {built} was built, and is gone already: is something removing images?")
        await self._daemon.call(
            None,
            lambda: self._daemon.client.images.tag(built, recipe.name, tag="latest"),
            what=f"name image {recipe.name}",
        )
        return image_id

    async def _pull(self, name: str, progress: ImageProgress) -> str:
        reason = ""
        for attempt, pause_s in enumerate([*PULL_PAUSES_S, None], start=1):
            try:
                await self._pull_once(name, progress)
            except CallRefused as error:
                reason = error.reason
                if 400 <= error.status < 500 or _FINAL.search(reason):
                    raise self._unavailable(name, reason, attempt) from error
            except DaemonUnavailable as error:
                reason = str(error)
            else:
                if image_id := await self._inspect(name):
                    return image_id
                reason = "the daemon reported success and does not have it"
            if pause_s is not None:
                progress.line(f"pulling {name} failed ({reason}); again in {pause_s:g} s")
                await asyncio.sleep(pause_s)
        raise self._unavailable(name, reason, len(PULL_PAUSES_S) + 1)

    async def _pull_once(self, name: str, progress: ImageProgress) -> None:
        what = f"pull image {name}"
        repository, _, tag = name.rpartition(":")
        # A digest stays in the name; a tag goes apart, since without one the daemon pulls every tag there is.
        params = [("fromImage", name)] if "@" in name else [("fromImage", repository), ("tag", tag)]
        async with self._daemon.lane("pull"):
            with self._daemon.explained(what, limit_s=PULL_LIMIT_S):
                async with (
                    asyncio.timeout(PULL_LIMIT_S),
                    self._daemon.messages(
                        "images/create", what=what, params=params, stall_limit_s=STALL_LIMIT_S
                    ) as messages,
                ):
                    async for message in messages:
                        relay(message, progress)

    @staticmethod
    def _unavailable(name: str, reason: str, attempts: int) -> ImageUnavailable:
        times = "one attempt" if attempts == 1 else f"{attempts} attempts"
        return ImageUnavailable(
            f"image {name} is not here and cannot be pulled ({times}; {reason}): check its name, bring it with "
            "`docker load`, give an alias for it, or use an image that can be made here "
            "(`codecraft images list` shows them, `codecraft images build NAME` makes one)"
        )


__all__ = ["ImageInfo", "ImageProgress", "Images", "full_reference"]
