"""Local sandboxes of a user without rights: the suites of every launcher once more, as somebody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from codecraft_pool.guest_binary import guest_path
from tests.pool.launchers import IS_ROOT

SUITES: Final = ("test_conformance", "test_conformance_restore", "test_hostile", "test_trees")
AS_NOBODY: Final = """
import ctypes, sys
from pathlib import Path
ctypes.CDLL(None).prctl(47, 4, 0, 0, 0)  # what lets this process read the code is not for those it starts
import codecraft_pool.local_launcher as launcher
launcher.guest_path = lambda: Path(sys.argv[1])
import pytest
sys.exit(pytest.main(["-p", "no:cacheprovider", "-q", "-m", "not docker", "--basetemp", sys.argv[2], *sys.argv[3:]]))
"""


@pytest.mark.skipif(not IS_ROOT, reason="these tests run as an unprivileged user already")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_as_an_unprivileged_user() -> None:
    """The same holds where the launcher is started by a user without rights, who only can read the code."""
    # Not below pytest's own directories, which every session of root's closes to others.
    with tempfile.TemporaryDirectory(prefix="codecraft-nobody-") as folder:
        run_as_nobody(Path(folder))


def run_as_nobody(folder: Path) -> None:
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    guest = shutil.copy(guest_path(), folder)
    here = Path(__file__).parent
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    words += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", sys.executable, "-B", "-c", AS_NOBODY]
    words += [str(guest), str(home / "tests"), *(str(here / f"{name}.py") for name in SUITES)]
    environ = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    ran = subprocess.run(words, env=environ, cwd=here.parents[1], capture_output=True, text=True, timeout=100)
    assert 0 == ran.returncode, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
    assert [] == list(home.glob("codecraft-run-*"))
