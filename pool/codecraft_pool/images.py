"""Images: here already, else pulled, else built from a recipe; once, however many ask.

images = Images(daemon, aliases={"python:3.12-alpine": "registry.local/python:3.12"})
image_id = await images.ensure("codecraft/base", progress=progress)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codecraft_pool._image_progress import ImageProgress, NoProgress
from codecraft_pool._pull import pull
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.errors import CallRefused, ImageUnavailable
from codecraft_pool.image_names import OUR_PREFIX, Aliases, full_reference, names_file, site_aliases
from codecraft_pool.recipes import RECIPE_LABEL, Recipe, builtin_recipes


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One name of one image at the daemon."""

    reference: str
    image_id: str
    size_bytes: int
    recipe: str | None
    """Digest of the recipe that it was made by, if it was."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What matters of an image at the daemon to those who start containers of it."""

    image_id: str
    os: str
    """Empty, as `arch`, where the image does not say."""
    arch: str
    volumes: tuple[str, ...]
    """Directories for which the daemon would make a writable volume."""


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


def _named(image: Mapping[str, Any]) -> list[ImageInfo]:
    # The daemon sends null, not something empty, where there are no names or no labels.
    names: list[str] = image.get("RepoTags") or []
    labels: Mapping[str, str] = image.get("Labels") or {}
    size_bytes, recipe = int(image["Size"]), labels.get(RECIPE_LABEL)
    return [ImageInfo(name, image["Id"], size_bytes, recipe) for name in names if name != "<none>:<none>"]


