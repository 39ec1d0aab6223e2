"""The persistent interpreter: what it shows, what it keeps, and what programs that do not wish it well come to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from codecraft_async.intercode.inside.values import Other, decode, encode
from codecraft_async.intercode.interpreter import Interpreter, InterpreterUnavailable
from codecraft_async.pool import LocalLauncher, RequestRefused, Sandbox, SandboxLost, SandboxSpec

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec(memory_bytes=256 << 20)
COUNT_PROCESSES = "set -- /proc/[0-9]*; echo $#"


@pytest.fixture(name="sandbox", scope="module")
async def make_sandbox() -> AsyncGenerator[Sandbox]:
    """A sandbox for all tests."""
    async with LocalLauncher() as launcher:
        sandbox = await launcher.start(SPEC)
        yield sandbox
        sandbox.close()


@pytest.fixture(name="python", scope="module")
async def make_interpreter(sandbox: Sandbox) -> AsyncGenerator[Interpreter]:
    """An interpreter for all tests that leave it as it was, or take a fresh one."""
    async with Interpreter(sandbox) as interpreter:
        yield interpreter


async def shown(python: Interpreter, source: str) -> str:
    """Return what *source* prints."""
    execution = await python.run(source)
    assert execution.ok, execution
    return execution.stdout


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("1 + 1", "2\n"),
        ("'text'", "text\n"),  # as print does, not as a prompt
        ("None", "None\n"),
        ("print('once')", "once\n"),
        ("x = 3", ""),
        ("x = 3\nx", "3\n"),
        ("x = [1]\nx.append(2)", ""),
        ("for i in range(2):\n    print(i)", "0\n1\n"),
        ("from math import pi\npi", "3.141592653589793\n"),
        ("class A:\n    def __str__(self): return 'mine'\nA()", "mine\n"),
        ("", ""),
        ("'\\ud800'", "\\ud800\n"),
        ("'ä it\\'s' # it's", "ä it's\n"),
        ("import sys; sys.stdin.read()", "\n"),
    ],
)
async def test_what_is_shown(python: Interpreter, source: str, seen: str) -> None:
    """The value of an expression at the end, as InterCode prints it; loops, classes and imports are no errors."""
    assert seen == await shown(python, source)


async def test_what_an_action_defines_is_there_for_the_next(python: Interpreter) -> None:
    """Until a fresh interpreter is asked for."""
    await shown(python, "import math\ndef double(x):\n    return 2 * x\nn = 4")
    assert "8.0\n" == await shown(python, "double(math.sqrt(16))")
    assert "4\n" == await shown(python, "import __main__; __main__.n")
    await python.fresh()
    assert "NameError" == (await python.run("n")).raised


async def test_errors_have_a_traceback_of_the_action_alone(python: Interpreter) -> None:
    """With its lines, and without the lines of the program that ran it."""
    await python.fresh()
    await shown(python, "def half(x):\n    return x / 0")
    execution = await python.run("print('before')\nhalf(3)")
    assert ("before\n", "ZeroDivisionError", "division by zero") == (
        execution.stdout,
        execution.raised,
        execution.message,
    )
    lines = execution.traceback.splitlines()
    assert 'File "<action 2>", line 2, in <module>' in lines[1]
    assert "    return x / 0" in lines
    assert 2 == sum("File" in line for line in lines)
    assert not execution.ok
    assert "SyntaxError" == (await python.run("def f(:")).raised
    assert "null" in (await python.run("'\0'")).message
    assert "RecursionError" == (await python.run("def f(): return f()\nf()")).raised
    assert "SystemExit" == (await python.run("import sys; sys.exit(3)")).raised
    assert "1\n" == await shown(python, "1")


async def test_an_action_over_its_time_is_interrupted_and_keeps_what_it_did(python: Interpreter) -> None:
    """Also what it printed."""
    await python.fresh()
    execution = await python.run("import time\nn = 5\nprint('so far')\ntime.sleep(100)", limit_s=0.2, grace_s=10)
    assert (True, False, "kept", "so far\n") == (
        execution.timed_out,
        execution.died,
        execution.state,
        execution.stdout,
    )
    assert "5\n" == await shown(python, "n")


@pytest.mark.parametrize(
    "endless",
    [
        "while True:\n    try:\n        time.sleep(100)\n    except BaseException:\n        pass",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(100)",
        "sum(range(10**12))",
    ],
)
async def test_an_action_that_cannot_be_interrupted_is_undone(python: Interpreter, endless: str) -> None:
    """It is killed, and what was defined before is as it was."""
    await python.fresh()
    await shown(python, "import time, signal\nn = 5")
    execution = await python.run(f"n = 6\n{endless}", limit_s=0.2, grace_s=0.2)
    assert (True, True, "restored") == (execution.timed_out, execution.died, execution.state)
    assert "5\n" == await shown(python, "n")


@pytest.mark.parametrize(
    "deadly",
    [
        "os._exit(0)",
        "os.kill(os.getpid(), 9)",
        "import ctypes; ctypes.string_at(0)",
        "os.abort()",
    ],
)
async def test_an_action_that_ends_its_process_is_undone(python: Interpreter, deadly: str) -> None:
    """The next one finds what was defined before."""
    await python.fresh()
    await shown(python, "import os\nn = 5")
    execution = await python.run(f"n = 6\n{deadly}")
    assert (True, False) == (execution.died, execution.timed_out)
    assert "restored" == execution.state
    assert "5\n" == await shown(python, "n")


async def test_an_action_that_uses_up_the_memory_is_undone(python: Interpreter) -> None:
    """Python raises, or the kernel ends it: the next action runs."""
    await python.fresh()
    await shown(python, "n = 5")
    execution = await python.run("x = []\nwhile True: x.append(bytearray(1 << 24))")
    assert not execution.ok
    assert "5\n" == await shown(python, "n")


async def test_an_action_that_prints_too_much_is_told_so(python: Interpreter) -> None:
    """It gets an exception, and what is within the limit is kept; around the stream it is killed instead."""
    await python.fresh()
    await shown(python, "n = 5")
    execution = await python.run("while True: print('x' * 99)", max_output_bytes=1000)
    assert (True, "OSError", 1000) == (execution.truncated, execution.raised, len(execution.stdout))
    assert "5\n" == await shown(python, "n")
    execution = await python.run("import os\nwhile True: os.write(1, b'x' * 9999)", max_output_bytes=1000)
    assert (True, True, "lost") == (execution.truncated, execution.died, execution.state)
    assert "1\n" == await shown(python, "1")


async def test_a_copy_that_an_action_makes_of_itself_is_no_second_interpreter(python: Interpreter) -> None:
    """It ends with the action; and what it starts in the background does not hold up the answer."""
    await python.fresh()
    await shown(python, "import os, subprocess\npid = os.fork()")
    assert "True\n" == await shown(python, "pid > 0")
    await shown(python, "child = subprocess.Popen(['sleep', '100'])")
    assert "None\n" == await shown(python, "child.poll()")  # it still is this one's child
    await shown(python, "child.kill()")
    assert "-9\n" == await shown(python, "child.wait()")


async def test_threads_go_on_from_action_to_action(python: Interpreter) -> None:
    """While there are some, an action is not run in a copy: one that dies takes the definitions with it."""
    await python.fresh()
    await shown(python, "import threading, os\ngo, done = threading.Event(), threading.Event()")
    await shown(python, "threading.Thread(target=lambda: go.wait() and done.set(), daemon=True).start()")
    assert "True\n" == await shown(python, "go.set()\ndone.wait(10)")
    await shown(python, "threading.Thread(target=threading.Event().wait, daemon=True).start()")
    assert "lost" == (await python.run("os._exit(0)")).state
    assert "NameError" == (await python.run("threading")).raised


async def test_a_trial_leaves_nothing_behind(python: Interpreter) -> None:
    """Neither what it defines nor how it ends."""
    await python.fresh()
    await shown(python, "n = [5]")
    assert "[5, 6]\n" == (await python.run("n.append(6)\nn", trial=True)).stdout
    assert "restored" == (await python.run("import os; os._exit(0)", trial=True)).state
    timed_out = await python.run("n.append(7)\nimport time; time.sleep(100)", trial=True, limit_s=0.2)
    assert timed_out.timed_out
    assert "[5]\n" == await shown(python, "n")


async def test_interpreters_beside_each_other_share_nothing(python: Interpreter) -> None:
    """A fresh one beside does not end the other."""
    await python.fresh()
    other = python.beside()
    await shown(python, "n = 1")
    await shown(other, "n = 2")
    assert "1\n" == await shown(python, "n")
    await other.fresh()
    assert "NameError" == (await other.run("n")).raised
    assert "1\n" == await shown(python, "n")


async def test_a_cancelled_action_is_gone_and_the_next_one_is_told(python: Interpreter) -> None:
    """Its definitions went with it."""
    await python.fresh()
    await shown(python, "n = 1")
    action = asyncio.create_task(python.run("import time\ntime.sleep(100)", limit_s=100))
    await asyncio.sleep(0.1)
    action.cancel()
    await asyncio.wait([action])
    execution = await python.run("n")
    assert (True, "NameError") == (execution.restarted, execution.raised)
    assert not (await python.run("1")).restarted


async def test_an_action_that_interrupts_itself_has_raised(python: Interpreter) -> None:
    """It may catch that as any program does."""
    await python.fresh()
    await shown(python, "import os, signal")
    execution = await python.run("os.kill(os.getpid(), signal.SIGINT)")
    assert ("Interrupted", False) == (execution.raised, execution.timed_out)
    caught = "try: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: print('caught')"
    assert "caught\n" == await shown(python, caught)


async def test_values_that_an_action_forges(python: Interpreter) -> None:
    """Such as could not be sent on are none; text that could not be written anywhere is escaped."""
    await python.fresh()
    forge = (
        "import os, struct\ndata = b'{\"value\": ' + b'[' * 900 + b']' * 900 + b'}'\n"
        "for fd in range(3, 20):\n    try: os.write(fd, struct.pack('<I', len(data)) + data)\n"
        "    except OSError: pass"
    )
    execution = await python.run(forge)
    assert (None, "lost") == (execution.value, execution.state)
    assert "\\ud800" == (await python.run("raise ValueError('\\ud800')")).message


async def test_forged_reports_are_no_danger(python: Interpreter) -> None:
    """An action may write to its connection: that costs its own interpreter, and nothing else."""
    await python.fresh()
    forge = (
        "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'\\x05\\x00\\x00\\x00[[[[[')\n"
        "    except OSError: pass"
    )
    assert "lost" == (await python.run(forge)).state
    huge = forge.replace("\\x05\\x00\\x00\\x00[[[[[", "\\xff\\xff\\xff\\xff")
    assert "lost" == (await python.run(huge)).state
    killer = "import os, signal\nos.kill(-1, signal.SIGKILL)"
    assert "lost" == (await python.run(killer)).state
    assert "1\n" == await shown(python, "1")


async def test_a_restore_ends_it_and_the_next_action_starts_it_anew(sandbox: Sandbox) -> None:
    """The one that it is run with is told, and nothing is left when it is closed."""
    await sandbox.restore()
    before = (await sandbox.run(COUNT_PROCESSES)).stdout
    async with Interpreter(sandbox) as python:
        await shown(python, "n = 1\nimport subprocess\nsubprocess.Popen(['setsid', 'sleep', '100'])")
        await sandbox.restore()
        execution = await python.run("n")
        assert (True, "NameError") == (execution.restarted, execution.raised)
        await shown(python, "import subprocess\nsubprocess.Popen(['setsid', 'sleep', '100'])")
    assert before == (await sandbox.run(COUNT_PROCESSES)).stdout


async def test_files_of_the_workspace_can_be_imported_and_do_not_get_in_its_way(sandbox: Sandbox) -> None:
    """Not even under the names of modules that it needs itself."""
    await sandbox.write_file("helper.py", b"value = 7\n")
    await sandbox.write_file("socket.py", b"raise SystemExit\n")
    async with Interpreter(sandbox) as python:
        assert "7\n" == await shown(python, "import helper\nhelper.value")
    await sandbox.restore()


async def test_an_image_without_python(sandbox: Sandbox) -> None:
    """The error says what is missing."""
    with pytest.raises(InterpreterUnavailable, match=r"no-such-python.* must be Python 3.11 or later"):
        async with Interpreter(sandbox, python="no-such-python") as python:
            await python.run("1")


async def test_what_can_be_seen_to_be_wrong(python: Interpreter) -> None:
    """Limits that are none, and a source that is too long, which leaves the interpreter as it was."""
    with pytest.raises(ValueError, match="limit_s=0"):
        await python.run("1", limit_s=0)
    await python.fresh()
    await shown(python, "n = 1")
    with pytest.raises(RequestRefused, match="over the limit"):
        await python.run("#" * (5 << 20))
    assert "1\n" == await shown(python, "n")


async def test_a_sandbox_that_dies(sandbox: Sandbox) -> None:
    """That is no matter of the interpreter's."""
    async with LocalLauncher() as launcher:
        doomed = await launcher.start(SPEC)
        async with Interpreter(doomed) as python:
            doomed.close()
            with pytest.raises(SandboxLost):
                await python.run("1")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        pytest.param(-(10**6000), id="huge"),
        float("inf"),
        1.5 - 2j,
        "text\ud800",
        b"\0\xff",
        bytearray(b"x"),
        [1, (2, {3}, frozenset({4})), {"a": {5: None}}],
        range(1, 9, 2),
    ],
)
def test_plain_values_travel_as_they_are(value: object) -> None:
    """With their types."""
    read = decode(encode(value))
    assert value == read
    assert type(value) is type(read)


def test_other_values_equal_nothing() -> None:
    """Whatever they say of themselves stays where they are."""

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    read = decode(encode([Equal()]))
    assert isinstance(read, list) and isinstance(read[0], Other)
    assert [1] != read
    assert "<a value of type Equal>" == repr(read[0])
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValueError, match="nested more than 100 levels"):
        encode(deep)
