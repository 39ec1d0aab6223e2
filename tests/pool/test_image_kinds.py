"""Images of every kind become sandboxes that are alike: what an image says of its own start counts for nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from codecraft_pool import DockerLauncher, Entry, Images, ImageUnavailable, Sandbox, Snapshot, connect_daemon
from codecraft_pool.docker_daemon import DockerDaemon
from codecraft_pool.image_volumes import check_volumes
from codecraft_pool.recipes import DockerfileRecipe
from codecraft_pool.spec import SandboxSpec
from tests.conftest import IMAGE, UVLOOP
from tests.pool.fake_engine import Recorder
from tests.pool.launchers import MIB, shell, volumes
from tests.pool.registry import forget

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
PROGRAM = '#include <stdio.h>\nint main(void) { puts("alone"); return 7; }\n'
NOISY: Final = {
    "Entrypoint": ["/bin/false", "--entry"],
    "Cmd": ["nonsense"],
    "User": "4242:4242",
    "WorkingDir": "/nowhere/at/all",
    "Env": ["PATH=/nonexistent", "HOME=/nonexistent", "LD_PRELOAD=/nonexistent.so"],
    "ExposedPorts": {"80/tcp": {}},
    "Healthcheck": {"Test": ["CMD-SHELL", "exit 1"], "Interval": 10**9},
    "OnBuild": ["RUN exit 1"],
    "StopSignal": "SIGKILL",
    "Labels": {"io.codecraft.owner": "00000000-1-1", "io.codecraft.role": "depot"},
    "Shell": ["/bin/false"],
}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Images are made and looked at by the daemon, which knows nothing of the loop."""
    return UVLOOP


@asynccontextmanager
async def built(recipe: DockerfileRecipe) -> AsyncGenerator[tuple[DockerDaemon, str]]:
    """A daemon that has the recipe's image, and its name; it is removed afterwards."""
    async with await connect_daemon() as daemon:
        try:
            await Images(daemon).make(recipe, progress=Recorder())
            yield daemon, f"{recipe.name}:latest"
        finally:
            await forget(daemon, f"{recipe.name}:latest", f"{recipe.name}:{recipe.digest()}")


@asynccontextmanager
async def committed(config: dict[str, Any]) -> AsyncGenerator[tuple[DockerDaemon, str]]:
    """A daemon that has an image of the base image's files and that configuration, in one step."""
    name = f"codecraft/kind-{os.getpid()}"
    async with await connect_daemon() as daemon:
        base: Any = await daemon.client.containers.create({"Image": IMAGE})
        try:
            await base.commit(repository=name, tag="latest", config=config, pause=False)
            yield daemon, f"{name}:latest"
        finally:
            await base.delete(force=True)
            await forget(daemon, f"{name}:latest")


@asynccontextmanager
async def sandbox_of(recipe: DockerfileRecipe) -> AsyncGenerator[Sandbox]:
    """A sandbox of the recipe's image; neither container nor volume is left of it."""
    async with built(recipe) as (daemon, name):
        async with DockerLauncher(daemon) as launcher:
            yield await launcher.start(SandboxSpec(image=name, memory_bytes=256 * MIB))


def recipe_of(text: str, **programs: bytes) -> DockerfileRecipe:
    """A recipe whose RUN needs no network, with programs in its context."""
    files = {name: Entry("file", data, 0o755) for name, data in programs.items()}
    return DockerfileRecipe(f"codecraft/kind-{os.getpid()}", text, files, network="none")


@pytest.fixture(scope="module", name="static_program")
def _static_program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program that needs no loader and no library."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "alone.c").write_text(PROGRAM)
    compiler = shutil.which("cc")
    assert compiler is not None, "the guest was built with it"
    subprocess.run([compiler, "-static", "-o", folder / "alone", folder / "alone.c"], check=True)
    return (folder / "alone").read_bytes()


@pytest.mark.usefixtures("base_image")
async def test_what_an_image_says_of_its_start() -> None:
    """Entry point, command, user, directory, environment, health check, triggers, signal and labels change nothing."""
    async with committed(NOISY) as (daemon, name), DockerLauncher(daemon) as launcher:
        facts: Any = await daemon.client.images.inspect(name)
        assert {"Env", "Labels"} == {each for each in NOISY if NOISY[each] != facts["Config"][each]}  # they are joined
        sandbox = await launcher.start(SandboxSpec(image=name, memory_bytes=256 * MIB))
        assert ["agent", "/workspace", "/home/agent", ""] == (
            await shell(sandbox, 'whoami; pwd; echo "$HOME"; echo "$LD_PRELOAD"')
        ).split("\n")[:4]
        report = await sandbox.restore()
        assert 0 == report.killed
        assert "yes\n" == await shell(sandbox, "echo yes > file && cat file")


