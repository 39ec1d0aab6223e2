"""nitrobox 0.1.0 beside us: namespaces without Docker, so our local launcher beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.beside import CHECK, COMMAND, DISTURB, NUMBER, open_ours, our_rate, our_reset
from benchmarks.docker_cli import docker
from benchmarks.peer import environment, find_python, open_peer
from benchmarks.results import Figure, RowSpec, Target, medians, percentile, ratio_figure
from codecraft_pool.spec import DEFAULT_IMAGE

_RESETS: Final = 10  # in each round
_PYTHON: Final = "3.12"  # the one that its wheel is for
_EXPORT_LIMIT_S: Final = 120.0

RATE: Final = RowSpec(
    "nitrobox_rate",
    "commands per second (`/bin/true`, 8 sandboxes) against nitrobox 0.1.0",
    "times",
    Target(">", 1),
    "our local launcher, Sandbox.run, a shell each; nitrobox's run in 8 threads or arun, whichever was faster, in the "
    "shell it keeps",
)
RESET: Final = RowSpec(
    "nitrobox_reset",
    "reset and first command after it against nitrobox 0.1.0",
    "times",
    Target(">", 1),
    "11 files were made; Sandbox.restore against Sandbox.reset, each up to the end of a command that looks, p50",
)
ROWS: Final = (RATE, RESET)


def measure(bench: Bench) -> dict[str, Figure]:
    """Alternate ours and theirs."""
    bench.need_docker("nitrobox's root file system, exported from the image,")
    bench.tell("installing nitrobox 0.1.0 in an environment of its own")
    python = environment("nitrobox-0.1.0", find_python(_PYTHON), ["nitrobox==0.1.0"])
    with _root_file_system() as root:
        try:
            return bench.run(_measure(bench, python, root))
        finally:
            with suppress(OSError):  # it leaves this, empty, or it is in use by somebody else's
                os.rmdir(f"/tmp/nitrobox_{os.getuid()}")


@contextmanager
def _root_file_system() -> Generator[str]:
    """Yield a folder with what is in the image."""
    name = f"codecraft-bench-{os.getpid()}-root"
    with tempfile.TemporaryDirectory(prefix="codecraft-bench-root-") as folder:
        try:
            docker("create", "--network", "none", "--name", name, DEFAULT_IMAGE, "true")
            docker("export", "--output", f"{folder}/root.tar", name)
        finally:
            docker("rm", "-f", name, may_fail=True)
        root = f"{folder}/root"
        os.mkdir(root)
        subprocess.run(["tar", "-x", "-f", f"{folder}/root.tar", "-C", root], check=True, timeout=_EXPORT_LIMIT_S)
        os.unlink(f"{folder}/root.tar")
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


async def _measure(bench: Bench, python: Path, root: str) -> dict[str, Figure]:
    seconds = bench.options.seconds
    rates: list[tuple[float, float]] = []
    resets: list[tuple[float, float]] = []
    alone: list[tuple[float, float]] = []
    async with (
        open_peer("nitrobox", python, "nitrobox_side.py", root, str(NUMBER)) as peer,
        open_ours(bench, "local") as sandboxes,
    ):
        bench.tell(f"{NUMBER} sandboxes of ours and of nitrobox in turn")
        for _ in range(bench.options.rounds):
            theirs = await peer.ask("rate", command=COMMAND, seconds=seconds)
            ours = await our_rate(sandboxes, COMMAND, seconds)
            theirs = max(theirs, await peer.ask("rate_async", command=COMMAND, seconds=seconds))
            rates.append((ours, theirs))
            their_resets = await peer.ask("reset", disturb=DISTURB, check=CHECK, times=_RESETS)
            our_resets = [await our_reset(sandboxes[0]) for _ in range(_RESETS)]
            alone.append((_p50([each[0] for each in their_resets]), _p50([each[0] for each in our_resets])))
            resets.append((_p50([each[1] for each in their_resets]), _p50([each[1] for each in our_resets])))
    reset_details = medians(
        ours_ms=[ours * 1e3 for _, ours in resets],
        nitrobox_ms=[theirs * 1e3 for theirs, _ in resets],
        ours_reset_alone_ms=[ours * 1e3 for _, ours in alone],
        nitrobox_reset_alone_ms=[theirs * 1e3 for theirs, _ in alone],
    )
    rate_details = medians(ours_per_s=[rate[0] for rate in rates], nitrobox_per_s=[rate[1] for rate in rates])
    return {
        RATE.name: ratio_figure(rates, on="local", details=rate_details),
        RESET.name: ratio_figure(resets, on="local", details=reset_details),
    }


def _p50(values: list[float]) -> float:
    return percentile(values, 50)
