"""A machine whose clock jumps: every deadline is by a clock that only goes forward."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

import hatch_build
from tests.pool.launchers import BACKENDS, script

# Interposed into the driver by the dynamic linker: each look at the time of day is an hour before or after the last.
JUMPING: Final = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long hour = 3600;

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = syscall(SYS_clock_gettime, clock, now);

	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += hour = -hour;
	return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
	struct timespec precise;

	clock_gettime(CLOCK_REALTIME, &precise);
	*now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
	return zone != 0;
}

time_t time(time_t *where)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return where ? (*where = now.tv_sec) : now.tv_sec;
}
"""
DRIVER: Final = """
import asyncio, json, sys, time, uvloop
from codecraft_pool import AcquireTimeout, SandboxPool
from tests.pool.launchers import SPEC, open_backend

async def main(backend):
    first, second, third = time.time(), time.time(), time.time()
    say = {"jumps": min(abs(second - first), abs(third - second))}
    async with open_backend(backend) as launcher, SandboxPool(launcher, max_sandboxes=1) as pool:
        lease = await pool.acquire(SPEC)
        result = await lease.sandbox.run("sleep 1001", limit_s=0.5)
        say |= {"timed_out": result.timed_out, "wall_s": result.wall_s}
        say["exit_code"] = (await lease.sandbox.run("sleep 0.2", limit_s=30)).exit_code
        began = time.monotonic()
        try:
            await pool.acquire(SPEC, limit_s=0.3)
        except AcquireTimeout:
            say["waited_s"] = time.monotonic() - began
        lease.release()
        (await pool.acquire(SPEC)).release()
    print(json.dumps(say), flush=True)

(asyncio if sys.argv[2] == "asyncio" else uvloop).run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module", name="jumping_clock")
def build_jumping_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clock")
    (folder / "jump.c").write_text(JUMPING)
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "jump.so"), str(folder / "jump.c")]
    subprocess.run(command, check=True, timeout=60)
    return folder / "jump.so"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_drivers_clock(request: pytest.FixtureRequest, jumping_clock: Path, backend: str, loop: str) -> None:
    """Limits of commands and of waiting are kept while the time of day jumps by two hours at every look."""
    if backend != "local":
        request.getfixturevalue("base_image")
    asyncio.run(drive(jumping_clock, backend, loop))


async def drive(jumping_clock: Path, backend: str, loop: str) -> None:
    async with script(DRIVER, backend, loop, environ={"LD_PRELOAD": str(jumping_clock)}) as driver:
        said = await driver.line()
        assert 0 == await driver.end()
    assert 7000 < said["jumps"]
    assert (True, 0) == (said["timed_out"], said["exit_code"])
    assert 0.5 <= said["wall_s"] < 30
    assert 0.3 <= said["waited_s"] < 30


def test_the_guests_clock() -> None:
    """The guest waits by no other clock than the one that only goes forward; it compares files' times with theirs."""
    sources = Path(hatch_build.__file__).parent / "pool" / "guest"
    texts = {path.name: path.read_text() for path in sorted(sources.glob("*.[ch]"))}
    clocks = {(name, clock) for name, text in texts.items() for clock in re.findall(r"\bCLOCK_\w+", text)}
    assert {("util.c", "CLOCK_MONOTONIC"), ("record.c", "CLOCK_REALTIME_COARSE")} == clocks
    text = "".join(texts.values())
    assert [] == re.findall(r"\b(?:time|gettimeofday|ftime|localtime|timerfd_settime|alarm)\s*\(", text)
