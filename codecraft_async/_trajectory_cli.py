"""``codecraft replay`` and ``codecraft export``: what can be done with recordings on the command line."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from codecraft_async._demo_report import printable
from codecraft_async._images_cli import image_progress
from codecraft_async._masks import MASKS, Masker
from codecraft_async._replay_report import ReplayReport
from codecraft_async._trajectory_export import EXPORTERS, FORMATS
from codecraft_async.replay import Replay
from codecraft_async.trajectory import (
    MissingZstd,
    OnError,
    Problem,
    TrajectoryError,
    find_parents,
    read_trajectories,
    with_past,
)
from codecraft_pool import BACKENDS

_MAX_MESSAGE_CHARS: Final = 2000
_MAX_ENVS: Final = 4096


def add_trajectory_parsers(commands: Any) -> None:
    """Add both commands to the program's."""
    replay = commands.add_parser("replay", help="play recorded episodes again and compare, step by step")
    _add_paths(replay)
    replay.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the sandboxes (default: auto)")
    replay.add_argument(
        "--episode", action="append", default=[], metavar="NAME", help="only episodes whose name begins so; repeatable"
    )
    replay.add_argument(
        "--curriculum", metavar="PATH", help="where the tasks are (default: where the recording says they were)"
    )
    replay.add_argument("--trust-code", action="store_true", help="run the Python files that task files name")
    replay.add_argument(
        "--num-envs", type=_envs, default=8, metavar="N", help="episodes played at the same time (default: 8)"
    )
    replay.add_argument(
        "--mask",
        action="append",
        default=[],
        choices=MASKS,
        help="overlook these in observations, which differ from run to run; repeatable",
    )
    replay.add_argument(
        "--mask-pattern", action="append", default=[], metavar="REGEX", help="overlook what this matches; repeatable"
    )
    export = commands.add_parser("export", help="write recorded episodes in another format")
    _add_paths(export)
    export.add_argument("--format", choices=FORMATS, required=True, help="InterCode's log, or lists of chat messages")
    export.add_argument("--output", type=Path, metavar="FILE", help="where to (default: stdout)")


def _add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="FILE", help="a recording: a file, or a directory of them")
    parser.add_argument(
        "--skip-damaged", action="store_true", help="tell damaged lines and go on (a cut last line is always told)"
    )


def _on_error(args: argparse.Namespace) -> OnError:
    return "tell" if args.skip_damaged else "raise"


def _envs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) <= _MAX_ENVS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_MAX_ENVS}")
    return int(text)


async def run_replay(args: argparse.Namespace) -> int:
    """Replay, show, and return the exit status: 0 if everything could be played and is the same, otherwise 1.

    Raises:
        CurriculumError: The curriculum that was named cannot be had.
        LaunchError: The sandboxes cannot be started; says why and what to do.
    """
    problems = _Problems("replay")
    console = Console()
    report = ReplayReport(console)
    try:
        masker = Masker(args.mask, args.mask_pattern)
        with image_progress(console) as images:
            replay = await asyncio.to_thread(
                Replay,
                *args.paths,
                backend=args.backend,
                curriculum=args.curriculum,
                trust_code=args.trust_code,
                num_envs=args.num_envs,
                masker=masker,
                episodes=args.episode,
                on_error=_on_error(args),
                on_problem=problems.tell,
                progress=images,
            )
            await replay.run(report.add)
    except (TrajectoryError, MissingZstd, ValueError) as error:
        return _complain("replay", error)
    report.sum_up()
    return 0 if report.is_same and not problems.are_grave else 1


async def run_export(args: argparse.Namespace) -> int:
    """Write all episodes in the format that was asked for, and return the exit status; 1 if something was damaged.

    Raises:
        OSError: The file cannot be written.
    """
    problems = _Problems("export")
    try:
        await asyncio.to_thread(_export, args, problems)
    except (TrajectoryError, MissingZstd) as error:
        return _complain("export", error)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else what is left is tried again at the end
        return 128 + signal.SIGPIPE
    return 1 if problems.are_grave else 0


def _export(args: argparse.Namespace, problems: _Problems) -> None:
    parents = find_parents(*args.paths, on_error=_on_error(args))
    episodes = read_trajectories(*args.paths, on_error=_on_error(args), on_problem=problems.tell)
    _write(EXPORTERS[args.format](with_past(episode, parents) for episode in episodes), args.output)


def _write(pieces: Iterable[bytes], path: Path | None) -> None:
    """Write to stdout or to a file, which takes its name when it is complete."""
    if path is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            file.writelines(pieces)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Problems:
    """Tells what was passed over."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.are_grave = False

    def tell(self, problem: Problem) -> None:
        self.are_grave |= not problem.is_cut
        _complain(self._command, str(problem))


def _complain(command: str, message: object) -> int:
    sys.stderr.write(f"codecraft {command}: {printable(str(message), max_chars=_MAX_MESSAGE_CHARS)}\n")
    return 1


__all__ = ["add_trajectory_parsers", "run_export", "run_replay"]
