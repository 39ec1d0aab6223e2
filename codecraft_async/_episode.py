"""One episode: a task in a sandbox, from the restore to the grade."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from codecraft_curriculum import Grade, Task
from codecraft_pool import CommandResult, RequestRefused, Sandbox, SandboxLost, Shell

MAX_ACTION_CHARS: Final = 100_000
_SETUP_LIMIT_S: Final = 60.0
_GRADE_LIMIT_S: Final = 120.0
_NO_CODE: Final = np.int64(-1)
_ZERO: Final = np.int64(0)
_NO_TIME: Final = np.float64(0.0)


class EpisodeError(Exception):
    """An episode could not begin because of its task, not because of its sandbox or its agent."""


@dataclass(slots=True)
class Outcome:
    """What a reset or a step came to.

    Keys of `info`, the same after every reset and step: ``task`` (str, the id), ``exit_code`` (int64, -1 if there is
    none), ``signal`` (int64, 0 if none), ``timed_out`` and ``truncated_output`` (bool), ``wall_s`` (float64, of the
    command, the grading or, after a reset, the restore), ``steps`` (int64, since the reset), ``graded`` (bool),
    ``reason`` (str, the grader's), ``fault`` (str, empty unless the infrastructure failed) and ``valid`` (bool, False
    if the reward means nothing because of a fault).
    """

    observation: str
    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


def empty_info(task: str, steps: int) -> dict[str, Any]:
    """Return an info with every key, in which nothing happened."""
    return {
        "task": task,
        "exit_code": _NO_CODE,
        "signal": _ZERO,
        "timed_out": False,
        "truncated_output": False,
        "wall_s": _NO_TIME,
        "steps": np.int64(steps),
        "graded": False,
        "reason": "",
        "fault": "",
        "valid": True,
    }


class Episode:
    """Begins, takes actions, and is graded; faults become outcomes, never rewards."""

    def __init__(
        self,
        task: Task,
        sandbox: Sandbox,
        *,
        max_steps: int,
        max_observation_chars: int,
        persistent_shell: bool = False,
    ) -> None:
        self.task = task
        self._sandbox = sandbox
        # Ended by the restore of the next episode, like everything else that runs.
        self._shell: Shell | None = sandbox.shell(shell=task.shell, merge_stderr=True) if persistent_shell else None
        self._max_steps = max_steps
        self._max_chars = max_observation_chars
        self._steps = 0

    async def begin(self, *, restore_s: float) -> Outcome:
        """Run the task's set-up, and return the first observation.

        The sandbox holds the task's workspace; *restore_s* is how long the restore to it took, in seconds.

        Raises:
            SandboxLost, RequestRefused: The sandbox failed; another one may not.
            EpisodeError: A set-up command failed.
        """
        for command in self.task.setup:
            result = await self._sandbox.run(command, shell=self.task.shell, limit_s=_SETUP_LIMIT_S)
            if result.exit_code != 0:
                said = _decode(result.stderr)[-500:].strip()
                raise EpisodeError(
                    f"task {self.task.id!r}: its set-up {command!r} ended with {result.exit_code}: {said}"
                )
        info = empty_info(self.task.id, 0)
        info["wall_s"] = np.float64(restore_s)
        return Outcome(clip(_instruction(self.task, persistent=self._shell is not None), self._max_chars), info)

    async def act(self, command: str) -> Outcome:
        """Run one command of the agent's."""
        self._steps += 1
        limits = self.task.limits
        problem = _problem_of(command)
        if problem is not None:
            return self._step_outcome(problem, empty_info(self.task.id, self._steps))
        try:
            result = await self._run(command)
        except RequestRefused as exc:  # such as a workspace that the agent itself has closed: its own doing
            return self._step_outcome(f"cannot run the command: {exc.strerror}", empty_info(self.task.id, self._steps))
        except SandboxLost as exc:
            return self._fault("sandbox", exc)
        return self._step_outcome(
            _describe(result, limits.command_limit_s, limits.max_output_bytes), self._info(result)
        )

    async def _run(self, command: str) -> CommandResult:
        limits = self.task.limits
        if self._shell is not None:
            return await self._shell.run(
                command, limit_s=limits.command_limit_s, max_output_bytes=limits.max_output_bytes
            )
        return await self._sandbox.run(
            command,
            shell=self.task.shell,
            limit_s=limits.command_limit_s,
            max_output_bytes=limits.max_output_bytes,
            merge_stderr=True,
        )

    async def submit(self) -> Outcome:
        """End every process, then grade what is left in the trees, with programs that no agent had its hands on."""
        self._steps += 1
        began = time.perf_counter()
        try:
            await self._sandbox.end_processes(keep_system=False)
        except (SandboxLost, RequestRefused) as exc:
            return self._fault("sandbox", exc)
        try:
            async with asyncio.timeout(_GRADE_LIMIT_S):
                grade = _checked(await self.task.grader.grade(self._sandbox))
        except SandboxLost as exc:
            return self._fault("sandbox", exc)
        except Exception as exc:  # a grader is code of users: whatever it raises is a fault, never a reward
            return self._fault("grader", exc)
        info = empty_info(self.task.id, self._steps)
        info["wall_s"] = np.float64(time.perf_counter() - began)
        info["graded"] = True
        info["reason"] = grade.reason
        # The reason may quote what was expected; an observation of it could be learnt by heart.
        return Outcome(
            clip(f"score {grade.score:g}", self._max_chars), info, reward=float(grade.score), terminated=True
        )

    def _step_outcome(self, text: str, info: dict[str, Any]) -> Outcome:
        return Outcome(clip(text, self._max_chars), info, truncated=self._steps >= self._max_steps)

    def _info(self, result: CommandResult) -> dict[str, Any]:
        info = empty_info(self.task.id, self._steps)
        info["exit_code"] = np.int64(result.exit_code)
        info["signal"] = np.int64(result.signal)
        info["timed_out"] = result.timed_out
        info["truncated_output"] = result.truncated
        info["wall_s"] = np.float64(result.wall_s)
        return info

    def _fault(self, kind: str, exc: BaseException) -> Outcome:
        info = empty_info(self.task.id, self._steps)
        info["fault"] = f"{kind}: {type(exc).__name__}: {exc}"
        info["valid"] = False
        return Outcome("", info, truncated=True)


