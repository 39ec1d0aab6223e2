"""Where the guest program is."""

from __future__ import annotations

import os
import platform
from importlib.resources import files
from pathlib import Path
from typing import Final

from codecraft_pool.errors import BackendUnavailable

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def guest_path(machine: str | None = None) -> Path:
    """Return the path of the guest for *machine* (this one by default; Docker's names for architectures work too).

    Raises:
        BackendUnavailable: The package was built without one.
    """
    wanted = machine or platform.machine()
    wanted = _MACHINES.get(wanted, wanted)
    path = Path(str(files("codecraft_pool"))) / "_guest" / f"guest-{wanted}"
    if not os.access(path, os.R_OK):
        raise BackendUnavailable(
            f"no guest was built for {wanted} ({path} is missing): install the package again where a C compiler is"
        )
    return path
