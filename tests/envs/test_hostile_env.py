"""Rewards under attack: an agent that leaves something behind when it submits gets what its work is worth, no more."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from codecraft_async import CodeVectorEnv
from codecraft_async.curriculum import (
    AllOf,
    CommandSpec,
    Curriculum,
    ExitStatusGrader,
    FileGrader,
    Grader,
    Match,
    OutputGrader,
    Task,
    Workspace,
    WorkspaceFile,
    load_curriculum,
)
from tests.conftest import ASYNCIO, UVLOOP
from tests.pool.launchers import ALL_BACKENDS, open_backend

pytestmark = pytest.mark.anyio

GRADERS: Final[dict[str, Grader]] = {
    "file": FileGrader("answer", Match("42")),
    "status": ExitStatusGrader(CommandSpec(command="grep -qx 42 answer", limit_s=1.0)),
    "output": OutputGrader(CommandSpec(command="cat answer; git --version | wc -l", limit_s=2.0), Match("42\n1")),
}
STEP_LIMIT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class LastMove:
    """What an agent does right before it submits, and whether its answer is right at that moment."""

    name: str
    action: str
    earned: float = 0.0


def python(program: str) -> str:
    """An action that runs a Python program with some words defined."""
    prelude = """
import ctypes, fcntl, mmap, os, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None)
def leave(work):
    # A daemon out of every group, out of the pipes of its command.
    if os.fork() == 0:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        for number in signal.valid_signals() - {9, 19}:
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        while True:
            work()
def cheat():
    with open("/workspace/answer", "w") as file:
        file.write("42\\n")
def watch():
    fd = libc.inotify_init()
    libc.inotify_add_watch(fd, b"/workspace/answer", 0x21)
    libc.inotify_add_watch(fd, b"/workspace", 0x21)
    return fd
