"""`PythonEnv` and its rewards: functions that are right, wrong, or out to deceive."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import numpy as np
import pytest

from codecraft_async import EpisodeError
from codecraft_async.curriculum import Dataset, load_dataset
from codecraft_async.intercode.interpreter import Interpreter
from codecraft_async.intercode.mbpp import CorruptGold, FunctionGolds, FunctionTask, SplitTest
from codecraft_async.intercode.python import PythonEnv, PythonVectorEnv
from codecraft_async.pool import LocalLauncher
from tests.conftest import UVLOOP
from tests.intercode.data import intercode_data

pytestmark = pytest.mark.anyio

DOUBLE: Final = {
    "query": "Write a function that doubles each number of a list.",
    "gold": "def helper(x):\r\n    return 2 * x\r\ndef double(xs):\r\n    return [helper(x) for x in xs]",
    "tests": ["assert double([1, 2]) == [2, 4]", "assert double([]) == []", "assert double([0.5]) == [1.0]"],
}
CORRUPT: Final = {"query": "impossible", "gold": "def f():\n    return 1", "tests": ["assert f() == 2"]}
HALF: Final = {**CORRUPT, "tests": ["assert f() == 2", "assert f() == 1"]}
SILENT: Final = {"query": "nothing", "gold": "f = lambda x: x", "tests": ["assert f(1) == 1"]}
DATA: Final = Dataset.from_rows([DOUBLE, CORRUPT, HALF, SILENT], name="functions")
RIGHT: Final = "def mine(xs):\n    return [x + x for x in xs]"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One loop: what is tried is what programs do in sandboxes; the interpreter's tests have both."""
    return UVLOOP


@pytest.fixture(name="launcher", scope="module")
async def make_launcher() -> AsyncGenerator[LocalLauncher]:
    """One launcher for all tests."""
    async with LocalLauncher() as launcher:
        yield launcher


@pytest.fixture(name="env", scope="module")
async def make_env(launcher: LocalLauncher) -> AsyncGenerator[PythonEnv]:
    """An environment with the strict reward."""
    env = PythonEnv(data_path=DATA, backend=launcher)
    yield env
    await env.aclose()


@pytest.fixture(name="published", scope="module")
async def make_published(launcher: LocalLauncher) -> AsyncGenerator[PythonEnv]:
    """An environment with InterCode's reward."""
    env = PythonEnv(data_path=DATA, backend=launcher, reward="intercode")
    yield env
    await env.aclose()


async def play(env: PythonEnv, *actions: str, index: int = 0) -> tuple[float, dict[str, Any]]:
    """Play an episode; return the reward of the last action, and its info."""
    await env.areset(index=index)
    for action in actions[:-1]:
        assert 0.0 == (await env.astep(action))[1]
    _, reward, terminated, truncated, info = await env.astep(actions[-1])
    assert (True, False) == (terminated, truncated)
    return reward, info


async def test_an_episode(env: PythonEnv) -> None:
    """Definitions last, values are shown, errors are told; a right function pays 1, under whatever name."""
    observation, _ = await env.areset(index=0)
    assert DOUBLE["query"] == observation
    assert "{'output': '', 'error': ''}" == (await env.astep(RIGHT))[0]
    observation, _, _, _, info = await env.astep("mine([3])")
    assert ("{'output': '[6]', 'error': ''}", True, "", "kept") == (
        observation,
        *(info[key] for key in ("action_executed", "error", "state")),
    )
    observation, _, _, _, info = await env.astep("mine(3)")
    assert "{'error': \"Error: 'int' object is not iterable\"}" == observation
    assert (False, "TypeError: 'int' object is not iterable", 1) == (
        info["action_executed"],
        info["error"],
        info["exit_code"],
    )
    _, reward, terminated, _, info = await env.astep("submit mine")
    assert (1.0, True, "mine", "", True) == (
        reward,
        terminated,
        info["submitted_function"],
        info["reason"],
        info["valid"],
    )
    passed = {test: {"output": "", "error": ""} for test in DOUBLE["tests"]}
    assert passed == json.loads(info["agent_obs"]) == json.loads(info["eval_obs"])


