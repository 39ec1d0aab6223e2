"""SWE-ReX 1.4.0 beside us: its Docker deployment, so our Docker launcher beside it, with the same image."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.beside import CHECK, COMMAND, DISTURB, NUMBER, open_ours, our_rate, our_reset
from benchmarks.docker_cli import docker, labelled
from benchmarks.peer import FOLDER, environment, install_into, open_peer
from benchmarks.results import Figure, RowSpec, Target, Unavailable, medians, percentile, ratio_figure
from codecraft_pool.spec import DEFAULT_IMAGE

_PACKAGES: Final = ("swe-rex==1.4.0", "aiohttp")  # the second is imported by the first, and not among what it asks for
_RESETS: Final = 10  # of ours in each round; of theirs one, which takes a second
_RESET_ROUNDS: Final = 3
_SERVER: Final = """#!/usr/bin/python3
import sys

sys.path.insert(0, "/opt/sr")
from swerex.server import main

sys.exit(main())
"""

RATE: Final = RowSpec(
    "swerex_rate",
    "commands per second (`/bin/true`, 8 containers) against SWE-ReX 1.4.0",
    "times",
    Target(">", 1),
    "our Docker launcher, Sandbox.run of an argument list; SWE-ReX's Docker deployment, `execute` of the same",
)
RESET: Final = RowSpec(
    "swerex_reset",
    "reset and first command after it against SWE-ReX 1.4.0",
    "times",
    Target(">", 1),
    "11 files were made; Sandbox.restore (p50), against stop and start of a new container, as it has no other reset",
)
ROWS: Final = (RATE, RESET)


def measure(bench: Bench) -> dict[str, Figure]:
    """Alternate ours and theirs."""
    if not bench.need_docker("SWE-ReX's Docker deployment").is_local:
        raise Unavailable("SWE-ReX's server is bound into its containers from this machine; the daemon is on another")
    bench.tell("installing SWE-ReX 1.4.0 in an environment of its own")
    python = environment("swe-rex-1.4.0", sys.executable, _PACKAGES)
    folder = _server_folder()
    with _network() as network:
        return bench.run(_measure(bench, python, folder, network))


def _server_folder() -> Path:
    """Return a folder with SWE-ReX's server, to be bound into containers, for the Python that is in the image."""
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = docker("run", "--rm", "--network", "none", DEFAULT_IMAGE, "python3", "-c", script).strip()
    folder = FOLDER / f"swe-rex-1.4.0-server-{version}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        words = ["--target", str(folder), "--python-version", version, "--only-binary", ":all:"]
        install_into(sys.executable, _PACKAGES[:1], words, "SWE-ReX's server")
        (folder / "swerex-remote").write_text(_SERVER)
        (folder / "swerex-remote").chmod(0o755)
        (folder / "complete").touch()
    return folder


@contextmanager
def _network() -> Generator[str]:
    """Yield a bridge network of this run's own. Containers with its name as their label are removed with it in the end,
    should SWE-ReX not have come to that.
    """
    network = f"codecraft-bench-{os.getpid()}"
    docker("network", "create", network)
    try:
        with labelled(network):
            yield network
    finally:
        docker("network", "rm", network)


async def _measure(bench: Bench, python: Path, folder: Path, network: str) -> dict[str, Figure]:
    seconds = bench.options.seconds
    rates: list[tuple[float, float]] = []
    resets: list[tuple[float, float]] = []
    arguments = (DEFAULT_IMAGE, str(folder), network, str(NUMBER))
    async with (
        open_peer("SWE-ReX", python, "swerex_side.py", *arguments) as peer,
        open_ours(bench, "docker") as sandboxes,
    ):
        bench.tell(f"{NUMBER} containers of ours and of SWE-ReX in turn")
        for _ in range(bench.options.rounds):
            theirs = await peer.ask("rate", command=[COMMAND], seconds=seconds)
            rates.append((await our_rate(sandboxes, [COMMAND], seconds), theirs))
        session = await peer.ask("session_rate", command=COMMAND, seconds=seconds)
        for _ in range(min(_RESET_ROUNDS, bench.options.rounds)):
            [their_reset_s] = await peer.ask("reset", disturb=DISTURB, check=CHECK, times=1)
            ours = percentile([(await our_reset(sandboxes[0]))[1] for _ in range(_RESETS)], 50)
            resets.append((their_reset_s, ours))
    rate_details = medians(ours_per_s=[rate[0] for rate in rates], swerex_per_s=[rate[1] for rate in rates])
    reset_details = medians(ours_ms=[ours * 1e3 for _, ours in resets], swerex_ms=[them * 1e3 for them, _ in resets])
    session_rate = {"swerex_in_session_per_s": round(session, 1)}
    return {
        RATE.name: ratio_figure(rates, on="docker", details=rate_details | session_rate),
        RESET.name: ratio_figure(resets, on="docker", details=reset_details),
    }
