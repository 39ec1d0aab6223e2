"""What the local launcher hides of this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from codecraft_pool import LocalLauncher, SandboxSpec
from codecraft_pool.local_launcher import own_packages

pytestmark = pytest.mark.anyio


@contextmanager
def packages_below_usr() -> Generator[str]:
    """A folder below /usr with two packages of this project and another one, each with a task file."""
    with tempfile.TemporaryDirectory(dir="/usr/local/lib", prefix="packages-") as home:
        for name in ("codecraft_pool", "codecraft_curriculum", "other"):
            (Path(home) / name).mkdir()
            (Path(home) / name / "task.toml").write_text("answer = 42\n")
        Path(home).chmod(0o755)
        yield home


def test_only_this_projects_packages_below_usr_are_hidden(tmp_path: Path) -> None:
    """Elsewhere nothing of the host is visible anyway."""
    (tmp_path / "codecraft_pool").mkdir()
    assert [] == own_packages(tmp_path)


@pytest.mark.skipif(not os.access("/usr/local/lib", os.W_OK), reason="puts a folder below /usr, as root")
async def test_tasks_installed_below_usr_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task file says how it is graded: an agent that searches /usr for one finds nothing."""
    with packages_below_usr() as home:
        monkeypatch.setattr("codecraft_pool.local_launcher.files", lambda _: Path(home) / "codecraft_pool")
        async with LocalLauncher() as launcher:
            sandbox = await launcher.start(SandboxSpec())
            result = await sandbox.run(["find", home, "-name", "task.toml"])
    assert f"{home}/other/task.toml\n" == result.stdout.decode()
