"""A user of its own for every sandbox: which, and what the account files say."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from codecraft_pool import DockerDaemon, DockerLauncher, LaunchError, Sandbox, SandboxSpec, connect_daemon
from codecraft_pool.agent_users import UIDS_PER_PROCESS, Accounts, Uids, accounts_archive, uid_of
from codecraft_pool.image_roots import RootsChoice
from codecraft_pool.owner import Owner
from tests.pool.launchers import PYTHON, SPEC, python, shell
from tests.pool.tiny_image import tiny_rootfs

pytestmark = pytest.mark.anyio

EXHAUST_INOTIFY = """
import ctypes
libc = ctypes.CDLL(None)
print(sum(libc.inotify_init() >= 0 for _ in range(200)), flush=True)
input()
"""


def test_the_lowest_free_number_is_taken() -> None:
    """Numbers of living sandboxes are not given again, those of the gone are."""
    uids = Uids()
    assert [0, 1, 2, 3] == [uids.take() for _ in range(4)]
    uids.give_back(2)
    uids.give_back(1)
    assert [1, 2, 4] == [uids.take() for _ in range(3)]


def test_numbers_end() -> None:
    """There are so many users and no more."""
    uids = Uids()
    assert UIDS_PER_PROCESS == len({uids.take() for _ in range(UIDS_PER_PROCESS)})
    with pytest.raises(LaunchError, match="no user for another"):
        uids.take()


def test_uids_are_nobody_elses() -> None:
    """They are far from what distributions hand out, and within 65 536 where the daemon maps users."""
    owner = Owner.current()
    first = uid_of(0, owner, is_mapped=False)
    assert 0x5000_0000 <= first < 0x6000_0000
    assert first + 7 == uid_of(7, owner, is_mapped=False)
    assert first != uid_of(0, Owner(owner.boot, owner.pid + 1, owner.start), is_mapped=False)
    assert 10_000 < uid_of(0, owner, is_mapped=True) < uid_of(UIDS_PER_PROCESS - 1, owner, is_mapped=True) < 60_000


@pytest.mark.parametrize(
    ("passwd", "kept"),
    [
        (b"", b"root:x:0:0:root:/root:/bin/sh\n"),
        (b"root:x:0:0::/root:/bin/ash", b"root:x:0:0::/root:/bin/ash\n"),
        (b"root:x:0:0:::\n\nagent:x:1:1:::\nme:x:7:7:::\nyou:x:77:77:::\n", b"root:x:0:0:::\nyou:x:77:77:::\n"),
        (b"b\xffd:x:5:5:::\nnonsense\n", b"b\xffd:x:5:5:::\nnonsense\n"),
    ],
)
def test_account_files(passwd: bytes, kept: bytes) -> None:
    """The image's accounts stay, but for whoever has the agent's name or number."""
    assert kept + b"agent:x:7:7:agent:/home/agent:/bin/sh\n" == Accounts(passwd).with_agent(7).passwd
    assert b"root:x:0:\nagent:x:7:\n" == Accounts().with_agent(7).group


def test_archive() -> None:
    """One archive has the files of many uids, which everybody may read."""
    with tarfile.open(fileobj=io.BytesIO(accounts_archive(Accounts(), "image", range(5, 7)))) as archive:
        files = {entry.name: entry.mode for entry in archive if entry.isreg()}
    assert {f"image/{uid}/{name}": 0o644 for uid in (5, 6) for name in ("passwd", "group")} == files


@pytest.fixture(scope="module", name="daemon")
async def open_daemon(base_image: str) -> AsyncGenerator[DockerDaemon]:
    async with await connect_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module", name="launcher")
async def open_docker(daemon: DockerDaemon) -> AsyncGenerator[DockerLauncher]:
    async with DockerLauncher(daemon) as launcher:
        yield launcher


@pytest.mark.docker
async def test_the_agent_has_a_name(launcher: DockerLauncher) -> None:
    """Programs that ask who they are get an answer, and the image's other accounts are there too."""
    sandbox = await launcher.start(SPEC)
    assert "agent\nagent\n" == await shell(sandbox, "whoami; id -gn")
    facts = "import os, pwd, grp; print(pwd.getpwuid(os.getuid()).pw_dir, grp.getgrgid(os.getgid()).gr_name)"
    assert "/home/agent agent\n" == await python(sandbox, facts)
    assert "root daemon\n" == await shell(sandbox, "echo $(stat -c %U /etc) $(id -nu 1)")
    await shell(
        sandbox, "git init -q . && git -c user.email=a@b commit -q --allow-empty -m first && git log -1 > /dev/null"
    )
    assert "agent\n" == await shell(sandbox, "stat -c %U /workspace")
    sandbox.close()