def _checked(grade: object) -> Grade:
    """Return what a grader of the user's gave if it is a `Grade`, whose score is in [0, 1]."""
    if not isinstance(grade, Grade):
        raise TypeError(f"a grader must return a Grade, this one returned {grade!r}")
    return grade


def _problem_of(command: str) -> str | None:
    """Return why no program can be given this text, or None; it is the agent's doing, and for the agent to read."""
    if len(command) > MAX_ACTION_CHARS:
        return f"an action cannot be longer than {MAX_ACTION_CHARS} characters"
    if "\0" in command:
        return "an action cannot hold a NUL character"
    try:
        command.encode()
    except UnicodeEncodeError:
        return "an action cannot hold half of a surrogate pair"
    return None


def _instruction(task: Task, *, persistent: bool) -> str:
    where = (
        "in one shell that starts in /workspace and keeps its state"
        if persistent
        else "in /workspace in a shell of its own"
    )
    return (
        f"{task.title}\n\n{task.instruction.strip()}\n\n"
        f"Each action is a shell command, run {where}. "
        "The action 'submit' ends the episode and has the work graded."
    )


def _describe(result: CommandResult, limit_s: float, max_output_bytes: int) -> str:
    text = _decode(result.stdout) + _decode(result.stderr)
    if result.shell_ended:
        text += "\n[the shell has ended; the next command gets a new one]"
    if result.timed_out:
        return f"{text}\n[killed: it ran longer than {limit_s:g} s]"
    if result.truncated:
        return f"{text}\n[killed: it printed more than {max_output_bytes} bytes]"
    return text


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def clip(text: str, limit: int) -> str:
    """Return *text* in at most *limit* characters: head and tail kept, and the cut said between them."""
    if len(text) <= limit:
        return text
    note = f"\n[... {len(text) - limit} characters or more left out ...]\n"
    room = limit - len(note)
    if room < 2:
        return text[:limit]
    return text[: room // 2] + note + text[len(text) - (room - room // 2) :]


__all__ = ["MAX_ACTION_CHARS", "Episode", "EpisodeError", "Outcome", "clip", "empty_info"]
