"""Who owns a resource, and whether that process still runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codecraft_pool.owner import Owner
from tests.pool.launchers import IS_ROOT


def test_this_process() -> None:
    """It is alive, from here, and the same again when its name is parsed."""
    owner = Owner.current()
    assert (os.getpid(), True, True) == (owner.pid, owner.is_alive(), owner.is_from_here())
    assert owner == Owner.parse(str(owner))


@pytest.mark.parametrize(
    "text", ["", "x", "01234567-1", "01234567-1-2-3", "0123456-1-2", "01234567--1-2", "01234567-1-2\n", "01234567-1-2x"]
)
def test_no_owner(text: str) -> None:
    """What is not the name of an owner is none."""
    assert Owner.parse(text) is None


def test_another_process() -> None:
    """A process is alive until it ends, also while it is a zombie no more; a later one with its id is another."""
    process = subprocess.Popen(["sleep", "1001"])
    try:
        start = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        owner = Owner(Owner.current().boot, process.pid, start)
        assert owner.is_alive()
        assert not Owner(owner.boot, owner.pid, owner.start + 1).is_alive()
        assert not Owner("0" * 8, owner.pid, owner.start).is_alive()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not owner.is_alive()
    finally:
        process.kill()
        process.wait()
    assert not owner.is_alive()


def test_another_namespace() -> None:
    """A process of another process id namespace is not from here, whatever its id."""
    unshare = shutil.which("unshare")
    if not IS_ROOT or unshare is None:
        pytest.skip("only root can make a process id namespace")
    program = "from codecraft_pool.owner import Owner; print(Owner.current())"
    words = [unshare, "--pid", "--fork", "--mount-proc", sys.executable, "-c", program]
    ran = subprocess.run(words, capture_output=True, text=True)
    if ran.returncode != 0:
        pytest.skip(f"no process id namespace can be had here: {ran.stderr}")
    owner = Owner.parse(ran.stdout.strip())
    assert owner is not None
    assert (1, False, False) == (owner.pid, owner.is_from_here(), owner.is_alive())


def test_hidden_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process that /proc does not show is taken for alive."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert Owner(Owner.current().boot, 1 << 30, 1).is_alive()
