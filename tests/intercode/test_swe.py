"""`SweEnv` on the repositories that come with the package: what solves an issue, and what only pretends to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import pytest

from codecraft_async import EpisodeError
from codecraft_async.curriculum import Dataset, load_dataset
from codecraft_async.intercode import SweEnv
from codecraft_async.pool import LocalLauncher
from codecraft_curriculum.swe import SAMPLES, write_samples
from tests.conftest import UVLOOP

pytestmark = pytest.mark.anyio

SETTINGS, AGENDA, UNITS = range(3)
FORGED: Final = "forged"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One loop: what is tried is what programs do in sandboxes."""
    return UVLOOP


@pytest.fixture(name="folder", scope="module")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repositories, and their rows."""
    folder = tmp_path_factory.mktemp("swe")
    write_samples(folder)
    return folder


def sources(folder: Path) -> str:
    """Where the repositories are."""
    return str(folder / "{repo}.git")


@pytest.fixture(name="launcher", scope="module")
async def make_launcher() -> AsyncGenerator[LocalLauncher]:
    """One launcher for all tests."""
    async with LocalLauncher() as launcher:
        yield launcher


@pytest.fixture(name="env", scope="module")
async def make_env(folder: Path, launcher: LocalLauncher) -> AsyncGenerator[SweEnv]:
    """An environment for all tests that need no pytest in the sandbox."""
    env = SweEnv(data_path=folder / "swe.json", repositories=sources(folder), backend=launcher)
    yield env
    await env.aclose()


def write(path: str, text: str) -> str:
    """The command that writes a file."""
    return f"mkdir -p $(dirname {path}); cat > {path} <<'END-OF-FILE'\n{text}\nEND-OF-FILE"


def gold(env: SweEnv) -> str:
    """The command that applies the gold."""
    return f"git apply <<'END-OF-FILE'\n{env.gold}\nEND-OF-FILE"


async def play(env: SweEnv, index: int, *actions: str) -> tuple[float, dict[str, Any]]:
    """Play an episode; return what its submission pays, and its info. "GOLD" is the gold."""
    await env.areset(index=index)
    for action in actions:
        assert "fault" not in (await env.astep(gold(env) if action == "GOLD" else action))[4]
    _, reward, terminated, truncated, info = await env.astep("submit")
    assert (True, False) == (terminated, truncated), info
    return reward, info


async def test_an_episode(env: SweEnv) -> None:
    """The issue is observed; git knows the base commit alone; the gold solves it, and is told as a patch."""
    observation, info = await env.areset(index=SETTINGS)
    assert observation.startswith("Values with a # in quotes are cut off") and SETTINGS == info["index"]
    seen = (await env.astep("pwd; id -un; git log --format=%s; git status --short; git rev-parse HEAD"))[0]
    assert ["/workspace", "agent", "Comments", SAMPLES[SETTINGS].base_commit] == seen.split()
    later = SAMPLES[SETTINGS].repository.head
    found = (await env.astep(f"git cat-file -t {later}; git fsck --lost-found; git reflog; git remote; cd settings"))[0]
    assert "could not get object info" in found and "dangling" not in found
    assert "reader.py" in (await env.astep("ls"))[0]
    await env.astep(f"cd ..; {gold(env)}")
    _, reward, terminated, _, info = await env.astep("submit")
    assert (1.0, True, True, True, "", 3, 6) == (
        *(reward, terminated),
        *(info[key] for key in ("resolved", "valid", "reason", "fail_to_pass", "pass_to_pass")),
    )
    assert info["patch"].split("index")[0] == env.gold.split("---")[0]
    assert {"passed"} == set(json.loads(info["agent_obs"]).values()) == set(json.loads(info["eval_obs"]).values())


@pytest.mark.parametrize("index", [SETTINGS, AGENDA])
async def test_golds_and_doing_nothing(env: SweEnv, index: int) -> None:
    """The one is paid in full, the other nothing; whatever else is there, it is a valid episode."""
    assert 1.0 == (await play(env, index, "GOLD"))[0]
    reward, info = await play(env, index)
    assert (0.0, True, False, 0, "") == (reward, *(info[key] for key in ("valid", "resolved", "fail_to_pass", "patch")))
    assert len(SAMPLES[index].pass_to_pass) == info["pass_to_pass"] and ": failed: " in info["reason"]


MODULE: Final = "agenda/__init__.py"
AGENDA_CODE: Final = "from agenda.agenda import Agenda"
PASS_ALL: Final = """
import unittest
def run(self, result=None):
    result.startTest(self)
    result.addSuccess(self)
    result.stopTest(self)
