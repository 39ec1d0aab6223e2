"""Which processes of this machine work for our sandboxes: the guests, the shims above them, the daemon."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.exec_fan_out import own_containers
from benchmarks.results import Unavailable
from codecraft_pool import connect_daemon

_INSPECT_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Parties:
    """Process ids. `shims` and `daemon` are empty without Docker; the daemon may serve others, too."""

    guests: tuple[int, ...]
    shims: tuple[int, ...]
    daemon: tuple[int, ...]


async def find_parties(bench: Bench) -> Parties:
    """Return who works for the sandboxes of this process that are alive now.

    Raises:
        Unavailable: They are on another machine.
    """
    if bench.backend == "local":
        return Parties(tuple(processes.descendants(os.getpid())), (), ())
    if not bench.need_docker("this").is_local:
        raise Unavailable("the daemon is on another machine, and so are the guests")
    async with await connect_daemon() as daemon, asyncio.timeout(_INSPECT_LIMIT_S):
        shown = [await container.show() for container in await own_containers(daemon)]
    guests = [int(each["State"]["Pid"]) for each in shown]
    above = processes.parents()
    shims = {above[pid] for pid in guests if pid in above}
    return Parties(tuple(guests), tuple(shims), tuple(processes.named("dockerd", "containerd")))
