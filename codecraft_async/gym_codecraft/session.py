"""One student's dealings with its tasks: every action of both interfaces, and what comes of each."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from codecraft_async._episode import EpisodeError
from codecraft_async._observation import clip, describe
from codecraft_async._outcome import GraderFailed, Outcome, empty_info, tell_fault
from codecraft_async.gym_codecraft.interface import (
    CLOSED,
    EXITED,
    SUBMITTED,
    Interface,
    InvalidAction,
    Request,
    parse_action,
)
from codecraft_async.gym_codecraft.tasks import StudentTask, StudentTasks
from codecraft_async.gym_codecraft.teaching import AutomaticTeacher, Turn, remark
from codecraft_async.gym_codecraft.workbench import Workbench
from codecraft_curriculum import Ungraded
from codecraft_pool import CommandResult, PoolError, RequestRefused, SandboxLost

__all__ = ["Session"]

_log = logging.getLogger(__name__)
_INVALID: Final = -1.0
_KEPT_TURNS: Final = 256
_SHOWN_IDS: Final = 50
_UNGRADED: Final = "This task has no automatic grader, and no teacher is here: nothing was graded"


class Session:
    """Begins tasks, takes actions, and has what is submitted graded; faults become outcomes, never rewards.

    *keep* is a directory that gets a copy of each workspace when its task ends, or None. Unless it *raises*, a reset
    that can have no sandbox says so in info, and the next action, whatever it is, ends the episode.
    """

    def __init__(
        self,
        tasks: StudentTasks,
        interface: Interface,
        bench: Workbench,
        *,
        max_score: float,
        max_observation_chars: int,
        keep: Path | None,
        raises: bool = True,
    ) -> None:
        self.bench = bench
        self._tasks = tasks
        self._interface = interface
        self._max_score = max_score
        self._max_chars = max_observation_chars
        self._keep = keep
        self._raises = raises
        self._not_begun: Exception | None = None
        self._task: StudentTask | None = None
        self._paid = 0.0
        self._steps = 0
        self._turns: deque[Turn] = deque(maxlen=_KEPT_TURNS)
        doing: dict[str, Callable[[Request], Awaitable[Outcome]]] = {
            "start": self._start,
            "reset": self._restart,
            "command": self._command,
            "write_file": self._write_file,
            "submit": self._submit,
            "close": self._close,
            "exit": self._exit,
        }
        self._doing = {name: do for name, do in doing.items() if name in interface.actions}

    async def reset(self, task_id: str | None) -> Outcome:
        """Begin a task, the chosen one or else the current one again; without either, give the welcome text.

        Raises:
            PoolError: No sandbox can be had; says why and what to do.
            EpisodeError: The task's own set-up failed.
        """
        self._steps = 0
        self._not_begun = None
        try:
            if task_id is not None:
                return await self._begin_chosen(task_id)
            if self._task is not None:
                return await self._begin(self._task)
        except PoolError as error:
            if self._raises:
                raise
            self._not_begun = error
            return Outcome("", tell_fault(self._info(), error))
        return self._say(self._welcome())

    async def act(self, text: str) -> Outcome:
        """Do what a JSON text says.

        Raises:
            OSError: A workspace that is to be kept cannot be written to the host.
        """
        self._steps += 1
        if self._not_begun is not None:
            return self._fault(self._not_begun)
        try:
            outcome = await self._act(text)
        except InvalidAction as error:
            outcome = self._say_invalid(self._interface.say_malformed(error))
        except SandboxLost as error:
            outcome = self._fault(error)
        outcome.observation = clip(outcome.observation, self._max_chars)
        if self.bench.is_open:
            self._turns.append(Turn(text, outcome.observation, outcome.reward))
        return outcome

    # --- the actions ---

    async def _act(self, text: str) -> Outcome:
        request = parse_action(text)
        if not self.bench.is_open and self._interface.lacks_task(request):
            return self._say_invalid(self._interface.no_task)
        do = self._doing.get(request.action)
        if do is None:
            return self._say_invalid(f"Unknown action: {request.action}")
        return await do(request)

    async def _start(self, request: Request) -> Outcome:
        task_id = request.task_id()
        if task_id is None:
            await self._end_task()
            return self._say(self._welcome())
        return await self._caught(self._begin_chosen(task_id))

    async def _restart(self, request: Request) -> Outcome:
        if request.chooses_task:
            return await self._start(request)
        if self._task is None:
            raise InvalidAction("'task_id'")
        return await self._caught(self._begin(self._task))

    async def _caught(self, beginning: Awaitable[Outcome]) -> Outcome:
        try:
            return await beginning
        except SandboxLost:
            raise
        except (PoolError, EpisodeError) as error:  # what a reset of the environment would raise
            return self._fault(error)

    async def _command(self, request: Request) -> Outcome:
        assert self._task is not None
        task = self._task.task
        result = await self.bench.run(request.text("command"))
        limit_s, max_bytes = self.bench.command_limit_s(task), task.limits.max_output_bytes
        outcome = self._say(describe(result, limit_s=limit_s, max_output_bytes=max_bytes, strip_for=None))
        _tell_result(outcome.info, result)
        return outcome

    async def _write_file(self, request: Request) -> Outcome:
        path = request.text("path")
        await self.bench.write(path, request.text("content"))
        return self._say(f"File {path} written.")

    async def _submit(self, request: Request) -> Outcome:
        del request
        assert self._task is not None
        began = time.perf_counter()
        try:
            grade = await self.bench.grade(tuple(self._turns))
        except (SandboxLost, RequestRefused, GraderFailed) as error:
            return self._fault(error)
        is_automatic = isinstance(self.bench.teacher, AutomaticTeacher)
        is_graded = not (is_automatic and isinstance(self._task.task.grader, Ungraded))
        comments = (remark(grade) if is_graded else _UNGRADED) if is_automatic else grade.reason
        score = round(grade.score * self._max_score, 6)
        info = self._info()
        info["wall_s"] = np.float64(time.perf_counter() - began)
        info.update(graded=is_graded, score=np.float64(grade.score), reason=grade.reason)
        if not self._interface.submit_closes:
            # The task goes on: what was paid before is not paid again.
            reward, self._paid = max(0.0, score - self._paid), max(score, self._paid)
            return Outcome(SUBMITTED, info, reward=reward)
        await self._end_task()
        text = (
            f"{SUBMITTED}\nThe teacher's comments: {comments}.\nThe score is: {score:g}.\n"
            "Task closed. Please start a new task."
        )
        return Outcome(text, info, reward=score)

    async def _close(self, request: Request) -> Outcome:
        del request
        await self._end_task()
        return self._say(CLOSED)

    async def _exit(self, request: Request) -> Outcome:
        del request
        await self._end_task()
        outcome = self._say(EXITED)
        outcome.terminated = True
        return outcome

    # --- inside ---

    async def _begin_chosen(self, task_id: str) -> Outcome:
        if task_id not in self._tasks:
            return self._say(f"Task {task_id} not found.\n")
        return await self._begin(self._tasks[task_id])

    async def _begin(self, task: StudentTask) -> Outcome:
        await self._end_task()
        self._task = task
        restore_s = await self.bench.open(task)
        outcome = self._say(clip(task.shown(self._interface.hidden_fields), self._max_chars))
        outcome.info["wall_s"] = np.float64(restore_s)
        return outcome

    async def _end_task(self) -> None:
        """End the task under way, if any, and keep its workspace if that is asked for."""
        try:
            if self._keep is not None and self.bench.is_open and self._task is not None:
                await self._keep_workspace(self._keep / f"{self._task.task.id}-{secrets.token_hex(4)}")
        finally:
            self._task = None
            self._paid = 0.0
            self._turns.clear()
            self.bench.clear()

    async def _keep_workspace(self, directory: Path) -> None:
        try:
            await self.bench.sandbox.end_processes()
            left_out = await self.bench.save(directory)
        except (SandboxLost, RequestRefused) as error:  # a grade that was given is not to be lost for that
            _log.warning("a workspace is not kept in %s: %s", directory, error)
            return
        if left_out:
            _log.info("%s is without %r", directory, left_out[:20])  # their names are the student's

    def _welcome(self) -> str:
        ids = list(self._tasks)
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        text = self._interface.welcome.format(
            count=len(ids), ids=", ".join(ids[:_SHOWN_IDS]) + more, first=ids[0], max_score=self._max_score
        )
        return clip(text, self._max_chars)

    def _info(self) -> dict[str, Any]:
        task_id = "" if self._task is None else self._task.task.id
        return {"info": "", **empty_info(task_id), "steps": np.int64(self._steps)}

    def _say(self, text: str) -> Outcome:
        return Outcome(text, self._info())

    def _say_invalid(self, text: str) -> Outcome:
        info = self._info()
        info["malformed"] = True
        return Outcome(text, info, reward=_INVALID)

    def _fault(self, error: Exception) -> Outcome:
        sandbox = self.bench.sandbox.id if self.bench.is_open else ""
        info = tell_fault(self._info(), error, sandbox=sandbox)
        info["truncation"] = "fault"
        self.bench.clear()  # the task stays the current one, for the next reset
        self._turns.clear()
        return Outcome("", info, truncated=True)


def _tell_result(info: dict[str, Any], result: CommandResult) -> None:
    info.update(
        {
            "exit_code": np.int64(result.exit_code),
            "signal": np.int64(result.signal),
            "timed_out": result.timed_out,
            "truncated_output": result.truncated,
            "wall_s": np.float64(result.wall_s),
            "cpu_s": np.float64(result.user_s + result.system_s),
        }
    )
