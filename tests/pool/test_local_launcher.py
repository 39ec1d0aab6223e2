"""What the local launcher hides of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from codecraft_pool import BackendUnavailable, LocalLauncher, SandboxSpec, Snapshot
from codecraft_pool.bubblewrap import own_packages

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
        monkeypatch.setattr("codecraft_pool.bubblewrap.files", lambda _: Path(home) / "codecraft_pool")
        async with LocalLauncher() as launcher:
            sandbox = await launcher.start(SandboxSpec())
            result = await sandbox.run(["find", home, "-name", "task.toml"])
    assert f"{home}/other/task.toml\n" == result.stdout.decode()


# --- over a root file system ------------------------------------------------------------------------------------------

PROGRAMS = ("sh", "cat", "ls", "id", "touch", "sleep")


@pytest.fixture(name="root")
def make_root(tmp_path: Path) -> Path:
    """A root file system with a shell, a few programs and what they are linked with."""
    for folder in ("usr/bin", "etc", "var/tmp", "opt", "home/somebody", "proc", "tmp"):
        (tmp_path / folder).mkdir(parents=True)
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program is not None
        shutil.copy(program, tmp_path / "usr" / "bin" / name)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=10).stdout
        for library in re.findall(r"/\S+", linked):
            (tmp_path / "usr" / Path(library).parent.name).mkdir(exist_ok=True)
            place = tmp_path / "usr" / library.removeprefix("/usr").lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)
    for name in ("bin", "lib", "lib64"):
        (tmp_path / name).symlink_to(f"usr/{name}")
    (tmp_path / "etc" / "motd").write_text("of this root\n")
    (tmp_path / "etc" / "passwd").write_text("agent:x:5:5::/:/bin/sh\nsomebody:x:1234:1234::/:/bin/sh\n")
    (tmp_path / "opt" / "tool").write_text("x")
    return tmp_path


async def test_sandboxes_over_a_root_file_system(root: Path) -> None:
    """What a directory holds is what sandboxes see, read-only, with the trees of every sandbox and nothing of ours."""
    async with LocalLauncher(root=root) as launcher:
        assert str(root) in launcher.description
        sandbox = await launcher.start(SandboxSpec())
        result = await sandbox.run("cat /etc/motd; ls /opt /usr/bin; touch x y; ls; echo ~somebody; ls /home; echo $0")
        programs = "\n".join(sorted(PROGRAMS))
        assert (
            f"of this root\n/opt:\ntool\n\n/usr/bin:\n{programs}\nx\ny\n/\nagent\n/bin/sh\n" == result.stdout.decode()
        )
        for place in ("/x", "/usr/x", "/etc/x", "/opt/tool", "/etc/motd"):
            assert (await sandbox.run(f"echo x > {place}")).exit_code != 0
        await sandbox.restore(Snapshot.from_files({"of": "snapshot"}))
        assert b"of\n" == (await sandbox.run("ls; ls /tmp /var/tmp 2>&1 | cat > /dev/null")).stdout
    assert ["motd", "passwd"] == sorted(path.name for path in (root / "etc").iterdir())


async def test_directories_that_are_no_root_file_system(root: Path) -> None:
    """They are refused with what they lack."""
    for name, lack in (("var/tmp", "no /var/tmp"), ("usr/bin/sh", "no shell")):
        place = root / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        with pytest.raises(BackendUnavailable, match=lack):
            LocalLauncher(root=root)
    with pytest.raises(BackendUnavailable, match="no root file system"):
        LocalLauncher(root="/no/where")
