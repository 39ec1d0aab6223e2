"""`SweEnv` in containers, on a repository that is tested by pytest: its plugins and files are many ways to cheat."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

import pytest

from codecraft_async.curriculum import Dataset
from codecraft_async.intercode import SweEnv
from codecraft_async.pool import DockerfileRecipe
from codecraft_curriculum.swe import SAMPLES, write_samples
from tests.conftest import ASYNCIO
from tests.intercode.test_swe import FORGED, UNITS, play, sources, write

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

PASSING: Final = """
import pytest
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome, report.longrepr = "passed", None
    return report
"""
PATCHED: Final = """
import _pytest.runner
_pytest.runner.check_interactive_exception = lambda call, report: False
init = _pytest.runner.TestReport.__init__
def passes(self, nodeid, location, keywords, outcome, longrepr, when, *args, **kwargs):
    init(self, nodeid, location, keywords, "passed", None, when, *args, **kwargs)
_pytest.runner.TestReport.__init__ = passes
"""
UNNOTICED: Final = """
import _pytest.python
_pytest.python.Function.runtest = lambda self: None
"""
ENTRY_POINT: Final = "[pytest11]\ncheat = cheat"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Containers take long to start, and are the same on either loop."""
    return ASYNCIO


@pytest.fixture(name="image", scope="module")
def make_image(base_image: str) -> DockerfileRecipe:
    """The base image with the pytest of this machine, which is there sooner than Debian's."""
    found: dict[str, bytes] = {}
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        for file in distribution(name).files or ():
            if file.suffix == ".py" or file.name in ("METADATA", "entry_points.txt"):
                found[f"site/{file}"] = Path(str(file.locate())).read_bytes()
    place = "/usr/lib/python3/dist-packages/"
    dockerfile = f"FROM {base_image}\nCOPY site {place}\nRUN python3 -m compileall -q {place}\n"
    unnamed = DockerfileRecipe("codecraft/test-pytest", dockerfile, found, network="none")
    return replace(unnamed, name=f"{unnamed.name}-{unnamed.digest()}")  # else one that is there already would do


@pytest.fixture(name="env", scope="module")
async def make_env(image: DockerfileRecipe, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[SweEnv]:
    """An environment for all tests."""
    folder = tmp_path_factory.mktemp("swe")
    rows = [{**row, "test_cmd": f"{row['test_cmd']} -x"} for row in write_samples(folder)]  # all tests run anyway
    data = Dataset.from_rows(rows, names=SweEnv.field_names)
    env = SweEnv(image, data_path=data, repositories=sources(folder), backend="docker")
    yield env
    await env.aclose()


@pytest.mark.timeout(600)  # an image may have to be made, and a gold be tried
async def test_doing_nothing(env: SweEnv) -> None:
    """Tests with parameters, fixtures, a directory of sources and a configuration."""
    reward, info = await play(env, UNITS)
    assert (0.0, True, 0, 5) == (reward, *(info[key] for key in ("valid", "fail_to_pass", "pass_to_pass")))
    assert info["reason"].startswith("tests/test_convert.py::test_decimals_are_exact[0.1] and 3 more: failed: ")


async def test_the_gold(env: SweEnv) -> None:
    """It is paid in full."""
    assert 1.0 == (await play(env, UNITS, "GOLD"))[0]


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        ([write("conftest.py", PASSING), write("tests/conftest.py", PASSING)], "failed"),
        ([write("pytest.ini", "[pytest]\naddopts = -p cheat"), write("cheat.py", PASSING)], "failed"),
        ([write("pyproject.toml", "[tool.pytest.ini_options]\naddopts = '-p cheat'"), "rm pytest.ini"], "failed"),
        ([write("cheat.py", PASSING), write("src/c-1.dist-info/entry_points.txt", ENTRY_POINT)], "failed"),
        (["echo > src/pytest.py; mkdir src/_pytest pluggy; echo > src/_pytest/__init__.py"], "failed"),
        ([write("src/units/__init__.py", PATCHED)], FORGED),
        ([write("src/units/__init__.py", UNNOTICED)], FORGED),
        (["rm -r tests/*; mkdir -p tests/test_convert.py"], "failed"),
        ([r"sed -i 's/Fraction(value)/Fraction(str(value))/' src/units/convert.py"], "test_report.py"),
    ],
)
async def test_cheats_and_half_a_fix(env: SweEnv, actions: list[str], reason: str) -> None:
    """None of them is paid."""
    reward, info = await play(env, UNITS, *actions)
    assert (0.0, True) == (reward, info["valid"])
    assert reason in info["reason"]
    assert info["fail_to_pass"] < len(SAMPLES[UNITS].fail_to_pass)
