"""Control groups of local sandboxes: the launcher for real, version 2 on a tree of files that behaves like it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from codecraft_pool import LaunchError, LocalLauncher, PathMissing, Sandbox, SandboxLost, reap
from codecraft_pool.cgroups import ControlGroups, GroupLimits, group_name
from codecraft_pool.owner import Owner
from tests.pool.launchers import MIB, SPEC, processes, python, script, shell

pytestmark = pytest.mark.anyio

LIMITS: Final = GroupLimits(memory_bytes=64 * MIB, cpus=1.5, processes=10)
V2_FILES: Final = {"memory": ("memory.max", "memory.swap.max"), "pids": ("pids.max",), "cpu": ("cpu.max",)}
V1_FILES: Final = {
    "memory": ("memory.limit_in_bytes",),
    "pids": ("pids.max",),
    "cpu": ("cpu.cfs_period_us", "cpu.cfs_quota_us"),
}

needs_groups = pytest.mark.skipif(
    not ControlGroups.find().limits_memory, reason="no control groups can be made here: a real kernel is asked"
)


class Tree:
    """Directories that behave as a cgroup file system does when groups are made and removed."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.process = path / "process"
        self.process.mkdir()
        self.busy = 0
        self._real_mkdir, self._real_rmdir = Path.mkdir, Path.rmdir
        monkeypatch.setattr(Path, "mkdir", lambda made: self._mkdir(made))
        monkeypatch.setattr(Path, "rmdir", lambda gone: self._rmdir(gone))

    def describe(self, mounts: str, memberships: str) -> None:
        """What /proc/self says; @ stands for the tree's directory."""
        (self.process / "mountinfo").write_text(mounts.replace("@", str(self.path)))
        (self.process / "cgroup").write_text(memberships)

    def group(self, name: str, hands_down: str | None = None) -> Path:
        """Make a group of version 2 that gives its children those controllers (version 1: None)."""
        path = self.path / name
        path.mkdir()
        if hands_down is not None:
            (path / "cgroup.subtree_control").write_text(hands_down)
        return path

    def _mkdir(self, path: Path) -> None:
        self._real_mkdir(path)
        (path / "cgroup.procs").touch()
        control = path.parent / "cgroup.subtree_control"
        files = {name: V2_FILES[name] for name in control.read_text().split()} if control.exists() else {}
        if path.parent.name in V1_FILES:
            files = {path.parent.name: V1_FILES[path.parent.name]}
        for name in [each for names in files.values() for each in names]:
            (path / name).touch()

    def _rmdir(self, path: Path) -> None:
        if self.busy:
            self.busy -= 1
            raise OSError(16, "Device or resource busy")
        if not path.exists():
            raise FileNotFoundError(path)
        shutil.rmtree(path)


@pytest.fixture(name="tree")
def make_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path, monkeypatch)


def texts(path: Path) -> dict[str, str]:
    """The files of a group that were written to."""
    return {each.name: each.read_text() for each in path.iterdir() if each.is_file() and each.stat().st_size}


def test_version_2_below_a_group_that_hands_its_controllers_down(tree: Tree) -> None:
    """Sandboxes' groups are made right below this process's own, with every limit."""
    tree.describe("31 1 0:1 / @/v2 rw - cgroup2 cgroup2 rw\n", "0::/mine\n")
    tree.group("v2", "memory pids cpu")
    tree.group("v2/mine", "cpu memory pids")
    groups = ControlGroups.find(tree.process)
    assert "memory limited, processes limited, CPU limited" == groups.description
    group = groups.make("codecraft-x-1", LIMITS)
    path = tree.path / "v2/mine/codecraft-x-1"
    expected = {"memory.max": f"{64 * MIB}", "memory.swap.max": "0", "pids.max": "12", "cpu.max": "150000 100000"}
    assert expected == texts(path)
    assert ["/bin/sh", "-ec", f'echo 0 > {path}/cgroup.procs; exec "$@"', "sh", "true"] == group.entering(["true"])
    assert group.remove()
    assert not path.exists()


def test_version_2_beside_a_group_with_processes(tree: Tree) -> None:
    """A group that cannot hand controllers down gets no children; the nearest one above that does so gets them."""
    tree.describe("31 1 0:1 / @/v2 rw - cgroup2 cgroup2 rw\n", "0::/user/app/mine\n")
    for name, hands_down in (("v2", "memory"), ("v2/user", "memory"), ("v2/user/app", "memory pids")):
        tree.group(name, hands_down)
    tree.group("v2/user/app/mine")
    groups = ControlGroups.find(tree.process)
    assert [tree.path / "v2/user/app"] == groups.directories()
    assert "memory limited, processes limited, CPU not limited" == groups.description


