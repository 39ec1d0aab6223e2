"""What is measured against: the floor of the machine, and exec into containers."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from benchmarks.exec_fan_out import ExecFanOut
from benchmarks.floor import open_floor
from benchmarks.results import BenchmarkError


def test_floor() -> None:
    """The floor runs the command, and its CPU time is counted."""
    with open_floor() as floor:
        run = floor.measure("true", 0.05)
    assert run.per_s > 1
    assert 0 < run.cpu_share <= 1.1


def test_floor_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own posix_spawn stands in, and it says so."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with open_floor() as floor:
        assert "no C compiler" in floor.kind
        assert floor.measure("true", 0.05).per_s > 1


def test_floor_of_a_command_that_fails() -> None:
    """A command that fails has no floor."""
    with open_floor() as floor, pytest.raises(BenchmarkError, match="'exit 3' does not end with status 0"):
        floor.measure("exit 3", 0.05)


class _Execution:
    """An exec that gives one piece of output and ends with a status."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._output: list[bytes | None] = [b"out", None]

    def start(self, *, detach: bool) -> _Execution:
        assert not detach
        return self

    async def __aenter__(self) -> _Execution:
        return self

    async def __aexit__(self, *_: object) -> None:
        assert [] == self._output

    async def read_out(self) -> bytes | None:
        return self._output.pop(0)

    async def inspect(self) -> dict[str, int]:
        return {"ExitCode": self._status}


class _Container:
    """A container that keeps what it was asked to run."""

    def __init__(self, status: int = 0) -> None:
        self.commands: list[list[str]] = []
        self._status = status

    async def exec(self, command: list[str], **_: object) -> _Execution:
        self.commands.append(command)
        await asyncio.sleep(0)
        return _Execution(self._status)


@pytest.mark.anyio
async def test_exec_fan_out() -> None:
    """Every container runs the same command line as a step does."""
    containers = [_Container(), _Container()]
    assert await ExecFanOut(containers).measure("ls /", 0.01) > 1
    for container in containers:
        assert ["/bin/sh", "-c", "ls /"] == container.commands[0]


@pytest.mark.anyio
async def test_exec_of_a_command_that_fails() -> None:
    """A failing command is no measurement."""
    with pytest.raises(BenchmarkError, match="exec of 'false' failed: it ended with status 1"):
        await ExecFanOut([_Container(status=1)]).measure("false", 0.01)
