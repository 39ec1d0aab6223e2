"""Images that are made here."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from codecraft_pool import _program, recipes
from codecraft_pool._debian_sources import machine_sources, machine_suite, package_tool_is_apt
from codecraft_pool._program import run_to_end
from codecraft_pool.docker_daemon import DockerDaemon, connect_daemon
from codecraft_pool.errors import CallRefused, ImageUnavailable
from codecraft_pool.images import Images
from codecraft_pool.recipes import RECIPE_LABEL, DebianRecipe, DockerfileRecipe, builtin_recipes
from tests.pool.fake_engine import VERSION, FakeEngine, Recorder

pytestmark = pytest.mark.anyio
TRY = DebianRecipe("codecraft/recipe-test", "bookworm", ("python3",))
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_the_digest_follows_the_recipe() -> None:
    """The same recipe has the same digest; another suite, package, name or file another one."""
    assert TRY.digest() == replace(TRY).digest()
    changed = {replace(TRY, suite="trixie"), replace(TRY, packages=("git",)), replace(TRY, name="other")}
    assert 4 == len({recipe.digest() for recipe in [TRY, *changed]})
    files = DockerfileRecipe("a", "FROM scratch", {"f": b"1"})
    assert files.digest() != replace(files, files={"f": b"2"}).digest()


def test_the_builtin_recipe() -> None:
    """There are recipes for codecraft/base, and for the images of environments beside it."""
    assert ["codecraft/base", "codecraft/c", "codecraft/nl2bash", "codecraft/sql"] == list(builtin_recipes())


@pytest.mark.parametrize(
    ("release", "suite", "has_apt"),
    [
        ({"ID": "debian", "VERSION_CODENAME": "trixie"}, "trixie", True),
        ({"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_CODENAME": "noble"}, "bookworm", True),
        ({"ID": "debian"}, "bookworm", True),
        ({"ID": "fedora"}, "bookworm", False),
        ({}, "bookworm", False),
    ],
)
def test_the_suite_of_a_machine(release: dict[str, str], suite: str, has_apt: bool) -> None:
    """A Debian builds its own release, anything else a fixed one."""
    assert (suite, has_apt) == (machine_suite(release), package_tool_is_apt(release))


def test_the_sources_of_a_machine(tmp_path: Path) -> None:
    """The machine's own Debian mirrors are used: not other keys, other suites, disabled entries or passwords."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://commented.test/debian bookworm main\n"
        "deb http://mirror.test/debian bookworm main contrib # ours\n"
        "deb-src http://mirror.test/debian bookworm main\n"
        "deb http://mirror.test/debian sid main\n"
        "deb http://user:secret@private.test/debian bookworm main\n"
        "deb [signed-by=/etc/other.gpg] http://other.test/debian bookworm main\n"
    )
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        f"Types: deb deb-src\nURIs: http://sec.test/debian\nSuites: bookworm-security\nComponents: main\n"
        f"# a comment: here\nSigned-By: {KEYRING}\n\n"
        "Types: deb\nURIs: http://off.test\nSuites: bookworm\nComponents: main\nEnabled: no\n\n"
        "Types: deb\nURIs: http://inline.test\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n"
    )
    expected = [
        "deb http://mirror.test/debian bookworm main contrib",
        f"deb [signed-by={KEYRING}] http://sec.test/debian bookworm-security main",
    ]
    assert expected == machine_sources("bookworm", tmp_path)
    assert [] == machine_sources("trixie", tmp_path)
    assert [] == machine_sources("bookworm", tmp_path / "none")


