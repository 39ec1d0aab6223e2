"""What must hold in every launcher and mode of reset alike, whoever commands run as: flags, shells, tools, forks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Final

import pytest

from codecraft_pool import HOME, WORKSPACE, Baselines, PoolError, Sandbox, SandboxPool, SandboxSpec, Snapshot
from tests.conftest import UVLOOP
from tests.pool.launchers import IS_ROOT, SPEC, TREES, open_backend, python, shell

pytestmark = pytest.mark.anyio

FILES: Final = Snapshot.from_files({"keep": "kept\n", "sub/file": "content\n"})
SPECS: Final = {
    "agent": replace(SPEC, reset="restore"),
    "agent-overlay": replace(SPEC, reset="overlay"),
    "agent-replace": replace(SPEC, reset="replace"),
    "root-overlay": replace(SPEC, user="root", reset="overlay"),
    "root-replace": replace(SPEC, user="root", reset="replace"),
}
MODES: Final = [
    *[pytest.param(("docker", mode), id=f"docker-{mode}", marks=pytest.mark.docker) for mode in SPECS],
    *[pytest.param(("local", mode), id=f"local-{mode}") for mode in ("agent", "agent-replace")],
    *([pytest.param(("unprivileged", "agent"), id="unprivileged-agent")] if IS_ROOT else []),
]
LAYERS: Final = [each for each in MODES if "overlay" in str(each.id)]
# FS_IOC_SETFLAGS with FS_NODUMP_FL and FS_NOATIME_FL; what is in a directory with flags inherits them.
SET_FLAGS: Final = """
import array, fcntl, os, sys
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, 0x40086602, array.array("i", [0xC0, 0]))
    after = array.array("i", [0, 0])
    fcntl.ioctl(fd, 0x80086601, after, True)
    assert after[0] & 0xC0 == 0xC0, path