@pytest.mark.parametrize(
    ("source", "name", "score"),
    [
        ("def mine(xs): return [2 * int(x) for x in xs]", "mine", 2 / 3),
        ("def mine(xs): return None", "mine", 0),
        ("def mine(xs): return (x + x for x in xs)", "mine", 0),
        ("def mine(xs):\n    print('x' * 100000)\n    return [x + x for x in xs]", "mine", 1),
        ("def mine(xs):\n    xs.append(1)\n    return [x + x for x in xs[:-1]]", "mine", 1),
        (RIGHT, "missing", 0),
        (RIGHT.replace("mine", "double"), "missing", 0),
        (RIGHT, "", 0),
        (RIGHT, "mine; print(1)", 0),
        (RIGHT, "lambda", 0),
    ],
)
async def test_what_a_submission_is_worth(env: PythonEnv, source: str, name: str, score: float) -> None:
    """The share of the tests that pass; what is printed does not count."""
    reward, info = await play(env, source, f"submit {name}")
    assert pytest.approx(score) == reward
    assert (score == 1) == (info["reason"] == "")


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef mine(xs): os._exit(0)",
        "import sys\ndef mine(xs): sys.exit(0)",
        "class Any:\n    def __eq__(self, other): return True\ndef mine(xs): return Any()",
        "class Any(list):\n    def __eq__(self, other): return True\ndef mine(xs): return Any()\ndouble = mine",
        "import builtins\nbuiltins.AssertionError = Exception\ndef mine(xs): raise KeyError",
        "def mine(xs):\n    import os\n    for fd in range(3, 20):\n        try: os.write(fd, b'{\"value\": []}')\n"
        "        except OSError: pass\n    os._exit(0)",
        "def mine(xs):\n    import time\n    while True: time.sleep(1)",
        "def mine(xs): return mine(xs)",
        "def mine(xs):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
        "def mine(xs): return list(range(10**6))",
    ],
)
async def test_deceit_earns_nothing(launcher: LocalLauncher, source: str) -> None:
    """What ends the process, says that it equals everything, or never ends: all tests fail that it is not right in."""
    env = PythonEnv(data_path=Dataset.from_rows([{**DOUBLE, "tests": DOUBLE["tests"][:1]}]), backend=launcher)
    env.command_limit_s = 0.3
    reward, info = await play(env, source, "submit mine")
    await env.aclose()
    assert (0.0, True) == (reward, info["valid"])
    assert info["reason"]


async def test_a_fresh_interpreter_knows_what_the_actions_said(env: PythonEnv) -> None:
    """Those that failed or were interrupted too, up to where they did; those that were undone not."""
    env.command_limit_s = 0.3
    try:
        reward, info = await play(
            env,
            "import time, os\nn = 1",
            "n += 1\n1/0",
            "def twice(x):\n    return n * x\ntime.sleep(100)",
            "n = 7\nos._exit(0)",
            "def mine(xs):\n    return [twice(x) for x in xs]",
            "submit mine",
        )
    finally:
        env.command_limit_s = 10.0
    assert 1.0 == reward, info


async def test_actions_that_hang_when_they_are_run_again(env: PythonEnv) -> None:
    """However many there are, they hold up a submission for about one limit."""
    env.command_limit_s = 0.3
    trap = "import os, time\nif os.path.exists('flag'): time.sleep(100)"
    try:
        reward, info = await play(env, *[trap] * 20, RIGHT, "open('flag', 'w').close()", "submit mine")
    finally:
        env.command_limit_s = 10.0
    assert (0.0, "the actions took far longer when they were run again") == (reward, info["reason"])


