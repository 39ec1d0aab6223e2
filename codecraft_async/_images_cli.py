"""``codecraft images list|build|pull``, and how the making of an image looks on a terminal."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from codecraft_pool.docker_daemon import connect_daemon
from codecraft_pool.errors import ImageUnavailable, PoolError
from codecraft_pool.images import ImageProgress, Images, full_reference
from codecraft_pool.recipes import DockerfileRecipe

SHORT_ID_CHARS = 12


class BarProgress:
    """One bar per layer, with the builder's lines scrolling above; for terminals."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def layer(self, layer_id: str, status: str, current: int | None, total: int | None) -> None:
        """See `ImageProgress.layer`."""
        description = f"{layer_id} {status}"
        if layer_id not in self._bars:
            self._bars[layer_id] = self._progress.add_task(description, total=total)
        bar = self._bars[layer_id]
        self._progress.update(bar, description=description)
        if current is not None:
            self._progress.update(bar, completed=current, total=total)

    def line(self, text: str) -> None:
        """See `ImageProgress.line`."""
        self._progress.console.print(Text(text, style="dim"))


class LineProgress:
    """A line for each new state of a layer; for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, str] = {}

    def layer(self, layer_id: str, status: str, current: int | None, total: int | None) -> None:
        """See `ImageProgress.layer`."""
        if self._states.get(layer_id) != status:
            self._states[layer_id] = status
            self.line(f"{layer_id} {status}")

    def line(self, text: str) -> None:
        """See `ImageProgress.line`."""
        self._console.print(Text(text), soft_wrap=True)


@contextmanager
def image_progress(console: Console) -> Generator[ImageProgress]:
    """Progress for `Images`, shown on the console while the block lasts: bars on a terminal, else lines."""
    if not console.is_terminal:
        yield LineProgress(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield BarProgress(progress)


class Subparsers(Protocol):
    """What `ArgumentParser.add_subparsers` returns; argparse gives its type no public name."""

    def add_parser(self, name: str, *, help: str) -> argparse.ArgumentParser:
        """A parser for one command."""
        ...


def add_images_parser(subparsers: Subparsers) -> None:
    """Adds `images` and its commands to the command line."""
    parser = subparsers.add_parser("images", help="list, build or pull images for the docker backend")
    commands = parser.add_subparsers(dest="images_command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="images at the daemon, and recipes that could be built")
    build = commands.add_parser("build", help="build an image from its recipe, or from a directory with a Dockerfile")
    build.add_argument("name", metavar="NAME", help="name of a recipe, such as codecraft/base, or for what is built")
    build.add_argument("--from", dest="folder", type=Path, metavar="DIR", help="the directory with the Dockerfile")
    build.add_argument(
        "--file", default="Dockerfile", metavar="NAME", help="the Dockerfile in it (default: Dockerfile)"
    )
    build.add_argument(
        "--build-arg",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="for its ARG; not for secrets",
    )
    build.add_argument("--network", choices=("none", "host"), default="", help="the network of its RUN")
    pull = commands.add_parser("pull", help="fetch an image from its registry")
    pull.add_argument("reference", metavar="REF", help="image reference, such as debian:bookworm")
    pull.add_argument(
        "--alias", action="append", default=[], type=_pair, metavar="NAME=TARGET", help="what is pulled instead of NAME"
    )


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


async def run_images(args: argparse.Namespace) -> int:
    """Does what the parsed command line says; the exit status: 0, or 1 after one line of explanation on stderr."""
    console = Console()
    try:
        async with await connect_daemon() as daemon:
            images = Images(daemon, aliases=dict(getattr(args, "alias", [])))
            if args.images_command == "list":
                await _list(images, console)
            else:
                await _make(images, args, console)
    except PoolError as error:
        Console(stderr=True).print(Text(f"codecraft images: {error}"), soft_wrap=True)
        return 1
    return 0


async def _make(images: Images, args: argparse.Namespace, console: Console) -> None:
    with image_progress(console) as progress:
        if args.images_command == "build" and args.folder is not None:
            recipe = await asyncio.to_thread(_recipe_of, args)
            name, making = args.name, images.make(recipe, progress=progress)
        elif args.images_command == "build":
            name, making = args.name, images.build(args.name, progress=progress)
        else:
            name, making = args.reference, images.pull(args.reference, progress=progress)
        image_id = await making
    console.print(Text(f"{name} is ready: {_short(image_id)}"), soft_wrap=True)


def _recipe_of(args: argparse.Namespace) -> DockerfileRecipe:
    full_reference(args.name)
    if ":" in args.name.rpartition("/")[2] or "@" in args.name:
        raise ImageUnavailable(
            f"{args.name!r} has a tag: leave it out, what is built is tagged by its content and `latest`"
        )
    return DockerfileRecipe.from_directory(
        args.name, args.folder, dockerfile=args.file, build_args=dict(args.build_arg), network=args.network
    )


async def _list(images: Images, console: Console) -> None:
    here = await images.list()
    recipes = await images.recipes()
    digests = await asyncio.to_thread(lambda: {name: recipe.digest() for name, recipe in recipes.items()})
    table = Table(title="images")
    table.add_column("image", no_wrap=True, overflow="fold")
    table.add_column("id", no_wrap=True)
    table.add_column("MB", no_wrap=True, justify="right")
    table.add_column("recipe", overflow="fold")
    for image in here:
        current = image.recipe is not None and image.recipe in digests.values()
        origin = "" if image.recipe is None else "current" if current else "another version"
        size = f"{image.size_bytes / 1e6:.0f}"
        table.add_row(Text(image.reference), Text(_short(image.image_id)), Text(size), Text(origin))
    built = {image.recipe for image in here}
    for name, digest in sorted(digests.items()):
        if digest not in built:
            table.add_row(Text(name), Text("-"), Text("-"), Text(f"not built: codecraft images build {name}"))
    console.print(table)


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:SHORT_ID_CHARS]


__all__ = ["BarProgress", "LineProgress", "add_images_parser", "image_progress", "run_images"]
