"""What `codecraft doctor` and `codecraft images` say."""

from __future__ import annotations

import argparse
import io
import os
import struct
from pathlib import Path

import pytest
from rich.console import Console

from codecraft_async import _images_cli, doctor
from codecraft_async.doctor import Check, check_disk, elf_problem, examine, exit_status, render, working_backends
from codecraft_pool import Images, connect_daemon
from tests.pool.registry import forget, publish, run_registry

pytestmark = pytest.mark.anyio


def _elf(*kinds: int) -> bytes:
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, len(kinds))
    return bytes(header) + b"".join(struct.pack("<I52x", kind) for kind in kinds)


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        (_elf(1, 1, 4), None),
        (_elf(1, 3), "is not static: it needs a dynamic loader that images may lack"),
        (_elf(1, 1)[:80], "is cut short"),
        (b"#!/bin/sh\n", "is not an ELF executable"),
        (b"", "is not an ELF executable"),
        (b"\x7fELF\x01\x01" + bytes(60), "is not a 64-bit little-endian executable"),
    ],
)
def test_elf_problem(start: bytes, problem: str | None) -> None:
    """Only a whole 64-bit executable that asks for no loader passes."""
    assert problem == elf_problem(start)


@pytest.mark.parametrize(
    ("guest", "daemon", "image", "bubblewrap", "working"),
    [
        (True, True, True, True, ["docker", "local"]),
        (True, True, None, False, ["docker"]),
        (True, True, False, True, ["local"]),
        (True, False, None, True, ["local"]),
        (True, False, None, False, []),
        (False, True, True, True, []),
    ],
)
def test_which_backends_work(
    guest: bool, daemon: bool, image: bool | None, bubblewrap: bool, working: list[str]
) -> None:
    """Docker needs a daemon and an image that is here or can be built, local needs bubblewrap, both the guest."""
    states = {doctor.GUEST: guest, doctor.DAEMON: daemon, doctor.IMAGE: image, doctor.BUBBLEWRAP: bubblewrap}
    checks = [Check(name, ok, "found") for name, ok in states.items()]
    assert (working, 0 if working else 1) == (working_backends(checks), exit_status(checks))


def test_what_is_shown() -> None:
    """Every check, its advice and the verdict are in the table; brackets in what was found are no markup."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render([Check("thing", False, "found [red]it[/red]", "mend it"), Check("other", None, "x")]))
    text = console.export_text()
    for part in ("found [red]it[/red]", "mend it", "other", "no backend works"):
        assert part in text


def test_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is enough, or too little, or cannot be seen."""
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1)
    assert check_disk(str(tmp_path)).ok is True
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1 << 62)
    assert check_disk(str(tmp_path)).ok is False
    assert check_disk(str(tmp_path / "none")).ok is None


async def test_without_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With no daemon and no programs in PATH each check says what is missing, and none raises."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = {check.name: check for check in await examine()}
    assert checks["python"].ok is True
    assert checks[doctor.DAEMON].ok is False
    assert "none.sock" in checks[doctor.DAEMON].detail
    assert (False, "not installed") == (checks[doctor.BUBBLEWRAP].ok, checks[doctor.BUBBLEWRAP].detail)
    assert "unshare" in checks["user namespaces"].detail


async def test_a_bubblewrap_that_hangs_or_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bubblewrap that does not start a sandbox is found out, with its own words; one that hangs has a deadline."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "PROGRAM_LIMIT_S", 0.5)
    program = tmp_path / "bwrap"
    for script, words in (("echo no namespaces >&2; exit 1", "no namespaces"), ("exec sleep 60", "no end within")):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        found = {check.name: check for check in await examine()}[doctor.BUBBLEWRAP]
        assert found.ok is False
        assert words in found.detail


@pytest.mark.docker
async def test_with_a_daemon() -> None:
    """A daemon that answers is described."""
    checks = {check.name: check for check in await examine()}
    assert checks[doctor.DAEMON].ok is True
    assert "API 1." in checks[doctor.DAEMON].detail
    assert doctor.IMAGE in checks


@pytest.mark.parametrize(
    ("driver", "ok", "words"), [("overlay2", True, ""), ("fuse-overlayfs", None, "overlay2"), ("vfs", None, "overlay2")]
)
def test_the_storage_driver(driver: str, ok: bool | None, words: str) -> None:
    """A driver that makes sandboxes slow is named, with what to use."""
    check = doctor.check_storage(driver)
    assert (ok, True) == (check.ok, driver in check.detail)
    assert words in check.advice