async def test_the_score_can_be_asked_for_while_the_episode_goes_on(env: PythonEnv) -> None:
    """The agent's interpreter is not touched by that."""
    await env.areset(index=0)
    await env.astep(RIGHT)
    assert 1.0 == (await env.ascore("mine"))[0]
    count = "import os; len([name for name in os.listdir('/proc') if name.isdigit()])"
    before = (await env.astep(count))[0]
    assert 1.0 == (await env.ascore("mine"))[0]
    assert before == (await env.astep(count))[0]
    assert "{'output': 'False', 'error': ''}" == (await env.astep("'double' in globals()"))[0]


async def test_golds_that_fail(env: PythonEnv, published: PythonEnv) -> None:
    """A task whose gold fails all tests tells nothing of the agent; single ones that it fails do not count."""
    reward, info = await play(env, "def f(): return 2", "submit f", index=1)
    assert (0.0, False, True) == (reward, info["valid"], info["corrupt_gold"])
    assert "the gold fails all of its own tests" in info["reason"]
    assert 1.0 == (await play(env, "def f(): return 1", "submit f", index=2))[0]
    assert 0.0 == (await play(env, "def f(): return 2", "submit f", index=2))[0]
    assert 1.0 == (await play(env, "f = lambda x: x", "submit f", index=3))[0]
    info = (await play(published, "f = lambda x: x", "submit f", index=3))[1]
    assert "has no 'def name('" in info["reason"] and info["corrupt_gold"]


async def test_the_published_reward(published: PythonEnv) -> None:
    """The function gets the name of the gold's first, so golds with helpers do not pass; equal errors are right."""
    assert 0.0 == (await play(published, RIGHT, "submit mine"))[0]
    assert 1.0 == (await play(published, RIGHT.replace("mine", "double"), "submit double"))[0]
    assert 1.0 == (await play(published, "def f(): return 3", "submit f", index=1))[0]
    assert 0.5 == (await play(published, "def f(): return 2", "submit f", index=2))[0] + 0.5
    loud = "def f():\n    print(1)\n    return 1"
    assert 0.5 == (await play(published, loud, "submit f", index=2))[0]


async def test_observations_as_text(launcher: LocalLauncher) -> None:
    """What was printed, the traceback, and what became of the definitions."""
    env = PythonEnv(backend=launcher, observations="text", command_limit_s=0.3)
    await env.areset()
    assert "1\n2" == (await env.astep("print(1)\n2"))[0]
    assert (await env.astep("1/0"))[0].startswith('Traceback (most recent call last):\n  File "<action 2>", line 1')
    observation = (await env.astep("print(0)\nwhile True: pass"))[0]
    assert observation.startswith("0\nTraceback") and observation.endswith("\n[the action reached its time limit]")
    assert 'File "<action 3>", line 2' in observation and "inside" not in observation
    observation, _, _, _, info = await env.astep("import os; os._exit(0)")
    assert "[the action was ended, and what it defined is gone]" == observation
    assert "restored" == info["state"]
    observation, _, _, _, info = await env.astep("import os; os.kill(-1, 9)")
    assert ("[the interpreter was ended, and all that was defined is gone]", "lost") == (observation, info["state"])
    assert "is over the limit" in (await env.astep("#" * (5 << 20)))[0]
    assert "4" == (await env.astep("2 + 2"))[0]
    assert (0.0, True) == (await env.astep("submit f"))[1:3]
    await env.aclose()


async def test_an_agent_that_leaves_no_room_for_processes(env: PythonEnv) -> None:
    """It gets no reward, and the next episode has room again."""
    fill = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(100)"
    await env.areset(index=0)
    await env.astep(RIGHT)
    await env.astep(fill)
    await env.astep("1")
    _, reward, terminated, _, info = await env.astep("submit mine")
    assert (0.0, True, True) == (reward, terminated, info["valid"]), info
    assert info["reason"]
    assert 1.0 == (await play(env, RIGHT, "submit mine"))[0]


async def test_an_image_without_python_is_no_fault_of_the_agents(launcher: LocalLauncher) -> None:
    """The reset says so."""

    class Broken(PythonEnv):
        async def reset_container(self) -> None:
            self._interpreter = Interpreter(self.sandbox, python="no-such-python")
            await self._interpreter.start()

    env = Broken(backend=launcher)
    with pytest.raises(EpisodeError, match="no-such-python"):
        await env.areset()
    await env.aclose()