async def test_an_image_with_nothing_but_a_program(static_program: bytes) -> None:
    """Without a shell, a loader, a user or a CMD, programs run, and a shell text is a result that says what lacks."""
    recipe = recipe_of("FROM scratch\nCOPY alone /bin/alone\n", alone=static_program)
    async with sandbox_of(recipe) as sandbox:
        result = await sandbox.run(["/bin/alone"])
        assert (7, b"alone\n") == (result.exit_code, result.stdout)
        result = await sandbox.run("echo hello")
        assert (127, b"") == (result.exit_code, result.stdout)
        assert b"/bin/sh" in result.stderr
        await sandbox.write_file("file", b"text")
        assert b"text" == await sandbox.read_file("file")
        await sandbox.restore()


@pytest.mark.usefixtures("base_image")
async def test_volumes_of_an_image() -> None:
    """A VOLUME shows what the image has there, keeps nothing that an agent writes, and leaves no volume behind."""
    text = (
        f"FROM {IMAGE}\nRUN mkdir -m 777 /data && echo kept > /data/file\nVOLUME /data /home /workspace /var/lib/new\n"
    )
    async with await connect_daemon() as daemon:
        before = await volumes(daemon)
    async with sandbox_of(recipe_of(text)) as sandbox:
        assert "kept\n" == await shell(sandbox, "cat /data/file")
        result = await sandbox.run("echo no > /data/other || echo no > /data/file || echo no > /var/lib/new/file")
        assert 3 == result.stderr.count(b"Read-only file system"), result
        assert "yes\n" == await shell(sandbox, "echo yes > /workspace/f && echo yes > /home/agent/f && cat ~/f")
        await sandbox.restore()
        assert "0\n" == await shell(sandbox, "find /workspace /home/agent -type f | wc -l")
    async with await connect_daemon() as daemon, asyncio.timeout(10):
        while await volumes(daemon) - before:  # noqa: ASYNC110  # those of others come and go, a daemon tells nobody
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("base_image")
async def test_images_with_and_without_volumes() -> None:
    """Sandboxes of one launcher and of several images see nothing of each other's volumes."""
    text = f"FROM {IMAGE}\nRUN mkdir /data && echo kept > /data/file\nVOLUME /data\n"
    async with built(recipe_of(text)) as (daemon, name), DockerLauncher(daemon) as launcher:
        with_volume = await launcher.start(SandboxSpec(image=name, memory_bytes=256 * MIB))
        without = await launcher.start(SandboxSpec(memory_bytes=256 * MIB))
        assert "kept\n" == await shell(with_volume, "cat /data/file")
        assert "no\n" == await shell(without, "test -e /data && echo yes || echo no")
        for sandbox in (with_volume, without):
            await sandbox.restore(Snapshot.from_files({"file": "here"}))
            assert "here" == await shell(sandbox, "cat file")


def test_a_volume_inside_of_a_writable_tree() -> None:
    """It cannot be brought back, so the image is refused, and what to do is said."""
    with pytest.raises(ImageUnavailable, match="VOLUME /workspace/cache, which is inside of /workspace"):
        check_volumes("team/tool", ["/data", "/workspace/cache"])
    check_volumes("team/tool", ["/data", "/tmp", "/home"])


async def test_an_image_for_another_machine() -> None:
    """Its programs could not run here, which is said before a container is made of it."""
    other = "arm64" if os.uname().machine == "x86_64" else "amd64"
    name = f"codecraft-kind-{os.getpid()}:{other}"
    async with await connect_daemon() as daemon:
        archive = _saved_image(name, other)
        try:
            async with daemon.messages("images/load", what="load", params=[], data=archive) as messages:
                assert [message async for message in messages]
            with pytest.raises(ImageUnavailable, match=f"is for linux/{other}, and the container daemon's machine is"):
                await Images(daemon).ensure(name)
        finally:
            await forget(daemon, name)


def _saved_image(name: str, arch: str) -> bytes:
    """An archive as `docker save` makes it, of an empty image of that architecture."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    diff_id = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = {"architecture": arch, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "config": {}}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {
        "layer.tar": layer.getvalue(),
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    saved = io.BytesIO()
    with tarfile.open(fileobj=saved, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return saved.getvalue()
