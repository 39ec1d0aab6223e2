"""The bash environment in real sandboxes: what agents may do, what resets undo, and what golds and replays are paid."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import gymnasium
import pytest

from codecraft_async.curriculum import Dataset, load_dataset
from codecraft_async.intercode import BashEnv, BashVectorEnv, FileTree
from tests.conftest import ASYNCIO
from tests.intercode.data import intercode_data
from tests.intercode.test_bash_parts import ENTRIES

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

DATA: Final = Dataset.from_rows(
    [
        {"query": "Which files are in /t?", "gold": "find /t -type f"},
        {
            "query": "Write x into /t/new and a line into the group file.",
            "gold": "echo x > /t/new; echo g >> /etc/group",
        },
        {"query": "Delete /usr/games and /t/f.", "gold": ["rm -r /usr/games", "rm /t/f"]},
        {"query": "Is there a file of the mode 553?", "gold": "find /t -perm 553"},
    ],
    name="own",
)
SAMPLE: Final = {"1": (0, 8, 15, 44), "4": (6, 20, 24)}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Roots take long to be copied, and are the same on either loop."""
    return ASYNCIO


@pytest.fixture(scope="module", name="tree")
def make_tree(tmp_path_factory: pytest.TempPathFactory, base_image: str) -> FileTree:
    """A few files at the root of the base image, which is there anyway."""
    file = tmp_path_factory.mktemp("tree") / "tree.json"
    file.write_text(json.dumps(ENTRIES))
    return FileTree.read(file, base=base_image)


@pytest.fixture(scope="module", name="env")
async def make_env(tree: FileTree) -> AsyncGenerator[BashEnv]:
    """A bash environment on it."""
    env = BashEnv(tree, data_path=DATA, backend="docker")
    yield env
    await env.aclose()


async def played(env: BashEnv, index: int, *actions: str) -> tuple[float, dict[str, Any]]:
    """What an episode pays, and the last info."""
    await env.areset(index=index)
    for action in actions:
        info = (await env.astep(action))[4]
        assert "fault" not in info, info
    _, reward, _, _, info = await env.astep("submit")
    return reward, info


async def test_a_bash_that_remembers(env: BashEnv) -> None:
    """Directory, variables and functions last from action to action; quotes stay; exit codes are told."""
    await env.areset(index=0)
    steps = [
        await env.astep(each)
        for each in ("id -u; pwd", "cd /t; x=1; f() { echo f; }", 'echo "a  b" $x; f; pwd', "ls /x")
    ]
    assert ["0\n/\n", "", "a  b 1\nf\n/t\n"] == [step[0] for step in steps[:3]]
    assert [True, True, True, False] == [step[4]["action_executed"] for step in steps]
    assert 2 == steps[3][4]["exit_code"]


@pytest.mark.parametrize("index", range(4))
async def test_golds_are_paid_in_full(env: BashEnv, index: int) -> None:
    """Each gold, run as an action, earns 1, wherever it writes."""
    gold = DATA[index].gold
    assert 1.0 == (await played(env, index, *([gold] if isinstance(gold, str) else gold)))[0]


async def test_what_is_not_paid(env: BashEnv) -> None:
    """Doing nothing earns nothing; half of the work half; a change that nobody asked for costs."""
    for index in range(4):
        assert 0.0 == (await played(env, index))[0]
        assert 0.0 == (await played(env, index, "true"))[0]
    reward, info = await played(env, 1, "echo x > /t/new")
    assert (0.5, ["/etc/group"]) == (reward, info["differences"])
    reward, info = await played(env, 0, "touch /srv/odd; find /t -type f")
    assert (0.5, ["/srv/odd"]) == (reward, info["differences"])
    assert 0.0 == (await played(env, 1, "echo y > /t/new"))[0]


async def test_nothing_runs_while_a_submission_is_compared(env: BashEnv) -> None:
    """A daemon that waits for it ends before it; in between, it lives on."""
    await env.areset(index=1)
    await env.astep("echo x > /t/new; (while sleep 0.01; do echo >> /srv/log; done) >/dev/null 2>&1 &")
    for _ in range(2):
        grows = "n=$(cat /srv/log | wc -l); until [ $(cat /srv/log | wc -l) -gt $n ]; do sleep 0.01; done"
        assert (await env.astep(grows))[4]["action_executed"]
    _, reward, *_, info = await env.astep("submit")
    assert pytest.approx(1 / 3) == reward
    assert ["/etc/group", "/srv/log"] == info["differences"]
    assert 0 == (await env.sandbox.stat()).processes


async def test_as_recorded(tree: FileTree) -> None:
    """Compatible commands: quotes are lost, `cd` is guessed, nothing else lasts, and the published formula pays; jobs
    are listened to until they have ended, two seconds at most, as the daemon does."""
    env = BashEnv(tree, data_path=DATA, backend="docker", compat=True, reward="intercode", command_limit_s=1.0)
    await env.areset(index=0)
    actions = [
        "x=1",
        'echo "hello world"',
        "cd t",
        "pwd; echo $x.",
        'echo "',
        "sleep 9",
        "printf '\\377'",
        "cd nowhere",
        "cd /t/../t && ls",
    ]
    seen = [(await env.astep(action))[0] for action in actions]
    assert ["", "hello\n", "", "/t\n.\n", "Malformed command", "Command timed out", "Malformed command"] == seen[:7]
    assert "No such file" in seen[7]
    assert "f\n" in seen[8] and "OCI runtime exec failed" in (await env.astep("pwd"))[0]
    await env.areset(index=0)
    jobs = ("(sleep 0.2; echo b) & echo a", "sleep 99 & echo a", "ls -A /dev/shm | wc -l")
    assert ["a\nb\n", "a\n", "0\n"] == [(await env.astep(each))[0] for each in jobs]
    await env.areset(index=0)
    await env.astep("echo hello")
    await env.astep("cd /t/")
    observation, reward, *_ = await env.astep("submit")
    assert ("", 0.67) == (observation, reward)
    await env.aclose()