def test_version_2_without_a_place(tree: Tree) -> None:
    """Where no group hands memory down there is no limit, and the description says so; nothing was left."""
    tree.describe("31 1 0:1 / @/v2 rw - cgroup2 cgroup2 rw\n", "0::/mine\n")
    tree.group("v2", "cpu")
    tree.group("v2/mine").joinpath("cgroup.procs").write_text("1\n")
    groups = ControlGroups.find(tree.process)
    assert not groups.limits_memory
    assert groups.description.startswith(
        "memory not limited, processes not limited, CPU not limited (no group can be made"
    )
    assert [] == groups.directories()
    assert ["true"] == groups.make("codecraft-x-1", LIMITS).entering(["true"])
    assert ["mine"] == [path.name for path in (tree.path / "v2").iterdir() if path.is_dir()]


def test_version_1_with_the_group_mounted_as_the_root(tree: Tree) -> None:
    """In a container the mount may show only the process's own group, and names in /proc are escaped."""
    mounts = (
        "35 31 0:32 /docker/abc @/memory rw - cgroup cgroup rw,memory\n"
        "36 31 0:33 / @/with\\040space rw - cgroup cgroup rw,cpu,cpuacct\n"
    )
    tree.describe(mounts, "4:memory:/docker/abc\n2:cpu,cpuacct:/deep\n0::/\n")
    tree.group("memory")
    tree.group("with space")
    groups = ControlGroups.find(tree.process)
    assert "memory limited, processes not limited, CPU not limited" == groups.description
    groups.make("codecraft-x-1", LIMITS)
    assert {"memory.limit_in_bytes": f"{64 * MIB}"} == texts(tree.path / "memory/codecraft-x-1")


def test_a_group_that_is_busy_is_not_removed_yet(tree: Tree) -> None:
    """EBUSY is said to the caller, who tries again; a group that is gone already counts as removed."""
    tree.describe("35 31 0:32 / @/memory rw - cgroup cgroup rw,memory\n", "4:memory:/\n")
    tree.group("memory")
    group = ControlGroups.find(tree.process).make("codecraft-x-1", LIMITS)
    tree.busy = 1
    assert [False, True, True] == [group.remove() for _ in range(3)]


# --- for real ---------------------------------------------------------------------------------------------------------


def own_groups() -> list[Path]:
    """The groups of this process's sandboxes."""
    parents = ControlGroups.find().directories()
    return sorted(path for parent in parents for path in parent.glob(f"codecraft-{Owner.current()}-*"))


async def eventually(predicate: Callable[[], Any], *, limit_s: float = 5.0) -> None:
    """Return once it holds."""
    async with asyncio.timeout(limit_s):
        while not predicate():  # noqa: ASYNC110  # a kernel tells nobody
            await asyncio.sleep(0.01)


async def memory_kills(sandbox: Sandbox) -> str:
    """How many processes the kernel killed for memory, as the guest sees it."""
    for root, name in (("/sys/fs/cgroup/memory", "memory.oom_control"), ("/sys/fs/cgroup", "memory.events")):
        try:
            words = (await sandbox.read_file(name, root=root)).decode().split()
        except PathMissing:
            continue
        return words[words.index("oom_kill") + 1]
    pytest.fail("the guest sees no count")


@needs_groups
async def test_memory_of_a_sandbox_is_limited() -> None:
    """A program that takes too much is killed alone, many that do so together too, and files count as memory."""
    greedy = f"bytearray({SPEC.memory_bytes * 2})"
    together = f"""
import os, signal
for _ in range(8):
    if os.fork() == 0:
        block = bytearray({SPEC.memory_bytes // 4})
        signal.pause()
print(sorted({{os.WTERMSIG(os.wait()[1]) for _ in range(3)}}))
"""
    async with LocalLauncher() as launcher:
        sandbox = await launcher.start(SPEC)
        assert "0" == await memory_kills(sandbox)
        result = await sandbox.run(["/usr/bin/python3", "-c", greedy], limit_s=20)
        assert (9, False) == (result.signal, result.timed_out)
        assert "1" == await memory_kills(sandbox)
        assert 0 != (await sandbox.run("ls /sys")).exit_code
        assert "[9]\n" == (await sandbox.run(["/usr/bin/python3", "-c", together], limit_s=20)).stdout.decode()
        await sandbox.restore()
        fill = "for t in /workspace /home/agent /tmp /var/tmp /dev/shm; do cat /dev/zero > $t/fill; done 2>/dev/null"
        await sandbox.run(fill, limit_s=30)
        result = await sandbox.run(["/usr/bin/python3", "-c", f"bytearray({SPEC.memory_bytes // 2})"], limit_s=20)
        assert 0 != result.exit_code
        await sandbox.restore()
        assert ([], "on\n") == (await processes(sandbox), await shell(sandbox, "echo on"))


