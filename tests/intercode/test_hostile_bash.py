"""Agents that are root and ruin what they can: it costs one episode and nothing else, and pays nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest

from codecraft_async.curriculum import Dataset, TaskLimits
from codecraft_async.intercode import BashVectorEnv, FileTree
from tests.conftest import ASYNCIO
from tests.intercode.test_bash import make_tree as make_tree  # a fixture of this module too

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

DATA: Final = Dataset.from_rows([{"query": "Write x into /t/new.", "gold": "echo x > /t/new"}], name="hostile")
LOOK: Final = "stat -c '%n %a %u %g %s %Y' /t /t/* /usr /usr/bin /bin/bash /lib /etc/passwd; ls -A / /t /dev/shm /tmp"
RUINS: Final = {
    "all is deleted": "rm -rf --no-preserve-root / 2>/dev/null",
    "no bash": "rm -f /bin/bash /bin/sh /usr/bin/env; exec false",
    "a full root": "head -c 4G /dev/zero > /big; head -c 1M /dev/zero > /t/new2",
    "full trees": "for d in /tmp /dev/shm /var/tmp /workspace; do head -c 2G /dev/zero > $d/big; done",
    "no more files": "mkdir /many && cd /many && seq 200000 | xargs touch",
    "a fork bomb": "f() { f | f & }; f; :",
    "a fork bomb that stays": "(while :; do sleep 99 & done) >/dev/null 2>&1 &",
    "kills all": "kill -9 -1; kill -9 1",
    "no modes": "chmod -R 000 / 2>/dev/null",
    "no /usr": "mv /usr /gone; ln -s /gone/bin /usr",
    "another /lib": "mkdir /t/lib; rm -f /lib /lib64; ln -s /t/lib /lib; ln -s /t/lib /lib64",
    "mounts": "mount -o remount,rw /proc; mount -t tmpfs none /t; mount --bind / /t; umount -l /proc; unshare -m true;"
    " echo 1 > /proc/sys/kernel/sysrq",
    "a daemon": "setsid bash -c 'while :; do echo y > /t/new; echo > /t/$RANDOM; done' >/dev/null 2>&1 & sleep 0.1",
    "a forged gold": "git() { echo x; }; export -f git; mkdir -p /t/new; mkfifo /t/new/f; ln -s /proc/1/root /t/new/r",
}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """What is ruined is in sandboxes, the same on either loop."""
    return ASYNCIO


@pytest.fixture(scope="module", name="env")
async def make_env(tree: FileTree) -> AsyncGenerator[BashVectorEnv]:
    """Two environments over one pool, which proves every sandbox that comes back; small ones are soon full."""
    options: dict[str, Any] = {"limits": TaskLimits(memory_bytes=96 << 20), "command_limit_s": 2.0, "prove_every": 1}
    env = BashVectorEnv(2, image_name=tree, data_path=DATA, backend="docker", autoreset_mode="Disabled", **options)
    yield env
    await env.aclose()


@pytest.fixture(scope="module", name="first_look")
async def make_first_look(env: BashVectorEnv) -> str:
    """What is there before anything is ruined."""
    await env.areset()
    looks = (await env.astep((LOOK, LOOK)))[0]
    assert looks[0] == looks[1]
    return looks[0]


@pytest.mark.parametrize("ruin", RUINS.values(), ids=RUINS)
async def test_it_costs_one_episode(env: BashVectorEnv, first_look: str, ruin: str) -> None:
    """The neighbour's gold is paid in full, the ruin is paid nothing or is a fault, and the next episode is as new."""
    await env.areset()
    await env.astep((ruin, "echo x > /t/new"))
    _, rewards, terminations, truncations, _ = await env.astep(("submit", "submit"))
    assert [0.0, 1.0] == rewards.tolist()
    assert (terminations | truncations).all()
    await env.areset()
    assert (first_look, first_look) == (await env.astep((LOOK, LOOK)))[0]
    stats = (await env.runtime.pool()).stats()
    assert (0, 0) == (stats.failed_proofs, stats.proof_errors)
