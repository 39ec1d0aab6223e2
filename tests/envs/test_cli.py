"""What the program `codecraft` says and how it ends, whatever the user gives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from codecraft_async import __version__, cli
from codecraft_async.cli import main
from codecraft_pool import LaunchError, _host_leftovers, _pull, connect_daemon
from codecraft_pool.containers import OWNER_LABEL, Containers
from codecraft_pool.local_launcher import RUN_PREFIX
from codecraft_pool.owner import Owner

TASK = """
title = "Make a file"
instruction = "Make the file done."
{more}
[grader]
[[grader.checks]]
type = "file"
path = "done"
expected = "yes"
[proof]
expert = ["echo yes > done"]
[proof.failures]
nothing = ["true"]
"""


def write_task(folder: Path, more: str = "") -> str:
    """Write a task file with *more* fields and return its path."""
    path = folder / "made" / "task.toml"
    path.parent.mkdir()
    path.write_text(TASK.format(more=more))
    return str(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["play"], "invalid choice: 'play'"),
        (["demo", "--backend", "podman"], "invalid choice: 'podman'"),
        (["demo", "--num-envs", "0"], "'0' is not a whole number of at least 1"),
        (["demo", "--num-envs", "many"], "'many' is not a whole number of at least 1"),
        (["demo", "--rounds", "-1"], "'-1' is not a whole number of at least 1"),
        (["demo", "--seed", "99999999999"], "'99999999999' is not a whole number of at least 0"),
        (["images"], "the following arguments are required: COMMAND"),
    ],
)
def test_command_lines_that_make_no_sense(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They end with status 2 and a line that says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert 2 == caught.value.code
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("program", [["-m", "codecraft_async"], ["-c", "from codecraft_async.cli import main; main()"]])
def test_version(program: list[str]) -> None:
    """The module and the script are one program."""
    ended = subprocess.run(
        [sys.executable, *program, "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (0, f"codecraft {__version__}\n", "") == (ended.returncode, ended.stdout, ended.stderr)


def one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run *words*, which must fail with one line on stderr, and return that line."""
    assert 1 == main(words)
    line, end = capsys.readouterr().err.split("\n")
    assert "" == end
    return line


