"""Every exception of the pool, as a tree.

    PoolError
    ├── LaunchError                  no sandbox could be started
    │   ├── DaemonUnavailable        no container daemon answers            (also ConnectionError)
    │   │   └── DaemonHung           it takes calls and does not answer     (also TimeoutError)
    │   ├── CallRefused              the daemon's answer to a call is no
    │   ├── ImageUnavailable         an image is not here and cannot be had
    │   └── BackendUnavailable       this machine lacks what the launcher needs
    ├── SandboxLost                  a sandbox died or stopped answering    (also ConnectionError)
    │   ├── SandboxKilled            somebody outside of it killed it
    │   ├── OutOfMemory              all of it was over its memory limit, and the kernel took its guest
    │   ├── GuestSilent              its guest missed a deadline            (also TimeoutError)
    │   └── ChannelBroken            its bytes ended, and nothing says why
    ├── ProtocolError                bytes on a channel broke the protocol
    ├── RequestRefused               the guest could not do a request       (also OSError)
    │   └── PathMissing              because there is nothing at that path  (also FileNotFoundError)
    ├── SnapshotError                a file tree cannot be a snapshot       (also ValueError)
    ├── AcquireTimeout               no sandbox became free in time         (also TimeoutError)
    └── PoolClosed                   the pool was used after it was closed

A command that fails, is killed or runs into a limit is no exception: it is a `CommandResult`.
"""

from __future__ import annotations

import os
from typing import Any


class PoolError(Exception):
    """Root of everything the pool raises on purpose. Can be copied and pickled, whatever a kind is made from."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, dict(self.__dict__))


def _again(kind: type[PoolError], args: tuple[object, ...], fields: dict[str, object]) -> PoolError:
    error = kind.__new__(kind, *args)
    # An OSError with an __init__ of its own takes its errno there, and from nowhere else.
    if isinstance(error, OSError):
        OSError.__init__(error, *args)
    else:
        Exception.__init__(error, *args)
    error.__dict__.update(fields)
    return error


class LaunchError(PoolError):
    """No sandbox could be started."""


class DaemonUnavailable(LaunchError, ConnectionError):
    """No container daemon answers."""


class DaemonHung(DaemonUnavailable, TimeoutError):
    """The container daemon took a call and did not answer it in time: it is overloaded, stopped or stuck."""


class CallRefused(LaunchError):
    """The daemon answered, and its answer is no; `status` is the HTTP status (0: it came in the middle of a stream)."""

    def __init__(self, what: str, status: int, message: str) -> None:
        reason = " ".join(message.split())
        super().__init__(f"cannot {what}: the container daemon says: {reason}")
        self.status = status
        self.reason = reason


class ImageUnavailable(LaunchError):
    """An image is neither here, nor pulled, nor built."""


class BackendUnavailable(LaunchError):
    """This machine lacks what the launcher needs."""


class SandboxLost(PoolError, ConnectionError):
    """A sandbox died or stopped answering; what ran in it is gone. Never the fault of an action's text."""

    def __init__(self, sandbox: str, reason: str) -> None:
        super().__init__(f"sandbox {sandbox} is lost: {reason}")
        self.sandbox = sandbox
        self.reason = reason


class SandboxKilled(SandboxLost):
    """Somebody outside of the sandbox ended it: its container or its guest was killed. The machine's side, not a
    program's in it."""


class OutOfMemory(SandboxLost):
    """The sandbox as a whole was over its memory limit, and the kernel ended its guest. What ran in it is at fault, or
    the limit is too low for the task."""


class GuestSilent(SandboxLost, TimeoutError):
    """The guest missed a deadline: it, its machine or the connection to it is stuck."""


class ChannelBroken(SandboxLost):
    """The bytes from and to the guest ended, and nobody can say why."""


class ProtocolError(PoolError):
    """Bytes on a channel broke the protocol of pool/README.md."""


class RequestRefused(PoolError, OSError):
    """The guest understood a request and could not do it; `errno` says why."""

    def __init__(self, sandbox: str, what: str, code: int, message: str) -> None:
        # OSError picks a subclass only when called directly; the two-argument form fills errno and strerror.
        super().__init__(code, f"sandbox {sandbox} cannot {what}: {message or os.strerror(code)}")
        self.sandbox = sandbox


class PathMissing(RequestRefused, FileNotFoundError):
    """There is nothing at the path of a request."""


class SnapshotError(PoolError, ValueError):
    """A file tree cannot be a snapshot."""


class AcquireTimeout(PoolError, TimeoutError):
    """No sandbox became free in time."""


class PoolClosed(PoolError):
    """The pool was used after it was closed."""


__all__ = [
    "AcquireTimeout",
    "BackendUnavailable",
    "CallRefused",
    "ChannelBroken",
    "DaemonHung",
    "DaemonUnavailable",
    "GuestSilent",
    "ImageUnavailable",
    "LaunchError",
    "OutOfMemory",
    "PathMissing",
    "PoolClosed",
    "PoolError",
    "ProtocolError",
    "RequestRefused",
    "SandboxKilled",
    "SandboxLost",
    "SnapshotError",
]