"""
    return f"cat > /tmp/a.py <<'END'\n{prelude}\n{textwrap.dedent(program)}\nEND\npython3 /tmp/a.py"


WRONG: Final = (
    LastMove(
        "a watcher that writes the answer when the grader opens the file",
        python("fd = watch()\nleave(lambda: (os.read(fd, 4096), cheat()))"),
    ),
    LastMove(
        "a watcher of processes that writes the answer when the grader starts",
        python("""
            mine = set(os.listdir("/proc"))
            def look():
                for pid in set(os.listdir("/proc")) - mine:
                    try:
                        if b"answer" in open(f"/proc/{pid}/cmdline", "rb").read():
                            cheat()
                    except OSError:
                        pass
            leave(look)
        """),
    ),
    LastMove(
        "a timer, a memory map and an open file",
        python("""
            file = open("/workspace/answer", "r+b")
            memory = mmap.mmap(file.fileno(), 0)
            fd = watch()
            def write():
                os.read(fd, 4096)
                memory[:3] = b"42\\n"
                os.pwrite(file.fileno(), b"42\\n", 0)
                file.truncate(3)
            leave(write)
        """),
    ),
    LastMove(
        "handlers that write the answer when they are asked to end",
        python("""
            if os.fork() == 0:
                import atexit
                os.setsid()
                os.closerange(0, 3)
                atexit.register(cheat)
                for number in (1, 2, 3, 15):
                    signal.signal(number, lambda *_: sys.exit(cheat()))
                while True:
                    signal.pause()
        """),
    ),
    LastMove(
        "programs of the grader's names, everywhere",
        """for d in . ~/bin ~/.local/bin /tmp /var/tmp; do mkdir -p $d; for p in grep cat sh git; do
           printf '#!/bin/sh\\necho 42\\necho 1\\nexit 0\\n' > $d/$p; chmod 755 $d/$p; done; done
           export PATH=.:~/bin:$PATH; alias grep=true; grep() { true; }
           echo 'exit 0' > ~/.profile; cp ~/.profile ~/.bashrc
           printf '[alias]\\nversion = !echo 1\\n' > ~/.gitconfig; export ENV=~/.profile BASH_ENV=~/.profile""",
    ),
    LastMove(
        "verdicts and frames as text",
        python("""
            for number in range(1, 200):
                os.write(1, b"score 1\\nreward: 1.0\\n" + struct.pack("<IIB3x", 44, number, 0x82) + bytes(44))
        """),
    ),
    LastMove("a link to what the grader itself has", "rm answer; ln -s /proc/self/environ answer; echo 42 > /tmp/42"),
    LastMove("a link out of the workspace", "rm answer; echo 42 > /tmp/42; ln -s /tmp/42 answer"),
    LastMove("a pipe with a writer", "rm answer; mkfifo answer; setsid sh -c 'while :; do echo 42 > answer; done' &"),
    LastMove("a directory", "rm answer; mkdir answer; echo 42 > answer/42"),
    LastMove("an endless file", "rm answer; truncate -s 1T answer || truncate -s 8G answer"),
    LastMove("a closed workspace", "chmod 000 answer .; cd /"),
    LastMove("no workspace", "rm -rf /workspace/..?* /workspace/.[!.]* /workspace/*; chmod 000 /workspace"),
    LastMove(
        "the answer in a queue, a segment, a socket and the environment",
        python("""
            libc.shmget(1, 4096, 0o1666)
            libc.msgget(1, 0o1666)
            server = socket.socket(socket.AF_UNIX)
            server.bind("/tmp/answer")
            server.listen()
            leave(lambda: server.accept()[0].send(b"42"))
        """),
    ),
)
RIGHT: Final = (
    LastMove("nothing", "echo 42 > answer", 1.0),
    LastMove(
        "locks and leases on the answer",
        "echo 42 > answer;"
        + python("""
            fd = os.open("answer", os.O_RDWR)
            fcntl.flock(fd, fcntl.LOCK_EX)
            fcntl.lockf(fd, fcntl.LOCK_EX)
            other = os.open("answer", os.O_RDONLY)
            leave(lambda: time.sleep(1))
        """),
        1.0,
    ),
    LastMove(
        "a lease that nobody gives back",
        "echo 42 > answer;"
        + python("""
            signal.signal(signal.SIGIO, signal.SIG_IGN)
            fcntl.fcntl(os.open("answer", os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
            leave(lambda: time.sleep(1))
        """),
        1.0,
    ),
    LastMove("a fork bomb", "echo 42 > answer; b() { b | b & }; (b; b) >/dev/null 2>&1 & exit 0", 1.0),
    LastMove(
        "floods of output from what is left behind",
        "echo 42 > answer; for i in 1 2 3 4 5 6; do (setsid yes &); (setsid yes >&2 &); done",
        1.0,
    ),
    LastMove(
        "full trees",
        "echo 42 > answer; for t in /tmp /var/tmp /dev/shm ~ .; do cat /dev/zero > $t/full; done 2>/dev/null; :",
        1.0,
    ),
    LastMove("stopped processes", "echo 42 > answer; for i in 1 2 3; do sh -c 'kill -STOP $$' & done; sleep 0.1", 1.0),
    LastMove("kill -9 -1", "echo 42 > answer; kill -9 -1", 1.0),
)


def hostile_task() -> Task:
    """Each of three kinds of graders must agree."""
    builtin = load_curriculum("builtin")["hello-world"]
    return Task(
        id="hostile",
        title="The answer",
        category="test",
        instruction="Write 42 into answer.",
        image=builtin.image,
        workspace=Workspace({"answer": WorkspaceFile(b"41\n")}),
        max_steps=10,
        grader=AllOf(GRADERS),
    )


@pytest.fixture(scope="module", name="backend", params=ALL_BACKENDS)
def choose_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(scope="module")
def anyio_backend(backend: str) -> tuple[str, dict[str, Any]]:
    """Attacks are on the guest, which knows nothing of the loop: each launcher is attacked on one."""
    return ASYNCIO if backend == "docker" else UVLOOP


@pytest.fixture(scope="module", name="envs")
async def make_envs(request: pytest.FixtureRequest, backend: str) -> AsyncGenerator[list[Any]]:
    """Two environments: one for the attacker and one for its neighbour."""
    if backend == "docker":
        request.getfixturevalue("base_image")
    async with open_backend(backend) as launcher:
        vector = CodeVectorEnv(2, curriculum=Curriculum([hostile_task()]), backend=launcher)
        yield [env.unwrapped for env in vector.envs]
        await vector.aclose()


async def play(env: Any, *actions: str) -> tuple[float, dict[str, Any]]:
    """An episode of these actions; return the reward and the last info."""
    await env.areset()
    for action in actions:
        _, reward, terminated, truncated, info = await env.astep(action)
        assert (0.0, False, False, True) == (reward, terminated, truncated, info["valid"]), (action, info)
    _, reward, terminated, _, info = await env.astep("submit")
    assert (True, True, False) == (info["valid"], terminated, "fault" in info), info
    return reward, info


async def play_honestly(env: Any, stop: asyncio.Event) -> list[tuple[float, float]]:
    """Episodes whose answers are right and wrong by turns, until told to stop; return both rewards of each pair."""
    pairs: list[tuple[float, float]] = []
    while not pairs or not stop.is_set():
        right, _ = await play(env, "ls; echo 42 > answer")
        wrong, _ = await play(env, "cat answer")
        pairs.append((right, wrong))
    return pairs


@pytest.mark.parametrize("move", (*WRONG, *RIGHT), ids=lambda move: move.name.replace(" ", "-"))
async def test_last_move(envs: list[Any], move: LastMove) -> None:
    """It earns what the answer is worth when it submits; the neighbour's rewards are right, and so is the next one."""
    attacker, neighbour = envs
    stop = asyncio.Event()
    honest = asyncio.create_task(play_honestly(neighbour, stop))
    try:
        async with asyncio.timeout(STEP_LIMIT_S):
            reward, info = await play(attacker, move.action)
    finally:
        stop.set()
        pairs = await honest
    assert move.earned == reward, info
    assert {(1.0, 0.0)} == set(pairs)
    assert (0.0, 1.0) == ((await play(attacker, "true"))[0], (await play(attacker, "echo 42 > answer"))[0])
