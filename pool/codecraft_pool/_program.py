"""Programs of the host that help to make images: output as it comes, a deadline, and no process left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 1 << 16
TERMINATE_LIMIT_S = 15.0  # a package manager tidies up when asked to end, and leaves a mess when killed
LAST_LINES = 30
MAX_LINE_CHARS = 2000


class Program:
    """A running program: its standard output in chunks, and the last lines that it wrote to standard error."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._process = process
        self._on_line = on_line
        self._reading = asyncio.Lock()  # one reader at a time: the user of the output, or the end that drains it

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def read(self) -> bytes:
        """The next chunk of standard output; empty at its end."""
        if self._process.stdout is None:
            return b""
        async with self._reading:
            return await self._process.stdout.read(CHUNK_BYTES)

    async def wait(self) -> int:
        """The exit status, negative for a signal. Standard output must be read to its end by someone meanwhile."""
        return await self._process.wait()

    async def follow_errors(self) -> None:
        """Standard error, line by line, until its end; `run_program` does this."""
        if self._process.stderr is None:
            return
        rest = ""
        while data := await self._process.stderr.read(CHUNK_BYTES):
            *lines, rest = re.split(r"[\r\n]+", rest + data.decode("utf-8", "replace"))
            rest = rest[-MAX_LINE_CHARS:]
            for line in lines:
                self._tell(line)
        self._tell(rest)

    def _tell(self, line: str) -> None:
        if text := line.strip():
            self.last_lines.append(text[:MAX_LINE_CHARS])
            self._on_line(text[:MAX_LINE_CHARS])

    async def end(self) -> None:
        """The whole process group has ended and is reaped; asked first, then killed."""
        drain = asyncio.create_task(self._drain())
        try:
            if self._process.returncode is None:
                self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(TERMINATE_LIMIT_S):
                    await self._process.wait()
        finally:
            self._signal(signal.SIGKILL)
            await self._process.wait()
            drain.cancel()

    async def _drain(self) -> None:
        # A process whose full pipe nobody reads is not seen to end on some event loops.
        while await self.read():
            pass

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


@asynccontextmanager
async def run_program(
    argv: Sequence[str], *, on_line: Callable[[str], None], environ: Mapping[str, str] | None = None
) -> AsyncGenerator[Program]:
    """The program, running in a session of its own; `on_line` hears its standard error. It has ended after the block.

    Raises:
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if environ is None else dict(environ),
        start_new_session=True,
    )
    program = Program(process, on_line)
    errors = asyncio.create_task(program.follow_errors())
    try:
        yield program
    finally:
        try:
            await program.end()
        finally:
            await asyncio.wait([errors], timeout=1.0)
            errors.cancel()


async def run_to_end(
    argv: Sequence[str],
    *,
    limit_s: float,
    on_line: Callable[[str], None] = lambda _: None,
    environ: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """The exit status of a program and the last lines of its standard error; its standard output is thrown away.

    Raises:
        TimeoutError: it did not end in time (it has now).
        OSError: it cannot be started.
    """
    async with run_program(argv, on_line=on_line, environ=environ) as program:
        async with asyncio.timeout(limit_s):
            while await program.read():
                pass
            status = await program.wait()
    return status, list(program.last_lines)


__all__ = ["Program", "run_program", "run_to_end"]