def test_unknown_task(capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest task is named."""
    line = one_line(["demo", "--task", "helo-world"], capsys)
    assert line.startswith("codecraft demo: no task 'helo-world' in builtin; did you mean 'hello-world'?")


def test_curriculum_that_is_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    """What may be given is listed."""
    line = one_line(["demo", "--curriculum", "/nonexistent/tasks"], capsys)
    assert line.startswith("codecraft demo: /nonexistent/tasks: no such file or directory")
    assert "give a directory of tasks" in line


def test_task_file_with_a_wrong_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File, field and what is allowed are named."""
    path = write_task(tmp_path, "max_stepz = 3")
    line = one_line(["demo", "--curriculum", path], capsys)
    assert line.startswith(f"codecraft demo: {path}: unknown field 'max_stepz'; did you mean 'max_steps'?; allowed: ")


def test_task_without_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to play."""
    path = tmp_path / "task.toml"
    path.write_text('id = "bare"\ninstruction = "Do it."\n')
    line = one_line(["demo", "--curriculum", str(path)], capsys)
    assert "codecraft demo: bare: none of its tasks has a script to play" in line


def test_no_daemon(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for Docker where none answers, the address and the ways out are told."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    line = one_line(["demo", "--backend", "docker"], capsys)
    assert line.startswith("codecraft demo: no container daemon answers: unix:///nonexistent")
    assert line.endswith("start Docker, point DOCKER_HOST at a daemon, or use the local backend")


def test_no_daemon_and_no_bubblewrap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing works, one line says what is missing for either backend."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.setenv("PATH", str(tmp_path))
    line = one_line(["demo"], capsys)
    assert line.startswith("codecraft demo: the local launcher needs bubblewrap, which is not installed")
    assert "no container daemon answers: unix:///nonexistent" in line


@pytest.mark.docker
def test_image_that_is_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a bounded number of attempts, what was tried and the ways out are told."""
    monkeypatch.setattr(_pull, "PULL_PAUSES_S", (0.0,))
    path = write_task(tmp_path, 'image = "nowhere.invalid/none:1"')
    line = one_line(["demo", "--curriculum", path, "--backend", "docker"], capsys)
    assert line.startswith(
        "codecraft demo: image nowhere.invalid/none:1 is not here and cannot be pulled from nowhere.invalid ("
    )
    assert "codecraft images list" in line


def test_set_up_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The task and its command are named, whatever the command prints."""
    path = write_task(tmp_path, r"""setup = ["printf 'a\\033[31m\\nb' >&2; exit 3"]""")
    line = one_line(["demo", "--curriculum", path, "--backend", "local", "--num-envs", "1"], capsys)
    assert line.startswith("codecraft demo: task 'made': its set-up ")
    assert line.endswith("ended with 3: a [31m b")


def test_json_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told before any sandbox is started."""
    path = tmp_path / "missing" / "out.json"
    line = one_line(["demo", "--json", str(path)], capsys)
    assert f"codecraft demo: {path}: No such file or directory" == line


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no user can cause is not made to look like it."""

    async def fail(*_: object) -> int:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(cli, "run_demo", fail)
    with pytest.raises(ValueError, match="a mistake of ours"):
        main(["demo"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_close_in_order(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work is cancelled and closes to its end, even if closing fails because its sandboxes went as well."""
    closed: list[str] = []

    async def wait(*_: object) -> int:
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            closed.append("all")
            raise LaunchError("the sandboxes are gone") from None
        return 0

    monkeypatch.setattr(cli, "run_demo", wait)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert status == main(["demo"])
    assert ["all"] == closed
    assert "codecraft: stopped, and everything is closed\n" == capsys.readouterr().err
    assert before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


def test_reader_that_leaves() -> None:
    """When nobody reads its output any more, the program closes everything and ends without a word."""
    words = [sys.executable, "-m", "codecraft_async", "demo", "--backend", "local", "--task", "hello-world"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "" == process.stderr.read()
        assert 1 == process.wait(timeout=30)


def _run_directory(folder: Path, owner: Owner) -> Path:
    path = folder / f"{RUN_PREFIX}{owner}-abc"
    path.mkdir()
    return path


def test_clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the dead left is removed, what the living use is kept, and without a daemon that is said and no error."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    us = Owner.current()
    ours = _run_directory(tmp_path, us)
    dead = _run_directory(tmp_path, Owner(us.boot, us.pid, us.start + 1))
    odd = tmp_path / f"{RUN_PREFIX}odd"
    odd.mkdir()
    assert 0 == main(["clean"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("what the container daemon has was not looked at: no container daemon answers: unix:///")
    assert {
        f"removed directory {dead}: its owner, process {us.pid}, has ended",
        f"kept directory {ours}: its owner, process {us.pid}, is running",
        f"kept directory {odd}: it does not say which process owns it",
    } <= set(said[1:])
    assert (True, False, True) == (ours.exists(), dead.exists(), odd.exists())


def test_clean_that_only_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run says what would be removed, and why, and removes nothing."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    us = Owner.current()
    dead = _run_directory(tmp_path, Owner(us.boot, us.pid, us.start + 1))
    assert 0 == main(["clean", "--dry-run"])
    said = capsys.readouterr().out.splitlines()
    assert f"would remove directory {dead}: its owner, process {us.pid}, has ended" in said
    assert "nothing to remove" not in said
    assert dead.exists()


def test_clean_with_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is said too."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_host_leftovers, "cgroup_roots", list)
    assert 0 == main(["clean"])
    assert "nothing to remove" == capsys.readouterr().out.splitlines()[-1]


@pytest.mark.docker
def test_clean_with_a_daemon(base_image: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A container of a dead process is removed, whatever else is there."""
    us = Owner.current()
    name = f"codecraft-{Owner(us.boot, us.pid, us.start + 1)}-0"
    asyncio.run(_create_container(name, base_image))
    assert 0 == main(["clean"])
    said = f"removed container {name}: its owner, process {us.pid}, has ended"
    assert said in capsys.readouterr().out.splitlines()


async def _create_container(name: str, image: str) -> None:
    async with await connect_daemon() as daemon:
        owner = name.removeprefix("codecraft-").rpartition("-")[0]
        await Containers(daemon).create(name, {"Image": image, "Cmd": ["true"], "Labels": {OWNER_LABEL: owner}})


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are shown, and the status says whether a backend works."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    assert 0 == main(["doctor"])
    said = capsys.readouterr().out
    assert "working backends: local" in said


def test_images_without_a_daemon(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    assert one_line(["images", "list"], capsys).startswith("codecraft images: no container daemon answers")


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(closed: str, tmp_path: Path) -> None:
    """They are taken for empty, and no socket takes their place."""
    words = [sys.executable, "-m", "codecraft_async", "demo", "--backend", "local", "--agent", "human", "--json", "out"]
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *words, "--task", "hello-world"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert (0, "", "[]") == (ended.returncode, ended.stderr, (tmp_path / "out").read_text())


def test_output_that_there_is_no_room_for() -> None:
    """One line says so."""
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "codecraft_async", "tasks", "list"]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert "codecraft tasks: what came of it cannot be written: No space left on device\n" == ended.stderr
    assert 1 == ended.returncode
