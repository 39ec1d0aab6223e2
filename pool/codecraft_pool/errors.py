"""Every exception of the pool, as a tree.

    PoolError
    ├── LaunchError                  no sandbox could be started
    │   ├── DaemonUnavailable        no container daemon answers            (also ConnectionError)
    │   ├── CallRefused              the daemon's answer to a call is no
    │   ├── ImageUnavailable         an image is not here and cannot be had
    │   └── BackendUnavailable       this machine lacks what the launcher needs
    ├── SandboxLost                  a sandbox died or stopped answering    (also ConnectionError)
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


class PoolError(Exception):
    """Root of everything the pool raises on purpose."""


class LaunchError(PoolError):
    """No sandbox could be started."""


class DaemonUnavailable(LaunchError, ConnectionError):
    """No container daemon answers."""


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
    "DaemonUnavailable",
    "ImageUnavailable",
    "LaunchError",
    "PathMissing",
    "PoolClosed",
    "PoolError",
    "ProtocolError",
    "RequestRefused",
    "SandboxLost",
    "SnapshotError",
]
