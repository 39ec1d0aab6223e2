"""Programs in environments of their own: found, spoken to, and ended; or said why not."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from benchmarks import peer, processes
from benchmarks.results import BenchmarkError, Unavailable

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
SIDE = """
import importlib, os, subprocess, sys
sys.path.insert(0, {sides!r})
wire = importlib.import_module("serve")
answers = wire.claim_standard_output()
print("what a library prints is no answer")
child = subprocess.Popen(["sleep", "600"])
def fail():
    raise ValueError("as asked")
wire.serve(answers, {start}, {{"add": lambda a, b: a + b, "fail": fail, "child": lambda: child.pid,
    "folder": lambda: os.environ["TMPDIR"], "end": lambda: os._exit(3)}})
"""


@pytest.fixture
def side(tmp_path: Path) -> str:
    """A program that answers, and that has started another one."""
    return _side(tmp_path, start="lambda: None")


def _side(folder: Path, *, start: str) -> str:
    file = folder / "side.py"
    file.write_text(SIDE.format(sides=str(peer.SIDES), start=start))
    return str(file)


@pytest.mark.anyio
async def test_answers(side: str) -> None:
    """A peer answers what it is asked, whatever it prints besides."""
    async with peer.open_peer("peer", Path(sys.executable), side) as other:
        assert 5 == await other.ask("add", a=2, b=3)
        with pytest.raises(BenchmarkError, match="peer failed at 'fail': ValueError: as asked"):
            await other.ask("fail")
        assert 7 == await other.ask("add", a=3, b=4)


@pytest.mark.anyio
async def test_nothing_is_left_of_a_peer(side: str) -> None:
    """What a peer has started and written ends with it."""
    async with peer.open_peer("peer", Path(sys.executable), side) as other:
        child, folder = await other.ask("child"), Path(await other.ask("folder"))
        [identity] = processes.identities([child])
    async with asyncio.timeout(30):
        while True:
            if identity not in processes.identities(processes.everyone()):
                break
            await asyncio.sleep(0.01)
    assert folder.name not in os.listdir(folder.parent)


@pytest.mark.anyio
async def test_a_peer_that_ends(side: str) -> None:
    """A peer that ends in the middle is a failed measurement."""
    with pytest.raises(BenchmarkError, match="failed at 'end': it has ended"):
        async with peer.open_peer("peer", Path(sys.executable), side) as other:
            await other.ask("end")


@pytest.mark.anyio
async def test_a_peer_that_does_not_start(tmp_path: Path) -> None:
    """A peer that does not start here is told with its last words."""
    file = tmp_path / "side.py"
    file.write_text("raise SystemExit('no such kernel')")
    with pytest.raises(Unavailable, match=r"peer failed at 'start': it has ended; .* Its last words: no such kernel"):
        async with peer.open_peer("peer", Path(sys.executable), str(file)):
            pass


@pytest.mark.anyio
async def test_a_peer_whose_sandboxes_do_not_start(tmp_path: Path) -> None:
    """What goes wrong when a peer starts its sandboxes is told in its own words."""
    side = _side(tmp_path, start="fail")
    with pytest.raises(Unavailable, match="peer failed at 'start': ValueError: as asked"):
        async with peer.open_peer("peer", Path(sys.executable), side):
            pass


def test_python_is_found() -> None:
    """The running version is there."""
    assert HERE == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert os.access(peer.find_python(HERE), os.X_OK)


def test_python_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is nowhere is named, and where it was looked for."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match=r"it needs Python 3\.99, which is not on this machine"):
        peer.find_python("3.99")


def test_an_installation_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that cannot be made makes its rows unavailable, and is tried anew the next time."""
    monkeypatch.setattr(peer, "FOLDER", tmp_path / "peers")
    for _ in range(2):
        with pytest.raises(Unavailable, match="some could not be installed"):
            peer.environment("some", "/bin/false", ["some"])
    assert "*\n" == (tmp_path / "peers" / ".gitignore").read_text()