@needs_groups
async def test_memory_of_files_and_of_segments_that_no_process_holds_is_limited() -> None:
    """Empty files without end and System V memory end at the limit; should the guest die of it, the error says so."""
    files = """
import itertools, os
for number in itertools.count():
    os.close(os.open(f"/tmp/{number}", os.O_CREAT))
"""
    segments = """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
while True:
    ctypes.memset(libc.shmat(libc.shmget(0, 1 << 22, 0o1600), None, 0), 1, 1 << 22)
"""
    async with LocalLauncher() as launcher:
        for program in (files, segments):
            sandbox = await launcher.start(replace(SPEC, memory_bytes=64 * MIB))
            try:
                result = await sandbox.run(["/usr/bin/python3", "-c", program], limit_s=20)
                assert (True, False) == (result.exit_code != 0, result.timed_out)
                await sandbox.restore()
                assert "on\n" == await shell(sandbox, "echo on")
            except SandboxLost as lost:
                assert "it had reached its memory limit" in str(lost)


@needs_groups
async def test_processor_time_of_a_sandbox_is_limited() -> None:
    """Four busy loops of a sandbox with a fifth of a core get about that, all together."""
    program = """
import os, time
began = time.monotonic()
for _ in range(4):
    if os.fork() == 0:
        while time.monotonic() < began + 1.0:
            pass
        os._exit(0)
for _ in range(4):
    os.wait()
times = os.times()
print(times.children_user + times.children_system)
"""
    async with LocalLauncher() as launcher:
        sandbox = await launcher.start(replace(SPEC, cpus=0.2))
        assert float(await python(sandbox, program, limit_s=30)) < 0.6


@needs_groups
async def test_groups_end_with_their_sandboxes() -> None:
    """Closed, killed from outside or refused at the start: no group is left."""
    async with LocalLauncher() as launcher:
        closed, kept = await launcher.start(SPEC), await launcher.start(SPEC)
        assert 2 == len({each.name for each in own_groups()})
        closed.close()
        await eventually(lambda: len({each.name for each in own_groups()}) == 1)
        (group,) = {path for path in own_groups() if path.parent == own_groups()[0].parent}
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), 9)
        await eventually(lambda: own_groups() == [])
        await eventually(lambda: kept.lost)
    assert [] == own_groups()


@needs_groups
async def test_a_limit_that_the_kernel_refuses_is_a_launch_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start fails with a reason, and leaves no group."""
    monkeypatch.setattr("codecraft_pool.cgroups._QUOTA_MIN_US", 1 << 62)
    async with LocalLauncher() as launcher:
        with pytest.raises(LaunchError, match="could not start a sandbox: "):
            await launcher.start(SPEC)
        assert [] == own_groups()


@needs_groups
async def test_the_reaper_removes_groups_of_the_dead() -> None:
    """What a killed process left is gone after the next start's reaping; the living's stay."""
    alive = Owner.current()
    groups = ControlGroups.find()
    name = group_name(Owner(alive.boot, alive.pid, alive.start + 1), 0)
    groups.make(name, LIMITS)
    async with LocalLauncher() as launcher:
        sandbox: Sandbox = await launcher.start(SPEC)
        reaped = await reap(None)
        assert [] == [parent / name for parent in groups.directories() if (parent / name).exists()]
        assert {name} == {Path(path).name for path in reaped.removed("cgroup") if name in path}
        await sandbox.ping()


HOLDER: Final = """
import asyncio, json
from codecraft_pool import LocalLauncher
from codecraft_pool.owner import Owner
from tests.pool.launchers import SPEC
async def main():
    async with LocalLauncher() as launcher:
        await launcher.start(SPEC)
        print(json.dumps(str(Owner.current())), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@needs_groups
async def test_groups_of_a_killed_program() -> None:
    """After a `kill -9` its sandboxes' groups are empty at once, and gone with the next reaping."""
    async with script(HOLDER) as holder:
        owner = Owner.parse(await holder.line())
        assert owner is not None
        holder.process.kill()
        await holder.end()
    paths = [parent / group_name(owner, 0) for parent in ControlGroups.find().directories()]
    assert all(path.is_dir() for path in paths)
    await eventually(lambda: not any((path / "cgroup.procs").read_text() for path in paths))
    await reap(None)
    assert [] == [path for path in paths if path.exists()]


async def test_without_groups_each_process_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be made, one process cannot have more than the sandbox's memory, and the launcher says so."""
    monkeypatch.setattr(ControlGroups, "find", lambda: ControlGroups({}, "not here"))
    async with LocalLauncher() as launcher:
        assert launcher.description.endswith("; memory not limited, processes not limited, CPU not limited (not here)")
        sandbox = await launcher.start(SPEC)
        greedy = await sandbox.run(["/usr/bin/python3", "-c", f"bytearray({SPEC.memory_bytes * 2})"])
        assert greedy.stderr.endswith(b"MemoryError\n")
        assert "1\n" == await python(sandbox, "import mmap; m = mmap.mmap(-1, 1 << 30, flags=1); print(1)")