@pytest.mark.docker
async def test_users_differ(launcher: DockerLauncher) -> None:
    """No two living sandboxes share a user, so none uses up what the kernel counts per user."""
    greedy, other = await launcher.start(SPEC), await launcher.start(SPEC)
    assert len({await shell(each, "id -u") for each in (greedy, other)}) == 2
    async with without_inotify(greedy):
        counted = await other.run([PYTHON, "-c", EXHAUST_INOTIFY], stdin=b"\n")
        assert 100 < int(counted.stdout)
    greedy.close()
    other.close()


@asynccontextmanager
async def without_inotify(sandbox: Sandbox) -> AsyncGenerator[None]:
    """All that the kernel gives the sandbox's user is taken."""
    await sandbox.write_file("take.py", EXHAUST_INOTIFY.encode())
    await sandbox.run(": > taken; mkfifo gate; python3 take.py < gate > taken & sleep 60 > gate &")
    async with asyncio.timeout(20):
        while not await shell(sandbox, "cat taken"):
            pass
    assert "-1\n" == await python(sandbox, "import ctypes; print(ctypes.CDLL(None).inotify_init())")
    yield
    await sandbox.restore()


@pytest.fixture(scope="module", name="tiny")
async def import_tiny(daemon: DockerDaemon) -> AsyncGenerator[str]:
    """An image that has no /etc."""
    image = f"codecraft-test-tiny-{os.getpid()}"
    params = [("fromSrc", "-"), ("repo", image)]
    async with daemon.messages("images/create", what="import", params=params, data=tiny_rootfs()) as messages:
        async for _ in messages:
            pass
    yield image
    await daemon.client.images.delete(image, force=True)


@pytest.mark.docker
async def test_an_image_without_accounts(launcher: DockerLauncher, tiny: str) -> None:
    """One that has no /etc gets root, the agent and nobody else."""
    sandbox = await launcher.start(SPEC)  # the launcher's first image is another
    other = await launcher.start(SandboxSpec(image=tiny))
    assert "agent root\n" == await shell(other, "echo $(id -un) $(id -un 0)")
    assert 2 == len((await shell(other, "cat /etc/passwd")).splitlines())
    assert 2 < len((await shell(sandbox, "cat /etc/passwd")).splitlines())
    sandbox.close()
    other.close()


@pytest.mark.docker
@pytest.mark.parametrize("roots", ["image", "volume"])
async def test_every_root_names_the_agent(daemon: DockerDaemon, tiny: str, roots: RootsChoice) -> None:
    """Wherever the root file system comes from the sandbox's own user is in it, and in a layer is there again."""
    specs = [SandboxSpec(image=tiny), SandboxSpec(image=tiny, reset="overlay"), SandboxSpec(image=tiny, user="root")]
    async with DockerLauncher(daemon, roots=roots) as launcher:
        for spec in specs:
            sandbox = await launcher.start(spec)
            for _ in range(2):
                assert f"{spec.user} root\n" == await shell(sandbox, "echo $(id -un) $(id -un 0)")
                assert 2 == (await shell(sandbox, "cat /etc/passwd")).count(":/bin/sh\n")
                await sandbox.run("echo > /etc/passwd; echo > /etc/group")
                await sandbox.restore()


@pytest.mark.docker
async def test_root_has_its_name(daemon: DockerDaemon) -> None:
    """Where a task's commands run as root, they are root by name too."""
    async with DockerLauncher(daemon) as launcher:
        sandbox = await launcher.start(SandboxSpec(user="root"))
        assert "root\n" == await shell(sandbox, "whoami")
