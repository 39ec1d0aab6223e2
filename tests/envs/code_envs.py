"""What the tests of the coding environments share: a task, graders, a shell with a few commands, and a check."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from codecraft_async import CodeEnv, CodeVectorEnv
from codecraft_async.curriculum import (
    Curriculum,
    Grade,
    GradingSandbox,
    Task,
    Workspace,
    WorkspaceFile,
)
from codecraft_async.pool import FakeAnswer, FakeFiles, FakeLauncher

BOOLS = {"timed_out", "truncated_output", "malformed", "retry", "graded", "valid"}
TEXTS = {"task", "reason", "truncation"}
NUMBERS = {"exit_code": np.int64, "signal": np.int64, "steps": np.int64} | dict.fromkeys(
    ("wall_s", "cpu_s", "score"), np.float64
)


class FileIsRight:
    """Pays 1.0 if `answer` holds 42."""

    runs_agent_code = False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        try:
            right = await sandbox.read_file("answer") == b"42"
        except FileNotFoundError:
            return Grade(0.0, {}, "answer is missing")
        return Grade(float(right), {}, "" if right else "wrong")


class Crashes:
    """A grader with a bug."""

    runs_agent_code = False

    async def grade(self, sandbox: GradingSandbox) -> Grade:
        raise ZeroDivisionError("in the grader")


class ReturnsANumber:
    """A grader of a user who has not read the contract."""

    runs_agent_code = False

    async def grade(self, sandbox: GradingSandbox) -> Any:
        return 7.0


def make_task(name: str = "answer", **changes: Any) -> Task:
    fields: dict[str, Any] = {
        "id": name,
        "title": "The answer",
        "category": "test",
        "instruction": "Write 42 into answer.",
        "image": "codecraft/base",
        "workspace": Workspace({"hint": WorkspaceFile(b"six times seven")}),
        "max_steps": 5,
        "grader": FileIsRight(),
    }
    return Task(**(fields | changes))


async def play(files: FakeFiles, argv: list[str]) -> FakeAnswer:
    """A shell with a few commands."""
    command = argv[-1]
    if command.startswith("write "):
        files.files["answer"] = command.removeprefix("write ").encode()
    if command == "ls":
        return FakeAnswer("\n".join(sorted(files.files)).encode() + b"\n")
    if command == "hang":
        await asyncio.sleep(999)
    if command == "flood":
        return FakeAnswer(b"x" * 50_000)
    if command == "binary":
        return FakeAnswer(b"\xff\xfe ok")
    return FakeAnswer(exit_code=int(command == "false"))


def make(launcher: FakeLauncher, *tasks: Task, **options: Any) -> CodeEnv:
    return CodeEnv(curriculum=Curriculum(tasks or (make_task(),)), backend=launcher, **options)


def make_local(*tasks: Task, **options: Any) -> CodeEnv:
    """An environment over real sandboxes."""
    return CodeEnv(curriculum=Curriculum(tasks or (make_task(),)), backend="local", **options)


def check_types(info: dict[str, Any]) -> None:
    """Every key is there, with its one type; a fault only where the episode is not valid."""
    info = dict(info)
    fault = info.pop("fault", None)
    assert (fault is None) is info["valid"]
    assert fault is None or {"kind": str, "sandbox": str, "message": str} == {key: type(fault[key]) for key in fault}
    assert BOOLS | TEXTS | NUMBERS.keys() == info.keys()
    assert {bool} == {type(info[key]) for key in BOOLS}
    assert {str} == {type(info[key]) for key in TEXTS}
    assert NUMBERS == {key: type(info[key]) for key in NUMBERS}


def vector(launcher: FakeLauncher, num_envs: int, *tasks: Task, **options: Any) -> CodeVectorEnv:
    return CodeVectorEnv(num_envs, curriculum=Curriculum(tasks or (make_task(),)), backend=launcher, **options)
