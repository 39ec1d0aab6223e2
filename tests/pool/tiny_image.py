"""An image of a few programs of this machine and the libraries they need: small, offline, and without /etc."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path, PurePath
from typing import Final

PROGRAMS: Final = ("sh", "cat", "id", "sleep", "ls")


@cache
def tiny_rootfs() -> bytes:
    """A tar of it, for a daemon to import."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        files = {_inside(path): path for path in sorted(_files())}
        for folder in sorted({str(parent) for name in files for parent in PurePath(name).parents} - {"."}):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for name, path in files.items():
            archive.add(path.resolve(), arcname=name, recursive=False)
    return buffer.getvalue()


def _inside(path: Path) -> str:
    return f"bin/{path.name}" if path.name in PROGRAMS else str(path).lstrip("/")


def _files() -> set[Path]:
    found: set[Path] = set()
    for name in PROGRAMS:
        program = shutil.which(name, path="/usr/bin:/bin")
        assert program is not None, f"{name} is not installed"
        found.add(Path(program))
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=20).stdout
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", listing)}
    return found
