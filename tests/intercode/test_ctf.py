"""The capture-the-flag environment in real sandboxes: tasks are proved; what agents do stays in their episode."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import gymnasium
import pytest

from codecraft_async import EpisodeError
from codecraft_async.curriculum import Dataset
from codecraft_async.intercode import CtfDataset, CtfEnv, CtfVectorEnv, FileTree, assets_image
from codecraft_curriculum.ctf import CHALLENGES, Challenge, Script
from codecraft_pool import DockerLauncher, Images, connect_daemon
from tests.conftest import ASYNCIO

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

WHEN: Final = 1_600_000_000
SERVER: Final = (
    "import socket,time; s = socket.create_server(('127.0.0.1', 9000)); print('up', flush=True)\n"
    "while True: c = s.accept()[0]; print('visitor', flush=True); c.sendall(b'hello\\n'); c.close()\n"
)
ASK: Final = "cat < /dev/tcp/127.0.0.1/9000"
ROWS: Final[list[dict[str, Any]]] = [
    {
        "query": "What does the server say?",
        "gold": "Flag{a b}",
        "task_id": 7,
        "tags": ["Web", "Easy"],
        "setup": [
            "python3 server.py & until (: < /dev/tcp/127.0.0.1/9000) 2>/dev/null; do sleep 0.02; done",
            "echo $! > pid; cd 'my files'",
        ],
        "hints": ["first", "second"],
    },
    {"query": "Set up badly.", "gold": "x", "task_id": "bad", "setup": ["echo so it goes", "(exit 3)"]},
]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Roots take long to be copied, and are the same on either loop."""
    return ASYNCIO


@pytest.fixture(scope="module", name="assets")
def make_assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories as a user has them."""
    root = tmp_path_factory.mktemp("assets")
    for name in ("7/my files", "7/solution", "bad"):
        (root / name).mkdir(parents=True)
    (root / "7/server.py").write_text(SERVER)
    (root / "7/solution/answer").write_text("Flag{a b}")
    (root / "7/my files/run").write_text("#!/bin/sh\necho runs\n")
    (root / "7/my files/run").chmod(0o755)
    (root / "7/link").symlink_to("my files/run")
    for path in sorted(root.rglob("*"), reverse=True):  # an image of them is the same in each run of the tests
        os.utime(path, (WHEN, WHEN), follow_symlinks=False)
    return root


@pytest.fixture(scope="module", name="image")
def make_image(assets: Path, base_image: str) -> FileTree:
    """An image that holds them."""
    return assets_image(assets, base=base_image)


@pytest.fixture(scope="module", name="launcher")
async def make_launcher(image: FileTree) -> AsyncGenerator[DockerLauncher]:
    """What starts the sandboxes of all tests here."""
    async with await connect_daemon() as daemon:
        images = Images(daemon, more_recipes=[image])
        async with DockerLauncher(daemon, images=images, roots="image") as launcher:
            yield launcher


@pytest.fixture(scope="module", name="challenges")
async def make_challenges(launcher: DockerLauncher, base_image: str) -> AsyncGenerator[CtfEnv]:
    """The tasks of the package, each episode with a flag of its own."""
    env = CtfEnv(base_image, data_path="builtin", backend=launcher, fresh_flags=True, command_limit_s=60.0)
    yield env
    await env.aclose()


@pytest.fixture(scope="module", name="env")
async def make_env(
    launcher: DockerLauncher, base_image: str, assets: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[CtfEnv]:
    """Two tasks of a user's, one of them with a large file."""
    root = tmp_path_factory.mktemp("large")
    shutil.copytree(assets, root, symlinks=True, dirs_exist_ok=True)
    (root / "7/large").write_bytes(bytes(9 << 20))
    data = Dataset.from_rows(ROWS, name="own")
    env = CtfEnv(base_image, data_path=data, assets_dir=root, backend=launcher, hint_cost=0.25, command_limit_s=60.0)
    yield env
    await env.aclose()


async def played(env: CtfEnv, index: int, script: Script) -> float:
    """What an episode pays where the last line that a script prints is submitted."""
    await env.areset(index=index)
    observation = ""
    for action in script:
        observation, _, _, _, info = await env.astep(action)
        assert "fault" not in info, info
    last = (observation.strip().splitlines() or [""])[-1]
    return (await env.astep(f"submit {last}"))[1]


