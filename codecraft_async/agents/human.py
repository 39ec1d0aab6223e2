"""`HumanAgent`: a human plays at the terminal, or copies to some other program and pastes its answers."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, Final, TextIO

from codecraft_async.agents.agent import SUBMIT
from codecraft_async.agents.errors import AgentLeft

_END: Final = "."
_STDIN: Final = 0
_CHUNK_BYTES: Final = 1 << 16
_MAX_LINE_BYTES: Final = 1 << 20
_RULE: Final = "-" * 72


class Lines:
    """The lines of a terminal, a pipe or a file, read without holding up the event loop and without a thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._data = b""
        self._is_over = False

    async def next(self) -> str | None:
        """Return the next line without its end; None if there is none. Cancellation loses nothing."""
        while b"\n" not in self._data and not self._is_over and len(self._data) < _MAX_LINE_BYTES:
            await self._readable()
            data = os.read(self._descriptor, _CHUNK_BYTES)
            self._is_over = not data
            self._data += data
        if not self._data:
            return None
        line, _, self._data = self._data.partition(b"\n")
        return line.decode("utf-8", "replace").removesuffix("\r")

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        is_readable = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, is_readable.set)
        except OSError:  # what cannot be waited for, such as a regular file, never blocks
            return
        try:
            await is_readable.wait()
        finally:
            loop.remove_reader(self._descriptor)


class HumanAgent:
    """Shows each observation, and takes as the action what is typed or pasted up to a line that holds only a dot.

    *last_words* are actions that need no dot. The end of the input ends the episode: `AgentLeft`. What sandboxes print
    is shown without control characters, so that it cannot take over the terminal.
    """

    def __init__(
        self,
        *,
        descriptor: int | None = None,
        output: TextIO | None = None,
        last_words: tuple[str, ...] = (SUBMIT,),
    ) -> None:
        self._lines = Lines(_STDIN if descriptor is None else descriptor)
        self._output = output or sys.stdout
        self._last_words = last_words

    def begin(self, instruction: str) -> None:
        """See `Agent.begin`."""
        del instruction  # it is the first observation
        words = f" {' and '.join(self._last_words)} needs none." if self._last_words else ""
        self._say(f"A line with a single dot ends an action.{words}")

    async def act(self, observation: str, info: dict[str, Any]) -> str:
        """See `Agent.act`."""
        del info
        self._say(f"{_RULE}\n{harmless(observation)}\n{_RULE}")
        self._output.write("> ")
        self._output.flush()
        lines: list[str] = []
        while (line := await self._lines.next()) is not None:
            if line.strip() == _END:
                if lines:
                    return "\n".join(lines)
                continue
            if not lines and line.strip() in self._last_words:
                return line.strip()
            if lines or line.strip():
                lines.append(line)
        raise AgentLeft("the input has ended")

    def _say(self, text: str) -> None:
        self._output.write(f"{text}\n")
        self._output.flush()


def harmless(text: str) -> str:
    """Return *text* with its lines and tabs, and every other character that a terminal may obey made visible."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else "" if char == "\r" else f"\\x{ord(char):02x}" for char in text
    )


__all__ = ["HumanAgent", "Lines", "harmless"]
