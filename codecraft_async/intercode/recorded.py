"""Commands as InterCode's environment runs them, through `docker exec`; and the times that its resets leave behind."""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections import defaultdict
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from codecraft_async.intercode.compat import mangle
from codecraft_async.intercode.terminal import MAX_OUTPUT_BYTES, ROOT, no_directory, run_words
from codecraft_pool import CommandResult, RequestRefused, Sandbox

__all__ = ["GitTimes", "has_background", "run_recorded", "settle"]

_BACKGROUND: Final = re.compile(r"(?<![&><])&(?![&>])")
# `docker exec` ends with its command, but the daemon listens to those that hold its output for so long.
_LISTENS_S: Final = 2.0
_PAUSE_S: Final = 0.01
_SHM: Final = "/dev/shm"
_OUTPUT: Final = ".output"
_TOUCH_LIMIT_S: Final = 20.0


def has_background(command: str) -> bool:
    """Whether a command may leave something running, by its text."""
    return bool(_BACKGROUND.search(command))


async def run_recorded(sandbox: Sandbox, command: str, cwd: str, limit_s: float) -> CommandResult | str:
    """Run a command as InterCode would; a text is what it says instead of an output.

    Raises:
        SandboxLost: The sandbox died.
    """
    words = mangle(command)
    if not words or not has_background(command) or any("\0" in word for word in words):
        return await run_words(sandbox, words, cwd, limit_s, user="root")
    try:
        return await _run_and_listen(sandbox, words, cwd, limit_s)
    except RequestRefused:
        return no_directory(cwd)


async def _run_and_listen(sandbox: Sandbox, words: list[str], cwd: str, limit_s: float) -> CommandResult:
    """Run a command and return also what its background jobs print soon after it; a file takes that down."""
    before = (await sandbox.stat()).processes
    into = ["/bin/bash", "-c", f'exec "$@" > {_SHM}/{_OUTPUT} 2>&1', "bash", *words]
    result = await sandbox.run(into, cwd=cwd, env=ROOT, limit_s=limit_s)
    await settle(sandbox, processes=before, limit_s=_LISTENS_S)
    try:
        printed = await sandbox.read_file(_OUTPUT, root=_SHM, max_bytes=MAX_OUTPUT_BYTES)
    except RequestRefused as exc:  # the command has removed it, or put something else there, or printed too much
        printed, result = b"", replace(result, truncated=exc.errno == errno.EFBIG)
    with suppress(RequestRefused):  # it may have removed that, too
        await sandbox.run(["/bin/rm", "-rf", f"{_SHM}/{_OUTPUT}"], cwd="/")
    return replace(result, stdout=printed + result.stdout)


async def settle(sandbox: Sandbox, *, processes: int, limit_s: float) -> None:
    """Give what was left in the background a moment to end: as many processes stay as there are anyway."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and (await sandbox.stat()).processes > processes:  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(_PAUSE_S)


class GitTimes:
    """When InterCode's resets of one container wrote files anew: those that were changed before, all others are old.

    Its `git reset --hard` restores what a file holds, and gives it the time of the reset.
    """

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def rewrite(self, paths: Iterable[str]) -> None:
        """What was at these paths was changed, and will be written anew at the reset that comes."""
        self._times.update(dict.fromkeys(paths, int(time.time())))

    async def apply(self, sandbox: Sandbox, *, but: Container[str] = ()) -> None:
        """Give the files of a sandbox the times that they would have, *but* those that were changed since.

        Raises:
            SandboxLost: The sandbox died.
        """
        groups: dict[int, list[str]] = defaultdict(list)
        for path, when in self._times.items():
            if path not in but:
                groups[when].append(path)
        for when, paths in sorted(groups.items()):
            names = b"\0".join(path.encode("utf-8", "surrogateescape") for path in paths)
            touch = ["xargs", "-0", "touch", "--no-dereference", "--no-create", f"--date=@{when}", "--"]
            await sandbox.run(touch, cwd="/", stdin=names, limit_s=_TOUCH_LIMIT_S)
