"""Connections from this machine to unix sockets inside of a sandbox, with nothing in between.

The kernel shows the file system of a process under ``/proc`` to a root that could trace it. Where that is not so
(another user, a daemon on another machine or in other namespaces) there is no such way, and programs are reached by
commands.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Final

from codecraft_pool.errors import RequestRefused

_CREDENTIALS: Final = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return the process at the other end, 0 where it cannot be seen from here, and its user."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def connect_inside(sandbox: str, guest: int, path: str) -> socket.socket:
    """Return a non-blocking connection to the unix socket *path* of the sandbox whose guest is the process *guest*.

    Links are not followed: a program inside could lead them to a socket of this machine. For the same reason whoever
    listens must be in the guest's own control groups.

    Raises:
        ValueError: The path is not absolute, or goes up again, which could lead out of the sandbox.
        RequestRefused: Nobody listens there, or there is no way from here (errno ENOTSUP).
    """
    if not path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError(f"sandbox {sandbox}: the path of a socket must be absolute and without '..', not {path!r}")
    what = f"connect to the socket {path!r}"
    if guest <= 0:
        raise RequestRefused(sandbox, what, errno.ENOTSUP, "its guest cannot be seen from here")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _connect(connection, guest, PurePosixPath(path))
    except OSError as exc:
        connection.close()
        code = errno.ENOTSUP if isinstance(exc, PermissionError) else exc.errno or errno.EIO
        raise RequestRefused(sandbox, what, code, exc.strerror or str(exc)) from exc
    return connection


def _connect(connection: socket.socket, guest: int, path: PurePosixPath) -> None:
    with ExitStack() as stack:
        found = os.open(f"/proc/{guest}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, found)
        for part in path.parts[1:]:
            found = os.open(part, _LOOK, dir_fd=found)
            stack.callback(os.close, found)
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        connection.connect(f"/proc/self/fd/{found}")
    if _groups(peer_of(connection)[0]) != _groups(guest):
        raise OSError(errno.ENOTSUP, "whoever listens there is not in the sandbox")


def _groups(process: int) -> str:
    return Path(f"/proc/{process}/cgroup").read_text()