unittest.TestCase.run = run
"""
PASS_ORIGINALS: Final = """
import unittest
def run(self, result=None):
    result.startTest(self)
    if self._testMethodName.rpartition("_")[0] in dir(self):
        result.addFailure(self, (AssertionError, AssertionError("x"), None))
    else:
        result.addSuccess(self)
    result.stopTest(self)
unittest.TestCase.run = run
"""
ASSERT_NOTHING: Final = """
import unittest
for name in dir(unittest.TestCase):
    if name.startswith("assert"):
        setattr(unittest.TestCase, name, lambda *args, **kwargs: unittest.mock.MagicMock())
"""
EQUAL_TO_ALL: Final = """
class Any:
    def __eq__(self, other): return True
    def __getattr__(self, name): return lambda *args: Any()
    def __len__(self): return 1
    def __getitem__(self, key): return Any()
    def __sub__(self, other): return Any()
Agenda = Any
"""
TELL_FOR_IT: Final = """
import os, sys
frame = sys._getframe()
while frame is not None:
    if "tell" in frame.f_locals:
        tell, request = frame.f_locals["tell"], frame.f_locals["request"]
        for name in request["tests"]:
            tell(id=name, outcome="passed", why="")
        tell(end=True)
        os._exit(0)
    frame = frame.f_back
"""
WRITE_EVERYWHERE: Final = """
import os
for descriptor in range(64):
    try:
        os.write(descriptor, b'{"id": "tests.test_agenda.AgendaTest.test_peek_after_cancel", "outcome": "passed"}\\n')
    except OSError:
        pass
print("OK", flush=True)
os._exit(0)
"""
OTHER_TESTS: Final = """
import sys, types, unittest
class Meta(type):
    def __getattr__(self, name): return lambda self: None
class AgendaTest(unittest.TestCase, metaclass=Meta):
    def __getattr__(self, name): return lambda: None
module = sys.modules["tests.test_agenda"]
module.__dict__.clear()
sys.modules["tests.test_agenda"] = types.SimpleNamespace(AgendaTest=AgendaTest)
sys.modules["tests"].test_agenda = sys.modules["tests.test_agenda"]
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(0)", "ended their own process"),
        (WRITE_EVERYWHERE, "ended their own process"),
        (PASS_ALL, FORGED),
        (PASS_ORIGINALS, FORGED),
        (ASSERT_NOTHING, FORGED),
        (EQUAL_TO_ALL, ""),  # whether it is noticed depends on which decoys are drawn; other tests fail anyway
        (TELL_FOR_IT, FORGED),
        (OTHER_TESTS, ""),
        ("import time; time.sleep(60)", "longer than 1 s"),
    ],
)
async def test_code_that_pretends(env: SweEnv, monkeypatch: pytest.MonkeyPatch, code: str, reason: str) -> None:
    """Code under test that ends the process, reports, or makes tests pass that cannot: nothing of it is believed."""
    await play(env, AGENDA)  # which finds out what the gold comes to, without hurry
    monkeypatch.setattr(env, "_test_limit_s", 1.0 if "longer" in reason else 30.0)
    reward, info = await play(env, AGENDA, write(MODULE, f"{AGENDA_CODE}\n{code}"))
    assert (0.0, True, False) == (reward, info["valid"], info["resolved"]) and reason in info["reason"], info["reason"]
    assert not reason or 0 == info["fail_to_pass"]
    assert FORGED != reason or 0 == info["pass_to_pass"]


