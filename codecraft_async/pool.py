"""Public path of the sandbox pool (implemented in ``codecraft_pool``)."""

from __future__ import annotations

from codecraft_pool import (
    BACKENDS as BACKENDS,
)
from codecraft_pool import (
    HOME as HOME,
)
from codecraft_pool import (
    WORKSPACE as WORKSPACE,
)
from codecraft_pool import (
    AcquireTimeout as AcquireTimeout,
)
from codecraft_pool import (
    Backend as Backend,
)
from codecraft_pool import (
    BackendUnavailable as BackendUnavailable,
)
from codecraft_pool import (
    CallRefused as CallRefused,
)
from codecraft_pool import (
    Choice as Choice,
)
from codecraft_pool import (
    CommandResult as CommandResult,
)
from codecraft_pool import (
    DaemonUnavailable as DaemonUnavailable,
)
from codecraft_pool import (
    DockerDaemon as DockerDaemon,
)
from codecraft_pool import (
    DockerLauncher as DockerLauncher,
)
from codecraft_pool import (
    Entry as Entry,
)
from codecraft_pool import (
    FakeAnswer as FakeAnswer,
)
from codecraft_pool import (
    FakeFiles as FakeFiles,
)
from codecraft_pool import (
    FakeLauncher as FakeLauncher,
)
from codecraft_pool import (
    ImageProgress as ImageProgress,
)
from codecraft_pool import (
    Images as Images,
)
from codecraft_pool import (
    ImageUnavailable as ImageUnavailable,
)
from codecraft_pool import (
    Launcher as Launcher,
)
from codecraft_pool import (
    LaunchError as LaunchError,
)
from codecraft_pool import (
    Lease as Lease,
)
from codecraft_pool import (
    LocalLauncher as LocalLauncher,
)
from codecraft_pool import (
    PathMissing as PathMissing,
)
from codecraft_pool import (
    PoolClosed as PoolClosed,
)
from codecraft_pool import (
    PoolError as PoolError,
)
from codecraft_pool import (
    PoolStats as PoolStats,
)
from codecraft_pool import (
    ProtocolError as ProtocolError,
)
from codecraft_pool import (
    Reaped as Reaped,
)
from codecraft_pool import (
    RequestRefused as RequestRefused,
)
from codecraft_pool import (
    RestoreReport as RestoreReport,
)
from codecraft_pool import (
    Sandbox as Sandbox,
)
from codecraft_pool import (
    SandboxLost as SandboxLost,
)
from codecraft_pool import (
    SandboxPool as SandboxPool,
)
from codecraft_pool import (
    SandboxSpec as SandboxSpec,
)
from codecraft_pool import (
    Snapshot as Snapshot,
)
from codecraft_pool import (
    SnapshotError as SnapshotError,
)
from codecraft_pool import (
    connect_daemon as connect_daemon,
)
from codecraft_pool import (
    open_launcher as open_launcher,
)
from codecraft_pool import (
    reap as reap,
)

__all__ = [
    "BACKENDS",
    "HOME",
    "WORKSPACE",
    "AcquireTimeout",
    "Backend",
    "BackendUnavailable",
    "CallRefused",
    "Choice",
    "CommandResult",
    "DaemonUnavailable",
    "DockerDaemon",
    "DockerLauncher",
    "Entry",
    "FakeAnswer",
    "FakeFiles",
    "FakeLauncher",
    "ImageProgress",
    "ImageUnavailable",
    "Images",
    "LaunchError",
    "Launcher",
    "Lease",
    "LocalLauncher",
    "PathMissing",
    "PoolClosed",
    "PoolError",
    "PoolStats",
    "ProtocolError",
    "Reaped",
    "RequestRefused",
    "RestoreReport",
    "Sandbox",
    "SandboxLost",
    "SandboxPool",
    "SandboxSpec",
    "Snapshot",
    "SnapshotError",
    "connect_daemon",
    "open_launcher",
    "reap",
]