async def test_a_program_that_ignores_a_polite_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ignores SIGTERM and fills its pipe is killed with its children at the deadline."""
    monkeypatch.setattr(_program, "TERMINATE_LIMIT_S", 0.1)
    mark = f"{os.getpid()}.25"
    script = f"trap '' TERM; sleep 9{mark} & while :; do echo filling the pipe; done"
    async with asyncio.timeout(20):
        with pytest.raises(TimeoutError):
            await run_to_end(["sh", "-c", script], limit_s=0.2)
    assert not await asyncio.to_thread(_is_running, f"9{mark}")


async def test_the_lines_of_a_program() -> None:
    """The exit status and the last lines come back, split at carriage returns too, without undecodable bytes."""
    lines: list[str] = []
    script = r"printf 'one\rtwo\n\377three' >&2; exit 3"
    status, last = await run_to_end(["sh", "-c", script], limit_s=10, on_line=lines.append)
    assert (3, ["one", "two", "\ufffdthree"]) == (status, last)
    assert last == lines


async def test_without_mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not install mmdebstrap is told to, in one line."""
    monkeypatch.setattr(recipes, "_missing_packages", lambda: ["mmdebstrap"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    async with FakeEngine(version={**VERSION, "Arch": "?"}).daemon(tmp_path) as daemon:
        with pytest.raises(ImageUnavailable, match="apt-get install mmdebstrap") as caught:
            await TRY.build(daemon, progress=Recorder())
    assert "\n" not in str(caught.value)


async def test_mmdebstrap_is_installed_by_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root on a Debian has mmdebstrap installed, after an update of the lists if need be, and is told so."""
    received: list[bytes] = []

    async def create(request: web.Request) -> web.StreamResponse:
        received.append(await request.read())
        return web.json_response({"status": "sha256:0"})

    _install(tmp_path, monkeypatch, "printf archive")
    apt = tmp_path / "bin" / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\ntest $(wc -l < {tmp_path}/log) -gt 1\n')
    apt.chmod(0o755)
    monkeypatch.setattr(recipes, "_missing_packages", lambda: ["mmdebstrap"])
    monkeypatch.setattr(recipes, "package_tool_is_apt", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    recorder = Recorder()
    async with FakeEngine(create, version={**VERSION, "Arch": "?"}).daemon(tmp_path) as daemon:
        await TRY.build(daemon, progress=recorder)
    install = "-o DPkg::Lock::Timeout=120 install -y --no-install-recommends mmdebstrap"
    assert [install, "update", install] == await asyncio.to_thread(_lines, tmp_path / "log")
    assert "installing mmdebstrap with apt-get" == recorder.lines[0]
    assert [b"archive"] == received


async def test_a_daemon_of_another_architecture(tmp_path: Path) -> None:
    """An image is not built for a machine that could not run it."""
    async with FakeEngine(version={**VERSION, "Arch": "riscv64"}).daemon(tmp_path) as daemon:
        with pytest.raises(ImageUnavailable, match="is riscv64 and this machine"):
            await TRY.build(daemon, progress=Recorder())


# --- a real daemon --------------------------------------------------------------------------------------------------


def _is_running(argument: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _scratch_left(directory: Path) -> list[Path]:
    return list(directory.glob("codecraft-image-*"))


def _install(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An mmdebstrap of a few lines stands first in PATH, and temporary directories are made in `directory`."""
    program = directory / "bin" / "mmdebstrap"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(recipes, "_missing_packages", list)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))


async def _forget(daemon: DockerDaemon, *names: str) -> None:
    for name in names:
        with suppress(CallRefused):  # the test failed before it was made
            await daemon.call(None, partial(daemon.client.images.delete, name, force=True), what="remove")


async def _all_image_ids(daemon: DockerDaemon) -> set[str]:
    found = await daemon.call(None, lambda: daemon.get_json("images/json?all=1"), what="list")
    return {image["Id"] for image in found if (image.get("Labels") or {}).get(RECIPE_LABEL) == TRY.digest()}


