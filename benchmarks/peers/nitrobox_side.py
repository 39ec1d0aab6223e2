"""nitrobox's side of the comparison: ``nitrobox_side.py ROOT_FILE_SYSTEM NUMBER``."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
wire = importlib.import_module("serve")


def main() -> None:
    """Start the sandboxes, answer, delete them."""
    # It would ask a registry for the image's configuration, and wait 37 seconds for each sandbox where there is none.
    store: Any = importlib.import_module("nitrobox.image.store")
    store.get_image_config = lambda *_, **__: None
    nitrobox = importlib.import_module("nitrobox")
    root, number = sys.argv[1], int(sys.argv[2])
    config = nitrobox.SandboxConfig(image=root, working_dir="/workspace", net_isolate=True)
    answers = wire.claim_standard_output()
    boxes: list[Any] = []

    def start() -> None:
        boxes.extend(nitrobox.Sandbox(config, name=f"w{index}") for index in range(number))

    try:
        with ThreadPoolExecutor(number) as threads:
            wire.serve(
                answers,
                start,
                {
                    "rate": lambda command, seconds: _rate(boxes, threads, command, seconds),
                    "rate_async": lambda command, seconds: asyncio.run(_rate_async(boxes, command, seconds)),
                    "reset": lambda disturb, check, times: [_reset(boxes[0], disturb, check) for _ in range(times)],
                },
            )
    finally:
        for box in boxes:
            box.delete()


def _must(ended: Sequence[Any], command: str) -> None:
    if ended[1] != 0:
        raise RuntimeError(f"{command!r} ended with status {ended[1]}: {ended[0]}")


def _rate(boxes: list[Any], threads: ThreadPoolExecutor, command: str, seconds: float) -> float:
    began = time.perf_counter()

    def keep_running(box: Any) -> int:
        commands = 0
        while time.perf_counter() - began < seconds:
            _must(box.run(command), command)
            commands += 1
        return commands

    return sum(threads.map(keep_running, boxes)) / (time.perf_counter() - began)


async def _rate_async(boxes: list[Any], command: str, seconds: float) -> float:
    began = time.perf_counter()

    async def keep_running(box: Any) -> int:
        commands = 0
        while time.perf_counter() - began < seconds:
            _must(await box.arun(command), command)
            commands += 1
        return commands

    return sum(await asyncio.gather(*map(keep_running, boxes))) / (time.perf_counter() - began)


def _reset(box: Any, disturb: str, check: str) -> tuple[float, float]:
    """Return how long the reset took, and until the first command after it had ended, in seconds."""
    _must(box.run(disturb), disturb)
    began = time.perf_counter()
    box.reset()
    reset_s = time.perf_counter() - began
    _must(box.run(check), check)
    return reset_s, time.perf_counter() - began


if __name__ == "__main__":
    main()
