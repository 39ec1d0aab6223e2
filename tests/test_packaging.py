"""The package as a user gets it: built from its source distribution, installed as a wheel, used away from both."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
USE = """
import gymnasium, pool, curriculum
assert (pool.MINE, curriculum.MINE) == (1, 2), "the user's own modules"
import codecraft_async, codecraft_pool
assert "site-packages" in codecraft_async.__file__ and "site-packages" in codecraft_pool.__file__
env = gymnasium.make_vec("codecraft_async:codecraft/Code-v0", num_envs=2, backend="local", task="hello-world")
env.reset()
env.step(["echo 'print(\\"Hello, World!\\")' > hello.py", "true"])
_, rewards, terminations, _, _ = env.step(["submit", "submit"])
env.close()
print(rewards.tolist(), terminations.tolist())
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command printed; fail with all of it if it did not succeed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert 0 == done.returncode, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(name="wheel", scope="module")
def build_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the unpacked source distribution builds."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        archive.extractall(folder, filter="data")
    assert not any("/_guest/" in name or "/tests/" in name for name in names)
    source = folder / sdist.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_packages_the_guest_and_the_tasks_and_nothing_else(wheel: Path) -> None:
    """Three packages and their data at the top level; no tests, no benchmarks, no wrapper folders."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {"codecraft_async", "codecraft_pool", "codecraft_curriculum"} == {
        top for top in tops if not top.endswith(".dist-info")
    }
    assert any(name.startswith("codecraft_pool/_guest/guest-") for name in names)
    assert "codecraft_curriculum/tasks/hello-world/task.toml" in names
    assert "codecraft_async/gym_codecraft/curriculum.json" in names
    assert {"codecraft_async/py.typed", "codecraft_pool/py.typed", "codecraft_curriculum/py.typed"} <= set(names)
    assert "-none-any" not in wheel.name, "the wheel carries a program for one kind of machine"


@pytest.mark.timeout(300)
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed with its dependencies alone, it runs tasks, beside a user's own pool.py and curriculum.py."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=tmp_path)
    (tmp_path / "pool.py").write_text("MINE = 1\n")
    (tmp_path / "curriculum.py").write_text("MINE = 2\n")
    (tmp_path / "use.py").write_text(USE)
    assert "[1.0, 0.0] [True, True]\n" == run(python, "-W", "error", "use.py", cwd=tmp_path)
    assert run(tmp_path / "venv" / "bin" / "codecraft", "--version", cwd=tmp_path).startswith("codecraft")