@pytest.mark.docker
async def test_half_an_image_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An mmdebstrap that fails after a whole, valid archive leaves no image, and its own words are in the error."""
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs" / "file").write_text("half")
    await asyncio.to_thread(shutil.make_archive, str(tmp_path / "half"), "tar", tmp_path / "rootfs")
    _install(tmp_path, monkeypatch, f"cat {tmp_path}/half.tar; echo 'I: fine' >&2; echo 'E: no mirror' >&2; exit 25")
    async with await connect_daemon() as daemon:
        with pytest.raises(ImageUnavailable, match=r"status 25 \(E: no mirror\)"):
            await TRY.build(daemon, progress=Recorder())
        assert set() == await _all_image_ids(daemon)
    assert [] == _scratch_left(tmp_path)


@pytest.mark.docker
async def test_a_cancelled_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that is cancelled in its middle leaves no process, no temporary directory and no image."""
    seconds = f"8{os.getpid()}.5"
    _install(tmp_path, monkeypatch, f"mktemp -d >/dev/null; echo 'I: started' >&2; echo half; sleep {seconds}")
    recorder = Recorder()
    async with await connect_daemon() as daemon:
        build = asyncio.create_task(TRY.build(daemon, progress=recorder))
        while "I: started" not in recorder.lines:
            recorder.told.clear()
            await asyncio.wait_for(recorder.told.wait(), 20)
        build.cancel()
        await asyncio.wait([build])
        assert build.cancelled()
        assert not await asyncio.to_thread(_is_running, seconds)
        assert set() == await _all_image_ids(daemon)
    assert [] == _scratch_left(tmp_path)


@pytest.mark.docker
async def test_a_dockerfile_is_built(tmp_path: Path) -> None:
    """A Dockerfile recipe gives an image with its label and both names, and what the builder says is told."""
    recipe = DockerfileRecipe("codecraft/dockerfile-test", "FROM scratch\nCOPY greeting /\n", {"greeting": b"hi"})
    recorder = Recorder()
    async with await connect_daemon() as daemon:
        images = Images(daemon, recipes={recipe.name: recipe})
        try:
            image_id = await images.ensure(recipe.name, progress=recorder)
            assert image_id == await images.build(recipe.name)
            found = {image.reference: image.recipe for image in await images.list() if image.image_id == image_id}
        finally:
            await _forget(daemon, f"{recipe.name}:latest", f"{recipe.name}:{recipe.digest()}")
    names = [f"{recipe.name}:{recipe.digest()}", f"{recipe.name}:latest"]
    assert dict.fromkeys(names, recipe.digest()) == found
    assert any("COPY greeting" in line for line in recorder.lines)


@pytest.mark.docker
async def test_a_dockerfile_that_fails() -> None:
    """A Dockerfile that cannot be built is an error with the builder's words."""
    recipe = DockerfileRecipe("codecraft/dockerfile-test", "FROM scratch\nCOPY missing /\n")
    async with await connect_daemon() as daemon:
        with pytest.raises(CallRefused, match=r"cannot build image codecraft/dockerfile-test: .*missing"):
            await Images(daemon, recipes={recipe.name: recipe}).ensure(recipe.name)


@pytest.mark.docker
@pytest.mark.timeout(600)
async def test_the_base_image() -> None:
    """codecraft/base can be had here, with an agent's user, Python and git in it, and nothing of this machine."""
    async with await connect_daemon() as daemon:
        await Images(daemon).ensure("codecraft/base", progress=Recorder())
        script = (
            "id agent && ls -d /workspace /home/agent && python3 -c 'import unittest, json, sqlite3' && git --version"
            " && find /var/cache/apt /var/lib/apt/lists -name '*[Pp]ackages*'"
        )
        config: dict[str, Any] = {
            "Image": "codecraft/base",
            "Cmd": ["sh", "-c", script],
            "HostConfig": {"NetworkMode": "none"},
        }
        container = await daemon.call(
            "create", lambda: daemon.client.containers.create(config), what="create a container"
        )
        try:
            await daemon.call("start", container.start, what="start a container")
            ended = await daemon.call(None, container.wait, what="wait for a container")
            said = "".join(await container.log(stdout=True, stderr=True))
        finally:
            await daemon.call("remove", lambda: container.delete(force=True), what="remove a container")
    assert 0 == ended["StatusCode"], said
    expected = ["uid=1000(agent) gid=1000(agent) groups=1000(agent)", "/home/agent", "/workspace"]
    assert expected == said.splitlines()[:3]
    assert said.splitlines()[3].startswith("git version")
    assert 4 == len(said.splitlines())
