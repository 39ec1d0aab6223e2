"""The program ``codecraft``: `demo`, `eval`, `tasks`, `doctor`, `clean`, `images`, `replay` and `export`."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from codecraft_async import EpisodeError, __version__
from codecraft_async._demo_agents import AgentDemoOptions, add_agent_arguments, run_agent_demo
from codecraft_async._demo_report import printable
from codecraft_async._images_cli import add_images_parser, run_images
from codecraft_async._tasks_cli import add_tasks_parser, run_tasks
from codecraft_async._trajectory_cli import add_trajectory_parsers, run_export, run_replay
from codecraft_async.demo import ROUNDS, DemoOptions, run_demo
from codecraft_async.doctor import examine, exit_status, render
from codecraft_async.evaluation.cli import run_eval
from codecraft_async.evaluation.options import add_eval_parser
from codecraft_async.llm import LlmError
from codecraft_curriculum import CurriculumError
from codecraft_pool import BACKENDS, LaunchError, PoolError, connect_daemon, reap

_MAX_MESSAGE_CHARS = 2000
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status.

    0: done. 1: it went wrong, and a line on stderr says how. 2: the command line makes no sense. 130 and 143: Ctrl-C
    and SIGTERM, after everything was closed.
    """
    _keep_standard_streams()
    args = _parser().parse_args(argv)
    work = {
        "demo": _demo,
        "eval": run_eval,
        "doctor": _doctor,
        "clean": _clean,
        "images": run_images,
        "tasks": run_tasks,
        "replay": run_replay,
        "export": run_export,
    }[args.command]
    try:
        return _run(lambda: work(args))
    except (PoolError, CurriculumError, EpisodeError, LlmError) as error:
        return _complain(args.command, str(error))
    except OSError as error:
        if error.filename is not None:
            return _complain(args.command, f"{error.filename}: {error.strerror}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # where to, stdout or a file, the error does not say
            return _complain(args.command, f"what came of it cannot be written: {error.strerror}")
        raise  # no file that the user named: a fault of the program's own
    except KeyboardInterrupt:  # in the moments in which no event loop runs
        return 128 + signal.SIGINT


def _keep_standard_streams() -> None:
    """Put nothing in the place of standard streams that are closed: else the next socket would be one of them."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))


def _complain(command: str, message: str) -> int:
    sys.stderr.write(f"codecraft {command}: {printable(message, max_chars=_MAX_MESSAGE_CHARS)}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codecraft", description="Vectorized sandboxes for coding agents.")
    parser.add_argument("--version", action="version", version=f"codecraft {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="play the experts and failures of a curriculum in many sandboxes at once")
    demo.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the sandboxes (default: auto)")
    demo.add_argument(
        "--num-envs", type=_positive, default=16, metavar="N", help="environments in parallel (default: 16)"
    )
    demo.add_argument(
        "--curriculum", default="builtin", metavar="PATH", help="a task file, a folder of tasks or a curriculum.json"
    )
    demo.add_argument(
        "--tasks",
        "--task",
        type=_names,
        default=(),
        metavar="ID,ID",
        help="only these tasks (default: all; of the built-in ones the first five)",
    )
    demo.add_argument("--category", metavar="NAME", help="only the tasks of this category")
    demo.add_argument("--rounds", type=_positive, metavar="N", help="how often each script is played (default: 3)")
    demo.add_argument("--seed", type=_whole, default=0, metavar="N", help="fixes the order of play (default: 0)")
    demo.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to this file")
    demo.add_argument(
        "--metrics-port", type=_port, metavar="PORT", help="serve Prometheus metrics on 127.0.0.1 (0: any free port)"
    )
    demo.add_argument(
        "--record", type=Path, metavar="DIR", help="record all episodes there, for codecraft replay and export"
    )
    add_agent_arguments(demo, _positive)
    add_eval_parser(commands)
    doctor = commands.add_parser("doctor", help="tell what works on this machine, and what to do about what does not")
    doctor.add_argument("--image", metavar="REF", help="also ask whether this image can be had (its registry is asked)")
    clean = commands.add_parser("clean", help="remove what dead processes left, and nothing else")
    clean.add_argument("--dry-run", action="store_true", help="only say what would be removed, and why")
    clean.add_argument("--images", action="store_true", help="remove the images that recipes made as well")
    add_images_parser(commands)
    add_trajectory_parsers(commands)
    add_tasks_parser(commands)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _positive(text: str) -> int:
    return _bounded(text, 1)


def _whole(text: str) -> int:
    return _bounded(text, 0)


def _port(text: str) -> int:
    return _bounded(text, 0, most=65_535)


def _bounded(text: str, least: int, *, most: int = (1 << 31) - 1) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number of at least {least}" + (f" and at most {most}" if most < 1 << 30 else "")
        )
    return number


def _run(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run *work* on an event loop; Ctrl-C and SIGTERM cancel it, and it closes what it has opened."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_signalled(work))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


async def _until_signalled(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    received: list[int] = []

    def stop(signal_number: int) -> None:
        received.append(signal_number)
        task.cancel()

    for signal_number in _STOPPING:
        loop.add_signal_handler(signal_number, stop, int(signal_number))
    try:
        return await work()
    except (asyncio.CancelledError, PoolError):
        # A terminal sends Ctrl-C to the sandboxes' processes as well: their loss is then part of the end.
        if not received:
            raise
    finally:
        for signal_number in _STOPPING:  # uvloop does not do it when it is closed
            loop.remove_signal_handler(signal_number)
    sys.stderr.write("codecraft: stopped, and everything is closed\n")
    return 128 + received[0]


async def _demo(args: argparse.Namespace) -> int:
    if (agents := AgentDemoOptions.of(args)) is not None:
        return await run_agent_demo(agents, Console())
    options = DemoOptions(
        backend=args.backend,
        num_envs=args.num_envs,
        curriculum=args.curriculum,
        tasks=args.tasks,
        category=args.category,
        rounds=args.rounds or ROUNDS,
        seed=args.seed,
        json_path=args.json,
        metrics_port=args.metrics_port,
        record=args.record,
    )
    return await run_demo(options, Console())


async def _doctor(args: argparse.Namespace) -> int:
    checks = await examine(image=args.image)
    Console().print(render(checks))
    return exit_status(checks)


async def _clean(args: argparse.Namespace) -> int:
    console = Console()
    options = {"images": args.images, "dry_run": args.dry_run}
    try:
        async with await connect_daemon() as daemon:
            reaped = await reap(daemon, **options)
    except LaunchError as error:
        _say(console, f"what the container daemon has was not looked at: {error}")
        reaped = await reap(None, **options)
    for finding in reaped.findings:
        _say(console, f"{finding.action} {finding.kind} {finding.name}: {finding.reason}")
    if all(finding.action == "kept" for finding in reaped.findings):
        _say(console, "nothing to remove")
    return 0


def _say(console: Console, line: str) -> None:
    console.print(Text(printable(line, max_chars=_MAX_MESSAGE_CHARS)), soft_wrap=True)


__all__ = ["main"]