@pytest.mark.parametrize(
    ("actions", "not_counted"),
    [
        (["rm -r tests"], ["tests/__init__.py", "tests/test_agenda.py"]),
        (["mv tests t; ln -s t tests"], ["tests/__init__.py", "tests/test_agenda.py"]),
        ([write("tests/test_agenda.py", "")], ["tests/test_agenda.py"]),
        ([write("tests/heapq.py", "")], ["tests/heapq.py"]),
        ([write("sitecustomize.py", PASS_ALL), write("x.pth", "import x")], ["sitecustomize.py", "x.pth"]),
        (
            [
                write("unittest/__init__.py", ""),
                write("traceback.py", "import os; os._exit(0)"),
                "git config core.fsmonitor ./x; git config core.hooksPath .",
                "mkdir -p ~/.local/lib/python3.11/site-packages; cp tests/*.py ~/.local/lib/python3.11/site-packages",
            ],
            [],
        ),
    ],
)
async def test_what_tests_are_run_by_does_not_count(env: SweEnv, actions: list[str], not_counted: list[str]) -> None:
    """It is put back; a runner that the agent brings is not the one that runs."""
    reward, info = await play(env, AGENDA, *actions)
    assert (0.0, 0, 5) == (reward, info["fail_to_pass"], info["pass_to_pass"]), info["reason"]
    assert not_counted == info["not_counted"]
    assert 1.0 == (await play(env, AGENDA, *actions, "git apply --include='agenda/*' <<'E'\n" + env.gold + "\nE"))[0]


