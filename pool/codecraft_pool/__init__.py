"""Sandboxes: started, kept warm, lent out, brought back clean. Design: pool/README.md."""

from __future__ import annotations

from codecraft_pool.backend import BACKENDS, Backend, Choice, open_launcher
from codecraft_pool.docker_daemon import DockerDaemon, connect_daemon
from codecraft_pool.docker_launcher import DockerLauncher
from codecraft_pool.errors import (
    AcquireTimeout,
    BackendUnavailable,
    CallRefused,
    DaemonUnavailable,
    ImageUnavailable,
    LaunchError,
    PathMissing,
    PoolClosed,
    PoolError,
    ProtocolError,
    RequestRefused,
    SandboxLost,
    SnapshotError,
)
from codecraft_pool.fake import FakeAnswer, FakeFiles, FakeLauncher
from codecraft_pool.images import ImageProgress, Images
from codecraft_pool.launcher import Launcher
from codecraft_pool.local_launcher import LocalLauncher
from codecraft_pool.pool import Lease, PoolStats, SandboxPool
from codecraft_pool.reaper import Reaped, reap
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.snapshot import Entry, Snapshot
from codecraft_pool.spec import HOME, WORKSPACE, CommandResult, RestoreReport, SandboxSpec

__all__ = [  # noqa: RUF022  # grouped by what they are for
    # the pool
    "Lease",
    "PoolStats",
    "SandboxPool",
    # sandboxes
    "HOME",
    "WORKSPACE",
    "CommandResult",
    "Entry",
    "RestoreReport",
    "Sandbox",
    "SandboxSpec",
    "Snapshot",
    # launchers
    "BACKENDS",
    "Backend",
    "Choice",
    "DockerLauncher",
    "FakeAnswer",
    "FakeFiles",
    "FakeLauncher",
    "Launcher",
    "LocalLauncher",
    "open_launcher",
    # Docker
    "DockerDaemon",
    "ImageProgress",
    "Images",
    "Reaped",
    "connect_daemon",
    "reap",
    # errors
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
