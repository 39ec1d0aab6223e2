"""Compiles the guest, the C program that is process 1 of every sandbox, when the package is built."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface as _Hook

    BuildHookInterface = _Hook[Any]
else:
    try:
        from hatchling.builders.hooks.plugin.interface import BuildHookInterface
    except ImportError:  # build_guest is useful without the build system: the tests build with sanitizers
        BuildHookInterface = object

SOURCES: Final = "pool/guest"
OUTPUT: Final = "pool/codecraft_pool/_guest"
COMPILERS: Final = ("cc", "gcc", "clang", "musl-gcc")
FLAGS: Final = (
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wshadow",
    "-Wmissing-prototypes",
    "-Wformat=2",
    "-pedantic-errors",
    "-D_FORTIFY_SOURCE=2",
    "-fstack-protector-strong",
)
STATIC: Final = ("-static", "-s")
_LIMIT_S: Final = 300.0
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


class GuestBuildError(RuntimeError):
    """The guest cannot be built here; one line says what to install or to set."""


def build_guest(
    root: Path,
    out_dir: Path,
    *,
    cc: str | None = None,
    extra_flags: Sequence[str] = (),
    static: bool = True,
    name: str | None = None,
) -> Path:
    """Return the guest's path, compiled unless the same sources, flags and compiler made what is there.

    *cc* is the compiler, with arguments if need be (``zig cc -target aarch64-linux-musl``); $CC, then the first of
    COMPILERS on PATH by default. Builds that run at the same time do not disturb each other.

    Raises:
        GuestBuildError: There is no compiler, no static libc, or the sources do not compile.
    """
    command = _compiler(cc)
    flags = [*FLAGS, *extra_flags, *(STATIC if static else ())]
    target = out_dir / (name or f"guest-{_machine()}")
    stamp = target.with_name(f".{target.name}.stamp")
    digest = _digest(root / SOURCES, [*command, *flags])
    if target.is_file() and stamp.is_file() and stamp.read_text() == f"{digest} {_file_digest(target)}":
        return target
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=out_dir) as scratch:
        built = Path(scratch) / "guest"
        _compile([*command, *flags], sorted((root / SOURCES).glob("*.c")), built)
        new_stamp = Path(scratch) / "stamp"
        new_stamp.write_text(f"{digest} {_file_digest(built)}")
        os.replace(built, target)
        os.replace(new_stamp, stamp)
    return target


class GuestBuildHook(BuildHookInterface):
    """The hook that pyproject.toml names: puts the guest into the wheel, which is for this machine's kind only."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the files are collected; an editable install finds the guest in the source tree."""
        if self.target_name != "wheel":
            return
        guest = build_guest(Path(self.root), Path(self.root) / OUTPUT)
        build_data["artifacts"].append(f"/{OUTPUT}/{guest.name}")
        # Nothing but the static guest depends on the machine, and it runs beside any libc.
        machine = _machine()
        build_data["tag"] = f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"
        build_data["pure_python"] = False


def _machine() -> str:
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


def _compiler(cc: str | None) -> list[str]:
    chosen = cc or os.environ.get("CC")
    if chosen:
        command = chosen.split()
        if shutil.which(command[0]) is None:
            raise GuestBuildError(f"the C compiler {command[0]!r} (from CC) is not on PATH: install it, or unset CC")
        return command
    for candidate in COMPILERS:
        if shutil.which(candidate):
            return [candidate]
    raise GuestBuildError(
        "no C compiler for the guest: install gcc and libc6-dev (Debian), gcc and musl-dev (Alpine), "
        "gcc and glibc-static (Fedora), or set CC"
    )


def _compile(command: Sequence[str], sources: Sequence[Path], built: Path) -> None:
    if not sources:
        raise GuestBuildError(f"no C sources of the guest in {SOURCES}: the source tree is incomplete")
    try:
        result = subprocess.run(
            [*command, "-o", str(built), *map(str, sources)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise GuestBuildError(f"{command[0]} did not build the guest within {_LIMIT_S:.0f} s") from exc
    if result.returncode == 0:
        return
    lines = result.stderr.splitlines()
    if any("cannot find -lc" in line for line in lines) or any("library 'c' not found" in line for line in lines):
        raise GuestBuildError(
            f"{command[0]} finds no static libc for the guest: install libc6-dev (Debian), musl-dev (Alpine), "
            "glibc-static (Fedora), or set CC to a compiler that has one"
        )
    first = next((line for line in lines if "error" in line), lines[0] if lines else f"status {result.returncode}")
    raise GuestBuildError(f"{' '.join(command[:1])} could not build the guest: {first}")


def _digest(sources: Path, command: Sequence[str]) -> str:
    """Of all that decides what is built: names and contents of the sources, the compiler and its flags."""
    state = hashlib.sha256("\0".join([*command, shutil.which(command[0]) or ""]).encode())
    for path in sorted(sources.glob("*.[ch]")):
        state.update(f"\0{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