async def test_on_the_way_there(env: SweEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of what was broken and now passes, less what broke; nothing for nothing, nothing for forgeries."""
    monkeypatch.setattr(env, "_form", "share")
    half = r"sed -i 's/        self._cancelled.add(entry)/&\n        self._first = None/' agenda/agenda.py"
    assert [0.0, 0.5, 1.0] == [(await play(env, AGENDA, *actions))[0] for actions in ([], [half], ["GOLD"])]
    broken = "sed -i 's/raise KeyError/return #/' agenda/agenda.py"
    reward, info = await play(env, AGENDA, half, broken)
    assert pytest.approx(0.5 * 4 / 5) == reward
    assert (4, False) == (info["pass_to_pass"], info["resolved"])
    assert 0.0 == (await play(env, AGENDA, write(MODULE, f"{AGENDA_CODE}\n{PASS_ALL}")))[0]


HARMLESS: Final = {
    "git is gone": "rm -rf .git",
    "odd names": "printf x > $'a\\nb'; printf x > $'\\xff'; ln -s / root; mkfifo pipe; touch ' '",
    "closed directories": "mkdir -p shut/er && touch shut/er/file && chmod 000 shut/er shut && chmod 555 .",
    "a repository in it": "mkdir sub; cd sub; git init -q; git config user.email a; git commit -q --allow-empty -m x",
    "binary": "head -c 100000 /dev/urandom > blob; printf '\\0\\1' > agenda/data.bin",
    "built": "mkdir build.egg-info agenda/__pycache__; touch build.egg-info/x agenda/__pycache__/x.pyc",
    "an odd index": "git update-index --assume-unchanged agenda/agenda.py; git add -A; git commit -qm x",
}


@pytest.mark.parametrize("action", HARMLESS.values(), ids=HARMLESS)
async def test_what_does_not_keep_a_solution_from_counting(env: SweEnv, action: str) -> None:
    """Whatever an agent does to git and to names, a solution is one."""
    reward, info = await play(env, AGENDA, "GOLD", action)
    assert 1.0 == reward, info["reason"]
    assert "agenda/agenda.py" in info["patch"]


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("rm -rf * .[a-z]*", "missing"),
        ("rm -r agenda; ln -s / agenda", "missing"),
        ("head -c 40000000 /dev/zero > huge", "at most"),
        ("for i in $(seq 6000); do : > f$i; done", "at most"),
        ("rm agenda/__init__.py; mkdir agenda/__init__.py", "missing"),
    ],
)
async def test_wrecks(env: SweEnv, action: str, reason: str) -> None:
    """They cost the episode; the tests after this one are played in the same environment."""
    reward, info = await play(env, AGENDA, "GOLD", action)
    assert (0.0, True) == (reward, info["valid"]) and reason in info["reason"], info["reason"]


async def test_writers_in_the_background_and_cancelled_submissions(env: SweEnv) -> None:
    """What still writes is ended before a submission is looked at; one that is cancelled can be made again."""
    await env.areset(index=AGENDA)
    await env.astep("(while :; do date > agenda/now; rm -f agenda/now; done) & cd agenda")
    assert 0.0 == (await env.ascore())[0]
    await env.astep(f"cd /workspace; {gold(env)}")
    for delay_s in (0, 0.01, 0.1):
        task = asyncio.create_task(env.astep("submit"))
        await asyncio.sleep(delay_s)
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError | tuple)
        if not task.cancelled():
            return
    assert "/workspace\n" == (await env.astep("pwd"))[0]
    assert 1.0 == (await env.astep("submit"))[1]


STATE: Final = "import unittest\nleft = []\nclass StateTest(unittest.TestCase):\n" + "".join(
    f"    def test_{name}(self):\n        left.append(1)\n        self.assertEqual([1], left)\n        left.clear()\n"
    for name in "abc"
)


def new_file(path: str, text: str) -> str:
    """The patch that makes a file."""
    lines = text.splitlines()
    added = "".join(f"+{line}\n" for line in lines)
    head = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
    return f"{head}@@ -0,0 +1,{len(lines)} @@\n{added}"


async def test_rows_that_are_wrong(launcher: LocalLauncher, folder: Path) -> None:
    """A gold that does not pass, tests that pass anyway and patches that do not apply are no agent's fault; the rest is
    said when an episode is to begin.
    """
    row = load_dataset(folder / "swe.json", names=SweEnv.field_names)[AGENDA].as_dict()
    rows = [
        {**row, "gold": ""},
        {**row, "gold": row["gold"].replace("agenda.py", "nowhere.py")},
        {**row, "gold": row["gold"].replace("_live.remove(entry)", "_live.clear()")},
        {**row, "FAIL_TO_PASS": row["PASS_TO_PASS"]},
        {**row, "PASS_TO_PASS": [*row["PASS_TO_PASS"], "tests.test_agenda.Missing.test_x"]},
        {**row, "base_commit": "0" * 40},
        {**row, "repo": "codecraft/unknown"},
        {**row, "FAIL_TO_PASS": "test"},
        {**row, "setup": "touch made; exit 3"},
        {**row, "setup": ["touch made"], "FAIL_TO_PASS": json.dumps(row["FAIL_TO_PASS"])},
        {**row, "test_cmd": "cat agenda/agenda.py | cat", "log_parser": "ours"},
        {
            **row,
            "test_patch": row["test_patch"] + new_file("tests/test_state.py", STATE),
            "PASS_TO_PASS": [f"tests.test_state.StateTest.test_{name}" for name in "abc"],
        },
    ]

    def read(text: str) -> dict[str, bool]:
        return dict.fromkeys((*row["FAIL_TO_PASS"], *row["PASS_TO_PASS"]), "Entry" in text)

    data = Dataset.from_rows(rows)
    others = SweEnv(data_path=data, repositories=sources(folder), backend=launcher, parsers={"ours": read})
    try:
        reasons = {1: "patch does not apply", 2: "own tests pass", 3: "without any change", 4: "missing"}
        for index, reason in reasons.items():
            reward, info = await play(others, index)
            assert (0.0, False, True) == (reward, info["valid"], info["corrupt_gold"]) and reason in info["reason"]
        for index, problem in (
            (5, "cannot be checked out at 000"),
            (6, "there is no repository at .*codecraft/unknown"),
            (7, "row 7: FAIL_TO_PASS is a text that is no list"),
            (8, "setup: 'touch made; exit 3' failed"),
        ):
            with pytest.raises(EpisodeError, match=problem):
                await others.areset(index=index)
        apply = f"git apply <<'E'\n{row['gold']}\nE"
        assert 1.0 == (await play(others, 0, apply))[0]
        assert 1.0 == (await play(others, 9, apply, "rm made"))[0]
        assert [0.0, 1.0] == [(await play(others, 10, *actions))[0] for actions in ([], [apply])]
        # Tests that tidy up at their end bear no copies that fail before.
        assert [0.0, 1.0] == [(await play(others, 11, *actions))[0] for actions in ([], [apply])]
    finally:
        await others.aclose()
