"""SWE-ReX's side of the comparison: ``swerex_side.py IMAGE FOLDER NETWORK NUMBER``; FOLDER has its server.

The network's name is its containers' network, too.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
wire = importlib.import_module("serve")
api = importlib.import_module("swerex.runtime.abstract")


def main() -> None:
    """Start the containers, one after the other, answer, stop them likewise."""
    image, folder, network, number = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    answers = wire.claim_standard_output()
    deployments: list[Any] = []

    def start() -> None:
        for _ in range(number):
            deployments.append(_deployment(image, folder, network))
            runner.run(deployments[-1].start())

    with asyncio.Runner() as runner:
        try:
            wire.serve(
                answers,
                start,
                {
                    "rate": lambda command, seconds: runner.run(_rate(deployments, command, seconds)),
                    "session_rate": lambda command, seconds: runner.run(_session_rate(deployments, command, seconds)),
                    "reset": lambda disturb, check, times: [
                        runner.run(_reset(deployments, image, folder, network, disturb, check)) for _ in range(times)
                    ],
                },
            )
        finally:
            for deployment in deployments:
                runner.run(deployment.stop())


def _deployment(image: str, folder: str, network: str) -> Any:
    return importlib.import_module("swerex.deployment.docker").DockerDeployment(
        image=image,
        pull="never",
        python_standalone_dir=None,
        startup_timeout=60,
        docker_args=[
            *("--network", network),
            *("--label", network),
            *("-v", f"{folder}:/opt/sr:ro"),
            *("-v", f"{folder}/swerex-remote:/usr/local/bin/swerex-remote:ro"),
        ],
    )


async def _execute(deployment: Any, command: list[str]) -> None:
    ended = await deployment.runtime.execute(api.Command(command=command))
    if ended.exit_code != 0:
        raise RuntimeError(f"{command!r} ended with status {ended.exit_code}: {ended.stderr}")


async def _keep_calling(calls: list[Callable[[], Coroutine[Any, Any, None]]], seconds: float) -> float:
    began = time.perf_counter()

    async def keep_calling(call: Callable[[], Coroutine[Any, Any, None]]) -> int:
        commands = 0
        while time.perf_counter() - began < seconds:
            await call()
            commands += 1
        return commands

    return sum(await asyncio.gather(*map(keep_calling, calls))) / (time.perf_counter() - began)


async def _rate(deployments: list[Any], command: list[str], seconds: float) -> float:
    return await _keep_calling([partial(_execute, each, command) for each in deployments], seconds)


async def _session_rate(deployments: list[Any], command: str, seconds: float) -> float:
    async def run(deployment: Any) -> None:
        await deployment.runtime.run_in_session(api.BashAction(command=command))

    for each in deployments:
        await each.runtime.create_session(api.CreateBashSessionRequest())
    try:
        return await _keep_calling([partial(run, each) for each in deployments], seconds)
    finally:
        for each in deployments:
            await each.runtime.close_session(api.CloseBashSessionRequest())


async def _reset(deployments: list[Any], image: str, folder: str, network: str, disturb: str, check: str) -> float:
    """Replace the first container, which is the one way back to a clean one; seconds until a command has ended."""
    await _execute(deployments[0], ["/bin/sh", "-c", disturb])
    began = time.perf_counter()
    await deployments[0].stop()
    deployments[0] = _deployment(image, folder, network)
    await deployments[0].start()
    await _execute(deployments[0], ["/bin/sh", "-c", check])
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
