"""Copies of images' root file systems: as good as the image, and taken up while sandboxes run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import pytest

from codecraft_pool import DockerDaemon, DockerLauncher, LaunchError, connect_daemon
from codecraft_pool.containers import OWNER_LABEL, ROLE_LABEL
from codecraft_pool.owner import Owner
from tests.conftest import ASYNCIO
from tests.pool.launchers import SPEC, WHOLE_ROOT, printed, python, shell

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

ROOT: Final = replace(SPEC, user="root", reset="overlay", tree_files=16_384)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Roots take long to be copied, and are the same on either loop."""
    return ASYNCIO


@pytest.fixture(scope="module", name="daemon")
async def connect(base_image: str) -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon() as daemon:
        yield daemon


async def test_copied_root_is_the_image(daemon: DockerDaemon) -> None:
    """A copied root file system is the image's to the last mode, time, link and attribute, and read-only."""
    # The times of what the runtime makes in each container are not the image's.
    made = '("/", "/.dockerenv", "/etc", "/etc/mtab", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")'
    look = WHOLE_ROOT.replace("    total.update", f"    line[4] *= path not in {made}\n    total.update")
    # Nor are the accounts, which name the sandbox's own user.
    look = look.replace("if path.starts", 'if path not in ("/etc/passwd", "/etc/group") and path.starts')
    async with DockerLauncher(daemon, roots="image") as images, DockerLauncher(daemon, roots="volume") as volumes:
        first, second = [await python(await launcher.start(ROOT), look, limit_s=60) for launcher in (images, volumes)]
        assert first == second
        agent = await volumes.start(SPEC)
        assert "Read-only" in await printed(agent, "touch /x")
        assert "ro," in await shell(agent, "grep '/roots/.* / ro,nosuid,nodev' /proc/self/mountinfo")
        assert "" == await shell(agent, "ls -A /.codecraft 2>/dev/null; true")
        assert "00000000000001eb\n" == await shell(agent, "sed -n 's/CapPrm:.//p' /proc/1/status")


async def copiers(daemon: DockerDaemon) -> int:
    """How many containers of this process copy roots."""
    wanted = json.dumps({"label": [f"{OWNER_LABEL}={Owner.current()}", f"{ROLE_LABEL}=copier"]})
    found: Any = await daemon.get_json(f"containers/json?all=1&filters={quote(wanted)}")
    return len(found)


async def test_copy_while_sandboxes_run(daemon: DockerDaemon) -> None:
    """Sandboxes do not wait for the copy, take it up at a restore, and the copier leaves nothing but the copy."""
    async with DockerLauncher(daemon, roots="auto") as launcher:
        if "volume" not in launcher.description:
            pytest.skip("this daemon's storage is fast: no copies are made")
        sandbox = await launcher.start(SPEC)
        first = await shell(sandbox, "stat -f -c %T /usr")
        async with asyncio.timeout(120):
            while first == await shell(sandbox, "stat -f -c %T /usr"):
                await sandbox.restore()
        assert "127.0.0.1 localhost sandbox\n" == await shell(sandbox, "grep 127 /etc/hosts")
        assert "ok\n" == await shell(sandbox, "touch x && echo ok")
        async with asyncio.timeout(20):
            while await copiers(daemon):  # noqa: ASYNC110  # a daemon tells nobody
                await asyncio.sleep(0.1)


async def test_copy_that_fails(daemon: DockerDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a copy that was asked for there is no sandbox; in "auto" the image's own root stays."""

    async def refuse(self: object, image_id: str, depot: str, path: str) -> None:
        raise LaunchError("no copy today")

    monkeypatch.setattr(DockerLauncher, "_copy_root", refuse)
    async with DockerLauncher(daemon, roots="volume") as launcher:
        with pytest.raises(LaunchError, match="no copy today"):
            await launcher.start(SPEC)
    async with DockerLauncher(daemon, roots="auto") as launcher:
        sandbox = await launcher.start(SPEC)
        await sandbox.restore()
        assert "fine\n" == await shell(sandbox, "echo fine")


async def test_unknown_choice_of_roots(daemon: DockerDaemon) -> None:
    """A choice that there is not is the caller's mistake."""
    with pytest.raises(ValueError, match="'auto', 'image' or 'volume'"):
        DockerLauncher(daemon, roots="other")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
