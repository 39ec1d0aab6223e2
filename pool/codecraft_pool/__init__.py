"""Sandboxes: started, kept warm, lent out, brought back clean. Design: pool/README.md."""

from __future__ import annotations

from codecraft_pool.backend import BACKENDS, Backend, Choice, open_launcher
from codecraft_pool.checkpoint import Checkpoint
from codecraft_pool.digest import Digest, DigestEntry, differences
from codecraft_pool.docker_daemon import DockerDaemon, connect_daemon
from codecraft_pool.docker_launcher import DockerLauncher
from codecraft_pool.errors import (
    AcquireTimeout,
    BackendUnavailable,
    CallRefused,
    ChannelBroken,
    DaemonHung,
    DaemonUnavailable,
    GuestSilent,
    ImageUnavailable,
    LaunchError,
    OutOfMemory,
    PathMissing,
    PoolClosed,
    PoolError,
    ProtocolError,
    RequestRefused,
    SandboxKilled,
    SandboxLost,
    SnapshotError,
)
from codecraft_pool.fake import FakeAnswer, FakeFiles, FakeLauncher
from codecraft_pool.images import ImageProgress, Images
from codecraft_pool.launcher import Launcher
from codecraft_pool.local_launcher import LocalLauncher
from codecraft_pool.pool import Lease, SandboxPool
from codecraft_pool.pool_keeper import Quarantined
from codecraft_pool.pool_proof import MeasuringProver, Prover
from codecraft_pool.pool_stats import LauncherInfo, PoolCounts, PoolStats, SpecStats, Timing
from codecraft_pool.proof import Baseline, Baselines
from codecraft_pool.reaper import Finding, Reaped, reap
from codecraft_pool.recipes import DockerfileRecipe, Recipe
from codecraft_pool.sandbox import Sandbox
from codecraft_pool.shell import Shell
from codecraft_pool.snapshot import Entry, Snapshot
from codecraft_pool.spec import HOME, WORKSPACE, CommandResult, RestoreReport, SandboxSpec
from codecraft_pool.trees import SandboxStat, TreeUse

__all__ = [  # noqa: RUF022  # grouped by what they are for
    # the pool
    "LauncherInfo",
    "Lease",
    "MeasuringProver",
    "PoolCounts",
    "PoolStats",
    "Prover",
    "Quarantined",
    "SandboxPool",
    "SpecStats",
    "Timing",
    # sandboxes
    "HOME",
    "WORKSPACE",
    "Baseline",
    "Baselines",
    "Checkpoint",
    "CommandResult",
    "Digest",
    "DigestEntry",
    "Entry",
    "RestoreReport",
    "Sandbox",
    "SandboxSpec",
    "Shell",
    "SandboxStat",
    "Snapshot",
    "TreeUse",
    "differences",
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
    "DockerfileRecipe",
    "Finding",
    "ImageProgress",
    "Images",
    "Reaped",
    "Recipe",
    "connect_daemon",
    "reap",
    # errors
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