@pytest.mark.parametrize("challenge", CHALLENGES, ids=lambda challenge: str(challenge.id))
async def test_a_challenge_is_proved(challenges: CtfEnv, challenge: Challenge) -> None:
    """The expert finds the flag; who looks where it must not be, or forges it, does not."""
    index = CHALLENGES.index(challenge)
    assert 1.0 == await played(challenges, index, challenge.expert)
    for name, script in challenge.failures.items():
        assert (name, 0.0) == (name, await played(challenges, index, script))


@pytest.mark.parametrize(
    "leak", ["cp $HIDDEN/flag /srv/f; chmod 644 /srv/f", "bash -c 'sleep 99; :' $(cat $HIDDEN/flag) &"]
)
async def test_what_leaks_is_found(launcher: DockerLauncher, base_image: str, leak: str) -> None:
    """The search that must fail everywhere else succeeds where a set-up is careless."""
    careless = replace(CHALLENGES[3], setup=leak)
    env = CtfEnv(base_image, data_path=CtfDataset.made([careless]), backend=launcher)
    assert 1.0 == await played(env, 0, careless.failures["search"])
    await env.aclose()


async def test_the_same_seed_makes_the_same_flag(challenges: CtfEnv) -> None:
    """And neither observations nor info tell it before the end."""
    flags: list[str] = []
    for seed in (5, 5, 6):
        observation, info = await challenges.areset(index=4, seed=seed)
        step = await challenges.astep("ls -la; cat /proc/*/cmdline")
        flags.append(challenges.gold)
        assert flags[-1] not in f"{observation} {info} {step}"
        _, reward, _, _, info = await challenges.astep("submit flag{}")
        assert (0.0, flags[-1], "flag{}") == (reward, info["eval_obs"], info["agent_obs"])
    assert flags[0] == flags[1] and 3 == len({*flags, CtfDataset.made().task(4).flag})


async def test_files_and_servers_of_a_task(env: CtfEnv) -> None:
    """Assets are the agent's, with their modes and times; what the set-up started lives on until the reset."""
    for _ in range(2):
        observation, info = await env.areset(index=0)
        assert ("What does the server say?", "7", "Web,Easy") == (observation, info["task_id"], info["tags"])
        assert "agent\n/ctf/7/my files\n" == (await env.astep("id -un; pwd"))[0]
        seen = (await env.astep("cd ..; ls; ./link; stat -c '%a %U %Y' 'my files/run'; wc -c < large"))[0]
        assert f"large\nlink\nmy files\npid\nserver.py\nruns\n755 agent {WHEN}\n{9 << 20}\n" == seen
        assert ["hello\n"] * 3 == [(await env.astep(ASK))[0] for _ in range(3)]
        await env.astep("sleep 99 & echo $! > /tmp/sleeping; touch ~/x /ctf/7/x")
        assert "no\n" == (await env.astep("kill $(cat pid) 2>/dev/null || echo no; kill -0 $(cat /tmp/sleeping)"))[0]
        assert "hello\n" == (await env.astep("rm -r /ctf/7/*; " + ASK))[0]


async def test_flags_and_hints(env: CtfEnv) -> None:
    """The whole line counts, as it is; each hint costs, and there is no end of the episode that tells more."""
    await env.areset(index=0)
    info: dict[str, Any] = {}
    seen = []
    for _ in range(3):
        observation, _, _, _, info = await env.astep("hint")
        seen.append((observation, int(info["hints"]), int(info["hints_left"]), info["action_executed"]))
    assert [("first", 1, 1, True), ("second", 2, 0, True), ("There are no more hints.", 2, 0, False)] == seen
    _, reward, terminated, _, info = await env.astep("submit  Flag{a b} ")
    assert (0.5, True, {"flag": 1.0, "hints": -0.5}) == (reward, terminated, info["reward"])
    for said in ("submit", "submit flag{a b}", "submit Flag{a", "submit Flag{a b} or Flag{c}"):
        await env.areset(index=0)
        assert 0.0 == (await env.astep(said))[1]


async def test_a_set_up_that_fails(env: CtfEnv) -> None:
    """It is an error that names the task, and the next reset works."""
    with pytest.raises(EpisodeError, match=r"task 'bad' \(row 1\): its setup failed: exit code 3: so it goes"):
        await env.areset(index=1)
    await env.areset(index=0)


