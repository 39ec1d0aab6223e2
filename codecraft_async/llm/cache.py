"""Answers kept on disk under the hash of what was asked: a run that was ended goes on without paying twice."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from codecraft_async.llm.messages import ChatReply, ToolCall, Usage
from codecraft_pool._aio import finish

_FORMAT: Final = 1
_logger = logging.getLogger(__name__)


def cache_key(**what: Any) -> str:
    """Return the name of whatever depends on *what* alone: the SHA-256 of it as JSON."""
    return hashlib.sha256(orjson.dumps({"format": _FORMAT, **what}, option=orjson.OPT_SORT_KEYS)).hexdigest()


class DiskCache:
    """JSON objects by key, each in a file of its own.

    A file appears whole or not at all, whatever ends the process or the machine, and carries the hash of its content:
    one that was damaged counts as missing. Several processes may share a folder. Nothing is ever removed: delete the
    folder, or files in it, at any time (a process that is killed may leave a file ``.new-*``, which nobody reads). What
    is in it was asked and answered, and only its owner can read it.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.hits = self.misses = 0
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def get(self, key: str) -> dict[str, Any] | None:
        """Return what is kept under *key*, or None."""
        value = await asyncio.to_thread(self._read, self._path(key))
        if value is None:
            self.misses += 1
        else:
            self.hits += 1
        return value

    async def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep *value*; a disk that cannot is logged, and no error: the value itself is at hand. A cancellation is
        delivered when the file is there."""
        try:
            await finish(asyncio.to_thread(self._write, self._path(key), value))
        except OSError as error:
            _logger.warning("%s: an answer could not be kept: %s", self.folder, error.strerror)

    @asynccontextmanager
    async def one_at_a_time(self, key: str) -> AsyncGenerator[None]:
        """The block of whoever asks the same question at the same time comes after this one, and finds its answer."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)

    @property
    def under_way(self) -> int:
        """How many questions are being asked at the moment."""
        return len(self._locks)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            head, _, content = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            _logger.warning("%s: an answer could not be read: %s", path, error.strerror)
            return None
        if hashlib.sha256(content).hexdigest().encode() != head:
            _logger.warning("%s: damaged, and taken as missing", path)
            return None
        try:
            value: object = orjson.loads(content)
        except orjson.JSONDecodeError:  # whole, and not written by this class
            return None
        return value if isinstance(value, dict) else None

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        content = orjson.dumps(value)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # with mode 600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def reply_to_json(reply: ChatReply) -> dict[str, Any]:
    """Return *reply* as it is kept."""
    return {
        "text": reply.text,
        "tool_calls": [[call.id, call.name, call.arguments] for call in reply.tool_calls],
        "usage": [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.is_estimate],
        "finish_reason": reply.finish_reason,
        "model": reply.model,
    }


def reply_from_json(value: dict[str, Any]) -> ChatReply | None:
    """Return the reply that was kept; None if it is of another shape."""
    try:
        return ChatReply(
            text=value["text"],
            tool_calls=tuple(ToolCall(*call) for call in value["tool_calls"]),
            usage=Usage(*value["usage"]),
            finish_reason=value["finish_reason"],
            model=value["model"],
            is_cached=True,
        )
    except (KeyError, TypeError):
        return None


__all__ = ["DiskCache", "cache_key", "reply_from_json", "reply_to_json"]
