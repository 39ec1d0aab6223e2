"""hatch_build.py: the guest is compiled once for each state of its sources, and failure is one clear line."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hatch_build
from hatch_build import GuestBuildError, build_guest
from tests.pool.guest_harness import ROOT, binary


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> Path:
    """A source tree with the smallest guest there can be."""
    sources = tmp_path / "tree" / hatch_build.SOURCES
    sources.mkdir(parents=True)
    (sources / "answer.h").write_text("#define ANSWER 42\n")
    (sources / "main.c").write_text('#include "answer.h"\nint main(void)\n{\n\treturn ANSWER;\n}\n')
    return tmp_path / "tree"


def status(program: Path) -> int:
    """Return the exit status of a program."""
    return subprocess.run([program], check=False, timeout=20).returncode


def test_the_guest_is_static_and_needs_no_library() -> None:
    """It must run in images that have nothing."""
    assert (
        b"INTERP"
        not in subprocess.run(["readelf", "-l", binary("release")], capture_output=True, check=True, timeout=20).stdout
    )


def test_it_is_built_again_only_when_something_changed(tree: Path, tmp_path: Path) -> None:
    """Sources, headers, flags and the result itself count; times do not."""
    first = build_guest(tree, tmp_path / "out")
    assert 42 == status(first)
    built_at = first.stat().st_mtime_ns
    (tree / hatch_build.SOURCES / "main.c").touch()
    assert built_at == build_guest(tree, tmp_path / "out").stat().st_mtime_ns
    (tree / hatch_build.SOURCES / "answer.h").write_text("#define ANSWER 43\n")
    assert 43 == status(build_guest(tree, tmp_path / "out"))
    first.write_bytes(b"damaged")
    assert 43 == status(build_guest(tree, tmp_path / "out"))
    flagged = build_guest(tree, tmp_path / "out", extra_flags=["-UANSWER"])
    assert built_at != flagged.stat().st_mtime_ns


def test_builds_at_the_same_time_do_not_disturb_each_other(tree: Path, tmp_path: Path) -> None:
    """Each sees a whole file, and no scratch is left."""
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: build_guest(tree, tmp_path / "out"), range(4)))
    assert 1 == len(set(built))
    assert 42 == status(built[0])
    assert [f".{built[0].name}.stamp", built[0].name] == sorted(path.name for path in (tmp_path / "out").iterdir())


def test_no_compiler_is_one_line_that_says_what_to_install(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a traceback of the compiler's absence nor a guess."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestBuildError, match="install gcc and libc6-dev") as caught:
        build_guest(tree, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_wrong_cc_is_named(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$CC is the user's word, and nothing else is tried."""
    monkeypatch.setenv("CC", "no-such-compiler -flag")
    with pytest.raises(GuestBuildError, match="no-such-compiler"):
        build_guest(tree, tmp_path / "out")


def test_a_missing_static_libc_is_named(tree: Path, tmp_path: Path) -> None:
    """The commonest lack on Fedora and Alpine."""
    fake = tmp_path / "fake-cc"
    fake.write_text('#!/bin/sh\necho "/usr/bin/ld: cannot find -lc: No such file or directory" >&2\nexit 1\n')
    fake.chmod(0o755)
    with pytest.raises(GuestBuildError, match="no static libc"):
        build_guest(tree, tmp_path / "out", cc=str(fake))


def test_sources_that_do_not_compile_are_named(tree: Path, tmp_path: Path) -> None:
    """The compiler's first error is the message; nothing is left."""
    (tree / hatch_build.SOURCES / "main.c").write_text("int main(void)\n{\n\treturn unknown;\n}\n")
    with pytest.raises(GuestBuildError, match=r"main\.c:3.*unknown"):
        build_guest(tree, tmp_path / "out")
    assert [] == list((tmp_path / "out").iterdir())


def test_an_incomplete_source_tree_is_named(tmp_path: Path) -> None:
    """A tree without the guest's sources is not a reason to build nothing."""
    with pytest.raises(GuestBuildError, match="no C sources"):
        build_guest(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("compiler", ["gcc", "clang", "musl-gcc"])
def test_other_compilers_build_it_too(compiler: str, tmp_path: Path) -> None:
    """With all warnings as errors, where the compiler is installed."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    built = build_guest(ROOT, tmp_path, cc=compiler)
    assert b"guest 1.0" in subprocess.run([built, "--version"], capture_output=True, check=True, timeout=20).stdout