async def test_agents_that_destroy(env: CtfEnv) -> None:
    """Whatever is deleted, filled, killed or cancelled: the next episode is as the first."""
    look = "find /ctf /tmp /home/agent /srv -printf '%M %u %p\\n' | sort; " + ASK
    await env.areset(index=0)
    first = (await env.astep(look))[0]
    for ruin in (
        "rm -rf /ctf/* /home/*/ /tmp /workspace /bin/bash 2>/dev/null; exec 3>&-; kill -9 $$",
        "head -c 1G /dev/zero > /tmp/x; head -c 1G /dev/zero > x",
        "kill -9 -1; (trap '' TERM; while :; do :; done) & disown -a; ulimit -n 3",
        ": > server.py; mv /ctf/7 /tmp/7; ln -s / /ctf/7; mkdir -p /tmp/a/b; chmod 0 /tmp/a",
    ):
        await env.astep(ruin)
        await env.astep("echo on")
        step = asyncio.create_task(env.astep("sleep 99"))
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait([step])
        assert (1.0, "") == ((result := await env.astep("submit Flag{a b}"))[1], result[4].get("fault", ""))
        await env.areset(index=0)
        assert first == (await env.astep(look))[0]


async def test_as_intercode(launcher: DockerLauncher, image: FileTree) -> None:
    """Compatible: root, a bash for each action with its quotes, `python3 -c` in none. Assets can be in the image."""
    data = Dataset.from_rows([{**ROWS[0], "setup": "cd 'my files'", "gold": "Flag{ab}"}])
    env = CtfEnv(image, data_path=data, backend=launcher, compat=True, reward="intercode")
    await env.areset()
    actions = [
        'x=1; echo "a  b"; id -un',
        "pwd; echo $x.; stat -c %U run",
        "python3 -c 'print(\"$x\")'",
        'python3 -c "',
        "cd ..",
        "cat server.py | wc -l; ls",
    ]
    seen = [(await env.astep(action))[0] for action in actions]
    assert ["a  b\nroot\n", "/ctf/7/my files\n.\nroot\n", "$x\n", "Malformed command", ""] == seen[:5]
    assert "2\nlink\nmy files\nserver.py\n" == seen[5]
    assert 0.0 == (await env.astep("submit"))[1]
    await env.areset()
    await env.astep("rm -rf /ctf /etc /srv /bin/tar /bin/chown /bin/bash")
    await env.areset()
    assert "/ctf/7/my files\n" == (await env.astep("pwd"))[0]
    await env.aclose()
    env = CtfEnv(image, data_path=data, backend=launcher, reward="intercode")
    await env.areset()
    assert "agent\n" == (await env.astep("stat -c %U run"))[0]
    assert (0.0, 1.0) == ((await env.ascore("Flag{c}"))[0], (await env.ascore("flag{AB}"))[0])
    assert 1.0 == (await env.astep("submit: fLAG{ab} or Flag{c}"))[1]
    await env.aclose()


async def test_many(launcher: DockerLauncher, base_image: str) -> None:
    """They share the assets, and after every episode a sandbox is as good as new."""
    env = CtfVectorEnv(
        3, image_name=base_image, data_path="builtin", sampler="sequential", backend=launcher, prove_every=1
    )
    observations, infos = await env.areset(seed=0)
    assert ["lost-branch", "postcard", "close-primes"] == list(infos["task_id"])
    assert 3 == len(set(observations))
    await env.astep(("touch x ~/x /tmp/x; sleep 99 &",) * 3)
    tasks = CtfDataset.made()
    actions = (f"submit {tasks.task(0).flag}", "submit", f"submit {tasks.task(2).flag}")
    assert [1.0, 0.0, 1.0] == (await env.astep(actions))[1].tolist()
    infos = (await env.astep(("",) * 3))[4]
    assert ["notice-board", "gate", "clerk"] == list(infos["task_id"])
    stats = (await env.runtime.pool()).stats()
    assert 3 <= stats.proofs and 0 == stats.failed_proofs
    await env.aclose()


def test_registered() -> None:
    """gymnasium makes it by its id, and many of it."""
    one: Any = gymnasium.make("codecraft_async:intercode/Ctf-v0", data_path="builtin")
    many: Any = gymnasium.make_vec("codecraft_async:intercode/Ctf-v0", num_envs=2, data_path="builtin")
    assert isinstance(one.unwrapped, CtfEnv) and isinstance(many, CtfVectorEnv)
    one.close()
    many.close()