def _cgroup_tree(folder: Path, *controllers: str, version: int) -> Path:
    if version == 2:
        (folder / "scope").mkdir(parents=True)
        (folder / "cgroup.controllers").write_text("cpu memory pids\n")
        (folder / "scope" / "cgroup.controllers").write_text(" ".join(controllers))
        (folder / "own").write_text("0::/scope\n")
    else:
        for controller in controllers:
            (folder / controller / "scope").mkdir(parents=True)
        (folder / "own").write_text("3:pids:/scope\n2:memory:/scope\n1:name=systemd:/\n0::/\n")
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_cgroups(tmp_path: Path, version: int) -> None:
    """Whether memory and processes can be limited is told for both versions, and what lacks is named."""
    both = _cgroup_tree(tmp_path / "both", "memory", "pids", version=version)
    assert (True, f"version {version}; memory and processes can be limited from here") == (
        (check := doctor.check_cgroups(both, both / "own")).ok,
        check.detail,
    )
    one = _cgroup_tree(tmp_path / "one", "pids", version=version)
    check = doctor.check_cgroups(one, one / "own")
    assert (None, f"version {version}; memory cannot be limited from here") == (check.ok, check.detail)
    assert doctor.check_cgroups(one, tmp_path / "none").ok is None


@pytest.mark.docker
async def test_an_image_at_its_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an image can be had is asked only when that is wanted, of its registry, and nothing is pulled."""
    with run_registry(tmp_path) as registry:
        image = f"{registry.host}/team/tiny:1"
        async with await connect_daemon() as daemon:
            await publish(daemon, image, layer_bytes=1000)
            check = await doctor.check_registry(daemon, image)
            assert (True, True) == (
                check.ok,
                f"not here; its registry {registry.host} has it, for linux/" in check.detail,
            )
            check = await doctor.check_registry(daemon, f"{registry.host}/team/none:1")
            assert check.ok is False
            assert "images pull" in check.advice
            monkeypatch.setenv("CODECRAFT_IMAGE_ALIASES", f"tiny={image}")
            check = await doctor.check_registry(daemon, "tiny")
            assert check.detail.startswith(f"as {image}, not here; its registry")
            assert await Images(daemon).find(image) is None


def _parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    _images_cli.add_images_parser(parser.add_subparsers(dest="command"))
    return parser.parse_args(["images", *words])


@pytest.mark.docker
async def test_images_list(capsys: pytest.CaptureFixture[str]) -> None:
    """The list has the recipe's image, built or not."""
    assert 0 == await _images_cli.run_images(_parsed("list"))
    assert "codecraft/base" in capsys.readouterr().out


@pytest.mark.docker
async def test_images_built_from_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory with a Dockerfile becomes an image by the name that is given, and is built once for its content."""
    name = f"codecraft-cli-test-{os.getpid()}"
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY file /\n")
    (tmp_path / "file").write_text("hello")
    words = ("build", name, "--from", str(tmp_path), "--build-arg", "BASE=scratch")
    async with await connect_daemon() as daemon:
        try:
            assert 0 == await _images_cli.run_images(_parsed(*words))
            first = capsys.readouterr().out
            assert 0 == await _images_cli.run_images(_parsed(*words))
            assert [first.splitlines()[-1]] == capsys.readouterr().out.splitlines()
            assert "COPY file /" in first
            found = [each.reference for each in await Images(daemon).list() if each.reference.startswith(name)]
            assert 2 == len(found)
        finally:
            await forget(daemon, *[e.reference for e in await Images(daemon).list() if e.reference.startswith(name)])
    assert 1 == await _images_cli.run_images(_parsed("build", f"{name}:tag", "--from", str(tmp_path)))
    assert "has a tag: leave it out" in capsys.readouterr().err


@pytest.mark.docker
@pytest.mark.parametrize("words", [("build", "nothing"), ("pull", "No Reference")])
async def test_images_errors(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be had is one line on stderr and status 1."""
    assert 1 == await _images_cli.run_images(_parsed(*words))
    said = capsys.readouterr().err
    assert repr(words[1]) in said
    assert 1 == len(said.splitlines())


async def test_images_without_a_daemon(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a daemon there is one line and status 1."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    assert 1 == await _images_cli.run_images(_parsed("list"))
    assert capsys.readouterr().err.startswith("codecraft images: no container daemon answers")


def test_progress_on_a_terminal_and_in_a_log() -> None:
    """A terminal gets a bar with bytes per layer, a log one line for each new state."""
    for is_terminal, expected in ((True, "1.0/4.0 MB"), (False, "ab12 Downloading")):
        console = Console(force_terminal=is_terminal, width=120, record=True, file=io.StringIO())
        with _images_cli.image_progress(console) as progress:
            progress.line("a [line]")
            progress.layer("ab12", "Downloading", 0, 4_000_000)
            progress.layer("ab12", "Downloading", 1_000_000, 4_000_000)
        text = console.export_text()
        assert "a [line]" in text
        assert expected in text
