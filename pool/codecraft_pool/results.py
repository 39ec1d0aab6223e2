"""What a command may be asked with, and what its end is told as; shared by `Sandbox.run` and `Shell.run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from codecraft_pool.channel import RunReply
from codecraft_pool.protocol import Exit, ExitFlag, Stop
from codecraft_pool.spec import CommandResult

# A guest answers within milliseconds of a limit; a machine under heavy load may take seconds. Past this it is taken for
# dead.
GRACE_S: Final = 15.0
_MAX_LIMIT_S: Final = 4_000_000.0
_MAX_ARGUMENTS: Final = 4096


def limit_ms(limit_s: float) -> int:
    """Return a wall limit as the guest wants it."""
    return max(1, int(limit_s * 1000))


def cpu_ms(cpu_limit_s: float | None) -> int:
    """Return a CPU limit as the guest wants it; 0 is none."""
    return 0 if cpu_limit_s is None else max(1, int(cpu_limit_s * 1000))


def check_command(argv: Sequence[str], cwd: str) -> None:
    """Refuse what no program can be given, with a ValueError that says what."""
    if not argv:
        raise ValueError("the command is empty; give a shell text or a non-empty argument list")
    if len(argv) > _MAX_ARGUMENTS:
        raise ValueError(f"the command has {len(argv)} arguments, over the protocol's limit of {_MAX_ARGUMENTS}")
    for item in argv:  # not any(...): this is on the path of every step
        if "\0" in item:
            raise ValueError("the command holds a NUL character, which no program can be given")
    if "\0" in cwd:
        raise ValueError("the working directory holds a NUL character, which no path can have")


def check_limits(
    limit_s: float,
    max_output_bytes: int,
    cpu_limit_s: float | None = None,
    max_file_bytes: int | None = None,
    max_processes: int | None = None,
) -> None:
    """Refuse limits that are none, with a ValueError that says which."""
    if not 0 < limit_s <= _MAX_LIMIT_S:
        raise ValueError(f"limit_s is {limit_s!r}; it must be more than 0 and at most {_MAX_LIMIT_S:g} seconds")
    if max_output_bytes < 1:
        raise ValueError(f"max_output_bytes is {max_output_bytes!r}; it must be at least 1")
    if cpu_limit_s is not None and not 0 < cpu_limit_s <= _MAX_LIMIT_S:
        raise ValueError(f"cpu_limit_s is {cpu_limit_s!r}; it must be more than 0 and at most {_MAX_LIMIT_S:g} seconds")
    for name, value, most in (("max_file_bytes", max_file_bytes, 1 << 63), ("max_processes", max_processes, 1 << 31)):
        if value is not None and not 1 <= value < most:
            raise ValueError(f"{name} is {value!r}; it must be from 1 to {most - 1}, or None for no limit of its own")


# Plain numbers: an operation between flags makes an enumeration's member, and every step would pay for two.
_OUT_OF_MEMORY: Final = int(ExitFlag.OUT_OF_MEMORY)
_SHELL_ENDED: Final = int(ExitFlag.SHELL_ENDED)


def result_of(reply: RunReply, end: Exit, *, restarted: bool = False) -> CommandResult:
    """Return how a command ended and what it printed."""
    return CommandResult(
        stdout=b"".join(reply.stdout),
        stderr=b"".join(reply.stderr),
        exit_code=-1 if end.signalled else end.code,
        signal=end.code if end.signalled else 0,
        timed_out=end.stop is Stop.WALL_LIMIT,
        truncated=end.stop is Stop.OUTPUT_CAP,
        wall_s=end.wall_ns / 1e9,
        user_s=end.user_us / 1e6,
        system_s=end.system_us / 1e6,
        peak_memory_bytes=end.peak_kib * 1024,
        dropped_bytes=end.dropped_bytes,
        cpu_limited=end.stop is Stop.CPU_LIMIT,
        out_of_memory=end.flags & _OUT_OF_MEMORY != 0,
        shell_ended=end.flags & _SHELL_ENDED != 0,
        shell_restarted=restarted,
    )
