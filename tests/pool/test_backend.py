"""Which launcher is taken, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from codecraft_pool import (
    BackendUnavailable,
    DaemonUnavailable,
    ImageUnavailable,
    LaunchError,
    SandboxSpec,
    open_launcher,
)
from tests.pool.launchers import SPEC

pytestmark = pytest.mark.anyio

NO_DAEMON = (
    "no container daemon answers: unix:///nonexistent/docker.sock (no such socket); "
    "start Docker, point DOCKER_HOST at a daemon, or use the local backend"
)
NO_BUBBLEWRAP = "the local launcher needs bubblewrap, which is not installed (Debian: apt-get install bubblewrap)"


@pytest.fixture(name="no_daemon")
def _no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")


@pytest.fixture(name="no_bubblewrap")
def _no_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("backend", ["", "podman", "Docker", "auto "])
async def test_unknown_backend(backend: str) -> None:
    """It is a `ValueError` that names those that there are."""
    with pytest.raises(ValueError) as caught:
        async with open_launcher(backend):
            pass
    assert f"backend is {backend!r}; it must be one of 'auto', 'docker', 'local'" == str(caught.value)


async def test_local() -> None:
    """Asked for, it is taken, and works."""
    async with open_launcher("local", [SPEC]) as choice:
        assert ("local", "it was asked for") == (choice.launcher.name, choice.reason)
        await (await choice.launcher.start(SPEC)).ping()


@pytest.mark.usefixtures("no_daemon")
async def test_auto_without_a_daemon() -> None:
    """The local launcher is taken, and the reason says what was wrong with the daemon."""
    async with open_launcher("auto", [SPEC]) as choice:
        assert ("local", NO_DAEMON) == (choice.launcher.name, choice.reason)
        await (await choice.launcher.start(SPEC)).ping()


@pytest.mark.usefixtures("no_daemon")
async def test_docker_without_a_daemon() -> None:
    """It is refused, in one line."""
    with pytest.raises(DaemonUnavailable) as caught:
        async with open_launcher("docker"):
            pass
    assert NO_DAEMON == str(caught.value)


@pytest.mark.usefixtures("no_bubblewrap")
async def test_local_without_bubblewrap() -> None:
    """It is refused, in one line that says what to install."""
    with pytest.raises(BackendUnavailable) as caught:
        async with open_launcher("local"):
            pass
    assert NO_BUBBLEWRAP == str(caught.value)


@pytest.mark.usefixtures("no_daemon", "no_bubblewrap")
async def test_nothing_there() -> None:
    """With neither, one line names both."""
    with pytest.raises(BackendUnavailable) as caught:
        async with open_launcher("auto"):
            pass
    assert f"{NO_BUBBLEWRAP} (Docker is not used: {NO_DAEMON})" == str(caught.value)


@pytest.mark.usefixtures("no_daemon")
async def test_root_needs_containers() -> None:
    """A spec for root cannot be had locally; the error says what to choose."""
    with pytest.raises(BackendUnavailable, match="gives no root user inside; choose backend='docker'"):
        async with open_launcher("auto", [SandboxSpec(user="root")]):
            pass


async def test_errors_of_the_block_pass() -> None:
    """What the user of a launcher raises is not taken for a launcher that does not work."""
    with pytest.raises(LaunchError, match="of the block"):
        async with open_launcher("local"):
            raise LaunchError("of the block")


@pytest.mark.docker
@pytest.mark.usefixtures("base_image")
@pytest.mark.parametrize("backend", ["auto", "docker"])
async def test_docker(backend: str) -> None:
    """With a daemon and an image, containers are taken."""
    async with open_launcher(backend, [SPEC]) as choice:
        assert ("docker", "a daemon answers and the images are there") == (choice.launcher.name, choice.reason)


@pytest.mark.docker
@pytest.mark.parametrize("backend", ["auto", "docker"])
async def test_image_that_is_nowhere(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that cannot be had is refused in one line: what a task finds in it is not on this machine's /usr."""
    monkeypatch.setattr("codecraft_pool._pull.PULL_PAUSES_S", ())
    with pytest.raises(ImageUnavailable) as caught:
        async with open_launcher(backend, [SandboxSpec(image="127.0.0.1:1/nowhere:none")]):
            pass
    assert "127.0.0.1:1/nowhere:none" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.docker
async def test_image_of_our_own_that_cannot_be_had(caplog: pytest.LogCaptureFixture) -> None:
    """Without an image of this project the local launcher does as well; why is told, and logged once."""
    async with open_launcher("auto", [SandboxSpec(image="codecraft/nothing")]) as choice:
        assert "local" == choice.launcher.name
        assert "codecraft/nothing" in choice.reason
    assert [f"sandboxes are local, over this machine's /usr: {choice.reason}"] == caplog.messages