async def test_many_at_once(launcher: LocalLauncher) -> None:
    """A vector environment shares sandboxes and golds."""
    env = PythonVectorEnv(3, data_path=DATA, sampler="sequential", backend=launcher)
    await env.areset(seed=1)
    sources = (RIGHT, "def f(): return 1", "def f(): return 1")
    await env.astep(sources)
    _, rewards, terminated, _, infos = await env.astep(("submit mine", "submit f", "submit f"))
    np.testing.assert_array_equal([1.0, 0.0, 1.0], rewards)
    assert terminated.all()
    np.testing.assert_array_equal([True, False, True], infos["valid"])
    await env.aclose()


def test_options_that_are_none() -> None:
    """They are named, with what is allowed."""
    with pytest.raises(ValueError, match="reward is 'x'; it must be 'strict' or 'intercode'"):
        PythonEnv(reward="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="observations is 'x'"):
        PythonEnv(observations="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("test", "text", "calls"),
    [
        ("assert f([1]) == [2]", "assert codecraft_value_0 == [2]", ["f([1])"]),
        ("assert f(f(1)) == g(f(2))", "assert codecraft_value_0 == g(codecraft_value_1)", ["f(f(1))", "f(2)"]),
        ("assert list(map(f, [1])) == [2]", "assert list(codecraft_value_0) == [2]", ["map(f, [1])"]),
        ("assert [f(x) for x in (1, 2)] == [1]", "assert codecraft_value_0 == [1]", ["[f(x) for x in (1, 2)]"]),
        ("assert not f(x=1)", "assert not codecraft_value_0", ["f(x=1)"]),
        ("assert sorted([2, 1], key=f) == [1]", "assert codecraft_value_0 == [1]", ["sorted([2, 1], key=f)"]),
        ("assert f(1).x[0]() == 1", "assert codecraft_value_0 == 1", ["f(1).x[0]()"]),
        ("assert C(1).f() == 1", "assert C(1).f() == 1", []),
    ],
)
def test_a_test_is_split_at_the_calls(test: str, text: str, calls: list[str]) -> None:
    """What uses the function runs with the agent; everything else is judged elsewhere."""
    split = SplitTest.of(test, "f")
    assert (text, calls) == (split.text, list(split.calls))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"query": "q"}, "the row has no gold"),
        ({"gold": "def f(): pass"}, "the row has no tests"),
        ({"gold": "def f(): pass", "tests": "assert f()"}, "the row has no tests"),
        ({"gold": "def f(: pass", "tests": ["assert f()"]}, "no Python that can be read"),
        ({"gold": "def f(): pass", "tests": ["assert g()"]}, "no test calls a function that the gold defines"),
    ],
)
def test_rows_that_are_no_tasks(row: dict[str, Any], words: str) -> None:
    """The error says what is missing."""
    with pytest.raises(CorruptGold, match=words.replace("(", r"\(")):
        FunctionTask.from_row(row).tested_function()


async def test_golds_of_mbpp_pass_their_own_tests(env: PythonEnv, launcher: LocalLauncher) -> None:
    """Each 48th of the real data, played as an agent would; the row 366 needs a class that it does not define."""
    dataset = load_dataset(intercode_data("mbpp/ic_mbpp_0_486.json"))
    golds = FunctionGolds()
    real = PythonEnv(data_path=dataset, backend=launcher, golds=golds)
    for index in (*range(0, len(dataset), 48), 366):
        record = dataset[index]
        name = FunctionTask.from_row(record.as_dict()).tested_function()
        reward, info = await play(real, record.gold, f"submit {name}", index=index)
        assert (0.0, False) if index == 366 else (1.0, True) == (reward, info["valid"]), (index, info["reason"])
        if index == 366:
            assert "name 'root' is not defined" in info["reason"]
    assert 12 == len(golds)
    await real.aclose()
