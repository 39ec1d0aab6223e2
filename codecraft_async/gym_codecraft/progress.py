"""How an image is pulled, shown as gym-codecraft shows it: ``status: progress``, rewritten in its place."""

from __future__ import annotations

import sys
from typing import TextIO

__all__ = ["PullLines"]


class PullLines:
    """An `ImageProgress` that writes to a stream; where that is no terminal, a line for each new state of a layer."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._states: dict[str, str] = {}
        self._width = 0

    def layer(self, layer_id: str, status: str, current: int | None, total: int | None) -> None:
        """See `ImageProgress.layer`."""
        stream = self._stream or sys.stderr
        if not stream.isatty():
            if self._states.get(layer_id) != status:
                self._states[layer_id] = status
                self.line(f"{layer_id} {status}")
            return
        done = "" if current is None else f"{current / 1e6:.1f} MB" if not total else f"{100 * current / total:.0f} %"
        text = f"{status}: {done}" if done else status
        stream.write(f"\r{text.ljust(self._width)}")
        stream.flush()
        self._width = len(text)

    def line(self, text: str) -> None:
        """See `ImageProgress.line`."""
        stream = self._stream or sys.stderr
        stream.write(f"{chr(10) if self._width else ''}{text}\n")
        stream.flush()
        self._width = 0
