"""A container engine of a few lines on a unix socket, for what a real one does only in bad moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from codecraft_pool.docker_daemon import DockerDaemon, connect_daemon

VERSION = {"Version": "1", "ApiVersion": "1.41", "Os": "linux", "Arch": "amd64", "KernelVersion": "none"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeEngine:
    """Answers `/version` and `/info`; has the images in `images`; `create` answers pulls and imports.

    `facts` are what it knows of images beside their ids.
    """

    def __init__(self, create: Handler | None = None, version: dict[str, Any] | None = None) -> None:
        self.images: dict[str, str] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.create = create
        self.version = version or VERSION

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to any request."""
        self.requests.append(f"{request.method} {request.path}")
        path = request.path.removeprefix("/v1.41")
        if path == "/version":
            return web.json_response(self.version)
        if path == "/info":
            return web.json_response({"Driver": "fake", "NCPU": 2})
        if path == "/images/create" and self.create is not None:
            return await self.create(request)
        if path.endswith("/tag"):
            source = path.removeprefix("/images/").removesuffix("/tag")
            self.images[f"{request.query['repo']}:{request.query['tag']}"] = self.images[source]
            return web.Response(status=201)
        name = path.removeprefix("/images/").removesuffix("/json")
        if name in self.images:
            return web.json_response({"Id": self.images[name], **self.facts.get(name, {})})
        return web.json_response({"message": f"No such image: {name}"}, status=404)

    def count(self, request: str) -> int:
        """How often this was asked."""
        return self.requests.count(request)

    @asynccontextmanager
    async def daemon(self, directory: Path) -> AsyncGenerator[DockerDaemon]:
        """A connection to this engine."""
        async with self.serve(directory) as address, await connect_daemon(address=address) as daemon:
            yield daemon

    @asynccontextmanager
    async def serve(self, directory: Path) -> AsyncGenerator[str]:
        """The address at which this engine answers."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            path = str(directory / "engine.sock")
            await web.UnixSite(runner, path).start()
            yield f"unix://{path}"
        finally:
            await runner.cleanup()


class Recorder:
    """Keeps the progress that it is told."""

    def __init__(self) -> None:
        self.layers: list[tuple[str, str, int | None, int | None]] = []
        self.lines: list[str] = []
        self.told = asyncio.Event()

    def layer(self, layer_id: str, status: str, current: int | None, total: int | None) -> None:
        """See `ImageProgress.layer`."""
        self.layers.append((layer_id, status, current, total))
        self.told.set()

    def line(self, text: str) -> None:
        """See `ImageProgress.line`."""
        self.lines.append(text)
        self.told.set()