TIMES: Final = Dataset.from_rows(
    [{"query": "Delete what is old.", "gold": "find /t -mtime +7 -name f -delete"}, {"query": "Which are old?"}],
    name="times",
)


async def test_times_that_resets_leave(tree: FileTree) -> None:
    """Files that an episode, or its gold, has changed are new to those that follow, if so asked."""
    options: dict[str, Any] = {"compat": True, "reward": "intercode", "score_steps": True, "git_times": True}
    env = BashEnv(tree, data_path=TIMES, backend="docker", **options)
    await env.areset(index=0)
    scores = [(await env.astep("true"))[4]["score"] for _ in range(2)]
    assert pytest.approx([0.72, 1.0]) == scores  # the gold deletes a file, and finds nothing old the second time
    await env.astep("rm /t/f")
    for action, count in (("find /t -type f -mtime +7", 0), ("find /t -type l -mtime +7", 1)):
        await env.areset(index=1)
        assert count == len((await env.astep(action))[0].splitlines())
    await env.aclose()


async def golds_paid(number: str, rows: tuple[int, ...], **options: Any) -> dict[int, float]:
    """What the golds of some tasks of a file system earn as actions, several at once."""
    compat = bool(options.get("compat"))
    tree = FileTree.read(intercode_data(f"nl2bash/tree_{number}.json"), compat=compat)
    whole = load_dataset(intercode_data(f"nl2bash/fs_{number}.json"))
    data = Dataset.from_rows([whole[row].as_dict() for row in rows], name=f"fs_{number}")
    env = BashVectorEnv(
        len(rows),
        image_name=tree,
        data_path=data,
        sampler="sequential",
        backend="docker",
        autoreset_mode="Disabled",
        prove_every=1,
        **options,
    )
    try:
        await env.areset()
        await env.astep(tuple(str(record.gold) for record in data))
        _, rewards, *_ = await env.astep(("submit",) * len(rows))
        await env.areset()
        stats = (await env.runtime.pool()).stats()
        assert (0, 0) == (stats.failed_proofs, stats.proof_errors) and stats.proofs >= len(rows)
        return dict(zip(rows, rewards.tolist(), strict=True))
    finally:
        await env.aclose()


@pytest.mark.parametrize("number", SAMPLE)
@pytest.mark.parametrize("form", ["compat", "strict"])
async def test_golds_of_nl2bash(base_image: str, number: str, form: str) -> None:
    """A sample of the golds that depend on files alone: all earn 1, under either reward; every restore is proved."""
    rows = SAMPLE[number]
    options: dict[str, Any] = {"compat": True, "reward": "intercode"} if form == "compat" else {}
    assert dict.fromkeys(rows, 1.0) == await golds_paid(number, rows, **options)


async def test_recorded_actions(base_image: str) -> None:
    """An episode, and the next one, which depends on the times that it left, are paid as recorded and leave nothing."""
    recorded = json.loads(intercode_data("nl2bash/gpt4_fs_1.json").read_bytes())
    options: dict[str, Any] = {"compat": True, "reward": "intercode", "git_times": True, "score_steps": True}
    env = BashVectorEnv(
        1,
        image_name=FileTree.read(intercode_data("nl2bash/tree_1.json"), compat=True),
        data_path=intercode_data("nl2bash/fs_1.json"),
        backend="docker",
        autoreset_mode="Disabled",
        prove_every=1,
        **options,
    )
    for row in ("11", "12"):
        turns = recorded[row]["turn_history"]
        await env.areset(options={"index": int(row)})
        paid = [float((await env.astep((action,)))[4]["score"][0]) for action in turns["actions"]]
        assert pytest.approx(turns["rewards"], abs=0.005) == paid
    await env.areset()
    stats = (await env.runtime.pool()).stats()
    assert (0, 0) == (stats.failed_proofs, stats.proof_errors) and stats.proofs > len(turns["actions"])
    await env.aclose()


def test_registered(tree: FileTree) -> None:
    """gymnasium makes it by its id, and many of it."""
    env: Any = gymnasium.make("codecraft_async:intercode/Bash-v0", image_name=tree, data_path=DATA, backend="docker")
    assert "Which files are in /t?" == env.reset(options={"index": 0})[0]
    assert "/t/f\n" == env.step("find /t -type f")[0]
    assert 1.0 == env.step("submit")[1]
    env.close()


def test_wrong_reward() -> None:
    """The forms are named."""
    with pytest.raises(ValueError, match="it must be 'strict' or 'intercode'"):
        BashEnv(reward="paid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="git_times is True; that needs compat"):
        BashEnv(git_times=True)
