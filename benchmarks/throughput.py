"""How fast commands run: by `docker exec`, by this project, and by plain fork and exec on the host.

``python benchmarks/throughput.py --help`` says what can be chosen; README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gymnasium
from rich.console import Console

from benchmarks.exec_fan_out import ExecFanOut
from benchmarks.floor import Floor, open_floor
from benchmarks.results import BenchmarkError, Machine, Method, Round, Steps, as_json, as_notes, as_table, summarize
from codecraft_pool import PoolError, connect_daemon
from codecraft_pool.docker_daemon import DaemonInfo

COMMANDS: Final = ("true", "ls /", "python3 -c pass")
_FILE_WIDTH: Final = 112
_WARM_UP_S: Final = 0.5
# A daemon is still tidying up after the last exec when the last answer is in.
_SETTLE_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    backend: str
    envs: int
    seconds: float
    rounds: int
    json: Path | None


class Bench:
    """The three things to measure, over one set of sandboxes. `measure` may be called for any commands, in turn."""

    def __init__(self, env: Any, floor: Floor, execs: ExecFanOut | None, runner: asyncio.Runner) -> None:
        self._env = env
        self._floor = floor
        self._execs = execs
        self._runner = runner

    def measure(self, command: str, seconds: float, rounds: int) -> list[Round]:
        """Return *rounds* rounds of *seconds* for each kind, after a warm-up that is thrown away."""
        self._round(command, min(seconds, _WARM_UP_S))
        return [self._round(command, seconds) for _ in range(rounds)]

    def _round(self, command: str, seconds: float) -> Round:
        by_exec = None
        if self._execs is not None:
            by_exec = self._runner.run(self._execs.measure(command, seconds))
            time.sleep(_SETTLE_S)
        ours = step_for(self._env, command, seconds)
        return Round(by_exec, ours, self._floor.measure(command, seconds))


def step_for(env: Any, command: str, seconds: float) -> Steps:
    """Step every environment with *command*, over and over for *seconds*, through the synchronous face.

    Raises:
        BenchmarkError: A command did not end with status 0.
    """
    actions = (command,) * env.num_envs
    step_s: list[float] = []
    command_s: list[float] = []
    cpu_before = time.process_time()
    before = began = time.perf_counter()
    while before - began < seconds:
        info = env.step(actions)[-1]
        after = time.perf_counter()
        step_s.append(after - before)
        if info["exit_code"].any():
            row = int(info["exit_code"].nonzero()[0][0])
            why = info["fault"][row] or f"status {info['exit_code'][row]}"
            raise BenchmarkError(f"{command!r} in environment {row} ended with {why}")
        command_s.extend(info["wall_s"].tolist())
        before = time.perf_counter()
    return Steps(env.num_envs, tuple(step_s), tuple(command_s), time.process_time() - cpu_before)


@contextmanager
def open_env(options: Options) -> Generator[Any]:
    """Yield the vector environment, reset and with all of its sandboxes started."""
    env = gymnasium.make_vec(
        "codecraft_async:codecraft/Code-v0",
        num_envs=options.envs,
        backend=options.backend,
        autoreset_mode="Disabled",
        max_episode_steps=10**9,
    )
    try:
        env.reset(seed=0)
        yield env.unwrapped
    finally:
        env.close()


async def _open_exec(stack: AsyncExitStack, envs: int) -> tuple[ExecFanOut, DaemonInfo]:
    daemon = await stack.enter_async_context(await connect_daemon())
    return await ExecFanOut.over_own_containers(daemon, envs), daemon.info


@contextmanager
def open_exec(
    runner: asyncio.Runner, backend: str, envs: int
) -> Generator[tuple[ExecFanOut | None, DaemonInfo | None]]:
    """Yield the fan-out and what its daemon is, over a client of its own; neither where there are no containers."""
    if backend != "docker":
        yield None, None
        return
    stack = AsyncExitStack()
    try:
        yield runner.run(_open_exec(stack, envs))
    finally:
        runner.run(stack.aclose())


def run(options: Options, console: Console) -> None:
    """Measure everything, show it and write it down.

    Raises:
        PoolError, BenchmarkError: It cannot be measured here; says why.
        OSError: The file cannot be written.
    """
    load_before = os.getloadavg()
    console.print(f"starting {options.envs} sandboxes", highlight=False)
    with open_floor() as floor, open_env(options) as env, asyncio.Runner() as runner:
        choice = env.runtime.choice
        with open_exec(runner, choice.launcher.name, options.envs) as (execs, daemon):
            machine = describe_machine(load_before, choice.launcher.description, daemon)
            bench = Bench(env, floor, execs, runner)
            summaries: dict[str, dict[str, Any]] = {}
            for command in COMMANDS:
                console.print(f"measuring {command!r}, rounds: {options.rounds}", highlight=False)
                summaries[command] = summarize(bench.measure(command, options.seconds, options.rounds))
        method = describe_method(options, choice.launcher.name, floor)
        # Shown before the sandboxes are ended: nothing that goes wrong then costs the figures.
        console.print(as_table(summaries, f"{options.envs} environments, backend {method.backend}"))
        for line in as_notes(summaries, machine, method):
            console.print(line, highlight=False, soft_wrap=True)
        if options.json is not None:
            options.json.write_text(json.dumps(as_json(summaries, machine, method), indent=2) + "\n")


def describe_machine(load_before: tuple[float, float, float], launcher: str, daemon: DaemonInfo | None) -> Machine:
    """Return where this runs."""
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        load_before=load_before,
        launcher=launcher,
        engine=None if daemon is None else daemon.version,
        storage_driver=None if daemon is None else daemon.storage_driver,
    )


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe_method(options: Options, backend: str, floor: Floor) -> Method:
    """Return how it is measured, in words that stand beside the figures."""
    by_exec = "aiodocker exec (create, start, read to the end, inspect), one under way in each of the same containers"
    return Method(
        backend=backend,
        envs=options.envs,
        seconds=options.seconds,
        rounds=options.rounds,
        exec=by_exec if backend == "docker" else "exec left out: it needs containers, and these are none",
        ours="VectorEnv.step of all environments, synchronous face",
        floor=f"{floor.kind}, output to /dev/null",
        latency="wall time of one vector step, that is of all environments' commands together",
        figures="medians over the rounds, ratios taken within each round",
    )


def parse(argv: Sequence[str] | None) -> Options:
    """Return the options; what is wrong with them ends the program with one line that says so."""
    parser = argparse.ArgumentParser(prog="throughput.py", description="Commands per second: docker exec, ours, floor.")
    parser.add_argument("--backend", choices=("auto", "docker", "local"), default="auto", help="default: %(default)s")
    parser.add_argument("--envs", type=int, default=32, metavar="N", help="environments; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="per measurement; default: %(default)s")
    parser.add_argument("--repeat", type=int, default=5, metavar="R", help="rounds; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args(argv)
    if given.envs < 1:
        parser.error(f"--envs is {given.envs}; it must be at least 1")
    if not 0 < given.seconds <= 3600:
        parser.error(f"--seconds is {given.seconds:g}; it must be more than 0 and at most 3600")
    if given.repeat < 1:
        parser.error(f"--repeat is {given.repeat}; it must be at least 1")
    if given.json is not None and not given.json.parent.is_dir():
        parser.error(f"--json is {str(given.json)!r}, but there is no folder {str(given.json.parent)!r}; make it first")
    return Options(given.backend, given.envs, given.seconds, given.repeat, given.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0, or 1 with one line on standard error."""
    options = parse(argv)
    try:
        # A file or a pipe has no width of its own; the table needs this much.
        run(options, Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH))
    except (PoolError, BenchmarkError, OSError) as exc:
        reason = " ".join(str(exc).split())
        sys.stderr.write(f"throughput.py: {reason}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("throughput.py: interrupted\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