"""
POWERS: Final = "grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups|Umask|Sig(Blk|Ign))' /proc/self/status; ulimit -a"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """What is asked is asked of guests and the kernel, who know nothing of the loop."""
    return UVLOOP


@pytest.fixture(name="spec")
def choose_spec(request: pytest.FixtureRequest) -> SandboxSpec:
    return SPECS[request.param[1]]


@pytest.fixture(name="pool")
async def make_pool(request: pytest.FixtureRequest, spec: SandboxSpec) -> AsyncGenerator[SandboxPool]:
    backend, _ = request.node.callspec.params["spec"]
    if backend == "docker":
        request.getfixturevalue("base_image")
    async with open_backend(backend) as launcher, SandboxPool(launcher, max_sandboxes=3) as pool:
        await pool.prewarm(spec, 1)
        yield pool


@pytest.fixture(name="sandbox")
async def lend(pool: SandboxPool, spec: SandboxSpec) -> AsyncGenerator[Sandbox]:
    async with pool.lease(spec) as sandbox:
        await sandbox.restore(FILES)
        yield sandbox


@pytest.mark.parametrize("spec", MODES, indirect=True)
async def test_flags_go(sandbox: Sandbox) -> None:
    """A restore takes away what chattr gave to files that it keeps, to directories, and to the trees themselves."""
    baselines = Baselines()
    await baselines.record("here", sandbox, FILES)
    paths = [f"{WORKSPACE}/keep", f"{WORKSPACE}/sub/file", f"{WORKSPACE}/sub", WORKSPACE, HOME]
    for some in (paths[:1], paths[2:3], paths[3:4], paths):
        await sandbox.run(["python3", "-I", "-c", SET_FLAGS, *some])
        found = await baselines.check("here", sandbox, FILES, full=True)
        assert [f"{path!r}: attributes" for path in sorted(some)] == [line.partition(" is ")[0] for line in found]
        await sandbox.restore(FILES)
        assert [] == await baselines.check("here", sandbox, FILES, full=True)


@pytest.mark.parametrize("spec", MODES, indirect=True)
async def test_shells_have_the_powers_of_commands(sandbox: Sandbox) -> None:
    """The same user, groups, capabilities, filter and limits."""
    expected = await shell(sandbox, POWERS)
    assert "CapEff" in expected and "nofile" in expected
    async with sandbox.shell() as persistent:
        assert expected.encode() == (await persistent.run(POWERS)).stdout


@pytest.mark.parametrize("spec", MODES, indirect=True)
async def test_tools_work(sandbox: Sandbox) -> None:
    """Each tells of what commands did, and a checkpoint brings it back."""
    await shell(
        sandbox, f"echo more >{WORKSPACE}/keep; echo x >{HOME}/.profile; echo y >/tmp/z; mkdir {WORKSPACE}/empty"
    )
    before, stat = await sandbox.digest(), await sandbox.stat()
    assert {f"{HOME}/.profile", "/tmp/z", f"{WORKSPACE}/empty"} <= set(before)
    assert (0, set(TREES)) == (stat.processes, set(stat.trees))
    checkpoint = await sandbox.snapshot()
    await shell(sandbox, f"rm -r {WORKSPACE}/*; echo other >{HOME}/.profile")
    assert before != await sandbox.digest()
    await sandbox.restore(checkpoint)
    assert before == await sandbox.digest()
    assert "more\n" == await shell(sandbox, "cat keep")
    assert await sandbox.inspect()


@pytest.mark.parametrize("spec", MODES, indirect=True)
async def test_forks_have_all_or_are_refused(pool: SandboxPool, spec: SandboxSpec) -> None:
    """A fork has the files of all writable trees, their owners too."""
    lease = await pool.acquire(spec)
    await shell(lease.sandbox, f"echo 1 >{WORKSPACE}/state; echo 2 >{HOME}/state; echo 3 >/var/tmp/state")
    (copy,) = await pool.fork(lease, 1)
    assert "1\n2\n3\n" == await shell(copy.sandbox, f"cat {WORKSPACE}/state {HOME}/state /var/tmp/state")
    assert await lease.sandbox.digest() == await copy.sandbox.digest()
    copy.release()
    lease.release()


@pytest.mark.parametrize("spec", LAYERS, indirect=True)
@pytest.mark.parametrize(
    "change",
    ["echo >>/etc/hosts", "touch /etc/new", "rm /etc/hosts", "touch /srv/x; rm /srv/x", "chmod 700 /srv", "rmdir /mnt"],
)
async def test_a_changed_layer_is_not_forked(pool: SandboxPool, spec: SandboxSpec, change: str) -> None:
    """Whatever was changed; the next restore makes it new."""
    lease = await pool.acquire(spec)
    sandbox = lease.sandbox
    await shell(
        sandbox,
        "cat /etc/hosts /etc/passwd; ls -lR /etc /home /usr/bin /srv; ls -la /; echo x >/workspace/x; echo x >/tmp/x",
    )
    assert not await sandbox.has_changed_system()
    result = await sandbox.run(change)
    if spec.user == "root":
        assert 0 == result.exit_code, result
        assert await sandbox.has_changed_system()
        with pytest.raises(PoolError, match=f"{sandbox.id} cannot be forked: its commands have changed the root file"):
            await pool.fork(lease, 1)
    else:  # who has no power to
        assert 0 != result.exit_code
        assert not await sandbox.has_changed_system()
    await sandbox.restore(FILES)
    assert not await sandbox.has_changed_system()
    lease.release()


@pytest.mark.parametrize("spec", [each for each in MODES if each.id == "local-agent"], indirect=True)
async def test_out_of_memory_is_told_of_local_sandboxes(pool: SandboxPool, spec: SandboxSpec, sandbox: Sandbox) -> None:
    """Where control groups limit them, a command knows that the kernel struck, and the next one that it did not."""
    if "memory limited" not in pool.launcher.description:
        pytest.skip("nothing here would limit the sandbox's memory")
    result = await sandbox.run(["python3", "-I", "-c", f"b'x' * {2 * spec.memory_bytes}"], limit_s=60)
    assert (True, 9) == (result.out_of_memory, result.signal), result
    assert not (await sandbox.run("sleep 0.01")).out_of_memory
    assert "ok\n" == await python(sandbox, "print('ok')")
