"""How the making of an image is told: a Protocol for whoever listens, and the daemon's messages put into its terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class ImageProgress(Protocol):
    """Told of each step while an image is pulled or built; called on the event loop, so it must not block."""

    def layer(self, layer_id: str, status: str, current: int | None, total: int | None) -> None:
        """One part of the image is in the state `status`; `current` of `total` bytes are done, where that is known."""
        ...

    def line(self, text: str) -> None:
        """One line of what the builder says."""
        ...


class NoProgress:
    """Nobody listens."""

    def layer(self, layer_id: str, status: str, current: int | None, total: int | None) -> None:
        """Ignored."""

    def line(self, text: str) -> None:
        """Ignored."""


def relay(message: Mapping[str, Any], progress: ImageProgress) -> None:
    """One message of a pull or a build, passed on: as a layer if it has an id and a state, else as lines."""
    detail: Mapping[str, Any] = message.get("progressDetail") or {}
    if "id" in message and "status" in message:
        progress.layer(str(message["id"]), str(message["status"]), _bytes(detail, "current"), _bytes(detail, "total"))
        return
    for line in str(message.get("stream") or message.get("status") or "").splitlines():
        if line.strip():
            progress.line(line.rstrip())


def _bytes(detail: Mapping[str, Any], key: str) -> int | None:
    value = detail.get(key)
    return value if isinstance(value, int) and value >= 0 else None


__all__ = ["ImageProgress", "NoProgress", "relay"]