class Images:
    """The images of one daemon. Owns no task beyond the calls that wait for it.

    Args:
        daemon: The connection; owned by the caller.
        aliases: What is used instead of an image, by its name or by a pattern that ends in ``*`` (as the target then
            does); before those of this site (CODECRAFT_IMAGE_ALIASES: pairs ``name=target`` with commas between them,
            or a TOML file with a table ``aliases``).
        recipes: How images are made that are neither here nor in a registry; by default those of this package.
        more_recipes: Further ones, besides those.
    """

    def __init__(
        self,
        daemon: DockerDaemon,
        *,
        aliases: Mapping[str, str] | None = None,
        recipes: Mapping[str, Recipe] | None = None,
        more_recipes: Sequence[Recipe] = (),
    ) -> None:
        self._daemon = daemon
        self._given_aliases = dict(aliases or {})
        self._aliases: Aliases | None = None
        self._recipes = recipes
        self._more_recipes = {recipe.name: recipe for recipe in more_recipes}
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
        asked, name = full_reference(reference), await self.resolve(reference)
        return await self._share(name, lambda listener: self._have(name, asked, listener), progress)

    async def pull(self, reference: str, *, progress: ImageProgress | None = None) -> str:
        """The id of the image, fetched from its registry whether it is here or not. Raises: as `ensure`."""
        asked, name = full_reference(reference), await self.resolve(reference)
        return await self._share(f"pull {name}", lambda listener: self._pull(name, asked, listener), progress)

    async def build(self, name: str, *, progress: ImageProgress | None = None) -> str:
        """The id of the image of the recipe `name`, built unless this very recipe's is here. Raises: as `ensure`."""
        recipe = (await self.recipes()).get(name.removesuffix(":latest"))
        if recipe is None:
            known = ", ".join(sorted(await self.recipes())) or "none"
            raise ImageUnavailable(f"there is no recipe for image {name[:100]!r}; recipes: {known}")
        return await self.make(recipe, progress=progress)

    async def make(self, recipe: Recipe, *, progress: ImageProgress | None = None) -> str:
        """The id of the image of any recipe, built unless this very recipe's is here. Raises: as `ensure`."""
        key = f"build {recipe.name}:{recipe.digest()}"
        return await self._share(key, lambda listener: self._build(recipe, listener), progress)

    async def find(self, reference: str) -> str | None:
        """The id of the image if it is at the daemon, else None; nothing is pulled or built."""
        facts = await self.inspect(reference)
        return None if facts is None else facts.image_id

    async def inspect(self, reference: str) -> ImageFacts | None:
        """What there is to know of the image if it is at the daemon, else None. Raises: as `ensure`."""
        return await self._inspect(await self.resolve(reference))

    async def volumes(self, image_id: str) -> tuple[str, ...]:
        """The directories for which the daemon would give containers of an image writable volumes.

        Raises:
            ImageUnavailable: the image is not here.
            LaunchError: the daemon refused or went away.
        """
        facts = await self._inspect(image_id)
        if facts is None:
            raise ImageUnavailable(f"image {image_id} is gone already: is something removing images?")
        return facts.volumes

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
        return {**self._recipes, **self._more_recipes}

    async def resolve(self, reference: str) -> str:
        """The full reference of what is used for *reference*: its alias, or itself.

        Raises:
            ImageUnavailable: it is no image reference, or the aliases of this site make no sense.
        """
        if self._aliases is None:
            # A thread only where there is a file to read: those who ask at once then join in the order of asking.
            site = await asyncio.to_thread(site_aliases) if names_file() else site_aliases()
            self._aliases = Aliases.of({**site, **self._given_aliases})
        return self._aliases.resolve(reference)

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

    async def _have(self, name: str, asked: str, progress: ImageProgress) -> str:
        if (facts := await self._inspect(name)) is not None:
            return self._usable(name, facts)
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
            return await self._pull(name, asked, progress)
        except ImageUnavailable as error:
            if recipe is None:
                raise
            progress.line(f"{error}; building it instead")
            return await self._build(recipe, progress)

    def _usable(self, name: str, facts: ImageFacts) -> str:
        """The id of an image whose programs this daemon's machine can run."""
        here = self._daemon.info.arch
        if facts.os not in ("", "linux") or (facts.arch and here not in (facts.arch, "?")):
            raise ImageUnavailable(
                f"image {name} is for {facts.os}/{facts.arch}, and the container daemon's machine is linux/{here}: "
                f"remove it and pull or build the one for {here}, or give an alias for it"
            )
        return facts.image_id

    @staticmethod
    def _recipe_for(name: str, recipes: Mapping[str, Recipe]) -> Recipe | None:
        repository, _, tag = name.rpartition(":")
        recipe = recipes.get(repository)
        return recipe if recipe is not None and tag in ("latest", recipe.digest()) else None

    async def _inspect(self, name: str) -> ImageFacts | None:
        try:
            image = await self._daemon.call(
                None, lambda: self._daemon.client.images.inspect(name), what=f"inspect image {name}"
            )
        except CallRefused as error:
            if error.status == 404:
                return None
            raise
        volumes: Mapping[str, Any] = (image.get("Config") or {}).get("Volumes") or {}
        return ImageFacts(
            str(image["Id"]), str(image.get("Os") or ""), str(image.get("Architecture") or ""), tuple(sorted(volumes))
        )

    async def _build(self, recipe: Recipe, progress: ImageProgress) -> str:
        built = f"{recipe.name}:{recipe.digest()}"
        facts = await self._inspect(built)
        if facts is None:
            await recipe.build(self._daemon, progress=progress)
            facts = await self._inspect(built)
        if facts is None:
            raise ImageUnavailable(f"image {built} was built, and is gone already: is something removing images?")
        await self._daemon.call(
            None,
            lambda: self._daemon.client.images.tag(built, recipe.name, tag="latest"),
            what=f"name image {recipe.name}",
        )
        return self._usable(built, facts)

    async def _pull(self, name: str, asked: str, progress: ImageProgress) -> str:
        await pull(self._daemon, name, progress, asked=asked)
        facts = await self._inspect(name)
        if facts is None:
            raise ImageUnavailable(f"image {name} was pulled, and is gone already: is something removing images?")
        return self._usable(name, facts)


__all__ = ["ImageFacts", "ImageInfo", "ImageProgress", "Images", "full_reference"]
